"""A room in a terminal.

    RT_TOKEN=$(rt token --sub ann) python -m examples.rooms.client lobby          # while `rt dev examples.rooms.app:app` runs

A line is said to the room; one that begins with ? asks the AI, whose answer all members follow, also those who come later.
An empty line, or Ctrl-C, leaves. RT_URL names another server than http://127.0.0.1:8000.
"""

import asyncio
import os
import sys

from rt.client import Client, ClientError, Gap, Refused, connect


async def show(rt: Client, room: str, tasks: asyncio.TaskGroup, showing: list[asyncio.Task[None]]) -> None:
    """Prints what happens in a room, from the first event that it still has. Every answer has a reader of its own."""
    async with rt.subscribe(f"room:{room}", cursor="0") as events:
        async for event in events:
            if isinstance(event, Gap):
                print(f"(lost: {event.reason})")
            elif event.type == "message":
                print(f"{event.data['from']}: {event.data['data']}")
            elif event.type == "asked":
                print(f"{event.data['who']} asks: {event.data['question']}")
            elif event.type == "job.created":
                showing.append(tasks.create_task(show_answer(rt, event.data["job_id"])))
            elif event.type in ("presence.joined", "presence.left"):
                print(f"({event.data['subject']} has {event.type.removeprefix('presence.')})")


async def show_answer(rt: Client, job_id: str) -> None:
    try:
        print(f"AI: {await rt.job(job_id, cursor='0').text()}")
    except (ClientError, Refused) as error:
        print(f"AI: ({error})")


async def chat(room: str) -> None:
    lines = asyncio.StreamReader()

    def hear() -> None:
        typed = os.read(0, 65_536)
        lines.feed_data(typed) if typed else lines.feed_eof()

    asyncio.get_running_loop().add_reader(0, hear)
    server = connect(os.environ.get("RT_URL", "http://127.0.0.1:8000"), token=os.environ.get("RT_TOKEN"))
    async with server as rt, asyncio.TaskGroup() as tasks:
        showing: list[asyncio.Task[None]] = []
        showing.append(tasks.create_task(show(rt, room, tasks, showing)))
        while line := (await lines.readline()).decode(errors="replace").strip("\n"):
            if line.startswith("?"):
                await rt.call("ask", {"room": room, "question": line[1:]})
            else:
                await rt.publish(f"room:{room}", line)
        for task in showing:
            task.cancel()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.rooms.client ROOM")
    try:
        asyncio.run(chat(sys.argv[1]))
    except KeyboardInterrupt:
        pass
    except (ClientError, Refused) as error:
        sys.exit(f"error: {error}")
    except ExceptionGroup as several:
        sys.exit(f"error: {several.exceptions[0]}")
