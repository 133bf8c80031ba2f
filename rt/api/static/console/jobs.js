/**
 * Jobs, newest first: by status, name and owner, page by page.
 * @module
 */
import { el } from "../pages/dom.js";
import { ago, link, span, status, to_job } from "./format.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */

const STATUSES = ["queued", "running", "retrying", "completed", "failed", "cancelled"];
/** With a filter the server looks through many jobs: not each second. */
const FILTERED_EVERY = 4;

/** How long a job waited, and how long it ran, of its times. @param {any} one @returns {[number | null, number | null]} */
export function lasted(one) {
  const [made, began, ended] = [one.created_at, one.started_at, one.finished_at].map((at) => (at ? Date.parse(at) / 1000 : null));
  return [began && made ? began - made : null, ended && began ? ended - began : null];
}

export class Jobs {
  title = "Jobs";
  looks = 0;

  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    const { params } = desk;
    this.state = el("select", { name: "status" }, el("option", { value: "" }, "any"), ...STATUSES.map((one) => el("option", { value: one, selected: params.get("status") === one }, one)));
    this.job = el("input", { name: "job", value: params.get("job") ?? "", maxLength: 200, autocomplete: "off", spellcheck: false });
    this.owner = el("input", { name: "owner", value: params.get("owner") ?? "", maxLength: 128, autocomplete: "off", spellcheck: false });
    const filter = el(
      "form",
      { className: "row", role: "search", "aria-label": "Jobs" },
      el("label", { className: "grow" }, "Status", this.state),
      el("label", { className: "grow" }, "Job", this.job),
      el("label", { className: "grow" }, "Owner", this.owner),
      el("button", {}, "Filter"),
    );
    const go = () => desk.with({ status: this.state.value, job: this.job.value.trim(), owner: this.owner.value.trim(), cursor: undefined });
    filter.addEventListener("submit", (event) => {
      event.preventDefault();
      go();
    });
    this.state.addEventListener("change", go);
    this.table = new Table(
      "Jobs, newest first",
      [
        { head: "Job", value: (one) => one.job, cell: (one) => el("strong", {}, one.job) },
        { head: "Id", value: (one) => one.job_id, cell: (one) => to_job(one.job_id) },
        { head: "Status", value: (one) => one.status, cell: (one) => status(one.status) },
        { head: "Attempt", numeric: true, value: (one) => one.attempt },
        { head: "Owner", value: (one) => one.owner ?? "–", cell: (one) => (one.owner ? link(`#/jobs?owner=${encodeURIComponent(one.owner)}`, one.owner) : null) },
        { head: "Submitted", value: (one) => ago(one.created_at), cell: (one) => el("time", { dateTime: one.created_at, title: one.created_at }, ago(one.created_at)) },
        { head: "Waited", numeric: true, value: (one) => span(lasted(one)[0]) },
        { head: "Ran", numeric: true, value: (one) => span(lasted(one)[1]) },
        { head: "Error", wide: true, value: (one) => (one.error ? `${one.error.code}: ${one.error.message}` : "") },
      ],
      "No such jobs.",
    );
    this.newest = el("a", { className: "button", href: "#/jobs", hidden: !params.get("cursor") }, "Newest");
    this.older = el("button", { type: "button", hidden: true }, "Older");
    this.older.addEventListener("click", () => desk.with({ cursor: this.next }));
    this.element = el(
      "div",
      { className: "stack" },
      el("h1", {}, "Jobs"),
      el("section", { className: "box" }, el("div", { className: "body" }, filter), this.table.element, el("footer", { className: "row body" }, this.newest, this.older)),
    );
  }

  async refresh() {
    const { params } = this.desk;
    const asked = Object.fromEntries(["status", "job", "owner", "cursor"].map((name) => [name, params.get(name) ?? undefined]));
    const filtered = !!(asked.status || asked.job);
    this.looks += 1;
    if (filtered && this.looks % FILTERED_EVERY !== 1) return;
    const page = await this.desk.get("console/jobs", { ...asked, limit: 50 });
    this.next = page.next ?? undefined;
    this.older.hidden = !page.next;
    this.table.show(page.items, (one) => one.job_id);
  }
}
