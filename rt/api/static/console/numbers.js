/**
 * What changes: rates and percentiles of all processes together, from what each says of its counters every second.
 * A process that has come or gone between two looks counts in neither, so that no restart is a peak.
 * @module
 */

/** @typedef {{process: string, kind: string, after_ms: number, told: any}} Process */
/** @typedef {{at_ms: number, counts: any, processes: Map<string, Process>}} Look */

/** Looks that are kept: two minutes. */
export const KEPT = 120;
/** Percentiles are of this many seconds. */
const WINDOW = 5;

export class History {
  /** @type {Look[]} */
  looks = [];

  /** @param {any} overview */
  add(overview) {
    /** @type {Map<string, Process>} */
    const processes = new Map();
    const counted = new Set();
    for (const one of overview.processes) {
      // A web process and a worker in one (`rt dev` without a Redis) have the same counters: host and pid stand before the last dot.
      const host = one.process.slice(0, one.process.lastIndexOf("."));
      processes.set(one.process, counted.has(host) ? { ...one, told: { ...one.told, numbers: { counts: {}, times: {} } } } : one);
      counted.add(host);
    }
    this.looks.push({ at_ms: overview.at_ms, counts: overview.counts, processes });
    if (this.looks.length > KEPT) this.looks.shift();
  }

  /** Every look with the one before it that is meant. @param {number} back @param {(now: Look, before: Look, seconds: number) => number | null} of */
  series(back, of) {
    return this.looks.map((now, index) => {
      const before = this.looks[Math.max(0, index - back)];
      const seconds = (now.at_ms - before.at_ms) / 1000;
      return index === 0 || seconds <= 0 ? null : of(now, before, seconds);
    });
  }

  /** How fast a number grows, per second. @param {(told: any) => number | undefined} number */
  rate(number) {
    return this.series(1, (now, before, seconds) => {
      let grown = 0;
      for (const [name, one] of now.processes) {
        const old = before.processes.get(name);
        if (old) grown += Math.max(0, (number(one.told) ?? 0) - (number(old.told) ?? 0));
      }
      return grown / seconds;
    });
  }

  /** As `rate`, of a counter. @param {string} name */
  counter(name) {
    return this.rate((told) => told.numbers.counts[name]);
  }

  /** The time below which this share of the last seconds' calls stayed, in s; null where there were none. @param {string} name @param {number} share */
  percentile(name, share) {
    return this.series(WINDOW, (now, before) => {
      /** @type {number[]} */
      let grown = [];
      /** @type {number[]} */
      let bounds = [];
      for (const [process, one] of now.processes) {
        const [times, old] = [one.told.numbers.times[name], before.processes.get(process)?.told.numbers.times[name]];
        if (!times || !old || !times.counts.length) continue;
        bounds = times.le;
        grown = times.counts.map((/** @type {number} */ value, /** @type {number} */ index) => (grown[index] ?? 0) + value - old.counts[index]);
      }
      return within(bounds, grown, share);
    });
  }

  /** What the looks themselves say. @param {(look: Look) => number} of */
  levels(of) {
    return this.looks.map(of);
  }

  /** The sum of what processes of a kind say of themselves. @param {string} kind @param {string} name */
  sum(kind, name) {
    return this.levels((look) => [...look.processes.values()].reduce((sum, one) => sum + (one.kind === kind ? (one.told[name] ?? 0) : 0), 0));
  }

  /** One process's use of a processor now, of 1. @param {string} process */
  cpu(process) {
    const [before, now] = [this.looks.at(-2), this.looks.at(-1)];
    const [old, one] = [before?.processes.get(process), now?.processes.get(process)];
    if (!before || !now || !old || !one || now.at_ms <= before.at_ms) return null;
    return Math.max(0, one.told.cpu_s - old.told.cpu_s) / ((now.at_ms - before.at_ms) / 1000);
  }
}

/**
 * Within cumulative counts: where a share of them ends, evenly spread within its bucket. What is above the last bound is that bound.
 * @param {number[]} bounds @param {number[]} cumulative one longer @param {number} share @returns {number | null}
 */
export function within(bounds, cumulative, share) {
  const total = cumulative.at(-1) ?? 0;
  if (total <= 0) return null;
  const wanted = share * total;
  const bucket = cumulative.findIndex((value) => value >= wanted);
  if (bucket >= bounds.length) return bounds[bounds.length - 1];
  const [from, below] = bucket === 0 ? [0, 0] : [bounds[bucket - 1], cumulative[bucket - 1]];
  const inside = cumulative[bucket] - below;
  return from + (bounds[bucket] - from) * (inside > 0 ? (wanted - below) / inside : 1);
}
