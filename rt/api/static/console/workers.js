/**
 * Workers of the last hour, each with what it runs.
 * @module
 */
import { el } from "../pages/dom.js";
import { bytes, clock, count, meter, past, rough, span, status, to_job } from "./format.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */

export class Workers {
  title = "Workers";

  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.table = new Table(
      "Workers of the last hour",
      [
        { head: "Worker", value: (one) => one.worker, cell: (one) => el("code", {}, one.worker) },
        { head: "State", value: (one) => state(one), cell: (one) => status(state(one)) },
        { head: "Runs", value: (one) => `${one.running} ${one.max_jobs}`, cell: (one) => (one.max_jobs ? meter(one.running, one.max_jobs, `${count(one.running)} of ${count(one.max_jobs)}`, one.running >= one.max_jobs) : "–") },
        { head: "Completed", numeric: true, value: (one) => count(one.completed) },
        { head: "Failed", numeric: true, value: (one) => count(one.failed) },
        { head: "Retried", numeric: true, value: (one) => count(one.retried) },
        { head: "Stuck", numeric: true, value: (one) => count(one.stuck) },
        { head: "CPU", numeric: true, value: (one) => cpu(desk.history.cpu(one.worker)) },
        { head: "Memory", numeric: true, value: (one) => bytes(one.memory_bytes) },
        { head: "Heartbeat", numeric: true, value: (one) => past(one.seen_s) },
        { head: "Up", numeric: true, value: (one) => rough(one.uptime_s) },
        { head: "Serves", wide: true, value: (one) => one.jobs.join(", ") },
      ],
      "No worker was there within the last hour.",
    );
    this.runs = new Table(
      "Jobs that run now",
      [
        { head: "Job", value: (one) => one.job, cell: (one) => el("strong", {}, one.job) },
        { head: "Id", value: (one) => one.job_id, cell: (one) => to_job(one.job_id) },
        { head: "Worker", value: (one) => one.process, cell: (one) => el("code", {}, one.process) },
        { head: "Attempt", numeric: true, value: (one) => one.attempt },
        { head: "Runs for", numeric: true, value: (one) => rough(one.ran_s) },
        { head: "Time left", numeric: true, value: (one) => rough((one.deadline_ms - clock.now()) / 1000) },
        { head: "Lease", numeric: true, value: (one) => (one.lease_s === null ? "–" : one.lease_s > 0 ? span(one.lease_s) : "lapsed") },
        { head: "Stopping", value: (one) => one.stopping ?? "" },
      ],
      "Nothing runs.",
    );
    const box = (/** @type {string} */ title, /** @type {Table} */ table) => el("section", { className: "box" }, el("header", {}, el("h2", {}, title)), table.element);
    this.element = el("div", { className: "stack" }, el("h1", { className: "unseen" }, "Workers"), box("Workers", this.table), box("Running now", this.runs));
  }

  async refresh() {
    const { items } = await this.desk.get("console/workers");
    const order = ["live", "silent", "gone"];
    items.sort((/** @type {any} */ a, /** @type {any} */ b) => order.indexOf(a.state) - order.indexOf(b.state) || a.worker.localeCompare(b.worker));
    this.table.show(items, (one) => one.worker);
    this.runs.show(items.flatMap((/** @type {any} */ one) => one.runs), (one) => `${one.job_id} ${one.attempt}`);
  }
}

/** @param {any} one */
const state = (one) => (one.state === "live" && one.draining ? "draining" : one.state);
/** @param {number | null} part */
const cpu = (part) => (part === null ? "–" : `${Math.round(part * 100)} %`);
