/**
 * The page's line to the server: sockets as rt.js wants them, whose frames can be watched and which can be cut.
 * @module
 */

/** @typedef {(direction: "in" | "out", frame: any, bytes: number) => void} Watch */

/** A WebSocket, or the wait for one: while the line is cut nothing gets through. */
class Socket {
  /** @type {(() => void) | null} */ onopen = null;
  /** @type {((event: {data: string}) => void) | null} */ onmessage = null;
  /** @type {((event: {code: number, reason: string}) => void) | null} */ onclose = null;
  /** @type {(() => void) | null} */ onerror = null;
  /** @type {WebSocket | null} */ socket = null;

  /** @param {Line} line @param {string} url */
  constructor(line, url) {
    this.line = line;
    line.socket = this;
    this.timer = setTimeout(() => this.dial(url), Math.max(0, line.away_until - performance.now()));
  }

  /** @param {string} url */
  dial(url) {
    const socket = (this.socket = new WebSocket(url));
    socket.onopen = () => this.onopen?.();
    socket.onerror = () => this.onerror?.();
    socket.onclose = ({ code, reason }) => this.onclose?.({ code, reason });
    socket.onmessage = ({ data }) => {
      this.line.saw("in", data);
      this.onmessage?.({ data });
    };
  }

  /** @param {string} text */
  send(text) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.line.saw("out", text);
    this.socket.send(text);
  }

  /** @param {number} [code] */
  close(code) {
    clearTimeout(this.timer);
    this.socket?.close(code);
  }

  /** As a network that is gone: nothing comes any more, and nobody said goodbye. */
  cut() {
    if (this.socket) this.socket.onmessage = this.socket.onclose = null;
    this.close();
    this.onclose?.({ code: 1006, reason: "the line was cut" });
  }
}

export class Line {
  /** @type {Socket | null} */
  socket = null;
  away_until = 0;

  /** @param {Watch} watch is told of each frame */
  constructor(watch) {
    this.watch = watch;
    const line = this;
    /** For the option `WebSocket` of `connect`. */
    this.WebSocket = class extends Socket {
      /** @param {string} url */
      constructor(url) {
        super(line, url);
      }
    };
  }

  /** Cuts the line, for so many seconds. @param {number} away_s */
  cut(away_s) {
    this.away_until = performance.now() + away_s * 1000;
    this.socket?.cut();
  }

  /** @param {"in" | "out"} direction @param {string} text */
  saw(direction, text) {
    const frames = [JSON.parse(text)].flat();
    for (const frame of frames) this.watch(direction, frame, Math.round(text.length / frames.length));
  }
}
