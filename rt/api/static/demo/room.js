/**
 * A room: what is said there, from its beginning, and who is there.
 * @module
 */
import { calm, clock, el, the } from "../pages/dom.js";

const MAX_LINES = 200;
/** The list of who is there is asked for this often as well: a server that was killed tells nobody. */
const LOOK_MS = 2500;
/** Who has come back is in the list after about a second. */
const SEEN_MS = 1200;
const KEPT = "rt:demo:room";

export class Room {
  /** @type {import("../rt.js").Subscription | null} */
  open = null;
  /** Of many who have come and left the last one asks. */
  soon = calm(() => this.look());

  /** @param {import("../rt.js").Client} rt @param {import("../pages/sign-in.js").Me} me @param {import("./ledger.js").Ledger} ledger */
  constructor(rt, me, ledger) {
    this.rt = rt;
    this.me = me;
    this.ledger = ledger;
    this.log = the("room-log");
    this.name = /** @type {HTMLInputElement} */ (the("room-name"));
    this.text = /** @type {HTMLInputElement} */ (the("room-text"));
    this.name.value = sessionStorage.getItem(KEPT) ?? this.name.value;
    the("room-pick").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.open?.stream !== this.stream) this.join();
    });
    the("room-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.say();
    });
    setInterval(() => document.visibilityState === "visible" && this.look(), LOOK_MS);
    rt.on_state(({ state }) => state === "open" && setTimeout(() => this.look(), SEEN_MS));
    this.join();
  }

  get stream() {
    return `room:${this.name.value}`;
  }

  async join() {
    this.open?.close();
    this.open = null;
    sessionStorage.setItem(KEPT, this.name.value);
    this.log.replaceChildren();
    const check = this.ledger.check();
    try {
      const room = (this.open = this.rt.subscribe(this.stream, { cursor: "0" }));
      room.ready().then(
        () => this.soon(),
        () => {},
      );
      for await (const item of room) {
        check(item);
        this.show(item);
      }
    } catch (error) {
      this.line(el("span", { className: "fault" }, error instanceof Error ? error.message : String(error)));
    }
  }

  async say() {
    const text = this.text.value;
    this.text.value = "";
    try {
      await this.rt.publish(this.stream, { text });
    } catch (error) {
      if (!this.text.value) this.text.value = text;
      this.line(el("span", { className: "fault" }, error instanceof Error ? error.message : String(error)));
    }
  }

  /** @param {any} item */
  show({ type, data, ts, reason }) {
    const at = el("time", {}, clock(ts ?? Date.now()));
    if (type === "message") {
      const mine = data.from === this.me.subject;
      const said = typeof data.data?.text === "string" ? data.data.text : JSON.stringify(data.data);
      this.line(at, el("b", {}, `${data.from}${mine ? " (you)" : ""}`), el("span", {}, said));
    } else if (type === "presence.joined" || type === "presence.left") {
      this.line(at, el("i", {}, `${data.subject} ${type === "presence.left" ? "has left" : "has come"}`));
      this.soon();
    } else if (type === "gap") this.line(at, el("i", {}, `Older messages are gone (${reason})`));
    else this.line(at, el("i", {}, type));
  }

  /** @param {Node[]} parts */
  line(...parts) {
    const near = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
    this.log.append(el("p", {}, ...parts));
    while (this.log.childElementCount > MAX_LINES) this.log.firstElementChild?.remove();
    if (near) this.log.scrollTop = this.log.scrollHeight;
  }

  /** Who is there now. */
  async look() {
    const { stream } = this;
    // Whoever is away does not see who is there.
    if (this.rt.state !== "open") return;
    const { items } = await this.me.call("GET", `/v1/streams/${encodeURIComponent(stream)}/presence?limit=50`).catch(() => ({ items: null }));
    if (!items || stream !== this.stream) return;
    const people = items.map((/** @type {{subject: string, sessions: number}} */ { subject, sessions }) => {
      const you = subject === this.me.subject ? " (you)" : "";
      return el("li", {}, subject + you, sessions > 1 ? el("small", {}, ` ${sessions} sessions`) : null);
    });
    the("here").replaceChildren(...people);
  }
}
