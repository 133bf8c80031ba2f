// What one client was given of one job: events 0 to n-1 are due, each once, in order.
'use strict';

class Journal {
  constructor(n) {
    this.n = n;
    this.seen = new Uint8Array(n);
    this.got = 0;
    this.top = -1;
    this.repeated = 0;
    this.disordered = 0;
  }

  // True when the event is the first of its number.
  take(i) {
    if (!(i >= 0 && i < this.n) || this.seen[i]) {
      this.repeated++;
      return false;
    }
    this.seen[i] = 1;
    this.got++;
    if (i < this.top) this.disordered++;
    else this.top = i;
    return true;
  }

  get done() { return this.got === this.n; }
  get lost() { return this.n - this.got; }
}

// Faults of a whole run: whatever the journals and the adapters found.
class Faults {
  constructor() { this.lost = 0; this.repeated = 0; this.disordered = 0; }
  add(journal) {
    this.lost += journal.lost;
    this.repeated += journal.repeated;
    this.disordered += journal.disordered;
  }
}

// The number in a word "word-17" or "word-17@1763700000123.4", with its time where it has one.
function words(text, take) {
  for (const [, i, ts] of text.matchAll(/word-(\d+)(?:@([\d.]+))? /g)) take(Number(i), ts && Number(ts));
}

module.exports = { Journal, Faults, words };
