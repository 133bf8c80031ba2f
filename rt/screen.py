"""What a person sees of a job: its events as they come, lists of jobs, and nothing that could command the terminal."""

import re
import sys
from typing import TYPE_CHECKING, Any

from rt.codec import to_json_bytes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Screen:
    """Shows a job's events to a person: its text on stdout as it comes, all about it on stderr."""

    def __init__(self) -> None:
        self._first_ms = 0
        self._started_ms = 0
        self._text = False
        self._open_line = False
        self._bar: tuple[Progress, TaskID] | None = None

    def show(self, event: dict[str, Any]) -> None:
        data, ts = event.get("data") or {}, int(event.get("ts", 0))
        self._first_ms = self._first_ms or ts
        match event["type"]:
            case "job.delta" if "text" in data:
                self._write(data["text"])
            case "job.delta":
                self._out(json_line(data.get("data")))
            case "job.started":
                self._started_ms = ts
            case "job.progress":
                self._progress(data)
            case "job.input_required":
                self._note(f"input required: {data.get('prompt') or ''}")
            case "job.retrying":
                self._note(f"failed, next attempt in {data['delay_ms'] / 1000:.1f} s: {_problem(data)}")
            case "job.restarted":
                kept = data["discard_after"]
                self._note(
                    f"restarted ({data['reason']}): what came before {'counts no more' if not kept else f'counts up to event {kept}'}"
                )
            case "gap":
                self._note(f"events {event.get('from', '?')} to {event.get('to', '?')} are lost ({event.get('reason')})")
            case "job.completed":
                # What a text job streamed is its result; it is not shown twice.
                if not self._text:
                    self._out(json_line(data.get("result")))
                self._end("completed", event)
            case "job.failed":
                self._end(f"failed: {_problem(data)}", event)
            case "job.cancelled":
                self._end(f"cancelled by {data.get('by')}", event)

    def close(self) -> None:
        """Leaves the terminal as it was: no bar, the cursor at a line's begin."""
        self._stop_bar()
        if self._open_line:
            print(flush=True)
            self._open_line = False

    def _end(self, how: str, event: dict[str, Any]) -> None:
        ts = int(event.get("ts", 0))
        times = f"in {(ts - self._first_ms) / 1000:.2f} s"
        if self._started_ms:
            times += f", the last run {(ts - self._started_ms) / 1000:.2f} s"
        attempt = event.get("attempt") or 0
        self._note(f"{how} ({times}{f', attempt {attempt}' if attempt > 1 else ''})")

    def _write(self, text: str) -> None:
        self._stop_bar()
        # Noted before it is written: Ctrl-C may come in between, and one empty line too many is the lesser harm.
        self._open_line = not text.endswith("\n") if text else self._open_line
        self._text = True
        sys.stdout.write(visible(text))
        sys.stdout.flush()

    def _out(self, text: str) -> None:
        self.close()
        print(visible(text), flush=True)

    def _note(self, text: str) -> None:
        self.close()
        print(visible(text), file=sys.stderr, flush=True)

    def _progress(self, data: dict[str, Any]) -> None:
        current, total = data["current"], data.get("total")
        words = " ".join(visible(str(one)) for one in (data.get("unit"), data.get("message")) if one)
        if not sys.stderr.isatty():
            self._note(f"progress {current}{f'/{total}' if total else ''} {words}".rstrip())
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.close()
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False), TimeRemainingColumn())
            bar = Progress(*columns, console=Console(stderr=True), transient=True)
            bar.start()
            self._bar = bar, bar.add_task("", total=None)
        bar, task = self._bar
        bar.update(task, completed=current, total=total, description=words)

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


class Progressing:
    """How far a command is that takes a while: a bar on stderr, where that is a terminal, and nothing elsewhere. For a `with`."""

    def __init__(self, word: str, total: int | None = None) -> None:
        """`word` is what happens to them; without a `total` only their number is shown."""
        self._word, self._total = word, total
        self._bar: tuple[Progress, TaskID] | None = None

    def __enter__(self) -> "Progressing":
        if sys.stderr.isatty() and self._total != 1:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            # What is printed meanwhile goes above the bar, but never to another place than it was meant for.
            bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())
            bar.start()
            self._bar = bar, bar.add_task(self._word, total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar[0].stop()

    def show(self, count: int) -> None:
        if self._bar is not None:
            self._bar[0].update(self._bar[1], completed=count)


def show_items(items: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """A page of a list: a table on a terminal, elsewhere a line of each with tabs between, or an object a line."""
    if as_json:
        for one in items:
            print(json_line(one))
        return
    rows = [[visible(str(one.get(column, ""))) for column in columns] for one in items]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=None)
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
    else:
        for row in rows:
            print("\t".join(row))


def show_letter(letter: dict[str, Any]) -> None:
    """A dead letter: its members line by line on stdout, what to do with it on stderr."""
    for name, value in letter.items():
        if name not in ("error", "errors", "input") and value != []:
            _show_member(name, " ".join(value) if isinstance(value, list) else value)
    for one in letter["errors"]:
        _show_member("error", f"attempt {one['attempt']} at {one['at']}: {one['code']}: {one['message']}")
    _show_member("input", json_line(letter["input"]))
    sys.stdout.flush()
    if "retried_as" in letter:
        todo = f"it was run again; watch that with: rt job watch {letter['retried_as']}"
    else:
        todo = f"run it again with: rt job retry {letter['job_id']}"
    print(visible(todo), file=sys.stderr)


def _show_member(name: str, value: object) -> None:
    print(f"{name:14}{visible(str(value))}")


def _problem(data: dict[str, Any]) -> str:
    error = data.get("error") or {}
    return f"{error.get('code')}: {error.get('message')}"


def json_line(value: object) -> str:
    return to_json_bytes(value).decode()


# Control characters but tab and newline, and those that turn the writing direction: they move a terminal's cursor,
# change its title, or make a line look like another one.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Text of a server or a job as a terminal may show it: what would command the terminal is written as its number."""
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
