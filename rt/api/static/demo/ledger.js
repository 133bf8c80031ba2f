/**
 * What came, what came again after a resume, and whether anything was lost or given out twice. Counted for as long as the tab lives.
 * @module
 */

const KEPT = "rt:demo:counts";

export class Ledger {
  counts = { events: 0, replayed: 0, resumes: 0, lost: 0, repeated: 0 };
  /** What of it was replayed by the last resume. */
  replayed_now = 0;
  /** The tops of the streams that a resume goes on with: what was missed of them ends there. @type {Map<string, number>} */
  missed = new Map();
  /** Those of streams that somebody asked for: up to there it is history. @type {Map<string, number>} */
  history = new Map();

  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    Object.assign(this.counts, JSON.parse(sessionStorage.getItem(KEPT) ?? "{}"));
    addEventListener("pagehide", () => sessionStorage.setItem(KEPT, JSON.stringify(this.counts)));
  }

  /** A frame from the server; whether it is an event from the log, and no news. @param {any} frame */
  take(frame) {
    const { type, stream, seq } = frame;
    let old = false;
    if (type === "connected") {
      this.replayed_now = 0;
      this.history.clear();
      this.missed = new Map(frame.resumed ? Object.entries(frame.streams).map(([name, one]) => [name, one.seq]) : []);
      this.counts.resumes += +frame.resumed;
    } else if (type === "subscribed") {
      this.missed.delete(stream);
      this.history.set(stream, seq);
    } else if (stream && seq !== undefined) {
      const missed = seq <= (this.missed.get(stream) ?? 0);
      old = missed || seq <= (this.history.get(stream) ?? 0);
      this.counts.events++;
      this.counts.replayed += +missed;
      this.replayed_now += +missed;
    } else return false;
    this.changed();
    return old;
  }

  /** What one reader is given: each seq is the one after the last. @param {number | null} [last] null: it may begin anywhere */
  check(last = null) {
    /** @param {any} item */
    return (item) => {
      if (item.type === "gap") {
        if (last !== null) this.counts.lost += item.first === null ? 1 : item.last - Math.max(item.first - 1, last);
        last = item.last;
      } else {
        if (last !== null && item.seq <= last) this.counts.repeated++;
        if (last !== null && item.seq > last + 1) this.counts.lost += item.seq - last - 1;
        last = item.seq;
      }
      this.changed();
    };
  }
}
