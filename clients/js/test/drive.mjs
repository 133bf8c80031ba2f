/**
 * rt.js, driven from outside: a line of standard input is `{"id", "code", "given"}`, the body of an async function, and is answered by a line
 * `{"id", "gave"}` or `{"id", "threw"}`. What code puts into `at` stays for the next. Ends with its standard input.
 */
import { createInterface } from "node:readline";
import * as rt from "./rt.mjs";

const page = new EventTarget();
for (const name of ["addEventListener", "removeEventListener", "dispatchEvent"]) globalThis[name] = page[name].bind(page);

globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });

/** What a browser has and Node 20 has not: locks that are exclusive and can be given up waiting for. */
class Locks {
  held = new Map();
  async request(name, { signal }, hold) {
    while (this.held.has(name)) {
      await Promise.race([
        this.held.get(name),
        new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason), { once: true })),
      ]);
    }
    const holding = hold({ name });
    this.held.set(name, holding);
    await holding;
    this.held.delete(name);
  }
}

/** A tab's storage: of a tab that is duplicated it is copied. */
class Storage {
  constructor(items = {}) {
    this.items = { ...items };
  }
  getItem(name) {
    return this.items[name] ?? null;
  }
  setItem(name, value) {
    this.items[name] = value;
  }
}

const at = {};
const world = { at, Locks, Storage, pause: (ms) => new Promise((resolve) => setTimeout(resolve, ms)), ...rt };
const AsyncFunction = (async () => {}).constructor;

for await (const line of createInterface({ input: process.stdin })) {
  const { id, code, given } = JSON.parse(line);
  new AsyncFunction("given", ...Object.keys(world), code)(given, ...Object.values(world)).then(
    (gave) => console.log(JSON.stringify({ id, gave: gave ?? null })),
    (error) => console.log(JSON.stringify({ id, threw: { ...error, name: error.name, message: error.message, stack: error.stack } })),
  );
}
process.exit(0);
