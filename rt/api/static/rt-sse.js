/**
 * What rt.js loads where WebSockets are blocked.
 * @module
 */

const SILENT_MS = 40000;

/** @param {string} cursor */
const seqOf = (cursor) => +(/** @type {string} */ (cursor.split(":").pop()));

/**
 * A connection where WebSockets are blocked: what a socket's frames say, said with HTTP and Server-Sent Events. There is no
 * session on the server: cursors are kept here alone, and what an event of the application's own asks for needs a WebSocket.
 */
export class EventSocket {
  /** @type {any} */ onopen;
  /** @type {any} */ onmessage;
  /** @type {any} */ onclose;
  /** @type {Map<string, AbortController>} */
  follows = new Map();
  token = "";
  over = false;
  /** How often it is tried whether a WebSocket opens by now. */
  static upgrade_ms = 30000;
  /** When a WebSocket last opened on trial, for each client. @type {WeakMap<object, number>} */
  static sent_back = new WeakMap();

  /**
   * @param {string} url @param {(() => any) | false} trial makes a WebSocket: once one opens this connection ends, to be made again as one
   * @param {object} owner whose connection it is
   */
  constructor(url, trial, owner) {
    this.url = url;
    this.trial = trial;
    this.owner = owner;
    queueMicrotask(() => this.onopen?.());
    this.look_again();
  }

  look_again() {
    const { trial } = this;
    if (trial && !this.over) this.clock = setTimeout(async () => (await this.opens(trial)) || this.look_again(), EventSocket.upgrade_ms);
  }

  /** Whether a WebSocket opens within 3 s; this connection ends then. @param {() => any} trial @returns {Promise<boolean>} */
  async opens(trial) {
    /** @type {boolean} */
    const opened = await new Promise((resolve) => {
      const socket = trial();
      const end = (/** @type {boolean} */ opened) => {
        socket.onclose = null;
        socket.close();
        resolve(opened);
      };
      socket.onerror = () => {};
      socket.onopen = () => end(true);
      socket.onclose = () => end(false);
      setTimeout(end, 3000, false);
    }).catch(() => false);
    if (opened) {
      EventSocket.sent_back.set(this.owner, performance.now());
      this.close(1012);
    }
    return opened;
  }

  /** @param {any} frames */
  emit(...frames) {
    this.onmessage?.({ data: JSON.stringify(frames) });
  }

  close(code = 1006, reason = "") {
    if (this.over) return;
    this.over = true;
    clearTimeout(this.clock);
    for (const one of this.follows.values()) one.abort();
    queueMicrotask(() => this.onclose?.({ code, reason }));
  }

  /** @param {string} text */
  send(text) {
    const frame = JSON.parse(text);
    this.take(frame).catch((error) => this.close(1006, String(error)));
  }

  /** @param {any} frame */
  async take(frame) {
    const { type, id, stream, data, job_id } = frame;
    switch (type) {
      case "connect": {
        this.token = frame.token;
        const { subject } = await this.call(null, "/v1/tickets", {});
        // HTTP is answered: a server that was only away answers a WebSocket as well. One that opens and then says nothing is not waited for twice.
        const { trial } = this;
        const back_ms = performance.now() - (EventSocket.sent_back.get(this.owner) ?? -Infinity);
        if (trial && back_ms > EventSocket.upgrade_ms && (await this.opens(trial))) return;
        const streams = {};
        const limits = { heartbeat_s: 1e6, max_message_bytes: 262144 };
        // "resumed": what was sent here before may be sent again, as its id is its idempotency key.
        return this.emit({ type: "connected", session: frame.session ?? "", resumed: true, subject, streams, ...limits });
      }
      case "ping":
        await fetch(this.url + "/livez", { cache: "no-store" });
        return this.emit({ type: "pong" });
      case "refresh":
        this.token = frame.token;
        return this.emit({ type: "reply", id, data: {} });
      case "subscribe":
        return this.follow(id, stream, frame.cursor);
      case "unsubscribe":
        this.follows.get(stream)?.abort();
        this.follows.delete(stream);
        return this.emit({ type: "reply", id, data: {} });
      case "job.submit": {
        const { idempotency_key = id, ...options } = frame.options ?? {};
        const told = await this.call(id, "/v1/jobs", { job: frame.job, input: frame.input, options }, idempotency_key);
        // "duplicate": the session asks for the stream itself.
        return told && this.emit({ type: "reply", id, data: { ...told, duplicate: true } });
      }
      case "publish":
        return this.answer(id, `/v1/streams/${encodeURIComponent(stream)}/events`, { type: frame.event, data }, frame.idempotency_key ?? id);
      case "job.cancel":
        return this.answer(id, `/v1/jobs/${encodeURIComponent(job_id)}/cancel`);
      case "job.input":
        return this.answer(id, `/v1/jobs/${encodeURIComponent(job_id)}/input`, { data, final: frame.final });
      case "ack":
      case "pong":
        return;
    }
    this.emit({ type: "error", id, code: "unknown_type", message: type + " needs a WebSocket, and none can be opened here", temporary: false });
  }

  /** @param {string} path @param {RequestInit} [init] */
  http(path, init) {
    const headers = new Headers(init?.headers);
    if (this.token) headers.set("Authorization", "Bearer " + this.token);
    return fetch(this.url + path, { cache: "no-store", ...init, headers });
  }

  /** @param {string} id @param {string} path @param {any} [body] @param {string} [key] */
  async answer(id, path, body, key) {
    const data = await this.call(id, path, body, key);
    if (data) this.emit({ type: "reply", id, data });
  }

  /** What the server answers; undefined where that was an error, which is told. @param {string | null} id @param {string} path @param {any} [body] @param {string} [key] */
  async call(id, path, body, key) {
    /** @type {Record<string, string>} */
    const headers = { "Content-Type": "application/json" };
    if (key) headers["Idempotency-Key"] = key;
    const response = await this.http(path, { method: "POST", headers, body: JSON.stringify(body) });
    return response.ok ? response.json() : this.refused(id, response);
  }

  /** @param {string | null} id @param {Response} response */
  async refused(id, response) {
    const problem = await response.json();
    const expired = problem.code === "token_expired";
    if (response.status === 401) {
      this.emit({ type: "error", code: problem.code, message: problem.detail });
      this.close(expired ? 4004 : 4500, problem.detail);
    } else if (!id || !problem.code) throw new Error("HTTP " + response.status);
    else this.emit({ message: problem.detail, ...problem, type: "error", id });
  }

  /** @param {string} id @param {string} stream @param {string} [cursor] */
  async follow(id, stream, cursor) {
    this.follows.get(stream)?.abort();
    const stop = new AbortController();
    this.follows.set(stream, stop);
    /** @type {any} */
    let silence;
    const alive = () => {
      clearTimeout(silence);
      silence = setTimeout(() => this.close(4001), SILENT_MS);
    };
    try {
      alive();
      /** @type {Record<string, string>} */
      const headers = { Accept: "text/event-stream", ...(cursor && { "Last-Event-ID": cursor }) };
      const response = await this.http(`/v1/streams/${encodeURIComponent(stream)}/events`, { headers, signal: stop.signal });
      if (!response.ok) return await this.refused(id, response);
      let epoch = cursor?.includes(":") ? cursor.split(":")[0] : "";
      if (cursor) this.emit({ type: "subscribed", id, stream, epoch, seq: seqOf(cursor), recovered: true });
      let rest = "";
      let over = false;
      const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
      const decoder = new TextDecoder();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        alive();
        const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
        rest = /** @type {string} */ (parts.pop());
        const frames = [];
        for (const part of parts) {
          /** @type {Record<string, string>} */
          const said = {};
          for (const line of part.split("\n")) {
            const colon = line.indexOf(":");
            said[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
          }
          if (said.id) {
            const now = said.id.split(":")[0];
            // Without data it says where "from now on" begins; a gap names its epoch itself.
            if (!said.data) frames.push({ type: "subscribed", id, stream, epoch: now, seq: seqOf(said.id), recovered: true });
            else if (now !== epoch && said.event !== "gap") frames.push({ type: "subscribed", stream, epoch: now, seq: seqOf(said.id), recovered: true });
            epoch = now;
          }
          if (said.data) frames.push(JSON.parse(said.data));
          over ||= !!frames.at(-1)?.final;
          if (said.retry && +said.retry < 3.6e6) frames.push({ type: "reconnect", delay_ms: +said.retry });
          over ||= +said.retry >= 3.6e6;
        }
        if (frames.length) this.emit(...frames);
      }
      if (!over) this.close(4000, "the event stream ended");
    } catch (error) {
      if (!stop.signal.aborted) throw error;
    } finally {
      clearTimeout(silence);
    }
  }
}
