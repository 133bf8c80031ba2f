/**
 * Every frame in and out, the newest 500. What is a credential is not shown.
 * @module
 */
import { calm, el, the } from "../pages/dom.js";

/** @typedef {{direction: "in" | "out", at: Date, frame: any, bytes: number, text: string}} Seen */

const MAX = 500;
const OWN = ["type", "stream", "seq", "ts", "id"];

/** @param {any} frame */
const hidden = (frame) =>
  JSON.stringify(frame, (name, value) => (["token", "ticket", "session"].includes(name) && typeof value === "string" ? "…" : value)).replace(
    /session:[\w-]{20,}/g,
    "session:…",
  );

/** @param {Date} at */
const time = (at) => `${at.toLocaleTimeString([], { hour12: false })}.${String(at.getMilliseconds()).padStart(3, "0")}`;

export class Frames {
  /** @type {Seen[]} */
  seen = [];
  /** What is not on the page yet. @type {Seen[]} */
  fresh = [];
  count = 0;
  paused = false;
  soon = calm(() => this.draw());

  constructor() {
    this.list = the("frames");
    this.filter = /** @type {HTMLInputElement} */ (the("frames-filter"));
    this.ways = { in: /** @type {HTMLInputElement} */ (the("frames-in")), out: /** @type {HTMLInputElement} */ (the("frames-out")) };
    the("frames-form").addEventListener("submit", (event) => event.preventDefault());
    the("frames-form").addEventListener("input", () => this.redraw());
    the("frames-clear").addEventListener("click", () => {
      this.seen = [];
      this.redraw();
    });
    the("frames-pause").addEventListener("click", () => {
      this.paused = !this.paused;
      the("frames-pause").setAttribute("aria-pressed", String(this.paused));
      if (!this.paused) this.redraw();
    });
  }

  /** @param {"in" | "out"} direction @param {any} frame @param {number} bytes */
  add(direction, frame, bytes) {
    const one = { direction, at: new Date(), frame, bytes, text: hidden(frame) };
    this.count++;
    this.seen.push(one);
    if (this.seen.length > MAX) this.seen.shift();
    this.fresh.push(one);
    if (this.fresh.length > MAX) this.fresh.shift();
    this.soon();
  }

  /** @param {Seen} one */
  wanted({ direction, text }) {
    return this.ways[direction].checked && text.toLowerCase().includes(this.filter.value.trim().toLowerCase());
  }

  redraw() {
    this.list.replaceChildren();
    this.fresh = [...this.seen];
    this.draw();
  }

  draw() {
    the("frames-count").textContent = this.count === 1 ? "1 frame" : `${this.count.toLocaleString("en")} frames`;
    if (this.paused) return;
    const near = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
    const rows = this.fresh.filter((one) => this.wanted(one)).map((one) => this.row(one));
    this.fresh = [];
    this.list.append(...rows);
    while (this.list.childElementCount > MAX) this.list.firstElementChild?.remove();
    if (near) this.list.scrollTop = this.list.scrollHeight;
  }

  /** @param {Seen} seen */
  row({ direction, at, frame, bytes, text }) {
    const where = [frame.stream?.replace(/^session:.*/, "session"), frame.seq].filter((one) => one !== undefined).join(" #");
    const rest = Object.entries(JSON.parse(text)).filter(([name]) => !OWN.includes(name));
    const said = rest.length ? JSON.stringify(Object.fromEntries(rest)) : "";
    const summary = el(
      "summary",
      {},
      el("span", { className: `way ${direction}` }, direction === "in" ? "← in" : "→ out"),
      el("time", {}, time(at)),
      el("b", {}, frame.type ?? "?"),
      el("span", { className: "where" }, where),
      el("span", { className: "what" }, said.slice(0, 300)),
      el("span", { className: "bytes" }, `${bytes} B`),
    );
    const one = el("details", {}, summary);
    one.addEventListener("toggle", () => one.childElementCount > 1 || one.append(el("pre", {}, JSON.stringify(JSON.parse(text), null, 2))), { once: true });
    return one;
  }
}
