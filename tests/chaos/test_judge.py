"""The judge finds what it is there to find: each kind of broken promise, in journals made by hand."""

from typing import Any

import pytest

from tests.chaos.judge import Ledger, Record, judge, judge_effects, judge_job

META = {"epoch": "e", "seq": "6", "status": "completed"}


def event(seq: int, type: str = "job.delta", attempt: int = 1, **data: Any) -> dict[str, Any]:
    final = {"final": True} if type == "job.completed" else {}
    return {"type": type, "stream": "job:a", "seq": seq, "ts": 1000 + seq, "attempt": attempt, "data": data, **final}


def delta(seq: int, attempt: int = 1) -> dict[str, Any]:
    return event(seq, attempt=attempt, text=f"{seq} ")


LOG = [
    event(1, "job.started", worker="w"),
    delta(2),
    event(3, "job.restarted", 2, reason="lease_lost", discard_after=0),
    delta(4, 2),
    delta(5, 2),
    event(6, "job.completed", 2, result=None),
]


def ledger(*seqs: int, log: list[dict[str, Any]] = LOG) -> Ledger:
    one = Ledger("job:a")
    one.placed("e", True)
    for seq in seqs:
        one.add(log[seq - 1])
    return one


def found(one: Ledger, *, record: Record | None = None, complete: bool = True) -> list[tuple[str, int]]:
    return [(v.kind, v.count) for v in judge(one, record or Record("job:a", LOG, META), complete=complete)]


def test_a_whole_journal_is_clean_also_over_connections_that_repeat() -> None:
    assert found(ledger(1, 2, 3, 4, 5, 6)) == []
    one = ledger(1, 2, 3)
    one.reconnected()
    for seq in (2, 3, 4, 5, 6):
        one.add(LOG[seq - 1])
    assert (found(one), one.repeated) == ([], 2)


@pytest.mark.parametrize(
    ("seqs", "said"),
    [
        ((1, 2, 4, 5, 6), [("lost", 1)]),
        ((2, 3, 4, 5, 6), [("lost", 1)]),
        ((1, 2, 3), [("lost", 3)]),
        ((), [("lost", 6)]),
        ((1, 2, 2, 3, 4, 5, 6), [("repeated", 1)]),
        ((1, 3, 2, 4, 5, 6), [("disordered", 1)]),
    ],
)
def test_a_loss_a_repeat_and_a_disorder_on_one_connection(seqs: tuple[int, ...], said: list[tuple[str, int]]) -> None:
    assert found(ledger(*seqs)) == said


def test_a_hole_that_a_reconnect_leaves_is_a_loss() -> None:
    one = ledger(1, 2)
    one.reconnected()
    for seq in (4, 5, 6):
        one.add(LOG[seq - 1])
    assert found(one) == [("lost", 1)]


def test_an_overtaken_connection_s_journal_is_a_beginning() -> None:
    assert found(ledger(1, 2, 3), complete=False) == []
    assert found(ledger(1, 3), complete=False) == [("lost", 1)]


def test_another_event_under_the_same_cursor() -> None:
    changed = [*LOG[:3], delta(4, 2) | {"data": {"text": "other "}}, *LOG[4:]]
    assert found(ledger(1, 2, 3, 4, 5, 6, log=changed)) == [("disordered", 1)]
    one = ledger(1, 2, 3, 4, log=changed)
    one.reconnected()
    one.add(LOG[3])
    assert [v.kind for v in one.violations] == ["disordered"]


def test_what_the_log_has_not_is_no_event() -> None:
    short = Record("job:a", LOG[:4], META | {"seq": "4"})
    assert found(ledger(1, 2, 3, 4, 5, 6), record=short) == [("lost", 2)]


def test_two_terminals() -> None:
    twice = [*LOG, event(7, "job.completed", 2, result=None)]
    one = ledger(1, 2, 3, 4, 5, 6, 7, log=twice)
    assert [v.kind for v in one.violations] == ["terminals"]
    record = Record("job:a", twice, META | {"seq": "7"})
    assert {v.kind for v in judge_job(record, None, ["job.completed"])} == {"terminals"}


def test_an_event_after_the_end_is_found_also_when_the_journal_was_judged() -> None:
    one = ledger(1, 2, 3, 4, 5, 6)
    one.seal()
    one.reconnected()
    one.add(LOG[4])
    one.add(LOG[5])
    assert found(one) == []
    one.add(delta(7, 2))
    assert found(one) == [("terminals", 1)]


def test_a_stale_attempt() -> None:
    stale = [*LOG[:3], delta(4, 2), delta(5, 1), LOG[5]]
    assert [v.kind for v in ledger(1, 2, 3, 4, 5, 6, log=stale).violations] == ["disordered"]
    assert [v.kind for v in Record("job:a", stale, META).violations()] == ["disordered"]


@pytest.mark.parametrize(
    ("log", "meta", "said"),
    [
        (LOG, META, []),
        (LOG[:5], META | {"seq": "5", "status": "running"}, ["terminals"]),
        ([], {}, ["terminals"]),
        (LOG, META | {"status": "failed"}, ["terminals"]),
        ([*LOG[:3], delta(4, 2), event(5, "job.progress", 2), LOG[5]], META, ["lost"]),
        ([*LOG[:2], event(3, "job.restarted", 2, discard_after=2), *LOG[3:]], META, ["repeated"]),
        ([*LOG[:3], event(4, attempt=2, text="5 "), event(5, attempt=2, text="4 "), LOG[5]], META, ["disordered"]),
    ],
)
def test_a_job_ends_once_and_says_what_it_was_to_say(log: list[dict[str, Any]], meta: dict[str, str], said: list[str]) -> None:
    assert [v.kind for v in judge_job(Record("job:a", log, meta), "4 5 ", ["job.completed"])] == said


def test_a_job_that_ends_otherwise_than_it_may() -> None:
    failed = [*LOG[:5], event(6, "job.failed", 2) | {"final": True}]
    assert [v.kind for v in judge_job(Record("job:a", failed, META | {"status": "failed"}), None, ["job.completed"])] == ["terminals"]


def test_a_gap_is_believed_only_where_redis_lost_something() -> None:
    trimmed = Record("job:a", LOG[3:], META)
    gap = {"type": "gap", "epoch": "e", "reason": "trimmed", "from": 1, "to": 3}

    def told(frame: dict[str, Any], *before: int) -> Ledger:
        one = ledger(*before)
        one.gap(frame)
        for seq in (4, 5, 6):
            one.add(LOG[seq - 1])
        return one

    assert found(told(gap), record=trimmed) == []
    assert found(told(gap)) == [("lost", 1)]  # the log has what the gap says is gone
    renewed = {"type": "gap", "epoch": "f", "reason": "epoch_changed"}
    after = META | {"epoch": "f"}
    assert found(told(renewed, 1, 2, 3), record=Record("job:a", LOG[3:], after | {"past": "e:2"})) == []
    assert found(told(renewed, 1, 2, 3), record=Record("job:a", LOG[3:], after | {"past": "e:3"})) == [("lost", 1)]


def test_a_command_takes_effect_once() -> None:
    record = Record("job:a", [event(1, p="a"), event(2, p="b"), event(3, p="b"), event(4, p="c")], {"epoch": "e", "seq": "4"})

    def said(**answered: int | None) -> list[str]:
        return [v.kind for v in judge_effects(record, lambda event: event["data"].get("p"), dict(answered))]

    assert said(a=1, c=0, d=None) == []
    assert said(a=1, b=2) == ["repeated"]
    assert said(d=3) == ["lost"]
    assert said(a=2) == ["disordered"]
