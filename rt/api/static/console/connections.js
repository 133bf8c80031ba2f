/**
 * Open WebSockets of all processes: what waits for each actor, and what waits for each client.
 * @module
 */
import { el } from "../pages/dom.js";
import { bytes, count, rough, status, to_session } from "./format.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */

export class Connections {
  title = "Connections";

  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.sorted = desk.params.get("sort") ?? "age";
    const subject = el("input", { name: "subject", value: desk.params.get("subject") ?? "", maxLength: 128, autocomplete: "off", spellcheck: false });
    const filter = el("form", { className: "row", role: "search", "aria-label": "Connections" }, el("label", { className: "grow" }, "Subject", subject), el("button", {}, "Filter"));
    filter.addEventListener("submit", (event) => {
      event.preventDefault();
      desk.with({ subject: subject.value.trim() });
    });
    this.table = new Table(
      "Open WebSockets",
      [
        { head: "Subject", value: (one) => one.subject, cell: (one) => el("strong", {}, one.subject) },
        { head: "Session", value: (one) => one.session, cell: (one) => to_session(one.session) },
        { head: "Client", value: (one) => one.client || "–" },
        { head: "State", value: (one) => (one.closing ? "closing" : "live"), cell: (one) => status(one.closing ? "closing" : "live") },
        { head: "Mailbox", numeric: true, sort: "mailbox", value: (one) => count(one.mailbox) },
        { head: "Outbox", numeric: true, sort: "outbox", value: (one) => `${bytes(one.outbox_bytes)}, ${count(one.outbox_frames)} frames` },
        { head: "Follows", numeric: true, sort: "follows", value: (one) => count(one.follows) },
        { head: "Silent", numeric: true, sort: "silence", value: (one) => rough(one.silent_s) },
        { head: "Age", numeric: true, sort: "age", value: (one) => rough(one.age_s) },
        { head: "Process", value: (one) => one.process, cell: (one) => el("code", {}, one.process) },
      ],
      "Nobody is connected.",
      { sorted: this.sorted, onSort: (by) => desk.with({ sort: by }) },
    );
    this.totals = el("small");
    this.element = el(
      "div",
      { className: "stack" },
      el("h1", {}, "Connections"),
      el("section", { className: "box" }, el("div", { className: "body" }, filter), el("header", {}, el("h2", {}, "Open WebSockets"), this.totals), this.table.element),
    );
  }

  async refresh() {
    const found = await this.desk.get("console/connections", { sort: this.sorted, subject: this.desk.params.get("subject") ?? undefined, limit: 100 });
    const shown = found.total > found.items.length ? `the first ${count(found.items.length)} of ${count(found.total)}` : count(found.total);
    this.totals.textContent = `${shown}; ${count(found.mailbox)} messages wait for actors, ${bytes(found.outbox_bytes)} for clients`;
    this.table.show(found.items, (one) => `${one.process} ${one.connection}`);
  }
}
