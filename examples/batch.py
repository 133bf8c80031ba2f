"""Scores many text files on workers, and survives being killed: run again, it takes up what it had submitted.

    rt dev                                                                        # the built-in job `sentiment`
    RT_TOKEN=$(rt token --sub ann) python examples/batch.py docs/*.md             # in a second terminal

A text's idempotency key is its own hash, so the same text is the same job for 24 hours, whoever submits it how often: no
file of what is done is needed, nor a webhook. Exit code 1 when a document failed. RT_URL names another server.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from rt.client import ClientError, Gap, JobCancelled, JobFailed, Refused, StreamEvent
from rt.client.http import HttpClient

JOB = "sentiment"


def key(text: str) -> str:
    return f"{JOB}-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def read(parser: argparse.ArgumentParser, path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"{path}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="text files")
    parser.add_argument("--json", action="store_true", help="one JSON object per document")
    args = parser.parse_args()
    texts = {path: read(parser, path) for path in args.files}

    def show(text: str) -> None:
        """Progress is for whoever watches: it goes to stderr, in one line where that is a terminal."""
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif text:
            print(text, file=sys.stderr, flush=True)

    failed = 0
    with HttpClient(os.environ.get("RT_URL", "http://127.0.0.1:8000"), token=os.environ.get("RT_TOKEN")) as rt:
        jobs = {path: rt.submit(JOB, {"text": text}, idempotency_key=key(text)) for path, text in texts.items()}
        again = sum(one.duplicate for one in jobs.values())
        show(f"{len(jobs)} documents submitted, {again} of them before")
        for done, (path, job) in enumerate(jobs.items()):

            def progress(event: StreamEvent | Gap, done: int = done, path: Path = path) -> None:
                if event.type == "job.progress" and isinstance(event, StreamEvent):
                    show(f"{done}/{len(jobs)} done; {path}: {event.data['current']}/{event.data['total']} {event.data['unit']}")

            row: dict[str, Any] = {"file": str(path), "job_id": job.job_id}
            try:
                row |= rt.wait(job.job_id, on_event=progress)
            except (JobFailed, JobCancelled) as error:
                failed += 1
                row["error"] = str(error)
            show("")
            if args.json:
                print(json.dumps(row), flush=True)
            else:
                print(f"{path}: {row.get('error') or '{label} ({compound:+.2f}), {sentences} sentences'.format(**row)}", flush=True)
        show(f"{len(jobs)} of {len(jobs)} done, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the jobs go on, and the same command takes them up")
    except (ClientError, Refused) as error:
        sys.exit(f"\nerror: {error}")
