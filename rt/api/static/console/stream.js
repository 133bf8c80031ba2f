/**
 * A stream's events as lines, from both ends, with what lies between on demand; and who follows it.
 * @module
 */
import { el } from "../pages/dom.js";
import { bytes, count, meter, moment, span, tag_of, to_session } from "./format.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */

export class Lines {
  /** Pages that were asked for, which do not change any more. @type {Map<number, any>} */
  between = new Map();
  /** @type {any[]} */
  items = [];

  /** @param {Desk} desk @param {string} caption */
  constructor(desk, caption) {
    this.desk = desk;
    this.stream = "";
    this.table = new Table(
      caption,
      [
        { head: "Seq", numeric: true, value: (one) => (one.gap ? `${one.from}–${one.upto}` : one.to && one.to !== one.seq ? `${one.seq}–${one.to}` : one.seq) },
        { head: "Time", value: (one) => one.ts ?? "", cell: (one) => (one.ts ? moment(one.ts, true) : null) },
        { head: "After", numeric: true, value: (one) => (one.after === undefined ? "" : `+${span(one.after)}`) },
        { head: "Event", value: (one) => one.type ?? "", cell: (one) => (one.type ? tag_of(one.type) : null) },
        { head: "Attempt", numeric: true, value: (one) => one.attempt ?? "" },
        { head: "Data", wide: true, value: (one) => (one.gap ? "gap" : `${one.data.bytes} ${one.data.text} ${one.progress?.text}`), cell: (one) => this.data(one) },
      ],
      "No events are kept.",
    );
    this.element = this.table.element;
    this.element.classList.add("lines");
  }

  /** @param {any} one */
  data(one) {
    if (one.gap) {
      const button = el("button", { type: "button", className: "quiet" }, "Show more");
      button.addEventListener("click", async () => {
        button.disabled = true;
        await this.fill(one.from - 1);
      });
      return button;
    }
    const cut = one.data.bytes > new TextEncoder().encode(one.data.text).length;
    const text = el("code", { className: "data" }, one.data.text === "null" ? "" : one.data.text);
    const notes = [cut ? `the first of ${bytes(one.data.bytes)}` : "", one.progress ? `progress ${one.progress.text}` : ""].filter(Boolean);
    return notes.length ? el("span", {}, text, el("small", {}, notes.join(" · "))) : text;
  }

  /** @param {number} after */
  async fill(after) {
    const page = await this.desk.get(`console/streams/${encodeURIComponent(this.stream)}`, { after });
    for (const line of page.lines) this.between.set(line.seq, line);
    // Nothing is left of what was there: it is not asked for again and again.
    if (!page.lines.length) this.between.set(after + 1, null);
    this.show(this.detail);
  }

  /** @param {any} detail */
  show(detail) {
    this.detail = detail;
    this.stream = detail.stream;
    const lines = new Map([...this.between, ...detail.lines.map((/** @type {any} */ one) => [one.seq, one])]);
    const ends = new Map();
    /** @type {any[]} */
    this.items = [];
    let [next, began] = [detail.first, 0];
    for (const line of [...lines.values()].filter(Boolean).sort((a, b) => a.seq - b.seq)) {
      const end = line.to ?? line.seq;
      if (end < next) continue; // part of a line that is there already
      began ||= line.ts;
      if (line.seq > next) this.items.push({ gap: true, from: next, upto: line.seq - 1 });
      this.items.push({ ...line, after: (line.ts - began) / 1000 });
      ends.set(line.seq, end);
      next = end + 1;
    }
    if (next <= detail.top) this.items.push({ gap: true, from: next, upto: detail.top });
    this.items = this.items.filter((one) => !one.gap || this.between.get(one.from) !== null);
    this.table.show(this.items, (one) => `${one.gap ? "gap" : "line"} ${one.gap ? one.from : one.seq}`);
  }
}

/** Who reads a stream: connections now, and sessions by what they have stored. */
export class Readers {
  /** @param {string} caption */
  constructor(caption) {
    this.table = new Table(
      caption,
      [
        { head: "Who", value: (one) => one.subject },
        { head: "By", value: (one) => one.by },
        { head: "Session", value: (one) => one.session ?? "–", cell: (one) => (one.session ? to_session(one.session) : null) },
        { head: "Process", value: (one) => one.process ?? "–" },
        { head: "Sent", numeric: true, value: (one) => one.sent ?? "–" },
        {
          head: "Acknowledged",
          value: (one) => `${one.acked ?? ""} ${one.top}`,
          cell: (one) => (one.acked === undefined || one.acked === null ? (one.over ? "to its end, or left" : "–") : meter(one.acked, one.top, `${count(one.acked)} of ${count(one.top)}`)),
        },
        { head: "Stored", value: (one) => one.stored ?? "–" },
      ],
      "Nobody follows it.",
    );
    this.element = this.table.element;
  }

  /** @param {any} detail @param {boolean} over whether the stream has ended */
  show(detail, over) {
    const stored = new Map(detail.cursors.map((/** @type {any} */ one) => [one.session, one]));
    /** @type {any[]} */
    const items = detail.readers.map((/** @type {any} */ one) => ({ ...one, top: detail.top, stored: stored.get(one.session)?.cursor ?? undefined }));
    const live = new Set(items.map((one) => one.session));
    for (const one of stored.values()) {
      if (live.has(one.session)) continue;
      const seq = one.cursor === null ? undefined : Number(one.cursor.slice(one.cursor.lastIndexOf(":") + 1));
      items.push({ subject: one.owner, by: "stored", session: one.session, top: detail.top, acked: seq, stored: one.cursor ?? undefined, over });
    }
    this.table.show(items, (one) => `${one.by} ${one.process ?? ""} ${one.connection ?? ""} ${one.session ?? ""} ${one.subject}`);
  }
}

export class Stream {
  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.title = desk.id;
    this.lines = new Lines(desk, "Events");
    this.readers = new Readers("Who follows it");
    this.facts = el("small");
    this.element = el(
      "div",
      { className: "stack" },
      el("h1", { className: "name" }, desk.id),
      el("section", { className: "box" }, el("header", {}, el("h2", {}, "Events"), this.facts), this.lines.element),
      el("section", { className: "box" }, el("header", {}, el("h2", {}, "Readers")), this.readers.element),
    );
  }

  async refresh() {
    const detail = await this.desk.get(`console/streams/${encodeURIComponent(this.desk.id)}`);
    this.facts.textContent = `${count(detail.top)} events, kept from ${count(detail.first)}, epoch ${detail.epoch}`;
    this.lines.show(detail);
    this.readers.show(detail, false);
  }
}
