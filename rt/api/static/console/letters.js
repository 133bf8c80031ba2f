/**
 * Dead letters: jobs that failed, kept with their input and errors, to be run again or forgotten.
 * @module
 */
import { el } from "../pages/dom.js";
import { ago, to_job } from "./format.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */

export class Letters {
  title = "Dead letters";

  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    const { params } = desk;
    const job = el("input", { name: "job", value: params.get("job") ?? "", maxLength: 200, autocomplete: "off", spellcheck: false });
    const filter = el("form", { className: "row", role: "search", "aria-label": "Dead letters" }, el("label", { className: "grow" }, "Job", job), el("button", {}, "Filter"));
    filter.addEventListener("submit", (event) => {
      event.preventDefault();
      desk.with({ job: job.value.trim(), cursor: undefined });
    });
    this.table = new Table(
      "Dead letters, newest first",
      [
        { head: "Job", value: (one) => one.job, cell: (one) => el("strong", {}, one.job) },
        { head: "Id", value: (one) => one.job_id, cell: (one) => to_job(one.job_id) },
        { head: "Failed", value: (one) => ago(one.failed_at), cell: (one) => el("time", { dateTime: one.failed_at, title: one.failed_at }, ago(one.failed_at)) },
        { head: "Attempts", numeric: true, value: (one) => one.attempts },
        { head: "Owner", value: (one) => one.owner ?? "–" },
        { head: "Error", wide: true, value: (one) => `${one.error.code}: ${one.error.message}` },
        { head: "Run again as", value: (one) => one.retried_as ?? "", cell: (one) => (one.retried_as ? to_job(one.retried_as) : null) },
        { head: "Actions", value: (one) => `${desk.full()} ${one.retried_as ?? ""}`, cell: (one) => this.actions(one) },
      ],
      "No job has failed for good.",
    );
    this.newest = el("a", { className: "button", href: "#/letters", hidden: !params.get("cursor") }, "Newest");
    this.older = el("button", { type: "button", hidden: true }, "Older");
    this.older.addEventListener("click", () => desk.with({ cursor: this.next }));
    this.element = el(
      "div",
      { className: "stack" },
      el("h1", {}, "Dead letters"),
      el("section", { className: "box" }, el("div", { className: "body" }, filter), this.table.element, el("footer", { className: "row body" }, this.newest, this.older)),
    );
  }

  /** @param {any} one */
  actions(one) {
    if (!this.desk.full()) return null;
    const path = `/v1/dead-letters/${encodeURIComponent(one.job_id)}`;
    const button = (/** @type {string} */ text, /** @type {() => Promise<any>} */ what) => {
      const made = el("button", { type: "button", className: "quiet", "aria-label": `${text}: ${one.job} ${one.job_id}` }, text);
      made.addEventListener("click", async () => {
        made.disabled = true;
        await what();
        made.disabled = false;
        await this.refresh();
      });
      return made;
    };
    const forget = button("Forget", async () => {
      if (confirm("Its input and errors are deleted. The job itself stays known as failed.")) await this.desk.act("DELETE", path, "Forgotten.");
    });
    const again = button("Run again", () => this.desk.act("POST", `${path}/retry`, "It runs again, as another job."));
    return el("span", { className: "row" }, one.retried_as ? null : again, forget);
  }

  async refresh() {
    const { params } = this.desk;
    const page = await this.desk.get("dead-letters", { job: params.get("job") ?? undefined, cursor: params.get("cursor") ?? undefined, limit: 50 });
    this.next = page.next ?? undefined;
    this.older.hidden = !page.next;
    this.table.show(page.items, (one) => one.job_id);
  }
}

