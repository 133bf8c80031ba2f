/**
 * The JavaScript client of rt: a session that loses nothing, over any number of connections. No dependencies.
 * Names and behaviour are those of the Python client: docs/clients.md tells them.
 * @module
 * @typedef {{type: string, stream: string, seq: number, ts: number, data: any, attempt: number | null, final: boolean}} StreamEvent
 * @typedef {{type: "gap", stream: string, epoch: string, reason: string, first: number | null, last: number | null,
 *   snapshot: {seq: number, data: any} | null, final: boolean}} Gap `first` to `last` cannot be had any more; null: nobody knows how many.
 * @typedef {"connecting" | "open" | "waiting" | "taken" | "closed"} State
 * @typedef {{state: State, delay_s: number, problem: string, error: ClientError | null}} Changed
 * @typedef {{session: string | null, cursors: Record<string, string>}} Saved
 * @typedef {{load(): Saved | Promise<Saved>, save(saved: Saved): void | Promise<void>}} CursorStore
 * @typedef {typeof DEFAULTS} Config
 * @typedef {object} Options
 * @property {string | (() => string | Promise<string>)} [token] a function is asked again before a token ends, and after it has
 * @property {CursorStore} [store] default: a SessionStore
 * @property {(changed: Changed) => void} [on_state]
 * @property {number} [open_timeout_s] default 10; Infinity: for as long as it takes
 * @property {AbortSignal} [signal] leaves; what was given out last counts as not processed
 * @property {"auto" | "ws" | "sse"} [transport] auto: Server-Sent Events where no WebSocket opens and HTTP is answered
 * @property {any} [WebSocket] default: the global one
 * @property {Partial<Config>} [config]
 */

/** Times in seconds. */
export const DEFAULTS = {
  backoff_s: 1,
  backoff_cap_s: 20,
  connect_timeout_s: 10,
  ack_every_s: 1,
  max_pending: 1000,
  max_pending_bytes: 8 << 20,
  max_waiting: 1000,
  max_waiting_bytes: 4 << 20,
};

/** The root of what is thrown on purpose. */
export class ClientError extends Error {
  name = "ClientError";
}
/** The server's answer to a command. */
export class Refused extends ClientError {
  name = "Refused";
  /** @param {any} frame */
  constructor(frame) {
    super(frame.message ?? frame.detail ?? "");
    /** @type {string} */
    this.code = frame.code;
    this.temporary = !!frame.temporary;
    /** @type {number | null} */
    this.retry_after_ms = frame.retry_after_ms ?? null;
    const { details } = frame;
    /** @type {{loc: string[], msg: string}[] | null} */
    this.details = Array.isArray(details) ? details : null;
    /** @type {Record<string, any>} */
    this.facts = this.details ? {} : (details ?? {});
  }
}
/** There is no connection, and none is being made. */
export class Disconnected extends ClientError {
  name = "Disconnected";
}
/** Not to be tried again as it is: `code` is the close code. */
export class Stopped extends Disconnected {
  name = "Stopped";
  /** @param {number} code @param {string} reason */
  constructor(code, reason) {
    super(code + ": " + reason);
    this.code = code;
    this.reason = reason;
  }
}
/** Another connection resumed this session; `reconnect()` takes it back. */
export class SessionTaken extends Disconnected {
  name = "SessionTaken";
}
/** Nobody has answered in time. */
export class Unreachable extends Disconnected {
  name = "Unreachable";
}
/** This side has closed it. */
export class Closed extends Disconnected {
  name = "Closed";
}
/** Too many commands wait for their answers: nothing was sent. */
export class OutboxFull extends ClientError {
  name = "OutboxFull";
  /** @param {number} commands */
  constructor(commands) {
    super(commands + " commands wait for their answers");
    this.commands = commands;
  }
}
/** The session was lost before this command was answered. */
export class OutcomeUnknown extends ClientError {
  name = "OutcomeUnknown";
}
/** What was asked for cannot be whole. */
export class EventsLost extends ClientError {
  name = "EventsLost";
  /** @param {string} stream @param {number | null} [first] @param {number | null} [last] */
  constructor(stream, first = null, last = null) {
    super(stream + " has lost events");
    this.stream = stream;
    this.first = first;
    this.last = last;
  }
}
/** The job ended as `job.failed`. */
export class JobFailed extends ClientError {
  name = "JobFailed";
  /** @param {string} job_id @param {any} error */
  constructor(job_id, error) {
    super(error.message);
    this.job_id = job_id;
    /** @type {string} */
    this.code = error.code ?? "internal";
    this.temporary = !!error.temporary;
  }
}
/** The job ended as `job.cancelled`. */
export class JobCancelled extends ClientError {
  name = "JobCancelled";
  /** @param {string} job_id @param {string | null} by */
  constructor(job_id, by) {
    super("cancelled by " + by);
    this.job_id = job_id;
    this.by = by;
  }
}

const MAX_FINISHED = 500;
const STOOD_S = 10;
const BEHIND_S = 1;
/** A socket that does not answer for so long after a wake is dead; looked for once a second. */
const WAKE_S = 2;
const TROUBLED = [1013, 4002, 4006, 4007];
const OVER = ["completed", "failed", "cancelled"];

/** @param {string} epoch @param {number} seq */
const at = (epoch, seq) => (epoch ? epoch + ":" + seq : "0");
/** @param {string} cursor */
const seqOf = (cursor) => +(/** @type {string} */ (cursor.split(":").pop()));
/** @param {string | null | undefined} cursor */
const named = (cursor) => !!cursor && cursor !== "0";
/** What a stream's name may not hold is percent-encoded. @param {string} text */
const quote = (text) =>
  text.replace(/[^\w.~@+=-]/gu, (one) =>
    Array.from(new TextEncoder().encode(one), (byte) => "%" + byte.toString(16).toUpperCase().padStart(2, "0")).join(""),
  );
/** @param {string} job_id */
const job_stream = (job_id) => "job:" + quote(job_id);
/** @param {string} subject */
const user_stream = (subject) => "user:" + quote(subject);
/** @param {Partial<Follow>} [over] */
const follow = (over) => ({ ...new Follow(), ...over });

/** A stream: how far the application has come in it, and how it stands with the server. @internal */
class Follow {
  epoch = "";
  /** The last seq that was taken; null when any may come next. @type {number | null} */
  seq = null;
  /** What is processed, and what of that the server was told. @type {string | null} */
  done = null;
  /** @type {string | null} */
  acked = null;
  top = 0;
  /** Up to where the server has sent it on this connection. */
  come = 0;
  /** Who reads it. @type {Feed | null} */
  feed = null;
  followed = false;
  /** Something after `seq` was passed over. */
  missing = false;
  /** The id of the `subscribe` that is not answered. */
  asked = "";
  /** @type {number | null} */
  asked_seq = null;
  left = false;
  finished = false;
}

/**
 * What a client does, decided: `edge` performs it. No clock, no I/O; the reasons are told in rt/client/session.py.
 * An item is taken when it is the next one and there is room for it; all else is fetched again from the server's log.
 * @internal
 */
class Session {
  /** @type {State} */
  state = "connecting";
  subject = "";
  /** @type {Map<string, Follow>} */
  streams = new Map();
  /**
   * Commands that are not answered. `feed`: what comes of the job that it submits; `sent`: on which kind of connection; `stream`: of its job.
   * @type {Map<string, {text: string, frame: any, feed: Feed | null, keyed: boolean, sent: string, stream: string,
   *   resolve: (data: any) => void, reject: (error: any) => void}>}
   */
  pending = new Map();
  pending_bytes = 0;
  renewing = false;
  failures = 0;
  prefix = Math.random().toString(36).slice(2);
  ids = 0;
  max_bytes = 262144;
  /** Jobs whose end was processed. @type {Set<string>} */
  ended = new Set();
  /** @type {Map<string, {kind: string, name: string}>} */
  asks = new Map();
  /** @type {Refused | null} */
  refusal = null;
  /** @type {number | null} */
  told_s = null;
  /** The wait is one that the server asked for. */
  told = false;
  /** Streams to be asked for later: at once again, or only what is still behind `seq` then. @type {Map<string, {at: number, seq?: number}>} */
  due = new Map();
  heartbeat_s = 20;
  now = 0;
  received_at = 0;
  connected_at = 0;
  connect_by = Infinity;
  retry_at = Infinity;
  ack_at = Infinity;
  awake_by = Infinity;
  moved = false;

  /** @param {Edge} edge @param {Config} config @param {Saved} saved @param {string | null} token @param {boolean} renewable */
  constructor(edge, config, { session, cursors }, token, renewable) {
    this.edge = edge;
    this.config = config;
    this.id = session ?? "";
    this.token = token;
    this.renewable = renewable;
    for (const name in cursors) {
      const one = follow();
      this.begin(one, cursors[name]);
      one.acked = null;
      this.streams.set(name, one);
    }
  }

  new_id() {
    return this.prefix + "-" + ++this.ids;
  }

  next_tick() {
    const silent_at = this.state === "open" ? this.received_at + 2 * this.heartbeat_s : Infinity;
    const due = Array.from(this.due.values(), (one) => one.at);
    return Math.min(silent_at, this.connect_by, this.retry_at, this.ack_at, this.awake_by, ...due);
  }

  // connecting

  connect() {
    this.change("connecting");
    this.retry_at = Infinity;
    if (this.token === null && this.renewable) this.renew();
    else this.dial();
  }

  renew() {
    if (!this.renewable || this.renewing) return;
    this.renewing = true;
    this.edge.renew();
  }

  dial() {
    this.connect_by = this.now + this.config.connect_timeout_s;
    this.edge.dial();
  }

  /** @param {string | null} token @param {string} problem */
  renewed(token, problem) {
    this.renewing = false;
    this.token = token ?? this.token;
    if (this.state === "connecting" && this.connect_by === Infinity) {
      if (token === null) this.wait("no token: " + problem);
      else this.dial();
    } else if (this.state === "open" && token !== null) this.ask("refresh", "", { type: "refresh", token });
  }

  opened() {
    this.connect_by = this.now + this.config.connect_timeout_s;
    /** @type {any} */
    const frame = { type: "connect", batch: true, client: { name: "rt-js" } };
    if (this.token !== null) frame.token = this.token;
    if (this.id) {
      frame.session = this.id;
      /** @type {Record<string, string>} */
      const cursors = {};
      for (const [name, one] of this.streams) {
        one.acked = null;
        one.come = 0;
        if (named(one.done) && !one.left) {
          cursors[name] = one.acked = /** @type {string} */ (one.done);
          one.come = seqOf(one.acked);
        }
      }
      if (Object.keys(cursors).length) frame.cursors = cursors;
    }
    this.send(frame);
  }

  /** @param {number} code @param {string} reason */
  dropped(code, reason) {
    const words = this.refusal?.message || reason;
    const stood = this.now - this.connected_at >= STOOD_S;
    if (this.state === "open" && (stood || !TROUBLED.includes(code))) this.failures = 0;
    if (code === 1000 || (code >= 4500 && code < 5000) || (code === 4004 && !this.renewable)) this.end(new Stopped(code, words));
    else if (code === 4003) {
      this.disconnected();
      const taken = new SessionTaken("a newer connection has this session; reconnect() takes it back");
      this.fail_pending(taken);
      this.change("taken", 0, "", taken);
    } else {
      if (code === 4004) this.token = null;
      this.wait((code + " " + words).trim());
    }
  }

  /** @param {string} problem */
  wait(problem) {
    const { backoff_s, backoff_cap_s } = this.config;
    const delay_s = this.told_s ?? Math.random() * Math.min(backoff_cap_s, backoff_s * 2 ** Math.min(this.failures++, 60));
    this.told = this.told_s !== null;
    this.disconnected();
    this.retry_at = this.now + delay_s;
    this.change("waiting", delay_s, problem);
  }

  disconnected() {
    this.asks.clear();
    this.due.clear();
    this.refusal = this.told_s = null;
    this.connect_by = this.awake_by = Infinity;
    for (const one of this.streams.values()) {
      one.followed = false;
      one.asked = "";
    }
  }

  /** @param {ClientError} error */
  end(error) {
    this.disconnected();
    this.state = "closed";
    this.flush();
    this.retry_at = Infinity;
    this.fail_pending(error);
    this.edge.hangup(1000);
    this.change("closed", 0, "", error);
  }

  /** @param {State} state @param {ClientError | null} error */
  change(state, delay_s = 0, problem = "", error = null) {
    this.state = state;
    this.edge.changed({ state, delay_s, problem, error });
  }

  /** @param {ClientError} error */
  fail_pending(error) {
    for (const id of this.pending.keys()) this.fail(id, error);
  }

  /** @param {string} id @param {ClientError} error */
  fail(id, error) {
    this.settle(id)?.reject(error);
  }

  /** @param {string} id */
  settle(id) {
    const one = this.pending.get(id);
    if (one) this.pending_bytes -= one.text.length;
    this.pending.delete(id);
    return one;
  }

  // what the server sends

  /** @param {any[]} frames @param {number} size */
  received(frames, size) {
    this.received_at = this.now;
    for (const frame of frames) this.frame(frame, size / frames.length);
  }

  /** @param {any} frame @param {number} size */
  frame(frame, size) {
    switch (frame.type) {
      case "connected":
        return this.connected(frame);
      case "subscribed":
        return this.subscribed(frame);
      case "gap":
        return this.gap(frame, size);
      case "reply":
        return this.reply(frame.id, frame.data);
      case "error":
        return this.error(frame);
      case "ping":
        this.send({ type: "pong" });
        for (const [name, seq] of Object.entries(frame.positions ?? {})) {
          const at = this.due.get(name)?.at ?? this.now + BEHIND_S;
          if ((this.streams.get(name)?.seq ?? seq) < seq) this.due.set(name, { at, seq });
        }
        return;
      case "pong":
        // Nothing else counts: other frames may have been under way when the other side was lost.
        this.awake_by = Infinity;
        return;
      case "token_expiring":
        return this.renew();
      case "reconnect":
        this.told_s = frame.delay_ms / 1000;
        return;
    }
    if ("seq" in frame) this.event(frame, size);
  }

  /** @param {any} frame */
  connected(frame) {
    const { resumed } = frame;
    const before = this.id;
    this.connect_by = Infinity;
    this.connected_at = this.now;
    this.id = frame.session;
    this.subject = frame.subject;
    this.heartbeat_s = frame.heartbeat_s;
    this.max_bytes = frame.max_message_bytes;
    const own = "session:" + this.id;
    for (const [name, { epoch, seq, recovered }] of /** @type {[string, any][]} */ (Object.entries(frame.streams))) {
      let one = this.streams.get(name);
      if (!one) {
        one = follow(name === own && !resumed ? { seq: 0, done: at(epoch, 0) } : {});
        one.epoch = epoch;
        this.streams.set(name, one);
      }
      one.followed = true;
      one.missing = false;
      one.top = seq;
      if (recovered) one.epoch = epoch;
      if (!resumed) {
        one.acked = null;
        one.come = 0;
      }
    }
    if (before && !resumed && !this.reads("session:" + before)) this.streams.delete("session:" + before);
    this.touch();
    this.change("open");
    for (const [name, one] of [...this.streams]) {
      if (one.left) {
        if (one.followed) this.ask("leave", name, { type: "unsubscribe", stream: name });
        else this.streams.delete(name);
      } else if (one.finished) {
        if (!one.followed) this.forget(name);
      } else if (one.feed && (!one.followed || !resumed || (one.seq !== null && one.acked === null))) {
        if (this.room(one.feed)) this.fetch(name, one);
        else one.missing = true;
      } else one.feed?.make_ready();
    }
    for (const [id, one] of [...this.pending]) {
      // A command that another kind of connection has sent is not known on this one.
      if (one.keyed || !one.sent || one.frame.type === "job.cancel" || (resumed && one.sent === this.edge.kind)) this.submit(one);
      else this.fail(id, new OutcomeUnknown("the session was lost before the answer came"));
    }
  }

  /** @param {any} frame */
  subscribed(frame) {
    const { id, stream, epoch, seq, recovered } = frame;
    const asked = this.asks.get(id);
    this.asks.delete(id);
    let one = this.streams.get(stream);
    if (!one) {
      if (asked) return;
      one = follow({ epoch, seq: 0, done: at(epoch, 0), acked: at(epoch, 0) });
      this.streams.set(stream, one);
    }
    if (one.left || (asked && one.asked !== id)) return;
    one.followed = true;
    one.top = seq;
    if (recovered) one.epoch = epoch;
    if (!asked) {
      // From now on it can be named: nothing of it is here yet.
      if (one.done === "0" && recovered && !one.feed?.waiting.length) this.begin(one, at(epoch, 0));
      return;
    }
    one.asked = "";
    one.missing = false;
    if (one.seq === null && recovered) one.seq = seq;
    one.come = one.asked_seq ?? one.seq ?? 0;
    if (one.done && seqOf(one.done) > one.come) one.acked = null;
    if (one.seq !== null && !one.feed?.waiting.length && !named(one.done)) this.begin(one, at(one.epoch, one.seq));
    one.feed?.make_ready();
  }

  /** @param {any} frame @param {number} size */
  gap(frame, size) {
    const { stream, epoch, reason, snapshot = null } = frame;
    let first = frame.from ?? null;
    const last = frame.to ?? null;
    const one = this.known(stream);
    if (one.left || one.missing) return;
    one.come = last ?? 0;
    if (last !== null && epoch === one.epoch && one.seq !== null && last <= one.seq) return;
    const behind = last === null ? null : at(epoch, last);
    if (one.feed) {
      if (!this.room(one.feed)) return this.overflow(stream, one);
      if (first !== null && epoch === one.epoch && one.seq !== null) first = Math.max(first, one.seq + 1);
      // A job whose log is empty has nothing more to say: it is over, or forgotten.
      const over = snapshot ? OVER.includes(snapshot.data.status) && snapshot.seq >= one.top : first === null && one.top === 0;
      const final = stream.startsWith("job:") && over;
      one.epoch = epoch;
      one.seq = last;
      one.feed.put({ type: "gap", stream, epoch, reason, first, last, snapshot, final }, behind, size);
    } else if (stream === "session:" + this.id) {
      one.epoch = epoch;
      one.seq = last;
      one.done = behind;
    } else {
      one.missing = true;
      if (one.seq === null) this.begin(one, at(epoch, first === null ? 0 : first - 1));
    }
  }

  /** @param {any} frame @param {number} size */
  event(frame, size) {
    const { stream, seq } = frame;
    const created = stream === "session:" + this.id && frame.type === "job.created";
    if (created) this.accept(frame.data.request_id, job_stream(frame.data.job_id));
    const one = this.known(stream);
    one.top = Math.max(one.top, seq);
    one.come = seq;
    if (one.left) return;
    if (one.seq !== null && seq <= one.seq) {
      if (one.done && one.done !== one.acked && seqOf(one.done) <= seq) this.touch();
      return;
    }
    if (one.missing) {
      // comes again
    } else if (one.seq !== null && seq > one.seq + 1) {
      one.missing = true;
      if (one.feed) this.fetch(stream, one);
    } else if (one.feed && !this.room(one.feed)) this.overflow(stream, one);
    else if (one.feed) {
      if (one.seq === null && !one.feed.waiting.length) this.begin(one, at(one.epoch, seq - 1));
      one.seq = seq;
      one.feed.put({ attempt: null, final: false, ...frame }, at(one.epoch, seq), size);
    } else if (created) {
      one.seq = seq;
      one.done = at(one.epoch, seq);
      this.touch();
    } else {
      if (one.seq === null) this.begin(one, at(one.epoch, seq - 1));
      one.missing = true;
    }
    // A job of somebody else's that nobody here has looked at is not to come again with every connection.
    const ours = one.feed || [...this.pending.values()].some((other) => other.feed && !other.stream);
    if (frame.final && !ours && !(one.done && seqOf(one.done))) this.leave(stream, one);
  }

  /** The job of a submission is known. @param {string} id @param {string} stream */
  accept(id, stream) {
    const one = this.pending.get(id);
    const feed = one?.feed;
    if (!feed || one.stream) return;
    one.stream = feed.stream = stream;
    feed.wake();
    if (this.streams.has(stream)) this.attach(feed, null);
    else this.streams.set(stream, follow({ seq: 0, done: "0", acked: "0", feed }));
    if (feed.left) this.detach(feed);
  }

  /** @param {string} id @param {any} data */
  reply(id, data) {
    if (this.pending.get(id)?.feed) {
      this.accept(id, data.stream);
      const job = this.streams.get(data.stream);
      if (data.duplicate && job?.feed && !job.followed) this.fetch(data.stream, job);
    }
    this.settle(id)?.resolve(data);
    const asked = this.asks.get(id);
    this.asks.delete(id);
    if (asked?.kind === "leave" && this.streams.get(asked.name)?.left) this.streams.delete(asked.name);
  }

  /** @param {any} frame */
  error(frame) {
    const { id } = frame;
    const error = new Refused(frame);
    const asked = this.asks.get(id);
    if (this.pending.has(id)) this.fail(id, error);
    else if (asked) {
      this.asks.delete(id);
      const one = this.streams.get(asked.name);
      if (asked.kind !== "follow" || !one || one.asked !== id) return;
      one.asked = "";
      if (error.temporary && error.code !== "rate_limited") {
        this.due.set(asked.name, { at: this.now + (error.retry_after_ms ?? 1000) / 1000 });
      } else this.give_up(asked.name, error);
    } else if (!id) {
      this.refusal = error;
      const stream = error.facts.stream;
      if (stream) this.give_up(stream, error);
    }
  }

  /** @param {string} name @param {ClientError} error */
  give_up(name, error) {
    const feed = this.streams.get(name)?.feed;
    if (!feed) return;
    this.streams.delete(name);
    feed.fail(error);
  }

  // what the application does

  /** @param {any} frame @param {boolean} keyed @param {Feed | null} feed @param {(data: any) => void} resolve @param {(error: any) => void} reject */
  command(frame, keyed, feed, resolve, reject) {
    const id = this.new_id();
    const text = JSON.stringify({ ...frame, id });
    const size = new TextEncoder().encode(text).length;
    if (size > this.max_bytes) {
      return reject(new Refused({ code: "too_large", message: `${size} bytes; at most ${this.max_bytes} are taken` }));
    }
    const { max_pending, max_pending_bytes } = this.config;
    if (this.pending.size >= max_pending || this.pending_bytes + text.length > max_pending_bytes) return reject(new OutboxFull(this.pending.size));
    const one = { text, frame, feed, keyed, sent: "", stream: "", resolve, reject };
    this.pending.set(id, one);
    this.pending_bytes += text.length;
    if (this.state === "open") this.submit(one);
  }

  /** @param {{text: string, sent: string}} one */
  submit(one) {
    one.sent = this.edge.kind;
    this.edge.send(one.text);
  }

  /** @param {Feed} feed @param {string | null} cursor */
  attach(feed, cursor) {
    const name = feed.stream;
    let one = this.streams.get(name);
    if (!one || one.left || one.finished) {
      this.ended.delete(name);
      this.streams.set(name, (one = follow()));
    }
    one.feed = feed;
    if (cursor === null && one.seq === null && name.startsWith("job:") && !one.followed) cursor = "0";
    if (cursor !== null) this.begin(one, cursor === "0" && one.followed ? at(one.epoch, 0) : cursor);
    if (this.state !== "open") return;
    if (one.followed && !one.missing && cursor === null) feed.make_ready();
    else this.fetch(name, one);
  }

  /** What was given and is not processed is not acknowledged. @param {Feed} feed */
  detach(feed) {
    const name = feed.stream;
    const one = this.streams.get(name);
    if (one?.feed !== feed) return;
    one.feed = null;
    if (feed.waiting.length) {
      one.seq = one.done ? seqOf(one.done) : null;
      one.missing = one.seq !== null;
    }
    if (!this.always(name)) this.leave(name, one);
  }

  /** @param {string} name @param {Follow} one */
  leave(name, one) {
    one.left = this.moved = true;
    one.asked = "";
    if (this.state === "open") this.ask("leave", name, { type: "unsubscribe", stream: name });
  }

  /** The application is done with what this reader was given first. @param {Feed} feed @param {{item: StreamEvent | Gap, cursor: string | null}} what */
  processed(feed, { item, cursor }) {
    const name = feed.stream;
    const one = this.streams.get(name);
    if (one?.feed !== feed) return;
    one.done = cursor;
    this.touch();
    if (item.final && name.startsWith("job:")) {
      one.finished = true;
      one.missing = false;
      one.feed = null;
      this.ended.add(name);
      if (this.ended.size > MAX_FINISHED) this.forget(/** @type {string} */ (this.ended.values().next().value));
    } else if (one.missing && this.state === "open" && this.room(feed, 2)) this.fetch(name, one);
  }

  touch() {
    this.moved = true;
    this.ack_at = Math.min(this.ack_at, this.now + this.config.ack_every_s);
  }

  /** Acknowledges what was processed, and has it saved. */
  flush() {
    this.ack_at = Infinity;
    if (!this.moved) return;
    this.moved = false;
    /** @type {Record<string, string>} */
    const news = {};
    /** @type {Record<string, string>} */
    const cursors = {};
    for (const [name, one] of this.streams) {
      if (!named(one.done) || one.left) continue;
      const done = /** @type {string} */ (one.done);
      if (this.state === "open" && one.followed && done !== one.acked && seqOf(done) <= one.come) news[name] = one.acked = done;
      if (!one.finished || one.acked !== done) cursors[name] = done;
    }
    if (Object.keys(news).length) this.send({ type: "ack", cursors: news });
    this.edge.save({ session: this.id || null, cursors });
  }

  // streams

  /** @param {Follow} one @param {string} cursor */
  begin(one, cursor) {
    one.epoch = cursor === "0" ? "" : cursor.split(":")[0];
    one.seq = seqOf(cursor);
    one.done = one.acked = cursor;
  }

  /** @param {string} name */
  known(name) {
    let one = this.streams.get(name);
    if (!one) this.streams.set(name, (one = follow({ followed: true })));
    return one;
  }

  /** @param {Feed} feed */
  room({ waiting, bytes }, part = 1) {
    const { max_waiting, max_waiting_bytes } = this.config;
    return waiting.length * part < max_waiting + part - 1 && bytes * part < max_waiting_bytes + part - 1;
  }

  /** The reader is slower than the stream. @param {string} name @param {Follow} one */
  overflow(name, one) {
    one.missing = true;
    if (this.always(name)) return;
    one.followed = false;
    this.ask("park", name, { type: "unsubscribe", stream: name });
  }

  /** Asks for everything after what was taken. @param {string} name @param {Follow} one */
  fetch(name, one) {
    if (one.asked) return;
    /** @type {any} */
    const frame = { type: "subscribe", stream: name };
    if (one.seq !== null) frame.cursor = at(one.epoch, one.seq);
    one.asked = this.ask("follow", name, frame);
    one.asked_seq = one.seq;
    // What comes before the answer comes again behind it.
    one.missing = true;
  }

  /** A command of the session's own. @param {string} kind @param {string} name @param {any} frame */
  ask(kind, name, frame) {
    const id = this.new_id();
    this.asks.set(id, { kind, name });
    this.send({ ...frame, id });
    return id;
  }

  /** @param {any} frame */
  send(frame) {
    this.edge.send(JSON.stringify(frame));
  }

  /** The server follows these for every session. @param {string} name */
  always(name) {
    return name === "session:" + this.id || name === user_stream(this.subject);
  }

  /** @param {string} name */
  reads(name) {
    return this.streams.get(name)?.feed;
  }

  /** @param {string} name */
  forget(name) {
    this.streams.delete(name);
    this.ended.delete(name);
  }

  // time

  tick() {
    const { now } = this;
    if (now >= this.retry_at) this.connect();
    else if (now >= this.connect_by) {
      this.edge.hangup(1006);
      this.wait("no answer in time");
    } else if (this.state !== "open") return;
    else if (now >= this.awake_by || now >= this.received_at + 2 * this.heartbeat_s) {
      this.edge.hangup(4001);
      this.dropped(4001, "nothing came in time");
    } else {
      for (const [name, { at, seq }] of this.due) {
        if (now < at) continue;
        this.due.delete(name);
        const one = this.streams.get(name);
        if (!one) continue;
        const behind = seq && one.followed && !one.missing && !one.left && one.seq !== null && one.seq < seq;
        if (behind || (!seq && one.feed)) this.fetch(name, one);
      }
    }
  }

  /** The machine may have slept, or changed its network. */
  wake() {
    if (this.state === "open" && this.awake_by === Infinity) {
      this.awake_by = this.now + WAKE_S;
      this.send({ type: "ping" });
    } else if (this.state === "waiting" && !this.told) this.connect();
  }

  reconnect() {
    if (this.state === "waiting" || this.state === "taken") this.connect();
  }

  /** @param {any} error */
  leave_all(error) {
    this.flush();
    this.end(error);
  }
}

/** What a client delivers to one reader. An item counts as processed when the next one is asked for. @internal */
class Feed {
  /** Not processed; the first one is `given` out or not. @type {{item: StreamEvent | Gap, cursor: string | null, size: number}[]} */
  waiting = [];
  bytes = 0;
  given = false;
  ready = false;
  busy = false;
  left = false;
  /** @type {any} */
  error = null;
  /** @type {((_: any) => void)[]} */
  waiters = [];

  /** @param {Edge} edge @param {string} stream "" until it is known */
  constructor(edge, stream) {
    this.edge = edge;
    this.stream = stream;
  }

  /** @param {StreamEvent | Gap} item @param {string | null} cursor behind it @param {number} size */
  put(item, cursor, size) {
    this.waiting.push({ item, cursor, size });
    this.bytes += size;
    this.wake();
  }

  wake() {
    for (const one of this.waiters.splice(0)) one(0);
  }

  make_ready() {
    this.ready = true;
    this.wake();
  }

  /** What waits is still given out; then this is thrown. @param {any} error */
  fail(error) {
    this.error ??= error;
    this.wake();
  }

  processed() {
    if (!this.given) return;
    this.given = false;
    const [item] = this.waiting.splice(0, 1);
    this.bytes -= item.size;
    this.edge.tell((session) => session.processed(this, item));
  }

  /** @param {() => any} done */
  async wait(done) {
    while (!done()) {
      const error = this.error ?? this.edge.error;
      if (error) throw error;
      await new Promise((resolve) => this.waiters.push(resolve));
    }
  }

  async next() {
    if (this.busy) throw new ClientError("somebody else waits for the next item already");
    this.busy = true;
    try {
      this.processed();
      await this.wait(() => this.waiting.length);
      this.given = true;
      return this.waiting[0].item;
    } finally {
      this.busy = false;
    }
  }
}

/** Events and gaps, in order, each once, through any number of connections. For one reader at a time; `close()` leaves. */
class Reader {
  /** @internal @type {Feed} */
  feed;
  /** @internal @type {Record<string, ((item: any) => unknown)[]> | null} */
  listeners = null;

  /** @internal @param {Feed} feed @param {AbortSignal} [signal] */
  constructor(feed, signal) {
    this.feed = feed;
    if (signal) when(signal, () => this.leave(signal.reason));
  }

  get stream() {
    return this.feed.stream;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @returns {Promise<IteratorResult<StreamEvent | Gap, undefined>>} */
  async next() {
    try {
      const item = await this.take();
      return item ? { value: item, done: false } : { value: undefined, done: true };
    } catch (error) {
      if (error !== LEFT) throw error;
      return { value: undefined, done: true };
    }
  }

  /** @internal @returns {Promise<StreamEvent | Gap | null>} */
  take() {
    return this.feed.next();
  }

  /**
   * Calls `listener` with each item of this type ("*": with all, "gap": what is lost), "end" and "error" once. An item
   * is processed when its listeners have returned. Instead of an iteration, not beside it.
   * @param {string} type @param {(item: any) => unknown} listener
   */
  on(type, listener) {
    if (!this.listeners) {
      this.listeners = {};
      queueMicrotask(() => this.pump());
    }
    (this.listeners[type] ??= []).push(listener);
    return this;
  }

  /** @internal */
  async pump() {
    /** @param {string} type @param {any} item */
    const tell = async (type, item) => {
      for (const one of this.listeners?.[type] ?? []) await one(item);
    };
    try {
      for await (const item of this) {
        await tell(item.type, item);
        await tell("*", item);
      }
    } catch (error) {
      if (!this.listeners?.error) throw error;
      return tell("error", error);
    }
    await tell("end", null);
  }

  /** Leaves the stream; what was given out last counts as not processed. */
  close() {
    this.leave(LEFT);
  }

  /** @internal @param {any} reason */
  leave(reason) {
    const { feed } = this;
    feed.left = true;
    feed.edge.tell((session) => session.detach(feed));
    feed.waiting = [];
    feed.given = false;
    feed.fail(reason);
  }
}

const LEFT = new Closed("it was left");

/** A stream's events: see `Client.subscribe`. */
export class Subscription extends Reader {
  /** Waits until the server follows the stream: from then on nothing is missed. @returns {Promise<this>} */
  async ready() {
    await this.feed.wait(() => this.feed.ready);
    return this;
  }
}

/** Text that stands from `start` on: `shown = shown.slice(0, piece.start) + piece`. */
export class Piece {
  /** @param {string} text @param {number} start */
  constructor(text, start) {
    this.text = text;
    this.start = start;
  }
  toString() {
    return this.text;
  }
}

/** What a job has said so far, as `job.restarted` leaves it. @internal */
class Transcript {
  text = "";
  /** Where the text of an event begins, its seq, and whether it stands for those before it too. @type {{start: number, seq: number, whole: boolean}[]} */
  parts = [];
  /** @type {EventsLost | null} */
  lost = null;

  /** What the next item changes. @param {any} item @returns {Piece | undefined} */
  take(item) {
    const { type, data, seq, snapshot } = item;
    if (type === "job.delta" && typeof data?.text === "string" && data.text) return this.add(data.text, seq);
    if (type === "job.restarted") return this.restarted(data.discard_after);
    if (type !== "gap") return;
    const text = snapshot?.data.text;
    if (typeof text !== "string") {
      this.lost = new EventsLost(item.stream, item.first, item.last);
      return;
    }
    const had = this.text;
    this.text = "";
    this.parts = [];
    this.lost = null;
    this.add(text, snapshot.seq, true);
    if (!text.startsWith(had)) return new Piece(text, 0);
    if (text.length > had.length) return new Piece(text.slice(had.length), had.length);
  }

  /** @param {string} text @param {number} seq */
  add(text, seq, whole = false) {
    const start = this.text.length;
    this.parts.push({ start, seq, whole });
    this.text += text;
    return new Piece(text, start);
  }

  /** @param {number} after */
  restarted(after) {
    // What was lost is thrown away with the rest, unless some of it stands.
    if (this.lost && (after === 0 || (this.lost.first !== null && after < this.lost.first))) this.lost = null;
    const before = this.text.length;
    for (let last = this.parts.at(-1); last && last.seq > after; last = this.parts.at(-1)) {
      this.parts.pop();
      this.text = this.text.slice(0, last.start);
      if (last.whole && after > 0) this.lost = new EventsLost("", 1, last.seq);
    }
    if (this.text.length < before) return new Piece("", this.text.length);
  }
}

/** A job's events up to the terminal one, its text, its result: take one of them, or one after the other. */
export class Job extends Reader {
  /** @internal */
  transcript = new Transcript();
  /** @internal @type {Piece | undefined} */
  piece = undefined;
  /** @internal @type {any} */
  end = null;

  /** null before the server has accepted it. @returns {string | null} */
  get id() {
    return this.stream ? decodeURIComponent(this.stream.slice(4)) : null;
  }

  /** The text of all that was taken so far. */
  get said() {
    return this.transcript.text;
  }

  /** The job's id, once the server has accepted it: from then on it ends, whoever is killed. */
  async accepted() {
    await this.feed.wait(() => this.stream !== "");
    return /** @type {string} */ (this.id);
  }

  /** @internal */
  async take() {
    this.piece = undefined;
    if (this.end) {
      this.feed.processed();
      return null;
    }
    const item = await this.feed.next();
    if (item.final) this.end = item;
    this.piece = this.transcript.take(item);
    return item;
  }

  /** What the job's function returned. Throws JobFailed, JobCancelled, EventsLost. @returns {Promise<any>} */
  async result() {
    while (await this.take());
    return this.outcome();
  }

  /**
   * `await` it for the whole text, or iterate over its pieces as they come; the first is all that was said so far.
   * @returns {PromiseLike<string> & AsyncIterable<Piece>}
   */
  text() {
    const whole = async () => {
      for await (const _ of this.pieces());
      return this.transcript.text;
    };
    return { then: (one, other) => whole().then(one, other), [Symbol.asyncIterator]: () => this.pieces() };
  }

  /** Asks for the job's end; its status. */
  async cancel() {
    return cancel(this.feed.edge, await this.accepted());
  }

  /** Feeds the job; the seq of the input. @param {any} data @param {{final?: boolean}} [options] */
  async input(data, options) {
    return input(this.feed.edge, await this.accepted(), data, options);
  }

  /** @internal */
  outcome() {
    const { type, data, snapshot, stream } = this.end;
    const said = type === "gap" ? (snapshot?.data ?? {}) : data;
    const id = this.id ?? "";
    switch (type === "gap" ? "job." + said.status : type) {
      case "job.completed":
        return said.result ?? null;
      case "job.failed":
        throw new JobFailed(id, said.error ?? {});
      case "job.cancelled":
        throw new JobCancelled(id, said.by ?? null);
    }
    throw new EventsLost(stream);
  }

  /** @internal @returns {AsyncGenerator<Piece, void>} */
  async *pieces() {
    if (this.transcript.text) yield new Piece(this.transcript.text, 0);
    while (await this.take()) if (this.piece) yield this.piece;
    this.outcome();
    if (this.transcript.lost) throw this.transcript.lost;
  }
}

/** @param {Edge} edge @param {string} job_id @returns {Promise<string>} */
const cancel = async (edge, job_id) => (await edge.ask({ type: "job.cancel", job_id })).status;

/** @param {Edge} edge @param {string} job_id @param {any} data @param {{final?: boolean}} [options] @returns {Promise<number>} */
const input = async (edge, job_id, data, { final } = {}) =>
  (await edge.ask({ type: "job.input", job_id, data, final: final || undefined })).seq;

/** @param {AbortSignal} signal @param {() => void} then */
const when = (signal, then) => (signal.aborted ? then() : signal.addEventListener("abort", then, { once: true }));

/** The session's decisions performed on a real socket, clock and store. @internal */
class Edge {
  /** @type {"ws" | "sse"} */
  kind = "ws";
  /** Sockets in a row that came to nothing. */
  failed = 0;
  /** Which try to dial is the newest. */
  turn = 0;
  /** @type {any} */
  error = null;
  problem = "";
  /** @type {any} */
  link = null;
  /** @type {Saved | null} */
  saved = null;
  saving = false;
  timer_at = Infinity;
  gone = new AbortController();
  gone_well = Promise.resolve();
  /** Made by open(). @type {Session} */
  session = /** @type {any} */ (null);

  /** @param {string} url @param {Options} options */
  constructor(url, options) {
    this.http = new URL(url, globalThis.location?.href).href.replace(/^ws/, "http").replace(/(\/v1\/ws)?\/?$/, "");
    this.options = options;
    this.store = options.store ?? new SessionStore("rt:" + this.http);
    this.WebSocket = options.WebSocket ?? globalThis.WebSocket;
    /** @type {Set<(changed: Changed) => void>} */
    this.listeners = new Set(options.on_state && [options.on_state]);
  }

  async open() {
    const { token, config, signal, open_timeout_s = 10 } = this.options;
    const saved = await this.store.load();
    const source = typeof token === "function" ? token : null;
    this.session = new Session(this, { ...DEFAULTS, ...config }, saved, source ? null : /** @type {string} */ (token ?? null), !!source);
    this.watch();
    if (signal) when(signal, () => this.leave(signal.reason));
    /** @type {Promise<void>} */
    const opened = new Promise((resolve, reject) => {
      /** @param {Changed} changed */
      const look = ({ state, error }) => (error ? reject(error) : state === "open" && resolve());
      if (this.error) reject(this.error);
      this.listeners.add(look);
      if (open_timeout_s < Infinity) {
        const late = () => reject(new Unreachable(this.http + " has not answered: " + this.problem));
        /** @type {any} */ (setTimeout(late, open_timeout_s * 1000)).unref?.();
      }
    });
    if (!this.error) this.tell((session) => session.connect());
    try {
      await opened;
    } catch (error) {
      this.leave(error);
      throw error;
    }
  }

  /** Something has happened. @param {(session: Session) => void} what */
  tell(what) {
    const { session } = this;
    if (session.state === "closed") return;
    session.now = performance.now() / 1000;
    what(session);
    if (session.now >= session.ack_at) session.flush();
    const at = session.next_tick();
    if (at >= this.timer_at) return;
    clearTimeout(this.timer);
    this.timer_at = at;
    this.timer = setTimeout(() => this.ring(), Math.max(0, at - session.now) * 1000);
  }

  ring() {
    this.timer_at = Infinity;
    this.tell((session) => session.tick());
  }

  /** Wakes when the page is seen again, the network is another, or the clock has jumped; keeps what is known before a page is left. */
  watch() {
    const { signal } = this.gone;
    const { document } = globalThis;
    const look = (/** @type {any} */ event) =>
      this.tell((session) => {
        session.flush();
        if (event?.type !== "pagehide" && document?.visibilityState !== "hidden") session.wake();
      });
    for (const name of ["online", "offline", "pageshow", "pagehide"]) globalThis.addEventListener?.(name, look, { signal });
    document?.addEventListener("visibilitychange", look, { signal });
    let last = Date.now();
    const clock = setInterval(() => {
      if (Math.abs(Date.now() - last) > 3000) look(0);
      last = Date.now();
    }, 1000);
    /** @type {any} */ (clock).unref?.();
    signal.addEventListener("abort", () => clearInterval(clock));
  }

  // what the application asks for

  /** @param {any} frame @param {AbortSignal} [signal] @param {boolean} [keyed] @returns {Promise<any>} */
  ask(frame, signal, keyed = false) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.error) throw this.error;
      if (signal) when(signal, () => reject(signal.reason));
      this.tell((session) => session.command(frame, keyed, null, resolve, reject));
    });
  }

  /** @param {any} frame @param {boolean} keyed */
  submit(frame, keyed) {
    const feed = this.feed("");
    const fail = (/** @type {any} */ error) => feed.stream || feed.fail(error);
    this.tell((session) => session.command(frame, keyed, feed, () => {}, fail));
    if (feed.error) throw feed.error;
    return feed;
  }

  /** @param {string} stream @param {string | null} cursor */
  attach(stream, cursor) {
    const feed = this.feed(stream);
    if (this.session.reads(stream)) throw new ClientError(stream + " is being read already");
    this.tell((session) => session.attach(feed, cursor));
    return feed;
  }

  /** @param {string} stream */
  feed(stream) {
    if (this.error) throw this.error;
    return new Feed(this, stream);
  }

  /** Ends it; whoever waits is told why. */
  leave(/** @type {any} */ reason = new Closed("the client is closed")) {
    this.tell((session) => session.leave_all(reason));
  }

  feeds() {
    const { streams, pending } = this.session;
    return [...streams.values(), ...pending.values()].flatMap(({ feed }) => feed ?? []);
  }

  // what the session wants

  async dial() {
    const { transport = "auto" } = this.options;
    const sse = transport === "sse" || (transport === "auto" && (this.failed > 1 || !this.WebSocket));
    this.kind = sse ? "sse" : "ws";
    this.failed = sse ? 0 : this.failed + 1;
    const turn = ++this.turn;
    const open = () => new this.WebSocket(this.http.replace("http", "ws") + "/v1/ws");
    const drop = (/** @type {number} */ code, /** @type {string} */ reason) => {
      if (turn !== this.turn) return;
      this.hangup(1006);
      this.tell((session) => session.dropped(code, reason));
    };
    /** @type {any} */
    let link;
    try {
      link = sse ? new (await import("./rt-sse.js")).EventSocket(this.http, transport === "auto" && this.WebSocket && open, this) : open();
    } catch (error) {
      return queueMicrotask(() => drop(1006, String(error)));
    }
    link.onerror = () => {}; // `close` tells
    if (turn !== this.turn) return link.close();
    this.link = link;
    link.onopen = () => this.tell((session) => session.opened());
    link.onclose = (/** @type {any} */ { code, reason }) => drop(code, reason);
    link.onmessage = (/** @type {any} */ { data }) => {
      let frames = [];
      try {
        frames = [JSON.parse(data)].flat();
      } catch {
        // as what is no frame
      }
      if (frames[0]?.type) this.tell((session) => session.received(frames, data.length));
      else drop(1006, "what came cannot be read");
    };
  }

  /** @param {number} code */
  hangup(code) {
    const { link } = this;
    this.turn++;
    if (!link) return;
    this.link = link.onopen = link.onmessage = link.onclose = null;
    if (code !== 1000) return link.terminate ? link.terminate() : link.close();
    this.gone_well = new Promise((resolve) => {
      link.onclose = resolve;
      setTimeout(resolve, 2000);
    });
    link.close(1000);
  }

  /** @param {string} text */
  send(text) {
    this.link?.send(text);
  }

  async renew() {
    let token = null;
    let problem = "";
    try {
      token = await /** @type {() => Promise<string>} */ (this.options.token)();
    } catch (error) {
      problem = String(error);
    }
    this.tell((session) => session.renewed(token, problem));
  }

  /** @param {Saved} saved */
  async save(saved) {
    this.saved = saved;
    if (this.saving) return;
    this.saving = true;
    try {
      // The first is called at once: a page that is left has no later.
      for (; this.saved; await this.store.save(saved)) {
        saved = this.saved;
        this.saved = null;
      }
    } catch (error) {
      this.leave(new ClientError("the client has failed: " + error, { cause: error }));
    }
    this.saving = false;
  }

  /** @param {Changed} changed */
  changed(changed) {
    const { state, problem, error } = changed;
    this.problem = problem || this.problem;
    this.error = error;
    if (state === "open") this.failed = this.kind === "sse" ? 1 : 0;
    if (state === "closed") {
      this.gone.abort();
      clearTimeout(this.timer);
      /** @type {any} */ (this.store).release?.();
    }
    if (error) for (const feed of this.feeds()) feed.wake();
    for (const one of this.listeners) queueMicrotask(() => one(changed));
  }
}

/** A session with a server, made by `connect`. Commands wait through lost connections, and are sent again with the same id. */
export class Client {
  #edge;
  /** @internal @param {Edge} edge */
  constructor(edge) {
    this.#edge = edge;
  }

  get #session() {
    return this.#edge.session;
  }
  get state() {
    return this.#session.state;
  }
  /** "ws", or "sse" where WebSockets are blocked. */
  get transport() {
    return this.#edge.kind;
  }
  /** The session's id: a credential. */
  get session() {
    return this.#session.id;
  }
  get subject() {
    return this.#session.subject;
  }
  get session_stream() {
    return "session:" + this.session;
  }
  get user_stream() {
    return user_stream(this.subject);
  }

  /** Calls `listener` with each change of state, from now on; returns what ends that. @param {(changed: Changed) => void} listener */
  on_state(listener) {
    this.#edge.listeners.add(listener);
    return () => {
      this.#edge.listeners.delete(listener);
    };
  }

  /**
   * Submits a job. Throws OutboxFull, Refused (too_large) and Disconnected at once: then nothing was sent.
   * @param {string} job @param {Record<string, any>} [input]
   * @param {{stream?: string, delay_s?: number, timeout_s?: number, idempotency_key?: string, signal?: AbortSignal}} [options]
   */
  submit(job, input = {}, { signal, ...options } = {}) {
    const frame = { type: "job.submit", job, input, ...(Object.keys(options).length ? { options } : {}) };
    return new Job(this.#edge.submit(frame, options.idempotency_key !== undefined), signal);
  }

  /**
   * A job that was submitted elsewhere: from where this session has processed it, otherwise from its start.
   * @param {string} job_id @param {{cursor?: string | null, signal?: AbortSignal}} [options]
   */
  job(job_id, { cursor = null, signal } = {}) {
    return new Job(this.#edge.attach(job_stream(job_id), cursor), signal);
  }

  /**
   * A stream's events: after `cursor` ("0": from the start), or else from where this session has processed it, or else from now on.
   * @param {string} stream @param {{cursor?: string | null, signal?: AbortSignal}} [options]
   */
  subscribe(stream, { cursor = null, signal } = {}) {
    return new Subscription(this.#edge.attach(stream, cursor), signal);
  }

  /**
   * Appends an event to a stream; its seq. A signal ends the waiting, and does not take the command back.
   * @param {string} stream @param {any} data @param {{event?: string, idempotency_key?: string, signal?: AbortSignal}} [options]
   * @returns {Promise<number>}
   */
  async publish(stream, data, { event = "message", idempotency_key, signal } = {}) {
    const keyed = idempotency_key !== undefined;
    return (await this.#edge.ask({ type: "publish", stream, data, event, idempotency_key }, signal, keyed)).seq;
  }

  /** Sends an event that the application registered; what its handler answers. @param {string} type @param {any} [data] @param {{signal?: AbortSignal}} [options] */
  call(type, data = {}, { signal } = {}) {
    return this.#edge.ask({ type, data }, signal);
  }

  /** Asks for a job's end; its status. @param {string} job_id */
  cancel(job_id) {
    return cancel(this.#edge, job_id);
  }

  /** Feeds a job; the seq of the input. @param {string} job_id @param {any} data @param {{final?: boolean}} [options] */
  input(job_id, data, options) {
    return input(this.#edge, job_id, data, options);
  }

  /** Takes a session back after SessionTaken; while waiting for the next try, tries now. */
  reconnect() {
    this.#edge.tell((session) => session.reconnect());
  }

  /** Leaves: what was given out is processed, and acknowledged. */
  async close() {
    for (const feed of this.#edge.feeds()) feed.processed();
    this.#edge.leave();
    await this.#edge.gone_well;
  }
}

/**
 * A client of the server at `url` (http, https, ws or wss; "/": the page's own), once it has answered. Throws Unreachable, Stopped, SessionTaken.
 * @param {string} url @param {Options} [options] @returns {Promise<Client>}
 */
export async function connect(url, options = {}) {
  const edge = new Edge(url, options);
  await edge.open();
  return new Client(edge);
}

/** Survives the client, and not the page. */
export class MemoryStore {
  /** @type {Saved} */
  saved = { session: null, cursors: {} };

  /** @returns {Saved | Promise<Saved>} */
  load() {
    return this.saved;
  }
  /** @param {Saved} saved */
  save(saved) {
    this.saved = saved;
  }
}

/** Keeps session and cursors for a reload of this tab. A tab that was duplicated begins anew: a lock tells which one has the session. */
export class SessionStore extends MemoryStore {
  #release = () => {};
  #locked = "";
  /** @param {string} name one for each client of a page, and for each user who may sign in to it */
  constructor(name) {
    super();
    this.name = name;
  }

  /** @internal The session is free for another client of this page. */
  release() {
    this.#release();
    this.#locked = "";
  }

  async load() {
    try {
      const saved = JSON.parse(globalThis.sessionStorage.getItem(this.name) ?? "null");
      // A page that is loaded anew may come before the one before it is gone altogether.
      if (saved && (!saved.session || (await this.#lock(saved.session, AbortSignal.timeout(300))))) super.save(saved);
    } catch {
      // no storage here, or nothing of ours in it
    }
    return super.load();
  }

  /** @param {Saved} saved */
  save(saved) {
    super.save(saved);
    try {
      if (saved.session && saved.session !== this.#locked) this.#lock(saved.session);
      globalThis.sessionStorage.setItem(this.name, JSON.stringify(saved));
    } catch {
      // full, or forbidden: this page keeps it
    }
  }

  /** @param {string} session @param {AbortSignal} [signal] @returns {Promise<boolean>} whether it is ours; where there are no locks it is */
  #lock(session, signal) {
    this.#release();
    this.#locked = session;
    return new Promise((resolve) => {
      const { locks } = globalThis.navigator ?? {};
      if (!locks) return resolve(true);
      const hold = () => {
        resolve(true);
        if (this.#locked === session) return new Promise((release) => (this.#release = () => release(0)));
      };
      locks.request("rt:" + session, signal ? { signal } : {}, hold).catch(() => resolve(false));
    });
  }
}

