/**
 * Sessions: those that are connected, and any one by its id with what it follows, how far it is, and its own stream.
 * @module
 */
import { el } from "../pages/dom.js";
import { brief, bytes, count, link, meter, past, rough, span, status, to_session, to_stream } from "./format.js";
import { Lines } from "./stream.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */

export class Sessions {
  title = "Sessions";

  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    const id = el("input", { name: "id", required: true, pattern: "[A-Za-z0-9_\\-]{43}", title: "43 of A-Z a-z 0-9 _ -", autocomplete: "off", spellcheck: false });
    const find = el("form", { className: "row", role: "search", "aria-label": "A session by its id" }, el("label", { className: "grow" }, "Session id", id), el("button", {}, "Show"));
    find.addEventListener("submit", (event) => {
      event.preventDefault();
      desk.go(`#/sessions/${id.value.trim()}`);
    });
    this.table = new Table(
      "Sessions that are connected",
      [
        { head: "Session", value: (one) => one.session, cell: (one) => to_session(one.session) },
        { head: "Subject", value: (one) => one.subject, cell: (one) => link(`#/connections?subject=${encodeURIComponent(one.subject)}`, one.subject) },
        { head: "Follows", numeric: true, value: (one) => count(one.follows) },
        { head: "Connected for", numeric: true, value: (one) => rough(one.age_s) },
        { head: "Kept for", numeric: true, value: (one) => (one.stored ? span(one.expires_s) : "not stored") },
        { head: "Process", value: (one) => one.process, cell: (one) => el("code", {}, one.process) },
      ],
      "Nobody is connected.",
    );
    this.totals = el("small");
    this.element = el(
      "div",
      { className: "stack" },
      el("h1", {}, "Sessions"),
      el("section", { className: "box" }, el("div", { className: "body" }, find, el("p", { className: "soft" }, "One that is not connected is found by its id: of a job, or of its announcement.")), el("header", {}, el("h2", {}, "Connected"), this.totals), this.table.element),
    );
  }

  async refresh() {
    const found = await this.desk.get("console/sessions", { limit: 100 });
    this.totals.textContent = found.total > found.items.length ? `the first ${count(found.items.length)} of ${count(found.total)}` : count(found.total);
    this.table.show(found.items, (one) => `${one.session} ${one.generation}`);
  }
}

export class Session {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.title = `Session ${brief(desk.id)}`;
    this.facts = el("dl", { className: "facts" });
    this.tags = el("div", { className: "row middle" });
    this.table = new Table(
      "Streams that it follows",
      [
        { head: "Stream", value: (one) => one.stream, cell: (one) => to_stream(one.stream) },
        { head: "Announced in", value: (one) => one.by ?? "" , cell: (one) => (one.by ? to_stream(one.by.split(" ")[0]) : null) },
        { head: "Stored cursor", value: (one) => one.cursor ?? "–", cell: (one) => el("code", {}, one.cursor ?? "–") },
        { head: "Sent", numeric: true, value: (one) => one.sent ?? "–" },
        { head: "Acknowledged", value: (one) => `${one.acked} ${one.top}`, cell: (one) => (one.top === null || one.top === undefined ? "–" : meter(one.acked, one.top, `${count(one.acked)} of ${count(one.top)}`)) },
      ],
      "It follows nothing.",
    );
    this.lines = new Lines(desk, "Events of its own stream");
    const box = (/** @type {string} */ title, /** @type {Node} */ content) => el("section", { className: "box" }, el("header", {}, el("h2", {}, title)), content);
    this.element = el(
      "div",
      { className: "stack" },
      el("p", { className: "back" }, link("#/sessions", "Sessions")),
      el("div", { className: "title" }, el("h1", { className: "name" }, desk.id), this.tags),
      box("Facts", this.facts),
      box("Follows", this.table.element),
      box("Its own stream", this.lines.element),
    );
  }

  async refresh() {
    const { desk } = this;
    const [session, stream] = await Promise.all([desk.get(`console/sessions/${desk.id}`), desk.get(`console/streams/session:${desk.id}`).catch(() => null)]);
    const live = session.connection;
    this.tags.replaceChildren(el("strong", {}, session.owner ?? live?.subject ?? ""), status(live ? "live" : "gone"));
    /** @type {[string, string | null][]} */
    const facts = [
      ["Kept for", session.expires_s === null ? "not stored" : span(session.expires_s)],
      ["Generation", session.generation === null ? null : String(session.generation)],
      ["Follows", count(session.follows)],
      ["Done with", session.done.length ? `${count(session.done.length)} jobs` : null],
      ["Client", live?.client || null],
      ["Process", live?.process ?? null],
      ["Connected for", live ? rough(live.age_s) : null],
      ["Last frame", live ? past(live.silent_s) : null],
      ["Mailbox", live ? count(live.mailbox) : null],
      ["Outbox", live ? `${bytes(live.outbox_bytes)}, ${count(live.outbox_frames)} frames` : null],
    ];
    this.facts.replaceChildren(...facts.filter(([, value]) => value !== null).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    this.table.show(session.streams, (one) => one.stream);
    if (stream) this.lines.show(stream);
  }
}
