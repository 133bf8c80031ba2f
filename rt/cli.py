"""The command line: `rt --help` says what there is.

Commands import what they need when they run, so that `rt --help` and `rt token` do not wait for a web framework.
"""

import contextlib
import io
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from rt import __version__
from rt.errors import Refused, RtError
from rt.screen import Progressing, Screen, json_line, show_items, show_letter, visible

if TYPE_CHECKING:
    from rt.app import App
    from rt.client.http import Accepted, HttpClient
    from rt.doctor import Check
    from rt.settings import Settings

BUILT_IN = "rt.builtin:app"

EXIT_FAILED = 1
EXIT_WRONG_ARGUMENTS = 2
EXIT_CANCELLED = 3
EXIT_INTERRUPTED = 130

#: What is wrong with one dead letter; any other refusal would be the next one's too.
_OF_ONE_LETTER = ("not_found", "conflict", "too_large", "invalid_input", "invalid_frame", "unknown_job")
#: How long `rt doctor` waits for its test event.
_ECHO_S = 15.0
_TOKEN_TTL_S = 86_400


class CommandFailed(RtError):
    """What a command could not do, in words for its user; `exit_code` is the command's."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


cli = typer.Typer(name="rt", help="Real-time AI backend: durable streams, jobs, nothing lost.")
job = typer.Typer(name="job", help="Submits, follows, cancels and lists jobs over HTTP, and runs those that failed again.")
cli.add_typer(job)

AppName = Annotated[str, typer.Argument(metavar="APP", help="module:attribute of an App.", show_default=True)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
Url = Annotated[str, typer.Option("--url", envvar="RT_URL", help="The server. Default: a running `rt dev`'s, else http://127.0.0.1:8000.")]
Token = Annotated[str, typer.Option("--token", envvar="RT_TOKEN", help="Default: made for the subject cli with RT_SECRET or .rt/secret.")]


def main() -> int:
    """The console script's entry; the exit code. Errors are one line on stderr, tracebacks only with RT_LOG_LEVEL=debug."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character shows its number; it does not end the command.
            stream.reconfigure(errors="backslashreplace")
    try:
        return typer.main.get_command(cli).main(prog_name="rt", standalone_mode=False) or 0
    except TyperException as error:
        return _error(error.format_message(), EXIT_WRONG_ARGUMENTS)
    except RtError as error:
        from rt.settings import BadSettings

        code = EXIT_WRONG_ARGUMENTS if isinstance(error, BadSettings) else EXIT_FAILED
        return _error(str(error), getattr(error, "exit_code", code))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if os.environ.get("RT_LOG_LEVEL", "").lower() == "debug":
            raise
        return _error(f"{type(error).__name__}: {error} (RT_LOG_LEVEL=debug shows where)", EXIT_FAILED)


def _error(text: str, code: int) -> int:
    print(f"error: {visible(text)}", file=sys.stderr, flush=True)
    return code


def _wrong(text: str) -> NoReturn:
    raise CommandFailed(text, EXIT_WRONG_ARGUMENTS)


@cli.callback(invoke_without_command=True)
def _rt(context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Prints the version.")] = False) -> None:
    if version:
        print(f"rt {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@job.callback(invoke_without_command=True)
def _job(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


# Servers


@cli.command()
def dev(
    app: AppName = BUILT_IN,
    port: Annotated[int, typer.Option(envvar=["RT_PORT", "PORT"], min=0, max=65535, help="0: any free one.")] = 8000,
    host: Annotated[str, typer.Option(envvar="RT_HOST")] = "127.0.0.1",
    reload: Annotated[
        bool,
        typer.Option(
            "--reload/--no-reload",
            help="Takes up what is saved of APP's Python files (in this folder and APP's). The built-in APP has none; "
            "nor does it work with memory://, where one process does all.",
        ),
    ] = True,
) -> int:
    """Runs everything here: web, worker and, without REDIS_URL, a private Redis. Ctrl-C ends it.

    A job that a reload interrupts is run by the new code, and clients come back by themselves. SIGUSR1 kills the worker, to see
    what that costs.
    """
    from rt.dev import run

    def serve_here(env: dict[str, str]) -> int:
        os.environ.update(env)
        from rt.api.serve import serve_all

        settings = _start_settings()
        return serve_all(load_app(app), settings)

    return run(app, host, port, reload=reload and app != BUILT_IN, serve_here=serve_here)


@cli.command()
def web(
    app: AppName = BUILT_IN,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: PORT, else 8000. 0: any free one.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: RT_HOST, else every interface.")] = None,
    fd: Annotated[int | None, typer.Option(help="A listening socket that this process was given, instead of HOST and PORT.")] = None,
) -> int:
    """Serves HTTP and WebSockets until SIGTERM. Needs REDIS_URL and RT_SECRET."""
    settings = _start_settings(**{name: value for name, value in (("port", port), ("host", host)) if value is not None})
    if settings.secret is None:
        _wrong("RT_SECRET is not set: set it to 32 bytes or more that all web processes share, or use `rt dev`, which makes one")
    if "WEB_CONCURRENCY" in os.environ:
        print("WEB_CONCURRENCY is ignored: one `rt web` is one process; start more of them instead", file=sys.stderr)
    from rt.api.serve import serve_web

    return serve_web(load_app(app), settings, fd)


@cli.command()
def worker(app: AppName = BUILT_IN) -> int:
    """Runs jobs until SIGTERM. Needs REDIS_URL."""
    settings = _start_settings()
    from rt.jobs.worker import serve_worker

    return serve_worker(load_app(app), settings)


@cli.command(hidden=True)
def check(app: AppName = BUILT_IN) -> int:
    """Imports APP, as `rt dev` does with what was saved. Where that fails: the traceback, from the application's own lines on."""
    try:
        load_app(app)
    except CommandFailed as failed:
        error = failed.__context__
        if error is None:
            raise
        while error.__traceback__ and _is_machinery(error.__traceback__.tb_frame.f_code.co_filename):
            error.__traceback__ = error.__traceback__.tb_next
        traceback.print_exception(error)
        return failed.exit_code
    return 0


def _is_machinery(file: str) -> bool:
    return file in (__file__, import_module.__code__.co_filename) or file.startswith("<frozen importlib")


def _start_settings(**over: object) -> "Settings":
    """The settings of a server, with logging set up. Raises BadSettings and CommandFailed."""
    from rt.settings import load_settings

    settings = load_settings(**over)
    if not settings.redis_url:
        _wrong("REDIS_URL is not set: set it to your Redis (redis://host:6379/0), or use `rt dev`, which starts a private one")
    from rt.telemetry import configure_logging

    configure_logging(settings)
    return settings


def load_app(name: str) -> "App":
    """The App that `module:attribute` names; the working directory is searched first. Raises CommandFailed that says what is wrong."""
    from rt.app import App

    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        _wrong(f"APP is module:attribute, like {BUILT_IN}; {name!r} is not")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            _wrong(f"APP {name}: there is no module {error.name!r} in {os.getcwd()} or among the installed packages")
        _wrong(f"APP {name}: importing {module_name} failed: {_where(error)}")
    except Exception as error:
        if os.environ.get("RT_LOG_LEVEL", "").lower() == "debug":
            raise
        _wrong(f"APP {name}: importing {module_name} failed: {_where(error)}")
    if not hasattr(module, attribute):
        _wrong(f"APP {name}: the module {module_name!r} has no {attribute!r}")
    found = getattr(module, attribute)
    if not isinstance(found, App):
        _wrong(f"APP {name}: {attribute!r} is not an rt.App but of type {type(found).__name__}")
    return found


def _where(error: Exception) -> str:
    """An error in somebody's module: what, and in which line of which file."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error}"  # its text names file and line
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" ({os.path.relpath(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {error}{place}"


# Tokens and the doctor


@cli.command()
def token(
    sub: Annotated[str, typer.Option("--sub", help="The subject: who the token is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="Repeatable, or several with commas or spaces. Default: all but notifications:send and admin.")
    ] = None,
    ttl: Annotated[int, typer.Option(min=1, help="Seconds.")] = 3600,
    tenant: Annotated[str | None, typer.Option(help="Default: none, the one that is called -.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prints a token, signed with RT_SECRET or with the secret that `rt dev` keeps in .rt."""
    from rt.tokens import DEFAULT_SCOPES, mint

    secret = _secret()
    if secret is None:
        _wrong("nothing to sign with: set RT_SECRET, or call this in (or below) a folder where `rt dev` has run")
    scopes = [one for given in scope or [] for one in re.split(r"[\s,]+", given) if one] or list(DEFAULT_SCOPES)
    try:
        minted = mint(secret, sub, scopes, ttl, tenant)
    except ValueError as error:
        _wrong(str(error))
    print(json_line({"token": minted, "subject": sub, "scopes": scopes, "expires_in_s": ttl}) if as_json else minted)


def _secret() -> str | None:
    from rt.dev import Home
    from rt.settings import load_settings

    settings, home = load_settings(), Home.find()
    if settings.secret:
        return settings.secret.get_secret_value()
    return home.secret() if home else None


def _address(url: str, token: str) -> tuple[str, str]:
    """The server and token that were given, or those of the `rt dev` that runs here."""
    from rt.dev import Home
    from rt.tokens import DEFAULT_SCOPES, mint

    home = Home.find()
    running = home.running() if home else None
    if not token and (secret := _secret()):
        token = mint(secret, "cli", DEFAULT_SCOPES, _TOKEN_TTL_S)
    return url or (running.url if running else "http://127.0.0.1:8000"), token


@contextlib.contextmanager
def _server(url: str, token: str) -> "Iterator[HttpClient]":
    """The HTTP API of that server. What it refuses, and that it is not there, becomes CommandFailed, which says what to do."""
    from rt.client.errors import Unreachable
    from rt.client.http import HttpClient

    url, token = _address(url, token)
    try:
        with HttpClient(url, token=token, patient=False) as server:
            yield server
    except Unreachable as error:
        raise CommandFailed(f"{error}; start `rt dev`, or name one with --url or RT_URL") from None
    except Refused as error:
        hint = "\n  no token was sent: give --token, RT_TOKEN or RT_SECRET, or call this where `rt dev` has run"
        raise CommandFailed(_words(error) + (hint if error.code == "unauthorized" and not token else "")) from None


def _words(error: Refused) -> str:
    """A refusal as a person reads it: its word, its text, and a line for each wrong field."""
    lines = [f"{error.code}: {error.message}"]
    lines += [f"  {'.'.join(map(str, one.get('loc', [])))}: {one.get('msg', '')}" for one in error.details or []]
    return "\n".join(lines)


@cli.command()
def doctor(url: Url = "", token: Token = "", as_json: AsJson = False) -> int:
    """Looks at settings, Redis and workers, and sends a test event through a worker. Exit code 1 when something failed."""
    from rich.console import Console
    from rich.text import Text

    from rt.dev import Home
    from rt.doctor import diagnose

    checks = diagnose(Home.find())
    if not any(one.name == "settings" and one.status == "fail" for one in checks):
        with _server(url, token) as server:
            checks.append(_test_event(server))
    failed = any(one.status == "fail" for one in checks)
    if as_json:
        print(json_line({"ok": not failed, "checks": checks}))
    else:
        console = Console(highlight=False, soft_wrap=True)
        marks = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red"), "skip": ("–", "dim")}
        for one in checks:
            mark, style = marks[one.status]
            console.print(Text.assemble((f"{mark} ", style), f"{one.name:14}", visible(one.detail)))
            if one.todo:
                console.print(Text(f"{'':16}→ {visible(one.todo)}", style=style))
    return EXIT_FAILED if failed else 0


def _test_event(server: "HttpClient") -> "Check":
    """Whether a job goes all the way: accepted by a web process, run by a worker, read back."""
    from rt.client.errors import ClientError, Unreachable
    from rt.doctor import Check

    began = time.monotonic()
    try:
        job_id = server.submit("echo", {"text": "rt doctor"}).job_id
        while time.monotonic() < began + _ECHO_S:
            status = server.job(job_id)["status"]
            if status == "completed":
                return Check("test event", "ok", f"an echo job came back from a worker in {(time.monotonic() - began) * 1000:.0f} ms")
            if status in ("failed", "cancelled"):
                return Check("test event", "fail", f"the echo job {job_id} ended as {status}", f"`rt job watch {job_id}` says why")
            time.sleep(0.05)
        server.cancel(job_id)
    except Unreachable as error:
        return Check("test event", "skip", f"no web process to send it to: {error}")
    except ClientError as error:
        return Check("test event", "fail", str(error))
    except Refused as error:
        if error.code == "unknown_job":
            return Check("test event", "skip", f"the App at {server.url} has no job echo")
        return Check("test event", "fail", f"{server.url}: {_words(error)}", "is its RT_SECRET the one that is used here?")
    return Check("test event", "fail", f"no worker ran the echo job within {_ECHO_S:g} s", "start `rt worker` with the web's REDIS_URL")


@cli.command()
def bench(
    clients: Annotated[int, typer.Option(min=1, help="Under load, each with one job in flight.")] = 20,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the load.")] = 5.0,
    samples: Annotated[int, typer.Option(min=1, help="Jobs of the one client that is alone.")] = 30,
    url: Annotated[
        str, typer.Option("--url", envvar="RT_URL", help="Default: a running `rt dev`'s, else a private one for this run.")
    ] = "",
    token: Token = "",
    as_json: AsJson = False,
) -> int:
    """Measures a deployment by its built-in job echo, and checks every event. Exit code 1 when one was lost, repeated or out of order."""
    import asyncio

    from rt.bench import measure, private
    from rt.dev import Home

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    home = Home.find()
    with contextlib.ExitStack() as stack:
        pid = None
        if url or (home and home.running()):
            url, token = _address(url, token)
        else:
            say("no server is named and no `rt dev` runs here: a private one is measured")
            here = stack.enter_context(private())
            url, token, pid = here.url, here.token, here.pid
        figures = asyncio.run(measure(url, token, clients=clients, seconds=seconds, samples=samples, pid=pid, say=say))
    if as_json:
        print(json_line(figures.public()))
    else:
        for name, value in figures.public().items():
            print(f"{name:14} {'–' if value is None else value}")
    return EXIT_FAILED if figures.faults.any else 0


# Jobs


@job.command()
def submit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The job's registered name.")],
    fields: Annotated[list[str] | None, typer.Argument(metavar="FIELD=TEXT|FIELD:=JSON", help="Members of the input.")] = None,
    given: Annotated[str, typer.Option("--input", help="The input as a JSON object; - reads it from standard input.")] = "{}",
    stream: Annotated[str | None, typer.Option(help="Who is told: session:…, user:… or room:….")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key and input again is the same job.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Shows the job's events until it ends.")] = True,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> int:
    """Submits a job and follows it. Exit code: 0 completed, 1 failed, 3 cancelled."""
    input = _input(given, fields or [])
    with _server(url, token) as server:
        accepted = server.submit(name, input, stream=stream, idempotency_key=idempotency_key)
        if follow:
            return _follow(server, accepted.job_id, as_json)
        print(json_line(_told(accepted)) if as_json else visible(accepted.job_id))
        return 0


@job.command()
def watch(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> int:
    """Shows a job's events from its first one until it ends. Exit code: 0 completed, 1 failed, 3 cancelled."""
    with _server(url, token) as server:
        return _follow(server, job_id, as_json)


@job.command()
def cancel(
    job_id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Cancels a job; it ends as soon as its worker hears of it."""
    with _server(url, token) as server:
        status = server.cancel(job_id)
    print(json_line({"job_id": job_id, "status": status}) if as_json else visible(f"{job_id} {status}"))


@job.command("ls")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="queued, running, retrying, completed, failed or cancelled.")] = None,
    name: Annotated[str | None, typer.Option("--job", help="The job's registered name.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Lists jobs, newest first."""
    with _server(url, token) as server:
        page = server.jobs(status=status, job=name, limit=limit)
    show_items(page.items, ("job_id", "job", "status", "attempt", "created_at"), as_json)


@job.command()
def dead(
    job_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", show_default=False, help="One of them, with its input and errors.")
    ] = None,
    name: Annotated[str | None, typer.Option("--job", help="The job's registered name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Lists jobs that failed and were kept, newest first; with an ID shows one of them."""
    with _server(url, token) as server:
        if job_id is None:
            items = server.letters(job=name, limit=limit).items
            rows = [one | {"error": one["error"]["code"]} for one in items]
            show_items(items if as_json else rows, ("job_id", "job", "error", "attempts", "failed_at", "retried_as"), as_json)
        elif as_json:
            print(json_line(server.letter(job_id)))
        else:
            show_letter(server.letter(job_id))


@job.command()
def retry(
    job_ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every failed job that was not yet run again.")] = False,
    name: Annotated[str | None, typer.Option("--job", help="With --all: of this registered name alone.")] = None,
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> int:
    """Runs failed jobs again, each as another job; harmless to repeat. Exit code 1 when one could not be."""
    if bool(job_ids) == every or (name and not every):
        _wrong("give the IDs of failed jobs, or --all, with --job for those of one name; `rt job dead` lists them")
    with _server(url, token) as server:
        ids = job_ids or _to_retry(server, name)
        if not ids:
            print("there is no failed job that was not yet run again", file=sys.stderr)
            return 0
        return _retry(server, ids, as_json)


def _told(accepted: "Accepted") -> dict[str, Any]:
    """The server's answer, member for member."""
    return {name: value for name, value in asdict(accepted).items() if name != "duplicate"}


def _to_retry(server: "HttpClient", name: str | None) -> list[str]:
    """The failed jobs that were not yet run again; what failed first is run first."""
    ids, cursor = [], None
    with Progressing("listed") as progress:
        while True:
            page = server.letters(job=name, limit=100, cursor=cursor)
            ids += [one["job_id"] for one in page.items if "retried_as" not in one]
            progress.show(len(ids))
            cursor = page.next
            if cursor is None:
                return ids[::-1]


def _retry(server: "HttpClient", ids: list[str], as_json: bool) -> int:
    done: list[str] = []
    failed = 0
    try:
        with Progressing("run again", len(ids)) as progress:
            for job_id in ids:
                try:
                    answer = server.retry(job_id)
                except Refused as error:
                    if error.code not in _OF_ONE_LETTER:
                        raise
                    failed += 1
                    print(f"error: {visible(job_id)}: {visible(_words(error))}", file=sys.stderr, flush=True)
                else:
                    done.append(answer.job_id)
                    told = {"retried": job_id} | _told(answer)
                    print(json_line(told) if as_json else visible(f"{job_id}\t{answer.job_id}\t{answer.status}"), flush=True)
                progress.show(len(done) + failed)
    finally:
        if len(ids) > 1:
            rest = len(ids) - len(done) - failed
            left = f"; {rest} not tried, the same command goes on with them" if rest else ""
            print(f"{len(done)} of {len(ids)} run again{left}", file=sys.stderr)
        if done:
            print(f"watch {'it' if len(ids) == 1 else 'the last one'} with: rt job watch {visible(done[-1])}", file=sys.stderr)
    return EXIT_FAILED if failed else 0


@job.command()
def forget(
    job_ids: Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)],
    url: Url = "",
    token: Token = "",
    as_json: AsJson = False,
) -> int:
    """Deletes what was kept of failed jobs, input and errors; they are still known as failed. Exit code 1 when one could not be."""
    failed = 0
    with _server(url, token) as server:
        for job_id in job_ids:
            try:
                server.forget(job_id)
            except Refused as error:
                if error.code != "not_found":  # anything else would be wrong with the next one too
                    raise
                failed += 1
                print(f"error: {visible(job_id)}: {visible(_words(error))}", file=sys.stderr, flush=True)
            else:
                print(json_line({"forgotten": job_id}) if as_json else visible(job_id), flush=True)
    return EXIT_FAILED if failed else 0


def _input(given: str, fields: list[str]) -> dict[str, Any]:
    """`--input`'s object with the fields laid over it. A `FIELD=TEXT` is a string; the server reads numbers from it where it wants them."""
    from rt.codec import DecodeError, TooDeep, from_json_bytes

    try:
        whole = from_json_bytes(sys.stdin.read() if given == "-" else given)
    except (DecodeError, TooDeep) as error:
        _wrong(f"--input: {error}")
    if not isinstance(whole, dict):
        _wrong("--input must be a JSON object")
    for field in fields:
        key, equals, value = field.partition("=")
        if not (key.removesuffix(":") and equals):
            _wrong(f"{field!r} is neither FIELD=TEXT nor FIELD:=JSON")
        try:
            whole[key.removesuffix(":")] = from_json_bytes(value) if key.endswith(":") else value
        except (DecodeError, TooDeep) as error:
            _wrong(f"{key}: {error}")
    return whole


def _follow(server: "HttpClient", job_id: str, as_json: bool) -> int:
    """Shows events until the last one; the exit code that says how the job ended."""
    from rt.client.http import Lost, job_path

    with contextlib.closing(Screen()) as screen:
        try:
            for _, event in server.frames(f"{job_path(job_id)}/events"):
                if as_json:
                    print(json_line(event), flush=True)
                else:
                    screen.show(event)
                if event.get("final"):
                    return {"job.completed": 0, "job.cancelled": EXIT_CANCELLED}.get(event["type"], EXIT_FAILED)
        except Lost as error:
            raise CommandFailed(f"{error}; the job goes on, see it again with: rt job watch {job_id}") from None
        except KeyboardInterrupt:
            screen.close()
            print(f"the job goes on; see it again with: rt job watch {visible(job_id)}", file=sys.stderr)
    return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
