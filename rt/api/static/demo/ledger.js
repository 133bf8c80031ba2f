/**
 * What came, what came again after a resume, and whether anything was lost or given out twice. Counted for as long as the tab lives.
 * @module
 */

const KEPT = "rt:demo:counts";

export class Ledger {
  counts = { events: 0, replayed: 0, resumes: 0, lost: 0, repeated: 0 };
  /** What of it was replayed since the last resume. */
  replayed_now = 0;
  /** The top of each stream's log when the server began to send it: up to there it is a replay. @type {Map<string, number>} */
  tops = new Map();

  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    Object.assign(this.counts, JSON.parse(sessionStorage.getItem(KEPT) ?? "{}"));
    addEventListener("pagehide", () => sessionStorage.setItem(KEPT, JSON.stringify(this.counts)));
  }

  /** A frame from the server; whether it is an event that is replayed. @param {any} frame */
  take(frame) {
    let replayed = false;
    if (frame.type === "connected") {
      this.replayed_now = 0;
      this.tops = new Map(Object.entries(frame.streams).map(([name, { seq }]) => [name, seq]));
      if (frame.resumed) this.counts.resumes++;
    } else if (frame.type === "subscribed") this.tops.set(frame.stream, frame.seq);
    else if ("seq" in frame && frame.stream) {
      replayed = frame.seq <= (this.tops.get(frame.stream) ?? 0);
      this.counts.events++;
      this.counts.replayed += +replayed;
      this.replayed_now += +replayed;
    } else return false;
    this.changed();
    return replayed;
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
