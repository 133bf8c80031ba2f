/**
 * What the user is notified of, on all devices and also of what came while nobody was there.
 * @module
 */
import { calm, clock, el, tag, the } from "../pages/dom.js";

const MAX_SHOWN = 50;

/** @type {Record<string, [tone: "good" | "warn" | "bad" | "info", sign: string]>} */
const LEVELS = { info: ["info", "i"], success: ["good", "✓"], warning: ["warn", "▲"], error: ["bad", "✕"] };

export class Notices {
  /** The newest event of the user's stream that is shown here. */
  seq = 0;
  epoch = "";
  /** Nobody has asked for it: what goes wrong is not told, and takes no other fault's place. */
  soon = calm(() => this.look().catch(() => {}));

  /** @param {import("../rt.js").Client} rt @param {import("../pages/sign-in.js").Me} me @param {import("./ledger.js").Ledger} ledger */
  constructor(rt, me, ledger) {
    this.rt = rt;
    this.me = me;
    this.list = the("notices");
    this.fault = the("notices-fault");
    this.path = `/v1/users/${encodeURIComponent(rt.subject)}`;
    const value = (/** @type {string} */ id) => /** @type {HTMLInputElement} */ (the(id)).value;
    /** @type {HTMLInputElement} */ (the("notice-to")).value = rt.subject;
    the("notices-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.attempt(me.call("POST", "/v1/notifications", { user: value("notice-to"), title: value("notice-title"), level: value("notice-level") }));
    });
    the("read").addEventListener("click", () => this.attempt(this.mark()));
    this.attempt(this.read(ledger));
    this.soon();
  }

  /** @param {import("./ledger.js").Ledger} ledger */
  async read(ledger) {
    const check = ledger.check();
    for await (const item of this.rt.subscribe(this.rt.user_stream, { cursor: "0" })) {
      check(item);
      if (!("seq" in item)) continue;
      this.seq = item.seq;
      if (item.type === "notification") {
        this.show(item);
        this.soon();
      } else if (item.type === "notification.read") this.unread(item.data.unread);
    }
  }

  /** @param {any} item */
  show({ data, ts }) {
    const [tone, sign] = LEVELS[data.level] ?? LEVELS.info;
    const words = el("span", {}, el("b", {}, data.title), data.message ? ` ${data.message}` : null);
    this.list.prepend(el("p", {}, el("time", {}, clock(ts)), tag(tone, sign, data.level), words));
    while (this.list.childElementCount > MAX_SHOWN) this.list.lastElementChild?.remove();
  }

  async look() {
    const { unread, read } = await this.me.call("GET", `${this.path}/unread`);
    this.epoch = read.split(":")[0];
    this.unread(unread);
  }

  async mark() {
    if (!this.seq) return;
    await this.look();
    const { unread } = await this.me.call("POST", `${this.path}/read`, { cursor: `${this.epoch}:${this.seq}` });
    this.unread(unread);
  }

  /** @param {number} count */
  unread(count) {
    const one = the("unread");
    one.textContent = `${count} unread`;
    one.className = count ? "tag info" : "tag";
  }

  /** What goes wrong with what somebody asked for is said under the form. @param {Promise<unknown>} what */
  async attempt(what) {
    const fault = await what.then(
      () => "",
      (error) => error.message,
    );
    this.fault.textContent = fault;
    this.fault.hidden = !fault;
  }
}
