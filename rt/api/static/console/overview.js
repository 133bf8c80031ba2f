/**
 * Everything at a glance: what needs somebody, the numbers, two minutes of rates and times, and the processes.
 * @module
 */
import { el, tag } from "../pages/dom.js";
import { Chart } from "./chart.js";
import { bytes, count, meter, rough, span, status } from "./format.js";
import { Table } from "./table.js";

/** @typedef {import("./main.js").Desk} Desk */
/** @typedef {import("./numbers.js").History} History */
/** @typedef {import("./chart.js").Series} Series */

const rate = (/** @type {number | null | undefined} */ value) => (value === null || value === undefined ? "–" : `${count(value)}/s`);
const ms = (/** @type {number | null | undefined} */ s) => (s === null || s === undefined ? "–" : s === 0 ? "0 ms" : span(s));
const percent = (/** @type {number | null | undefined} */ part) => (part === null || part === undefined ? "–" : `${Math.round(part * 100)} %`);

/** @type {[string, (value: number | null | undefined) => string, number, (history: History) => Series[]][]} */
const CHARTS = [
  [
    "Events",
    rate,
    1,
    (h) => [
      { name: "sent", values: h.counter("rt_events_sent") },
      { name: "replayed", values: h.counter("rt_events_replayed") },
      { name: "appended", values: h.rate((told) => told.numbers.times.rt_append_events?.sum) },
    ],
  ],
  [
    "Jobs",
    rate,
    1,
    (h) => [
      { name: "accepted", values: h.counter("rt_jobs_accepted") },
      { name: "completed", values: h.counter("rt_jobs_finished:Completed") },
      { name: "failed", values: h.counter("rt_jobs_finished:Failed") },
    ],
  ],
  [
    "Queue",
    count,
    4,
    (h) => [
      { name: "due", values: h.levels(({ counts }) => counts.due) },
      { name: "running", values: h.levels(({ counts }) => counts.running) },
      { name: "deferred", values: h.levels(({ counts }) => counts.deferred) },
    ],
  ],
  ["Wait in the queue", ms, 0.01, (h) => percentiles(h, "rt_queue_wait_seconds")],
  ["Commands", ms, 0.01, (h) => percentiles(h, "rt_command_seconds")],
  ["Appends of workers", ms, 0.01, (h) => percentiles(h, "rt_append_seconds")],
  [
    "Connections",
    count,
    4,
    (h) => [
      { name: "WebSocket", values: h.sum("web", "connections") },
      { name: "SSE", values: h.sum("web", "sse") },
    ],
  ],
  [
    "Processor",
    percent,
    0.5,
    (h) => ["web", "worker"].map((kind) => ({ name: kind, values: h.series(1, (now, before, seconds) => used(now, before, kind) / seconds) })),
  ],
];

/** @param {import("./numbers.js").Look} now @param {import("./numbers.js").Look} before @param {string} kind */
function used(now, before, kind) {
  let sum = 0;
  for (const [name, one] of now.processes) {
    const old = before.processes.get(name);
    if (old && one.kind === kind) sum += Math.max(0, one.told.cpu_s - old.told.cpu_s);
  }
  return sum;
}

/** @param {History} history @param {string} name @returns {Series[]} */
const percentiles = (history, name) => [0.5, 0.95, 0.99].map((share) => ({ name: `${share * 100} %`, values: history.percentile(name, share) }));

export class Overview {
  title = "Overview";

  /** @param {Desk} desk */
  constructor(desk) {
    this.desk = desk;
    this.charts = CHARTS.map(([title, words, least]) => new Chart(title, words, { least }));
    this.alerts = el("ul", { className: "alerts", "aria-label": "What needs somebody" });
    this.stats = el("dl", { className: "stats board" });
    this.table = new Table(
      "Processes",
      [
        { head: "Process", value: (one) => one.process, cell: (one) => el("code", { title: one.process }, one.process) },
        { head: "Kind", value: (one) => one.kind },
        { head: "State", value: (one) => (one.told.draining ? "draining" : "live"), cell: (one) => status(one.told.draining ? "draining" : "live") },
        {
          head: "Load",
          value: (one) => load(one).join(" "),
          cell: (one) => meter(load(one)[0], load(one)[1], `${count(load(one)[0])} of ${count(load(one)[1])}`, load(one)[0] >= load(one)[1]),
        },
        { head: "Streams", numeric: true, value: (one) => count(one.told.streams) },
        { head: "CPU", numeric: true, value: (one) => percent(desk.history.cpu(one.process)) },
        { head: "Memory", numeric: true, value: (one) => bytes(one.told.memory_bytes) },
        { head: "Answers in", numeric: true, value: (one) => `${Math.round(one.after_ms)} ms` },
        { head: "Up", numeric: true, value: (one) => rough(one.told.uptime_s) },
        { head: "Version", value: (one) => one.told.version },
      ],
      "No process answers.",
    );
    this.element = el(
      "div",
      { className: "stack" },
      el("h1", { className: "unseen" }, "Overview"),
      this.alerts,
      this.stats,
      el("section", { className: "charts", "aria-label": "The last two minutes" }, ...this.charts.map((one) => one.element)),
      el("section", { className: "box" }, el("header", {}, el("h2", {}, "Processes")), this.table.element),
    );
  }

  async refresh() {
    const history = this.desk.history;
    const now = history.looks.at(-1);
    if (!now) return;
    const times = history.looks.map((one) => one.at_ms);
    CHARTS.forEach(([, , , series], index) => this.charts[index].show(times, series(history)));
    const { counts } = now;
    const processes = [...now.processes.values()];
    const workers = processes.filter((one) => one.kind === "worker");
    const sum = (/** @type {string} */ name) => processes.reduce((all, one) => all + (one.told[name] ?? 0), 0);
    /** @type {[string, string, string?][]} */
    const board = [
      ["connections", count(sum("connections") + sum("sse")), "#/connections"],
      ["jobs due", count(counts.due), "#/queue"],
      ["oldest has waited", counts.due ? span(counts.oldest_s) : "–", "#/queue"],
      ["jobs running", count(counts.running), "#/workers"],
      ["deferred", count(counts.deferred), "#/queue"],
      ["dead letters", count(counts.dead_letters), "#/letters"],
      ["jobs known", count(counts.jobs), "#/jobs"],
      ["workers", count(workers.length), "#/workers"],
    ];
    if (this.stats.childElementCount !== board.length) {
      this.stats.replaceChildren(...board.map(([name, , hash = ""]) => el("div", {}, el("dt", {}, el("a", { href: hash }, name)), el("dd"))));
    }
    board.forEach(([, text], index) => (/** @type {HTMLElement} */ (this.stats.children[index].lastElementChild).textContent = text));
    this.warn(counts, workers, sum("stuck"));
    this.table.show(processes, (one) => one.process);
  }

  /** @param {any} counts @param {any[]} workers @param {number} stuck */
  warn(counts, workers, stuck) {
    /** @type {[boolean, "warn" | "bad", string][]} */
    const all = [
      [workers.length === 0, "bad", "No worker answers: jobs wait."],
      [counts.lapsed > 0, "warn", `${count(counts.lapsed)} leases have lapsed: these jobs begin elsewhere.`],
      [counts.waiting >= counts.limit, "bad", `The queue is full (${count(counts.limit)}): submissions are refused.`],
      [counts.waiting < counts.limit && counts.waiting >= counts.limit * 0.8, "warn", `The queue holds ${count(counts.waiting)} of ${count(counts.limit)} jobs.`],
      [counts.oldest_s > 30 && counts.due > 0, "warn", `The first job that is due has waited ${span(counts.oldest_s)}.`],
      [stuck > 0, "warn", `${count(stuck)} functions went on after their cancel.`],
    ];
    const said = all.filter(([on]) => on);
    const text = said.map(([, , words]) => words).join("\n");
    if (this.alerts.dataset.said === text) return;
    this.alerts.dataset.said = text;
    this.alerts.replaceChildren(...said.map(([, tone, words]) => el("li", {}, tag(tone, tone === "bad" ? "✕" : "!", words))));
  }
}

/** How much of what it takes a process has. @param {any} one @returns {[number, number]} */
function load(one) {
  const { told } = one;
  return one.kind === "worker" ? [told.running ?? 0, told.max_jobs ?? 0] : [(told.connections ?? 0) + (told.sse ?? 0), told.max_connections ?? 0];
}

