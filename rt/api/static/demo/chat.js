/**
 * A prompt, and the answer as it streams. Turns are kept for a reload of the tab: an answer that has not ended is read again from its
 * log, and a prompt that nobody has confirmed is sent again under the same key.
 * @module
 */
import { Disconnected, JobCancelled } from "../rt.js";
import { el, tag, the } from "../pages/dom.js";

/** @typedef {{prompt: string, input: Record<string, any>, key: string, job_id: string | null, text: string, state: string, note: string}} Turn */

const MAX_TURNS = 20;
const MOOD_MS = 250;

/** @type {Record<string, [tone: "good" | "warn" | "bad" | "info" | "", sign: string]>} */
const SIGNS = { sent: ["", "…"], streaming: ["info", "▸"], completed: ["good", "✓"], stopped: ["warn", "■"], failed: ["bad", "!"] };

export class Chat {
  /** @type {Turn[]} */
  turns = [];
  /** @type {import("../rt.js").Job | null} */
  job = null;
  moods = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  mood_timer;

  /**
   * @param {import("../rt.js").Client} rt @param {import("./ledger.js").Ledger} ledger
   * @param {(ms: number) => void} first is told how long a first token took
   */
  constructor(rt, ledger, first) {
    this.rt = rt;
    this.ledger = ledger;
    this.first = first;
    this.kept = `rt:demo:chat:${rt.subject}`;
    this.log = the("chat-log");
    this.prompt = /** @type {HTMLTextAreaElement} */ (the("prompt"));
    this.bar = /** @type {HTMLProgressElement} */ (the("chat-progress"));
    the("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.job && this.prompt.value.trim()) this.ask(this.prompt.value);
    });
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      /** @type {HTMLFormElement} */ (the("chat-form")).requestSubmit();
    });
    this.prompt.addEventListener("input", () => {
      clearTimeout(this.mood_timer);
      this.mood_timer = setTimeout(() => this.mood(), MOOD_MS);
    });
    the("stop").addEventListener("click", () => {
      this.busy("stop");
      this.job?.cancel().catch(() => this.busy(this.job ? "" : "all"));
    });
    this.busy("all");
    this.restore();
    this.mood();
  }

  /** @param {string} prompt */
  ask(prompt) {
    const value = (/** @type {string} */ id) => +(/** @type {HTMLSelectElement} */ (the(id)).value);
    const bytes = crypto.getRandomValues(new Uint8Array(12));
    const key = Array.from(bytes, (one) => one.toString(16).padStart(2, "0")).join("");
    const input = { prompt, max_tokens: value("length"), delay_ms: value("pace") };
    /** @type {Turn} */
    const turn = { prompt, input, key, job_id: null, text: "", state: "sent", note: "" };
    this.turns.push(turn);
    while (this.turns.length > MAX_TURNS) {
      this.turns.shift();
      this.log.firstElementChild?.remove();
    }
    this.follow(turn);
  }

  restore() {
    this.turns = JSON.parse(sessionStorage.getItem(this.kept) ?? "[]");
    for (const turn of this.turns) {
      if (turn.state === "sent" || turn.state === "streaming") this.follow(turn);
      else this.show(turn);
    }
  }

  keep() {
    sessionStorage.setItem(this.kept, JSON.stringify(this.turns));
  }

  /** Shows a turn; gives its answer's element, and what draws the text that it has by now. @param {Turn} turn */
  show(turn) {
    const text = document.createTextNode(turn.text.trimStart());
    const words = el("p", { className: "words" });
    const answer = el("div", { className: "answer" }, el("p", {}, text), words);
    this.log.append(el("article", { className: "turn" }, el("p", { className: "asked" }, el("span", { className: "unseen" }, "You: "), turn.prompt), answer));
    this.log.scrollTop = this.log.scrollHeight;
    const state = () => {
      const [tone, sign] = SIGNS[turn.state];
      words.replaceChildren(tag(tone, sign, turn.state), ` ${turn.note}`);
    };
    state();
    let waiting = false;
    /** Shows what was said so far, once a frame. @param {string} said */
    const draw = (said) => {
      turn.text = said;
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        const near = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 80;
        text.data = turn.text.trimStart();
        state();
        if (near) this.log.scrollTop = this.log.scrollHeight;
      });
    };
    return { draw, answer };
  }

  /** Submits the turn, or takes it up again, and shows the answer to its end. @param {Turn} turn */
  async follow(turn) {
    const { rt } = this;
    const began = performance.now();
    const known = turn.job_id !== null;
    const { draw, answer } = this.show(turn);
    answer.setAttribute("aria-busy", "true");
    const check = this.ledger.check(0);
    const say = new Speech();
    let heard = known;
    let first = "";
    let restarts = "";
    const note = (/** @type {string} */ more) => (turn.note = [more, first, restarts].filter(Boolean).join(", "));
    try {
      const job = known
        ? rt.job(/** @type {string} */ (turn.job_id), { cursor: "0" })
        : rt.submit("generate", turn.input, { idempotency_key: `demo-${turn.key}` });
      this.job = job;
      this.busy("");
      this.keep();
      for await (const item of job) {
        check(item);
        turn.job_id = job.id;
        if (item.type === "job.delta" && !heard) {
          heard = true;
          const ms = performance.now() - began;
          this.first(ms);
          first = `first token after ${ms.toFixed(0)} ms`;
        }
        if (item.type === "job.restarted") restarts = `went on in attempt ${item.attempt}`;
        if (item.type === "job.progress") this.progress(item.data);
        if (turn.state === "sent") {
          turn.state = "streaming";
          this.keep();
        }
        note("");
        say.take(job.said);
        draw(job.said);
      }
      await job.result();
      turn.state = "completed";
      note(`${turn.text.length} characters`);
    } catch (error) {
      // Who is disconnected for good has not heard the end: the next page does.
      if (!(error instanceof Disconnected)) turn.state = error instanceof JobCancelled ? "stopped" : "failed";
      note(error instanceof Error ? error.message : String(error));
    }
    this.job = null;
    answer.removeAttribute("aria-busy");
    say.end(turn);
    draw(turn.text);
    this.keep();
    this.busy("all");
  }

  /** Which of the buttons wait: "" while an answer streams, "stop" while it is being stopped, "all" for neither. @param {"" | "stop" | "all"} what */
  busy(what) {
    /** @type {HTMLButtonElement} */ (the("send")).disabled = what !== "all";
    /** @type {HTMLButtonElement} */ (the("stop")).disabled = what !== "";
    if (what === "all") this.bar.value = 0;
  }

  /** @param {{current: number, total?: number, unit?: string}} progress */
  progress({ current, total, unit = "" }) {
    this.bar.max = total ?? current;
    this.bar.value = current;
    this.bar.setAttribute("aria-valuetext", `${current} of ${this.bar.max} ${unit}`);
  }

  /** How the prompt sounds so far. */
  async mood() {
    const turn = ++this.moods;
    let { label, compound } = { label: "neutral", compound: 0 };
    if (this.prompt.value.trim()) {
      try {
        ({ label, compound } = await this.rt.submit("sentiment", { text: this.prompt.value }).result());
      } catch {
        label = "unknown";
      }
    }
    if (turn !== this.moods) return;
    const meter = the("mood");
    const text = compound ? `${label} ${compound > 0 ? "+" : "−"}${Math.abs(compound).toFixed(2)}` : label;
    meter.dataset.label = label;
    meter.setAttribute("aria-valuenow", compound.toFixed(2));
    meter.setAttribute("aria-valuetext", text);
    /** @type {HTMLElement} */ (meter.firstElementChild).style.left = `${50 + compound * 50}%`;
    the("mood-text").textContent = text;
  }
}

/** An answer for who hears it: whole sentences, as they are complete, politely. */
class Speech {
  said = 0;

  /** @param {string} text */
  take(text) {
    if (text.length < this.said) this.said = text.length;
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((one) => text.lastIndexOf(one)));
    if (end >= this.said) this.tell(text.slice(this.said, end + 1), end + 1);
  }

  /** @param {Turn} turn */
  end({ text, state }) {
    this.tell(`${text.slice(this.said)} Answer ${state}.`, text.length);
  }

  /** @param {string} words @param {number} said */
  tell(words, said) {
    this.said = said;
    the("chat-said").textContent = words;
  }
}
