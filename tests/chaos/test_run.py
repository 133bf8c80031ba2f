"""The long form in short: it draws three times, breaks and judges; and what it would report if something were lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.chaos.archive import Archive
from tests.chaos.faults import FAULTS, SETTINGS
from tests.chaos.judge import Violation
from tests.chaos.load import Crowd, Tab
from tests.chaos.report import BEGIN, END, Draw, Report
from tests.chaos.run import Plan, draws
from tests.chaos.stack import ROOT, Stack
from tests.helpers import eventually

#: Those that take no longer than a few seconds.
QUICK = (
    "client-cut,client-two-tabs,job-cancelled,command-repeated,worker-killed,web-killed,redis-killed,sse-cut,logs-trimmed,redis-set-back"
)
#: It draws logs-trimmed and redis-set-back at once, then client-cut, then sse-cut and web-killed.
SEED, DRAWS = 56, 3


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.chaos.run", "--out", str(folder), "--json", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_three_draws_of_faults_break_no_promise(tmp_path: Path) -> None:
    running = start(tmp_path, "--minutes", "1", "--draws", str(DRAWS), "--seed", str(SEED), "--clients", "16", "--faults", QUICK)
    said, told = running.communicate(timeout=100)
    assert said, told
    report = json.loads(said)
    assert report["violations"] == [], told
    assert running.returncode == 0
    plan = Plan(1, SEED, 16, tuple(QUICK.split(",")))
    expected = [[one.name for one in chosen] for chosen, _, _ in islice(draws(plan), DRAWS)]
    assert [one["faults"] for one in report["draws"]] == expected
    assert {"logs-trimmed", "redis-set-back", "sse-cut", "client-cut"} <= {name for names in expected for name in names}
    assert all(one["met"] > 0 for one in report["draws"] if one["faults"] == ["client-cut"])
    assert report["totals"]["delivered"] > 2_000
    assert sum(report["totals"]["ends"].values()) == report["totals"]["jobs"] > 5
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "matrix.md").read_text().startswith(BEGIN)


def test_an_interrupted_run_reports_what_it_has(tmp_path: Path) -> None:
    running = start(tmp_path, "--minutes", "30", "--clients", "4", "--faults", "client-cut")
    assert running.stderr is not None
    for line in running.stderr:
        if "client-cut" in line:
            break
    running.send_signal(signal.SIGINT)
    said, told = running.communicate(timeout=60)
    report = json.loads(said)
    assert (running.returncode, report["violations"], report["interrupted"]) == (0, [], True), told
    assert report["faults"]["client-cut"]["drawn"] > 0
    assert report["totals"]["delivered"] > 0


async def test_what_a_client_was_not_given_and_what_the_log_lacks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.load.WRITTEN_S", 0.5)
    with Stack(tmp_path, "tests.chaos.speeches:app", **SETTINGS) as stack:
        await asyncio.to_thread(stack.start, 1, 1)
        redis: Redis[bytes] = Redis.from_url(stack.redis.url)
        archive = Archive(stack.redis.folder / "redis")
        crowd = Crowd([(stack.ports[0], stack.ports[0])], redis, archive, stack.token, seed=1, clients=4)
        deaf = crowd.peers[3]
        deaf.tab = Deaf(deaf, "")
        try:
            await crowd.start()
            own = crowd.peers[1]
            await eventually(lambda: crowd.ended and own.tab.journal("room:0").seq > 6, within_s=60)
            assert crowd.violations == []
            await redis.xdel("rt:-:{room:0}:log", "3-0")
            await crowd.end(20)
        finally:
            await crowd.stop()
            await redis.aclose()  # type: ignore[attr-defined]
    said = {(one.kind, one.where, one.what) for one in crowd.violations}
    [lost] = [what for kind, where, what in said if (kind, where) == ("lost", "room:0")]
    assert "not trimmed; the log has" in lost
    assert ("lost", "room:0 of peer 3", "5 never came") in said
    assert {kind for kind, _, _ in said} == {"lost"}


class Deaf(Tab):
    """A connection that swallows one event."""

    async def _frame(self, frame: dict[str, Any]) -> None:
        if frame.get("stream") != "room:0" or frame.get("seq") != 5:
            await super()._frame(frame)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_seed_draws_the_same_again_and_every_fault_in_turn(seed: int) -> None:
    plan = Plan(1, seed, 1, tuple(FAULTS))

    def names(plan: Plan) -> list[tuple[list[str], float, float]]:
        return [([one.name for one in chosen], chance.random(), pause) for chosen, chance, pause in islice(draws(plan), 40)]

    assert names(plan) == names(plan)
    assert names(plan) != names(Plan(1, seed + 2, 1, tuple(FAULTS)))
    flat = [name for chosen, _, _ in names(plan) for name in chosen]
    assert sorted(flat[: len(FAULTS)]) == sorted(FAULTS)
    assert any(len(chosen) == 2 for chosen, _, _ in names(plan))


def reported(*violations: Violation) -> Report:
    report = Report(1, 2, "scripts/chaos", datetime(2030, 1, 1, tzinfo=UTC))
    report.draws = [Draw(["client-cut"], 1.0), Draw(["web-killed", "redis-slow"], 5.0)]
    for draw in report.draws:
        report.row(draw, "start").drawn += 1
    report.totals = dict.fromkeys(("seconds", "delivered", "jobs", "published", "reconnects", "draws"), 0)
    report.blame(list(violations))
    return report


def test_a_violation_is_counted_at_the_fault_before_it() -> None:
    def at(seconds: float) -> int:
        return int((datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).timestamp() * 1000)

    report = reported(
        Violation("lost", "room:0", "", at(2), 3), Violation("terminals", "job:a", "", at(9 - 3600)), Violation("other", "", "", at(0))
    )
    assert {name: dict(row.broken) for name, row in report.rows.items()} == {
        "client-cut": {"lost": 3},
        "two at once": {"terminals": 1},
        "none yet": {"other": 1},
    }
    assert not report.clean
    assert json.loads(report.as_json())["faults"]["client-cut"]["lost"] == 3
    assert "| client-cut | 1 | 3 | 0 | 0 | 0 | 0 | – | – | start |" in report.markdown()


def test_the_matrix_takes_the_place_of_the_last_one_in_a_document(tmp_path: Path) -> None:
    document = tmp_path / "guarantees.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    report = reported()
    report.write_into(document)
    assert document.read_text() == f"before\n{report.markdown()}after\n"
    document.write_text("no place")
    with pytest.raises(ValueError, match="has no lines"):
        report.write_into(document)
