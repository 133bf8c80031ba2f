/**
 * The console: which view is shown, and the look at everything each second, while somebody sees it.
 * @module
 */
import { el, the } from "../pages/dom.js";
import { Problem, signIn } from "../pages/sign-in.js";
import { Connections } from "./connections.js";
import { clock, unescaped } from "./format.js";
import { Job } from "./job.js";
import { Jobs } from "./jobs.js";
import { Letters } from "./letters.js";
import { History } from "./numbers.js";
import { Overview } from "./overview.js";
import { Queue } from "./queue.js";
import { Session, Sessions } from "./sessions.js";
import { Stream } from "./stream.js";
import { Workers } from "./workers.js";

/**
 * What a view is given. `go` leads to an address; `params` are those of the address behind its `?`.
 * @typedef {{
 *   get: (call: string, params?: Record<string, string | number | undefined>) => Promise<any>,
 *   act: (method: string, path: string, done: string) => Promise<any>,
 *   go: (hash: string) => void, with: (params: Record<string, string | undefined>) => void,
 *   id: string, params: URLSearchParams, history: History, full: () => boolean,
 * }} Desk
 * @typedef {{element: HTMLElement, title: string, refresh: () => Promise<void>}} View
 */

const EVERY_MS = 1000;
/** @type {[string, string, new (desk: Desk) => View][]} */
const VIEWS = [
  ["overview", "Overview", Overview],
  ["jobs", "Jobs", Jobs],
  ["queue", "Queue", Queue],
  ["workers", "Workers", Workers],
  ["connections", "Connections", Connections],
  ["sessions", "Sessions", Sessions],
  ["letters", "Dead letters", Letters],
];
/** Views of one thing, by the word before its id. @type {Record<string, new (desk: Desk) => View>} */
const OF_ONE = { jobs: Job, sessions: Session, streams: Stream };

const me = await signIn(["admin"]);
const history = new History();
let mode = "read";
/** @type {View | null} */
let view = null;
let shown = 0;

for (const name of me.server.pages) {
  if (name !== "console") the("pages").prepend(el("a", { href: `/${name}` }, name[0].toUpperCase() + name.slice(1)));
}
the("views").append(...VIEWS.map(([name, title]) => el("a", { href: `#/${name}` }, title)));
the("who").addEventListener("click", () => me.again(""));
the("who").hidden = me.server.dev;
the("who").textContent = `${me.subject}: sign out`;

/** @param {"good" | "warn" | "bad"} tone @param {string} sign @param {string} text */
function state(tone, sign, text) {
  const one = the("state");
  if (one.textContent === text) return;
  one.className = `tag ${tone}`;
  one.dataset.sign = sign;
  one.textContent = text;
}

/** @param {string} call @param {Record<string, string | number | undefined>} [params] */
function get(call, params = {}) {
  const query = new URLSearchParams(Object.entries(params).flatMap(([name, value]) => (value === undefined || value === "" ? [] : [[name, String(value)]])));
  return me.call("GET", `/v1/${call}${query.size ? `?${query}` : ""}`);
}

/** Does something, and says how that went. @param {string} method @param {string} path @param {string} done */
async function act(method, path, done) {
  try {
    const answer = await me.call(method, path);
    say(done);
    return answer;
  } catch (error) {
    say(/** @type {Error} */ (error).message, "bad");
    return null;
  }
}

/** @param {string} text @param {string} [tone] */
function say(text, tone = "good") {
  the("said").textContent = text;
  document.querySelector(".toast")?.remove();
  const toast = el("div", { className: `toast ${tone}`, ariaHidden: "true" }, text);
  document.body.append(toast);
  setTimeout(() => toast.remove(), 5000);
}

/** Shows what the address says. */
function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name = "overview", id = ""] = path.split("/");
  const known = VIEWS.find(([one]) => one === name) ?? VIEWS[0];
  const made = !id ? known[2] : Object.hasOwn(OF_ONE, name) ? OF_ONE[name] : Overview;
  const params = new URLSearchParams(query);
  /** @type {Desk} */
  const desk = {
    get,
    act,
    go: (hash) => (location.hash = hash),
    with: (more) => {
      for (const [key, value] of Object.entries(more)) {
        if (value) params.set(key, value);
        else params.delete(key);
      }
      location.hash = `#/${path}${params.size ? `?${params}` : ""}`;
    },
    id: unescaped(id),
    params,
    history,
    full: () => mode === "full",
  };
  view = new made(desk);
  shown += 1;
  document.title = `${view.title} · rt console`;
  for (const one of the("views").children) {
    if (one.getAttribute("href") === `#/${name || "overview"}`) {
      one.setAttribute("aria-current", "page");
      one.scrollIntoView({ block: "nearest", inline: "center" });
    } else one.removeAttribute("aria-current");
  }
  the("view").replaceChildren(view.element);
  void look(true);
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
let looking = false;
let again = false;

/** Looks at everything, and again in a second, unless nobody sees it. @param {boolean} [soon] */
async function look(soon = false) {
  if (looking) {
    again = again || soon;
    return;
  }
  clearTimeout(timer);
  looking = true;
  const [current, number] = [view, shown];
  try {
    const overview = await get("console/overview");
    clock.ahead_ms = overview.at_ms - Date.now();
    mode = overview.mode;
    history.add(overview);
    if (current && number === shown) await current.refresh();
    const missing = overview.asked - overview.answered;
    if (missing > 0) state("warn", "?", `${missing} of ${overview.asked} processes do not answer`);
    else state("good", "●", `Live: ${overview.asked} process${overview.asked === 1 ? "" : "es"}${mode === "read" ? ", read-only" : ""}`);
  } catch (error) {
    fault(error);
  } finally {
    looking = false;
  }
  if (again) {
    again = false;
    void look();
  } else if (!document.hidden) timer = setTimeout(look, EVERY_MS);
}

/** @param {unknown} error */
function fault(error) {
  if (!(error instanceof Problem)) {
    state("bad", "✕", "The server cannot be reached; trying again");
    if (!(error instanceof TypeError)) throw error;
    return;
  }
  if (error.status === 401 || error.status === 403) return me.again(error.status === 403 ? `${error.message}.` : "That token is not valid any more.");
  state("warn", "!", error.message);
  if (error.status === 404 && view) view.element.replaceChildren(el("p", { className: "none" }, error.message));
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else void look(true);
});
addEventListener("hashchange", () => {
  route();
  the("view").focus({ preventScroll: true });
  scrollTo(0, 0);
});
route();
