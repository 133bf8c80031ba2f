"""Chat rooms: everybody sees what is said, who comes and goes, and one shared answer of the AI.

    rt dev examples.rooms.app:app
    RT_TOKEN=$(rt token --sub ann) python -m examples.rooms.client lobby          # a second terminal
    RT_TOKEN=$(rt token --sub bob) python -m examples.rooms.client lobby          # a third one

Only ann and bob are let into the room `staff`.
"""

from pydantic import Field

from rt import App, Connection, Event, JobContext, StreamRequest

app = App()
STAFF = {"ann", "bob"}


@app.job(timeout_s=120)
async def answer(job: JobContext, question: str) -> None:
    async for piece in job.model.stream(question, max_tokens=60):
        await job.emit(piece)


class Ask(Event, type="ask"):
    room: str
    question: str = Field(max_length=2000)


class Asked(Event, type="asked"):
    who: str
    question: str


@app.on(Ask)
async def ask(conn: Connection, event: Ask) -> None:
    """Sent again after a lost connection it still takes effect once: calls of a handler are remembered with its command."""
    await conn.publish(f"room:{event.room}", Asked(who=conn.subject, question=event.question))
    await conn.enqueue(answer, question=event.question, stream=f"room:{event.room}")


@app.policy
def may(request: StreamRequest) -> bool:
    return request.allowed and (request.kind != "room" or request.name != "staff" or request.subject in STAFF)
