/**
 * React hooks for rt.js. React is the page's own ("react" from its bundler or import map).
 * @module
 */
import { useCallback, useEffect, useRef, useState } from "react";

/**
 * @typedef {import("./rt.js").Client} Client
 * @typedef {import("./rt.js").Job} Job
 * @typedef {import("./rt.js").StreamEvent} StreamEvent
 * @typedef {import("./rt.js").Gap} Gap
 */

/**
 * @typedef {object} JobState
 * @property {"idle" | "submitted" | "queued" | "running" | "retrying" | "completed" | "failed" | "cancelled"} status
 * @property {string | null} id once the server has accepted it
 * @property {string} text all of it that stands
 * @property {any} progress the newest `job.progress`: {current, total?, unit?, message?}
 * @property {any} result
 * @property {any} error JobFailed, JobCancelled, Refused, EventsLost, …
 */

/** @type {JobState} */
const IDLE = { status: "idle", id: null, text: "", progress: null, result: null, error: null };

/** @type {Record<string, JobState["status"]>} */
const STATUS = {
  "job.queued": "queued",
  "job.started": "running",
  "job.delta": "running",
  "job.progress": "running",
  "job.retrying": "retrying",
  "job.restarted": "running",
};

/**
 * One job at a time: `submit` begins another one and forgets the one before, which runs on. A component that is
 * unmounted leaves the job's stream, not the job.
 *
 *     const answer = useJob(rt, "generate");
 *     <button onClick={() => answer.submit({ prompt })}>Ask</button> <p>{answer.text}</p>
 *
 * @param {Client | null | undefined} rt none yet: `submit` throws
 * @param {string} name
 * @returns {JobState & {submit: (input?: Record<string, any>, options?: Parameters<Client["submit"]>[2]) => Job, cancel: () => Promise<string>}}
 */
export function useJob(rt, name) {
  const [state, setState] = useState(IDLE);
  const current = useRef(/** @type {Job | null} */ (null));

  const leave = useCallback(() => {
    current.current?.close();
    current.current = null;
  }, []);
  // Another client, another name, no component any more: nobody reads this job.
  useEffect(() => leave, [leave, rt, name]);

  const submit = useCallback(
    /** @param {Record<string, any>} [input] @param {Parameters<Client["submit"]>[2]} [options] */ (input, options) => {
      if (!rt) throw new Error("there is no connection yet");
      leave();
      const job = (current.current = rt.submit(name, input, options));
      /** @param {Partial<JobState>} change */
      const change = (change) => {
        if (current.current === job) setState((before) => ({ ...before, ...change }));
      };
      setState({ ...IDLE, status: "submitted" });
      follow(job, change);
      return job;
    },
    [rt, name, leave],
  );

  const cancel = useCallback(async () => {
    if (!current.current) throw new Error("there is no job");
    return current.current.cancel();
  }, []);

  return { ...state, submit, cancel };
}

/** @param {Job} job @param {(change: Partial<JobState>) => void} change */
async function follow(job, change) {
  try {
    change({ id: await job.accepted() });
    for await (const item of job) {
      if (item.type === "job.progress") change({ progress: /** @type {StreamEvent} */ (item).data });
      const status = STATUS[item.type];
      change({ text: job.said, ...(status && { status }) });
    }
    change({ result: await job.result(), status: "completed" });
  } catch (error) {
    const { name } = /** @type {Error} */ (error);
    change({ error, status: name === "JobCancelled" ? "cancelled" : "failed" });
  }
}

/**
 * A stream's events and gaps, the newest `limit` of them, for as long as the component is there.
 *
 *     const { items } = useStream(rt, "room:lobby", { cursor: "0" });
 *
 * @param {Client | null | undefined} rt none yet: nothing comes
 * @param {string | null | undefined} stream none: nothing is followed
 * @param {{cursor?: string | null, limit?: number}} [options] `cursor` counts when the stream is first followed
 * @returns {{items: (StreamEvent | Gap)[], ready: boolean, error: any}}
 */
export function useStream(rt, stream, { cursor = null, limit = 100 } = {}) {
  const [state, setState] = useState({ items: /** @type {(StreamEvent | Gap)[]} */ ([]), ready: false, error: /** @type {any} */ (null) });
  useEffect(() => {
    setState({ items: [], ready: false, error: null });
    if (!rt || !stream) return;
    const stop = new AbortController();
    /** @param {(before: typeof state) => Partial<typeof state>} change */
    const change = (change) => {
      if (!stop.signal.aborted) setState((before) => ({ ...before, ...change(before) }));
    };
    (async () => {
      try {
        const reader = rt.subscribe(stream, { cursor, signal: stop.signal });
        await reader.ready();
        change(() => ({ ready: true }));
        for await (const item of reader) change(({ items }) => ({ items: [...items, item].slice(-limit) }));
      } catch (error) {
        change(() => ({ error }));
      }
    })();
    return () => stop.abort();
  }, [rt, stream, limit]);
  return state;
}
