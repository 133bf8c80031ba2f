/**
 * How long events take, drawn by hand: from the log to this page, on a scale that shows 1 ms and 10 s.
 * @module
 */
import { calm, the } from "../pages/dom.js";

/** @typedef {"event" | "replayed" | "first"} Kind */

const MAX = 240;
const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [200, 54, 8, 10, 14];
const TICKS = [1, 10, 100, 1000, 10000];
/** Each kind has a shape of its own. @type {Record<Kind, (x: number, y: number) => string>} */
const SHAPES = {
  event: (x, y) => `M${x} ${y}h.01`,
  replayed: (x, y) => `M${x - 2.5} ${y - 2.5}h5v5h-5z`,
  first: (x, y) => `M${x} ${y - 6}l6 6-6 6-6-6z`,
};

/** @param {string} tag @param {Record<string, string | number>} props @param {string} [text] */
function svg(tag, props, text = "") {
  const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) one.setAttribute(name, String(value));
  one.textContent = text;
  return one;
}

/** @param {number} ms */
const y_of = (ms) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - Math.log10(Math.min(10000, Math.max(1, ms))) / 4);
/** @param {number} ms */
const words = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export class Latency {
  /** @type {{kind: Kind, ms: number}[]} */
  samples = [];
  width = 0;
  soon = calm(() => this.draw());

  constructor() {
    const plot = the("plot");
    for (const ms of TICKS) plot.append(svg("text", { x: LEFT - 8, y: y_of(ms) + 4, "text-anchor": "end" }, words(ms).replace(".0", "")));
    this.lines = svg("path", { class: "line" });
    /** @type {Record<string, SVGElement>} */
    this.paths = Object.fromEntries(Object.keys(SHAPES).map((kind) => [kind, svg("path", { class: kind })]));
    plot.append(this.lines, ...Object.values(this.paths));
    new ResizeObserver(([{ contentRect }]) => {
      this.width = contentRect.width;
      this.lines.setAttribute("d", TICKS.map((ms) => `M${LEFT} ${y_of(ms)}H${this.width - RIGHT}`).join(""));
      this.draw();
    }).observe(plot);
  }

  /** @param {Kind} kind @param {number} ms */
  add(kind, ms) {
    this.samples.push({ kind, ms: Math.max(0, ms) });
    if (this.samples.length > MAX) this.samples.shift();
    this.soon();
  }

  draw() {
    /** @type {Record<Kind, string>} */
    const drawn = { event: "", replayed: "", first: "" };
    const step = (this.width - LEFT - RIGHT - 12) / (MAX - 1);
    this.samples.forEach(({ kind, ms }, index) => (drawn[kind] += SHAPES[kind](+(LEFT + 6 + index * step).toFixed(1), +y_of(ms).toFixed(1))));
    for (const [kind, d] of Object.entries(drawn)) this.paths[kind].setAttribute("d", d);
    const of = (/** @type {Kind} */ kind) => this.samples.filter((one) => one.kind === kind).map(({ ms }) => ms);
    const events = of("event").sort((a, b) => a - b);
    /** @param {string} id @param {number | undefined} ms */
    const say = (id, ms) => (the(id).textContent = ms === undefined ? "–" : words(ms));
    say("event-p50", events[Math.floor(events.length * 0.5)]);
    say("event-p95", events[Math.floor(events.length * 0.95)]);
    say("first-last", of("first").at(-1));
  }
}
