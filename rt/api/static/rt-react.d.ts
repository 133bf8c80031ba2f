export type Client = import("./rt.js").Client;
export type Job = import("./rt.js").Job;
export type StreamEvent = import("./rt.js").StreamEvent;
export type Gap = import("./rt.js").Gap;
export type JobState = {
    status: "idle" | "submitted" | "queued" | "running" | "retrying" | "completed" | "failed" | "cancelled";
    /**
     * once the server has accepted it
     */
    id: string | null;
    /**
     * all of it that stands
     */
    text: string;
    /**
     * the newest `job.progress`: {current, total?, unit?, message?}
     */
    progress: any;
    result: any;
    /**
     * JobFailed, JobCancelled, Refused, EventsLost, …
     */
    error: any;
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
export declare function useJob(rt: Client | null | undefined, name: string): JobState & {
    submit: (input?: Record<string, any>, options?: Parameters<Client["submit"]>[2]) => Job;
    cancel: () => Promise<string>;
};
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
export declare function useStream(rt: Client | null | undefined, stream: string | null | undefined, { cursor, limit }?: {
    cursor?: string | null;
    limit?: number;
}): {
    items: (StreamEvent | Gap)[];
    ready: boolean;
    error: any;
};
