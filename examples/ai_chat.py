"""A chat in a terminal with any OpenAI-compatible model: its answers survive cut connections, deploys and killed workers.

    RT_OPENAI_BASE_URL=http://127.0.0.1:11434/v1 RT_OPENAI_MODEL=llama3.2 rt dev examples.ai_chat:app
    RT_TOKEN=$(rt token --sub ann) python -m examples.ai_chat                     # in a second terminal

Without RT_OPENAI_BASE_URL a tiny embedded model answers, badly. Ctrl-C stops an answer; at the prompt it ends the chat, as
an empty line does. RT_URL names another server than http://127.0.0.1:8000.
"""

import os
import sys
from contextlib import aclosing, suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from rt import App, JobContext
from rt.client import ClientError, Gap, Refused
from rt.client.http import HttpClient

app = App()


class Turn(BaseModel):
    who: Literal["user", "assistant"]
    text: str = Field(max_length=20_000)


@app.job(timeout_s=300, max_attempts=3)
async def reply(job: JobContext, turns: Annotated[list[Turn], Field(min_length=1, max_length=100)]) -> dict[str, Any]:
    """Streams the assistant's next turn. The conversation is the client's: a worker keeps nothing between two of them."""
    prompt = "\n".join(f"{turn.who}: {turn.text}" for turn in turns) + "\nassistant:"
    report: dict[str, Any] = {}
    async with aclosing(job.model.stream(prompt, max_tokens=400, report=report)) as pieces:
        async for piece in pieces:
            await job.emit(piece)
    job.use(report.get("usage", {}))
    return {"model": report["model"], "finish_reason": report["finish_reason"]}


def answer(rt: HttpClient, turns: list[dict[str, str]]) -> str:
    """Shows an answer as it comes; the text that stands at its end. Ctrl-C cancels it."""
    job_id = rt.submit("reply", {"turns": turns}).job_id
    said: list[tuple[int, str]] = []
    try:
        for event in rt.follow(job_id):
            if isinstance(event, Gap):  # the server lost some of it
                print(f"(lost: {event.reason})", end="", flush=True)
                continue
            match event.type:
                case "job.delta":
                    said.append((event.seq, event.text))
                    print(event.text, end="", flush=True)
                case "job.restarted" if said and event.data["discard_after"] < said[-1][0]:
                    said = [one for one in said if one[0] <= event.data["discard_after"]]
                    print(f"\n(it starts over)\n{''.join(text for _, text in said)}", end="", flush=True)
                case "job.failed":
                    print(f"\n({event.data['error']['code']}: {event.data['error']['message']})", end="")
    except KeyboardInterrupt:
        with suppress(Refused):  # it has just ended
            rt.cancel(job_id)
        print(" (stopped)", end="")
    print()
    return "".join(text for _, text in said)


def main() -> None:
    turns: list[dict[str, str]] = []
    with HttpClient(os.environ.get("RT_URL", "http://127.0.0.1:8000"), token=os.environ.get("RT_TOKEN")) as rt:
        while line := input("> ").strip():
            turns.append({"who": "user", "text": line})
            turns.append({"who": "assistant", "text": answer(rt, turns[-99:])})


if __name__ == "__main__":
    try:
        main()
    except (EOFError, KeyboardInterrupt):
        print()
    except (ClientError, Refused) as error:
        sys.exit(f"error: {error}")
