"""An HTTP server that is told what to answer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class FakeServer:
    """Answers requests from a list, in order: a status, JSON and perhaps headers, or a list of SSE blocks; None cuts the connection.

    For a `with`.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.hold = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.requests.append((self.command, self.path, dict(self.headers), body))
                told = fake.answers.pop(0)
                if told is None:
                    self.connection.close()
                    return
                events = isinstance(told, list)
                self.send_response(200 if events else told[0])
                if told[0] == 204:
                    self.end_headers()
                    return
                for header in {} if events or len(told) < 3 else told[2].items():
                    self.send_header(*header)
                self.send_header("Content-Type", "text/event-stream" if events else "application/json")
                self.end_headers()
                for one in told if events else [json.dumps(told[1])]:
                    if one == "hold":
                        fake.hold.wait(10)
                    else:
                        self.wfile.write(one.encode())
                        self.wfile.flush()

            do_GET = do_POST = do_DELETE = answer  # noqa: N815 - the library looks for these names

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def sse(seq: int, type: str, **data: Any) -> str:
    event: dict[str, Any] = {"seq": seq, "type": type, "stream": "job:1", "ts": 1000 * seq, "data": data}
    if type in ("job.completed", "job.failed", "job.cancelled"):
        event["final"] = True
    return f"id: e:{seq}\nevent: {type}\ndata: {json.dumps(event)}\n\n"
