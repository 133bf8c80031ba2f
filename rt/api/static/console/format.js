/**
 * Numbers, times and words as a person reads them, and the small elements that show them.
 * @module
 */
import { el, tag } from "../pages/dom.js";

/** 1,234 or 12.3k. @param {number | null | undefined} value */
export function count(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (Math.abs(value) >= 100_000) return `${(value / 1000).toFixed(0)}k`;
  return value.toLocaleString("en", { maximumFractionDigits: Math.abs(value) < 10 ? 2 : Math.abs(value) < 100 ? 1 : 0 });
}

/** 0.4 ms, 12 ms, 3.2 s, 5 min, 2 h, 3 d. @param {number | null | undefined} s */
export function span(s) {
  if (s === null || s === undefined || Number.isNaN(s)) return "–";
  const at = Math.abs(s);
  if (at < 0.001 && at > 0) return "<1 ms";
  if (at < 1) return `${Math.round(s * 1000)} ms`;
  if (at < 60) return `${s.toFixed(at < 10 ? 1 : 0)} s`;
  if (at < 3600) return `${Math.floor(s / 60)} min ${String(Math.floor(s % 60)).padStart(2, "0")} s`;
  if (at < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** As `span`, in whole seconds: of what is looked at once a second. @param {number | null | undefined} s */
export function rough(s) {
  if (s === null || s === undefined || Number.isNaN(s)) return "–";
  return s < 60 ? `${Math.max(0, Math.floor(s))} s` : span(s);
}

/** @param {number | null | undefined} s */
export const past = (s) => (s === null || s === undefined ? "–" : s < 1 ? "just now" : `${rough(s)} ago`);

/** 12 B, 3.4 KiB, 5.6 MiB. @param {number | null | undefined} value */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1024) return `${value} B`;
  if (value < 1024 * 1024) return `${(value / 1024).toFixed(value < 10_240 ? 1 : 0)} KiB`;
  return `${(value / 1024 / 1024).toFixed(value < 10_485_760 ? 1 : 0)} MiB`;
}

/** Redis's clock as this page last heard it, so that ages are true where the reader's own clock is not. */
export const clock = {
  ahead_ms: 0,
  now() {
    return Date.now() + this.ahead_ms;
  },
};

/** How long ago an RFC 3339 time was. @param {string | null | undefined} at */
export const ago = (at) => (at ? past((clock.now() - Date.parse(at)) / 1000) : "–");

/** A time of day with the date in its title. @param {number} ms @param {boolean} [fine] with milliseconds */
export function moment(ms, fine = false) {
  const at = new Date(ms);
  const text = at.toLocaleTimeString([], { hour12: false }) + (fine ? `.${String(at.getMilliseconds()).padStart(3, "0")}` : "");
  return el("time", { dateTime: at.toISOString(), title: at.toISOString() }, text);
}

/** @type {Record<string, ["good" | "warn" | "bad" | "info" | "", string]>} */
const TONES = {
  queued: ["", "○"],
  running: ["info", "▶"],
  retrying: ["warn", "↻"],
  completed: ["good", "✓"],
  failed: ["bad", "✕"],
  cancelled: ["", "■"],
  live: ["good", "●"],
  silent: ["warn", "?"],
  gone: ["", "○"],
  draining: ["warn", "↓"],
  full: ["bad", "!"],
};

/** A word that has a colour and a sign of its own. @param {string} word */
export function status(word) {
  const [tone, sign] = TONES[word] ?? ["", "·"];
  return tag(tone, sign, word);
}

/** The first and last letters of what is long and unique; all of it in the title. @param {string} id @param {number} [keep] */
export const brief = (id, keep = 8) => (id.length > keep * 2 + 1 ? `${id.slice(0, keep)}…${id.slice(-4)}` : id);

/** A link to a view. @param {string} hash @param {string} text @param {string} [title] */
export const link = (hash, text, title = text) => el("a", { href: hash, title }, text);

/** @param {string} id */
export const to_job = (id) => link(`#/jobs/${encodeURIComponent(id)}`, brief(id, 10), id);
/** @param {string} id */
export const to_session = (id) => link(`#/sessions/${encodeURIComponent(id)}`, brief(id, 6), id);

/** A stream's name, which leads to what it belongs to. @param {string} name */
export function to_stream(name) {
  const [kind, id] = [name.slice(0, name.indexOf(":")), name.slice(name.indexOf(":") + 1)];
  if (kind === "job") return link(`#/jobs/${encodeURIComponent(unescaped(id))}`, `job:${brief(id, 10)}`, name);
  return link(`#/streams/${encodeURIComponent(name)}`, `${kind}:${brief(id, 10)}`, name);
}

/** What stands escaped in an address, or as it is where it was never escaped. @param {string} id */
export function unescaped(id) {
  try {
    return decodeURIComponent(id);
  } catch {
    return id;
  }
}

/** A part of a whole as a bar with words. @param {number} part @param {number} whole @param {string} label @param {boolean} [bad] */
export function meter(part, whole, label, bad = false) {
  const fill = el("i");
  const share = whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0;
  fill.style.setProperty("inline-size", `${(share * 100).toFixed(1)}%`);
  return el("span", { className: `meter${bad ? " over" : ""}` }, el("span", { className: "rail", ariaHidden: "true" }, fill), el("span", {}, label));
}

/** @type {Record<string, ["good" | "warn" | "bad" | "info" | "", string]>} */
const EVENTS = {
  "job.started": ["info", "▶"],
  "job.completed": ["good", "✓"],
  "job.failed": ["bad", "✕"],
  "job.cancelled": ["", "■"],
  "job.retrying": ["warn", "↻"],
  "job.restarted": ["warn", "↻"],
  "job.input_required": ["warn", "?"],
  "job.delta": ["", "…"],
};

/** The type of an event. @param {string} type */
export function tag_of(type) {
  const [tone, sign] = EVENTS[type] ?? ["", "·"];
  return tag(tone, sign, type);
}
