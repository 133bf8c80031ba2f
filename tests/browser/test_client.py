"""rt.js in a real page, as any page would use it: what is served, imported, cut, and without WebSockets."""

from typing import Any

import pytest

from tests.browser.desk import Desk, needs_browser

pytestmark = [needs_browser, pytest.mark.asyncio(loop_scope="session")]

#: A page that brings nothing of its own.
PAGE = "/docs"
TEXT = " ".join(f"word{number}" for number in range(60))
READ = """
async ({ token, text, blocked }) => {
  const { connect } = await import("/rt.js");
  const sockets = [];
  class Cut extends WebSocket {
    constructor(url) { super(url); sockets.push(this); }
  }
  // As behind a proxy that knows no WebSocket: the handshake comes to nothing.
  class Blocked {
    constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
    close() {}
  }
  const states = [];
  const config = { backoff_s: 0.05, backoff_cap_s: 0.2 };
  const on_state = ({ state }) => states.push(state);
  const rt = await connect("/", { token, config, on_state, WebSocket: blocked ? Blocked : Cut });
  const job = rt.submit("echo", { text, delay_ms: 15 });
  const seqs = [];
  for await (const item of job) {
    seqs.push(item.seq);
    if (seqs.length === 10) sockets.at(-1)?.close();
  }
  const told = { seqs, text: job.said, result: await job.result(), states: [...states], transport: rt.transport, sockets: sockets.length };
  await rt.close();
  return told;
}
"""


@pytest.mark.parametrize("blocked", [False, True], ids=["a WebSocket that is cut", "no WebSocket"])
async def test_a_stream_is_read_whole(blocked: bool, desk: Desk) -> None:
    tab = await desk.tab(PAGE)
    token = desk.dev.token("alice")
    told: dict[str, Any] = await tab.page.evaluate(READ, {"token": token, "text": TEXT, "blocked": blocked})
    assert told["seqs"] == list(range(1, len(told["seqs"]) + 1))
    assert told["text"] == told["result"]["text"] == TEXT
    assert told["transport"] == ("sse" if blocked else "ws")
    assert told["sockets"] == (0 if blocked else 2)
    assert told["states"][-1] == "open"
