/**
 * How the session stands, in words; and the buttons that break something, so that one sees it mend.
 * @module
 */
import { calm, the } from "../pages/dom.js";

/** @typedef {import("../rt.js").Changed} Changed */

const RESUMED_MS = 9000;

/** @type {Record<string, string>} */
const WORDS = { connecting: "Connecting", open: "Live", waiting: "Reconnecting", taken: "Open in another tab", closed: "Stopped" };

export class Weather {
  state = "connecting";
  problem = "";
  /** Since when there is no connection. */
  gone_at = performance.now();
  was_open = false;
  resumed_at = -Infinity;
  drawn = "";

  /**
   * @param {import("./ledger.js").Ledger} ledger @param {import("./socket.js").Line} line @param {import("../pages/sign-in.js").Me} me
   */
  constructor(ledger, line, me) {
    this.ledger = ledger;
    the("drop").addEventListener("click", () => {
      // Every reader has ended: the page begins anew, where it was.
      if (this.state === "taken") return location.reload();
      line.cut(+(/** @type {HTMLSelectElement} */ (the("away")).value));
    });
    the("reload").addEventListener("click", () => location.reload());
    the("kill").hidden = !me.server.dev;
    the("kill").addEventListener("click", async () => {
      this.say("Killing the worker …");
      await me.call("POST", "/dev/kill-worker", {}).then(
        () => this.say("The worker was killed as by kill -9. Another one starts, and goes on with its jobs when their leases have lapsed: after 10 s."),
        (/** @type {Error} */ error) => this.say(error.message),
      );
    });
    this.show();
  }

  /** @param {Changed} changed */
  changed({ state, problem, error }) {
    if (this.state === "open" && state !== "open") this.gone_at = performance.now();
    this.state = state;
    this.problem = error?.message ?? problem;
    this.show();
  }

  /** The server has answered. @param {boolean} resumed */
  connected(resumed) {
    const away_s = (performance.now() - this.gone_at) / 1000;
    if (resumed) {
      this.resumed_at = performance.now();
      setTimeout(() => this.show(), RESUMED_MS + 50);
      // What is replayed comes right behind.
      setTimeout(() => this.say(`Resumed after ${away_s.toFixed(1)} s: ${this.replayed()}.`), 400);
    } else if (this.was_open) this.say("The session had ended: this is a new one.");
    this.was_open = true;
  }

  replayed() {
    const { replayed_now } = this.ledger;
    return replayed_now === 1 ? "1 event replayed" : replayed_now ? `${replayed_now} events replayed` : "nothing was missed";
  }

  /** @param {string} text */
  say(text) {
    the("weather").textContent = text;
  }

  show() {
    const fresh = this.state === "open" && performance.now() - this.resumed_at < RESUMED_MS;
    let text = WORDS[this.state];
    if (fresh) text = `Live, resumed: ${this.replayed()}`;
    if (this.state === "closed" || this.state === "waiting") text += this.problem ? ` (${this.problem})` : "";
    if (text === this.drawn) return;
    this.drawn = text;
    const badge = the("state");
    badge.dataset.state = fresh ? "resumed" : this.state;
    badge.textContent = text;
    the("drop").textContent = this.state === "taken" ? "Take the session back" : "Drop the connection";
  }

  /** The counts have changed. */
  counts = calm(() => {
    for (const [name, count] of Object.entries(this.ledger.counts)) {
      const one = the(`count-${name}`);
      const text = count.toLocaleString("en");
      if (one.textContent === text) continue;
      one.textContent = text;
      one.parentElement?.classList.toggle("wrong", name === "lost" || name === "repeated");
    }
    this.show();
  }, 150);
}
