/** The module under test: the one that is served, or the one that RT_JS names; and a WebSocket as browsers have it. */
import { WebSocket as Socket } from "ws";

export const { ClientError, DEFAULTS, MemoryStore, SessionStore, connect } = await import(
  new URL(process.env.RT_JS ?? "../../../rt/api/static/rt.js", import.meta.url)
);

export class WebSocket extends Socket {
  /** One message is one task, as in a browser. */
  constructor(url, protocols) {
    super(url, protocols, { allowSynchronousEvents: false });
  }
}
