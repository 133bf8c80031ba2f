"""The tutorials' shape: a pub/sub subscription per client on one global channel, filtered by session."""

import asyncio
import json
import os

import redis.asyncio as redis
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
store = redis.from_url(os.environ["REDIS_URL"])


@app.websocket("/ws")
async def chat(socket: WebSocket, session: str) -> None:
    await socket.accept()
    subscription = store.pubsub()
    await subscription.subscribe("events")

    async def pump() -> None:
        async for message in subscription.listen():
            if message["type"] == "message":
                event = json.loads(message["data"])
                if event["session"] == session:
                    await socket.send_json(event)

    pumping = asyncio.create_task(pump())
    try:
        while True:
            command = await socket.receive_json()
            await store.publish("jobs", json.dumps({"session": session, **command}))
    except WebSocketDisconnect:
        pass
    finally:
        pumping.cancel()
        await subscription.aclose()
