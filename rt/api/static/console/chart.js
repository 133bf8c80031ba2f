/**
 * A line chart of the last two minutes, drawn by hand. Its legend says the newest values, or those under the pointer.
 * @module
 */
import { el } from "../pages/dom.js";
import { KEPT } from "./numbers.js";

/** @typedef {{name: string, values: (number | null)[]}} Series */

/** The least seconds that a chart is wide; it grows to what is kept. */
const LEAST = 30;
const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [132, 46, 6, 10, 20];

/** @param {string} tag @param {Record<string, string | number>} [props] */
function svg(tag, props = {}) {
  const one = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) one.setAttribute(name, String(value));
  return one;
}

/** The next of 1, 2, 5, 10, 20, … @param {number} value */
function round_up(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return (/** @type {number} */ ([1, 2, 5, 10].find((one) => one * power >= value * 0.999))) * power;
}

export class Chart {
  /** @type {Series[]} */
  series = [];
  /** @type {number[]} */
  times = [];
  width = 0;
  /** @type {number | null} */
  pointed = null;

  /** @param {string} title @param {(value: number | null | undefined) => string} words @param {{least?: number}} [options] the axis reaches `least` */
  constructor(title, words, { least = 1 } = {}) {
    this.words = words;
    this.least = least;
    this.title = title;
    this.grid = svg("path", { class: "grid" });
    this.mark = svg("path", { class: "mark" });
    this.labels = [0, 1, 2].map(() => svg("text", { x: LEFT - 7, "text-anchor": "end" }));
    this.ages = ["", "now"].map((text, index) => {
      const one = svg("text", { y: HEIGHT - 4, "text-anchor": index ? "end" : "start", x: LEFT });
      one.textContent = text;
      return one;
    });
    this.lines = svg("g");
    this.plot = svg("svg", { class: "plot", role: "img", height: HEIGHT });
    this.plot.append(this.grid, ...this.labels, ...this.ages, this.lines, this.mark);
    this.legend = el("dl", { className: "legend" });
    this.element = el("figure", { className: "box chart" }, el("figcaption", {}, el("h3", {}, title)), this.legend);
    this.element.append(this.plot);
    this.plot.addEventListener("pointermove", (event) => this.point(/** @type {PointerEvent} */ (event).offsetX));
    this.plot.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(([{ contentRect }]) => {
      this.width = contentRect.width;
      this.draw();
    }).observe(this.plot);
  }

  /** @param {number | null} x */
  point(x) {
    const last = this.times.length - 1;
    this.pointed = x === null || last < 0 ? null : Math.min(last, Math.max(0, Math.round(last - (this.width - RIGHT - x) / this.step())));
    this.draw();
  }

  step() {
    return Math.max(1, this.width - LEFT - RIGHT) / this.span();
  }

  /** How many seconds it is wide. */
  span() {
    return Math.min(KEPT - 1, Math.max(LEAST, this.times.length - 1));
  }

  /** @param {number[]} times in ms @param {Series[]} series each as long as `times` */
  show(times, series) {
    this.times = times;
    this.series = series;
    this.draw();
  }

  draw() {
    if (!this.width) return;
    const values = this.series.flatMap((one) => one.values.filter((value) => value !== null));
    const top = round_up(Math.max(this.least, ...values));
    const y_of = (/** @type {number} */ value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    const last = this.times.length - 1;
    const x_of = (/** @type {number} */ index) => this.width - RIGHT - (last - index) * this.step();
    this.grid.setAttribute("d", [0, 0.5, 1].map((part) => `M${LEFT} ${y_of(top * part).toFixed(1)}H${(this.width - RIGHT).toFixed(1)}`).join(""));
    this.labels.forEach((one, index) => {
      one.setAttribute("y", String(y_of((top * index) / 2) + 4));
      one.textContent = index === 0 ? "0" : this.words((top * index) / 2);
    });
    this.ages[0].textContent = this.span() === KEPT - 1 ? "2 min ago" : `${this.span()} s ago`;
    this.ages[1].setAttribute("x", String(this.width - RIGHT));
    while (this.lines.childElementCount < this.series.length) this.lines.append(svg("path", { class: `line line-${this.lines.childElementCount}` }));
    this.series.forEach(({ values }, number) => {
      let drawn = "";
      values.forEach((value, index) => {
        if (value === null) return;
        const begins = index === 0 || values[index - 1] === null;
        drawn += `${begins ? "M" : "L"}${x_of(index).toFixed(1)} ${y_of(value).toFixed(1)}`;
        if (begins && (index === last || values[index + 1] === null)) drawn += "h.01";
      });
      this.lines.children[number].setAttribute("d", drawn);
    });
    const at = this.pointed === null || this.pointed > last ? last : this.pointed;
    this.mark.setAttribute("d", this.pointed === null ? "" : `M${x_of(at).toFixed(1)} ${TOP}V${HEIGHT - BOTTOM}`);
    const now = this.series.map(({ name, values }) => [name, this.words(values[at])]);
    if (this.legend.childElementCount !== now.length) {
      this.legend.replaceChildren(...now.map(([name], index) => el("div", { className: `key line-${index}` }, el("dt", {}, name), el("dd"))));
    }
    now.forEach(([, text], index) => (/** @type {HTMLElement} */ (this.legend.children[index].lastElementChild).textContent = text));
    const age = this.pointed === null ? "now" : `${Math.round((this.times[last] - this.times[at]) / 1000)} s ago`;
    this.plot.setAttribute("aria-label", `${this.title}, ${age}: ${now.map(([name, text]) => `${name} ${text}`).join(", ")}`);
  }
}
