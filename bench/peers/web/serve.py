"""Runs an ASGI application as `rt web` is run: uvicorn, uvloop, the sans-I/O WebSocket protocol, no deflate, no access log."""

import os
import sys

import uvicorn


class Server(uvicorn.Server):
    async def startup(self, sockets: object = None) -> None:
        await super().startup()
        print("ready", flush=True)


Server(
    uvicorn.Config(
        sys.argv[1],
        host="127.0.0.1",
        port=int(os.environ["WEB_PORT"]),
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
).run()
