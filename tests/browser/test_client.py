"""rt.js in a real page, as any page would use it: what is served, imported, cut, and without WebSockets, for a while or for good."""

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
  // As behind a proxy that knows no WebSocket, or before a server that is away: the handshake comes to nothing.
  class Blocked {
    constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); }
    close() {}
  }
  let dialled = 0;
  const Dialled = function (url) { return dialled++ < blocked ? new Blocked() : new Cut(url); };
  const states = [];
  const config = { backoff_s: 0.05, backoff_cap_s: 0.2 };
  const on_state = ({ state }) => states.push(state);
  const rt = await connect("/", { token, config, on_state, WebSocket: Dialled });
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


@pytest.mark.parametrize(
    ("blocked", "transport", "sockets"),
    # Once HTTP is answered a WebSocket is tried. Of a server that was away it opens, a second is used, and a third after the cut.
    [
        pytest.param(0, "ws", 2, id="a WebSocket that is cut"),
        pytest.param(2, "ws", 3, id="a server that was away for two tries"),
        pytest.param(99, "sse", 0, id="no WebSocket"),
    ],
)
async def test_a_stream_is_read_whole(blocked: int, transport: str, sockets: int, desk: Desk) -> None:
    tab = await desk.tab(PAGE)
    token = desk.dev.token("alice")
    told: dict[str, Any] = await tab.page.evaluate(READ, {"token": token, "text": TEXT, "blocked": blocked})
    assert told["seqs"] == list(range(1, len(told["seqs"]) + 1))
    assert told["text"] == told["result"]["text"] == TEXT
    assert (told["transport"], told["sockets"]) == (transport, sockets)
    assert told["states"][-1] == "open"
