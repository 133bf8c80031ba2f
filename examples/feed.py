"""A live feed: a service publishes measurements to a room; dashboards follow, with history, and miss nothing while they are away.

    rt dev
    RT_TOKEN=$(rt token --sub meter --scope streams:publish) python examples/feed.py publish
    RT_TOKEN=$(rt token --sub ann --scope streams:read) python examples/feed.py follow --state ann.json

A follower shows what the room still has, and then what comes. With --state it goes on where it stopped when it is started
again. Each token can do one thing only: the publisher cannot read, the follower cannot write. RT_URL names another server.
"""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

from rt.client import ClientError, CursorStore, FileStore, Gap, MemoryStore, Refused, connect
from rt.client.http import HttpClient

URL = os.environ.get("RT_URL", "http://127.0.0.1:8000")
TOKEN = os.environ.get("RT_TOKEN")


def publish(room: str, every_s: float, count: int | None) -> None:
    """Publishes this machine's load; each point once, also when an answer is lost on its way."""
    with HttpClient(URL, token=TOKEN) as rt:
        while count is None or (count := count - 1) >= 0:
            at = rt.publish(f"room:{room}", {"load": round(os.getloadavg()[0], 2)})
            print(f"published {at['stream']} {at['seq']}", flush=True)
            time.sleep(every_s)


async def follow(room: str, store: CursorStore, cursor: str | None) -> None:
    """Shows points as they come. Those that the room has dropped meanwhile are said, not skipped."""
    async with connect(URL, token=TOKEN, store=store) as rt:
        points = rt.subscribe(f"room:{room}", cursor=cursor)  # no `async with`: that leaves the room, and forgets the position in it
        async for point in points:
            if isinstance(point, Gap):
                print(f"(missed {point.first} to {point.last}: {point.reason})", flush=True)
            elif point.type == "message":
                load = point.data["data"]["load"]
                when = time.strftime("%H:%M:%S", time.localtime(point.ts / 1000))
                print(f"{point.seq:6}  {when}  {load:6.2f} {'█' * min(60, round(load * 10))}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", default="load")
    todo = parser.add_subparsers(dest="todo", required=True)
    publisher = todo.add_parser("publish")
    publisher.add_argument("--every", type=float, default=1.0, metavar="SECONDS")
    publisher.add_argument("--count", type=int, help="points; without it, endless")
    follower = todo.add_parser("follow")
    follower.add_argument("--state", type=Path, metavar="FILE", help="keeps the position")
    args = parser.parse_args()
    if args.todo == "publish":
        publish(args.room, args.every, args.count)
    else:
        known = args.state and args.state.exists()  # then from where it stopped, otherwise from the start
        asyncio.run(follow(args.room, FileStore(args.state) if args.state else MemoryStore(), None if known else "0"))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
    except (ClientError, Refused) as error:
        sys.exit(f"error: {error}")
