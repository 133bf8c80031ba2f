/**
 * One job: its way from the client that submitted it to those who read it, its events, errors, input and result.
 * @module
 */
import { el } from "../pages/dom.js";
import { ago, brief, bytes, clock, count, link, meter, rough, span, status, to_job, to_session, to_stream } from "./format.js";
import { lasted } from "./jobs.js";
import { Lines, Readers } from "./stream.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */

const OVER = ["completed", "failed", "cancelled"];

export class Job {
  /** What was said last, by place: a part is made anew when it says something else. @type {Map<Element, string>} */
  said = new Map();
  input_of = "";

  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.title = `Job ${brief(desk.id)}`;
    this.head = el("h1", { className: "name" }, desk.id);
    this.tags = el("div", { className: "row middle" });
    this.cancel = el("button", { type: "button", hidden: true }, "Cancel");
    this.again = el("button", { type: "button", hidden: true }, "Run again");
    this.path = el("ol", { className: "path", "aria-label": "The way of this job" });
    this.lines = new Lines(desk, "Events of this job");
    this.readers = new Readers("Who reads this job");
    this.errors = new Table(
      "Errors of its attempts",
      [
        { head: "Attempt", numeric: true, value: (one) => one.attempt },
        { head: "When", value: (one) => ago(one.at), cell: (one) => el("time", { dateTime: one.at, title: one.at }, ago(one.at)) },
        { head: "Code", value: (one) => one.code ?? "", cell: (one) => el("code", {}, one.code ?? "") },
        { head: "Message", wide: true, value: (one) => one.message ?? "" },
        { head: "Worth another attempt", value: (one) => (one.temporary ? "yes" : "no") },
      ],
      "None.",
    );
    this.errors_box = el("section", { className: "box", hidden: true }, el("header", {}, el("h2", {}, "Errors")), this.errors.element);
    this.input = el("pre", { className: "excerpt scroll", tabIndex: 0 });
    this.input_note = el("small");
    this.result = el("pre", { className: "excerpt scroll", tabIndex: 0 });
    this.result_note = el("small");
    this.facts = el("dl", { className: "facts" });
    this.cancel.addEventListener("click", () => this.act(this.cancel, `/v1/jobs/${this.address}/cancel`, "Cancelled."));
    this.again.addEventListener("click", async () => {
      const answer = await this.act(this.again, `/v1/console/jobs/${this.address}/run-again`, "It runs again, as another job.");
      if (answer) desk.go(`#/jobs/${encodeURIComponent(answer.job_id)}`);
    });
    const box = (/** @type {string} */ title, /** @type {Node} */ content, /** @type {Node | null} */ note = null) =>
      el("section", { className: "box" }, el("header", {}, el("h2", {}, title), note), content);
    this.element = el(
      "div",
      { className: "stack" },
      el("p", { className: "back" }, link("#/jobs", "Jobs")),
      el("div", { className: "title" }, this.head, this.tags, el("div", { className: "row" }, this.cancel, this.again)),
      this.path,
      this.errors_box,
      box("Events", this.lines.element),
      box("Readers", this.readers.element),
      el("div", { className: "pair" }, box("Input", this.input, this.input_note), box("Result", this.result, this.result_note)),
      box("Facts", this.facts),
    );
  }

  get address() {
    return encodeURIComponent(this.desk.id);
  }

  /** @param {HTMLButtonElement} button @param {string} path @param {string} done */
  async act(button, path, done) {
    button.disabled = true;
    const answer = await this.desk.act("POST", path, done);
    button.disabled = false;
    return answer;
  }

  /** Puts what `make` gives into a place when it says something else than before. @param {Element} place @param {string} says @param {() => (Node | string)[]} make */
  put(place, says, make) {
    if (this.said.get(place) === says) return;
    this.said.set(place, says);
    place.replaceChildren(...make());
  }

  async refresh() {
    const job = await this.desk.get(`console/jobs/${this.address}`);
    const over = OVER.includes(job.status);
    this.put(this.tags, `${job.job} ${job.status} ${job.cancelled_by}`, () => [
      el("strong", {}, job.job),
      status(job.status),
      ...(job.cancelled_by && !over ? [el("small", {}, `being cancelled by ${job.cancelled_by}`)] : []),
    ]);
    this.cancel.hidden = over || !this.desk.full();
    this.again.hidden = !over || !this.desk.full();
    this.steps(job, over);
    this.errors_box.hidden = !job.errors.length;
    this.errors.show(job.errors, (one) => `${one.attempt} ${one.at} ${one.code}`);
    this.lines.show(job.stream);
    this.readers.show(job.stream, over);
    this.put(this.result, JSON.stringify([job.result, job.error, over]), () => [
      job.result ? job.result.text : job.error ? `${job.error.code}: ${job.error.message}` : over ? "None." : "Not yet.",
    ]);
    this.result_note.textContent = job.result ? shown(job.result) : "";
    this.tell(job);
    if (this.input_of !== job.status) {
      this.input_of = job.status;
      const { place, lost, input } = await this.desk.get(`console/jobs/${this.address}/input`);
      this.input.textContent = input ? input.text : `Not kept: ${lost}.`;
      this.input_note.textContent = input ? `${shown(input)}, kept in the ${place}` : "";
    }
  }

  /** The stations of its way. @param {any} job @param {boolean} over */
  steps(job, over) {
    const { stream, run } = job;
    const [waited, ran] = lasted(job);
    const readers = stream.readers.length;
    const slowest = Math.min(...stream.readers.map((/** @type {any} */ one) => one.acked ?? one.sent));
    const since = job.started_at ? (clock.now() - Date.parse(job.started_at)) / 1000 : null;
    /** @type {[string, boolean | null, (Node | string | null)[]][]} done, under way (null) or still to come */
    const all = [
      [
        "Client",
        true,
        [
          el("strong", {}, job.owner ?? "a plain arq client"),
          job.session ? el("span", {}, "session ", to_session(job.session)) : job.owner ? "over HTTP" : null,
          job.connection ? `connected to ${job.connection.process}` : job.session ? "not connected now" : null,
        ],
      ],
      ["Accepted", true, [el("strong", {}, ago(job.created_at)), job.reports.length ? el("span", {}, "told ", ...among(job.reports)) : "told nobody", job.retry_of ? el("span", {}, "again of ", to_job(job.retry_of)) : null]],
      [
        "Queue",
        job.started_at ? (job.status === "queued" || job.status === "retrying" ? null : true) : over ? true : null,
        [
          el("strong", {}, waited === null ? (over ? "never started" : `waits for ${rough((clock.now() - Date.parse(job.created_at)) / 1000)}`) : `waited ${span(waited)}`),
          job.place ? `place ${count(job.place)}` : null,
          job.status === "retrying" ? "waits for another attempt" : null,
        ],
      ],
      [
        "Worker",
        over ? true : job.status === "running" ? null : false,
        [
          el("strong", {}, job.attempt ? attempt(job) : "not yet"),
          run ? el("span", {}, run.process) : job.status === "running" ? "its worker does not answer" : null,
          ran !== null ? `ran ${span(ran)}` : since !== null && !over ? `runs for ${rough(since)}` : null,
          job.lease_s !== null ? el("span", {}, job.lease_s > 0 ? `leased for ${span(job.lease_s)} more` : "its lease has lapsed") : null,
          run?.stopping ? `stopping: ${run.stopping}` : null,
        ],
      ],
      ["Stream", over ? true : stream.top ? null : false, [el("strong", {}, `${count(stream.top)} events`), stream.first > 1 ? `kept from ${count(stream.first)}` : null, el("span", {}, `epoch ${stream.epoch ?? "–"}`)]],
      [
        "Readers",
        readers ? (slowest >= stream.top && over ? true : null) : over ? true : false,
        [
          el("strong", {}, readers ? `${count(readers)} now` : "nobody now"),
          readers ? meter(slowest, stream.top, `${count(slowest)} of ${count(stream.top)}`) : null,
          stream.cursors.length ? `${count(stream.cursors.length)} stored cursor${stream.cursors.length === 1 ? "" : "s"}` : null,
        ],
      ],
    ];
    all.forEach(([name, done, content], index) => {
      const step = this.path.children[index] ?? this.path.appendChild(el("li"));
      const parts = content.filter((one) => one !== null);
      const says = parts.map((one) => (typeof one === "string" ? one : one.textContent)).join("|");
      step.className = name === "Worker" && job.status === "failed" ? "wrong" : done === true ? "done" : done === null ? "now" : "ahead";
      this.put(step, `${done} ${says}`, () => [
        el("h2", {}, name, el("span", { className: "unseen" }, done === true ? ": done" : done === null ? ": now" : ": still to come")),
        ...parts.map((one) => (typeof one === "string" ? el("span", {}, one) : one)),
      ]);
    });
  }

  /** @param {any} job */
  tell(job) {
    /** @type {[string, string | null][]} */
    const facts = [
      ["Created", job.created_at],
      ["Started", job.started_at],
      ["Finished", job.finished_at],
      ["Deadline", job.deadline_at],
      ["Timeout", job.timeout_s ? span(job.timeout_s) : null],
      ["Command id", job.request_id],
      ["Checkpoint", job.checkpoint_bytes ? bytes(job.checkpoint_bytes) : null],
      ["Usage", job.usage ? JSON.stringify(job.usage) : null],
    ];
    const known = facts.filter(([, value]) => value);
    this.put(this.facts, JSON.stringify(known), () => known.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }
}

/** @param {{bytes: number, text: string}} excerpt */
const shown = ({ bytes: all, text }) => (new TextEncoder().encode(text).length < all ? `the first 2 KiB of ${bytes(all)}` : bytes(all));

/** @param {any} job */
const attempt = ({ attempt, tries, max_attempts }) =>
  !max_attempts ? `attempt ${attempt}` : attempt === tries ? `attempt ${attempt} of ${max_attempts}` : `attempt ${attempt}, ${tries} of ${max_attempts} count`;

/** Links with commas between. @param {string[]} streams */
function among(streams) {
  return streams.flatMap((name, index) => (index ? [", ", to_stream(name)] : [to_stream(name)]));
}
