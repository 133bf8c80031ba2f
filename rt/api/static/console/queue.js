/**
 * What waits, what is put off, and what is leased.
 * @module
 */
import { el } from "../pages/dom.js";
import { count, meter, moment, span, to_job } from "./format.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */

export class Queue {
  title = "Queue";

  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    const job = { head: "Job", value: (/** @type {any} */ one) => one.job ?? "not read yet", cell: (/** @type {any} */ one) => el("strong", {}, one.job ?? "not read yet") };
    const id = { head: "Id", value: (/** @type {any} */ one) => one.job_id, cell: (/** @type {any} */ one) => to_job(one.job_id) };
    const due = { head: "Due", value: (/** @type {any} */ one) => one.due_at, cell: (/** @type {any} */ one) => moment(Date.parse(one.due_at)) };
    this.next = new Table("Jobs that are due, the next one first", [job, id, due, { head: "Waits", numeric: true, value: (one) => span(one.waits_s) }], "Nothing waits.");
    this.later = new Table("Jobs that are put off", [job, id, due], "Nothing is put off.");
    this.leases = new Table("Leases, the one that ends first on top", [job, id, { head: "Ends in", value: (one) => span(one.ends_in_s), cell: (one) => (one.ends_in_s > 0 ? span(one.ends_in_s) : "lapsed") }], "Nothing runs.");
    this.name = el("code");
    this.stats = el("dl", { className: "stats board" });
    const box = (/** @type {string} */ title, /** @type {Table} */ table, /** @type {string} */ note) => el("section", { className: "box" }, el("header", {}, el("h2", {}, title), el("small", {}, note)), table.element);
    this.element = el(
      "div",
      { className: "stack" },
      el("h1", {}, "Queue ", this.name),
      this.stats,
      el("div", { className: "pair" }, box("Due", this.next, "of the first 50"), box("Leases", this.leases, "of the first 50")),
      box("Put off", this.later, "of the first 50"),
    );
  }

  async refresh() {
    const queue = await this.desk.get("console/queue");
    this.name.textContent = queue.queue;
    /** @type {[string, string | Node][]} */
    const board = [
      ["due", count(queue.due)],
      ["oldest has waited", queue.due ? span(queue.oldest_s) : "–"],
      ["put off", count(queue.deferred)],
      ["running", count(queue.running)],
      ["leases lapsed", count(queue.lapsed)],
      ["of its room", meter(queue.waiting, queue.limit, `${count(queue.waiting)} of ${count(queue.limit)}`, queue.waiting >= queue.limit)],
    ];
    this.stats.replaceChildren(...board.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    this.next.show(queue.next, (one) => one.job_id);
    this.later.show(queue.later, (one) => one.job_id);
    this.leases.show(queue.leases, (one) => one.job_id);
  }
}
