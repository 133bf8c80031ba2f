/** Plays the table of tests/clients with rt.js: node table.mjs ws://127.0.0.1:PORT scripts.json…  Prints `{key: problem or null}`. */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { ClientError, DEFAULTS, MemoryStore, WebSocket, connect } from "./rt.mjs";

const PATIENCE_MS = 8000;
const [server, ...files] = process.argv.slice(2);
const show = (value) => JSON.stringify(value);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Problem extends Error {}

/** One script's application. */
class Player {
  store = new MemoryStore();
  client = null;
  readers = {};
  later = {};
  states = [];
  seen = 0;
  changed = () => {};

  constructor(url, script) {
    this.url = url;
    this.script = script;
    this.tokens = Array.isArray(script.token) ? [...script.token] : null;
  }

  async play() {
    try {
      for (const [number, step] of this.script.app.entries()) {
        const late = pause(PATIENCE_MS).then(() => {
          throw new Problem("it does not end; states " + this.states.map((one) => one.state));
        });
        late.catch(() => {});
        try {
          await Promise.race([this.step(step), late]);
        } catch (error) {
          throw new Problem(`step ${number} ${show(step)}: ${error instanceof Problem ? error.message : error.stack}`);
        }
      }
    } finally {
      await this.client?.close();
    }
    await pause(0);
    const states = this.states.map((one) => one.state);
    if (this.script.states && !isDeepStrictEqual(states, this.script.states)) throw new Problem("its states are " + states);
  }

  async step(step) {
    if (step.later) {
      this.later[step.later] = this.do(step);
      this.later[step.later].catch(() => {});
      return;
    }
    let gave, raised;
    try {
      gave = await this.do(step);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      raised = error;
    }
    if (!raised !== !step.fails) throw new Problem(raised ? `it throws ${raised.name} ${raised}` : `it gives ${show(gave)}`);
    for (const [name, wanted] of Object.entries(step.fails ?? {})) {
      const value = name === "error" ? raised.name : raised[name];
      if (!isDeepStrictEqual(value, wanted)) throw new Problem(`its ${name} is ${show(value)}`);
    }
    if (!("gives" in step)) return;
    const wanted = step.gives;
    // Of an event or a gap only the members that the script names count.
    if (step.do === "next" && typeof gave === "object") gave = Object.fromEntries(Object.keys(wanted).map((name) => [name, gave[name]]));
    if (!isDeepStrictEqual(gave, wanted)) throw new Problem("it gives " + show(gave));
  }

  async do(step) {
    const reader = this.readers[step.of];
    const { client: rt } = this;
    switch (step.do) {
      case "open": {
        const config = { backoff_s: 0.02, backoff_cap_s: 0.05, ack_every_s: 0.05, connect_timeout_s: 2, ...this.script.config };
        for (const name in config) if (!(name in DEFAULTS)) throw new Problem("there is no setting " + name);
        const token = this.tokens ? () => this.tokens.shift() : (this.script.token ?? "t");
        const on_state = (changed) => {
          this.states.push(changed);
          this.changed();
        };
        this.client = await connect(this.url, { token, store: this.store, on_state, open_timeout_s: 5, config, WebSocket, transport: "ws" });
        return;
      }
      case "close":
        this.client = null;
        return void (await rt.close());
      case "reconnect":
        return rt.reconnect();
      case "state":
        return this.state(step);
      case "submit":
        this.readers[step.as] = rt.submit(step.job, step.input, step.options);
        return;
      case "job":
        this.readers[step.as] = rt.job(step.job_id, { cursor: step.cursor });
        return;
      case "subscribe":
        this.readers[step.as] = rt.subscribe(step.stream, { cursor: step.cursor });
        return;
      case "publish":
        return rt.publish(step.stream, step.data, { idempotency_key: step.idempotency_key });
      case "call":
        return rt.call(step.type, step.data);
      case "cancel":
        return reader ? reader.cancel() : rt.cancel(step.job_id);
      case "input":
        return rt.input(step.job_id, step.data, { final: step.final });
      case "accepted":
        return reader.accepted();
      case "ready":
        return void (await reader.ready());
      case "next":
        return one(reader);
      case "events": {
        const items = [];
        for (const _ of step.gives) items.push(brief(await one(reader)));
        return items;
      }
      case "skip":
        for (let n = 0; n < step.count; n++) await one(reader);
        return;
      case "text":
        return await reader.text();
      case "pieces": {
        const pieces = [];
        for await (const piece of reader.text()) pieces.push([`${piece}`, piece.start]);
        return pieces;
      }
      case "result":
        return reader.result();
      case "drop":
        return reader.close();
      case "outcome":
        return this.later[step.of];
      case "pause":
        return pause(step.ms);
    }
    throw new Problem("there is no such step");
  }

  async state(step) {
    for (;;) {
      while (this.seen < this.states.length) {
        const { state, delay_s } = this.states[this.seen++];
        if (state !== step.is) continue;
        const [low, high] = step.delay_ms ?? [0, Infinity];
        const ms = Math.round(delay_s * 1e6) / 1e3;
        if (ms < low || ms > high) throw new Problem(`the delay is ${ms} ms`);
        return;
      }
      await new Promise((resolve) => (this.changed = resolve));
    }
  }
}

const one = async (reader) => {
  const { value, done } = await reader.next();
  return done ? "end" : value;
};
const brief = (item) => (item === "end" ? item : item.type === "gap" ? ["gap", item.reason, item.first, item.last] : [item.type, item.seq]);

async function run(key, script) {
  const url = `${server}/${key}`;
  const ask = async (word) => (await fetch(url.replace("ws", "http") + word)).json();
  await ask("/begin");
  let problem = null;
  try {
    await new Player(url, script).play();
  } catch (error) {
    problem = error.message;
  }
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    const { problems, done } = await ask("/verdict");
    // What the server saw says more than what came of it.
    if (problems.length) return `${problems}; ${problem}`;
    if (done || problem) return problem;
    if (Date.now() > until) return "not every connection was made and played to its end";
    await pause(5);
  }
}

const jobs = files.flatMap((file) =>
  JSON.parse(readFileSync(file, "utf8")).map((script, number) => [`${basename(file, ".json")}.${number}`, script]),
);
// A browser sees nothing of how a handshake was answered.
const seen = jobs.filter(([, script]) => !script.server.flat().some((step) => step.refuse));
// A few at a time: scripts tell the time.
const results = {};
const playing = Array.from({ length: 6 }, async () => {
  for (let next = seen.shift(); next; next = seen.shift()) results[next[0]] = await run(...next);
});
await Promise.all(playing);
console.log(JSON.stringify(results));
process.exit(0);
