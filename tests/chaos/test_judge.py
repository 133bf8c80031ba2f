"""The judge finds what it is there to find: each kind of broken promise, in journals made by hand."""

import json
from typing import Any

import pytest

from tests.chaos.archive import History, of
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


def known(log: list[dict[str, Any]] = LOG, meta: dict[str, str] = META) -> Record:
    return Record(of("job:a", log, "e"), meta)


def ledger(*seqs: int, log: list[dict[str, Any]] = LOG) -> Ledger:
    one = Ledger("job:a")
    one.placed("e", True)
    for seq in seqs:
        one.add(log[seq - 1])
    return one


def found(one: Ledger, *, record: Record | None = None, complete: bool = True) -> list[tuple[str, int]]:
    return [(v.kind, v.count) for v in judge(one, record or known(), complete=complete)]


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
    short = known(LOG[:4], META | {"seq": "4"})
    assert found(ledger(1, 2, 3, 4, 5, 6), record=short) == [("lost", 2)]


def test_two_terminals() -> None:
    twice = [*LOG, event(7, "job.completed", 2, result=None)]
    one = ledger(1, 2, 3, 4, 5, 6, 7, log=twice)
    assert [v.kind for v in one.violations] == ["terminals"]
    record = known(twice, META | {"seq": "7"})
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
    assert [v.kind for v in known(stale).violations()] == ["disordered"]


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
    assert [v.kind for v in judge_job(known(log, meta), "4 5 ", ["job.completed"])] == said


def test_a_job_that_ends_otherwise_than_it_may() -> None:
    failed = [*LOG[:5], event(6, "job.failed", 2) | {"final": True}]
    assert [v.kind for v in judge_job(known(failed, META | {"status": "failed"}), None, ["job.completed"])] == ["terminals"]


SNAPSHOT = {"seq": 4, "data": {"status": "running", "attempt": 2, "text": "4 "}}


def trimmed(first: int = 5) -> Record:
    """Its log begins at 5, and began at 3 for a while."""
    history = of("job:a", LOG, "e")
    history.trim(3)
    history.trim(first)
    return Record(history, META)


def told(
    *before: int, first: int = 1, last: int = 4, snapshot: dict[str, Any] | None = SNAPSHOT, after: tuple[int, ...] = (5, 6)
) -> Ledger:
    """A journal that was told of a gap, and of what follows."""
    one = ledger(*before)
    frame = {"type": "gap", "epoch": "e", "reason": "trimmed", "from": first, "to": last}
    one.gap(frame | ({"snapshot": snapshot} if snapshot else {}))
    for seq in after:
        one.add(LOG[seq - 1])
    return one


def test_a_gap_over_what_was_trimmed_is_no_loss() -> None:
    assert found(told(), record=trimmed()) == []
    assert found(told(1, first=2), record=trimmed()) == []
    told_twice = told(last=2, snapshot=SNAPSHOT | {"seq": 2, "data": SNAPSHOT["data"] | {"attempt": 1, "text": "2 "}}, after=())
    assert found(told_twice, record=trimmed()) == [("lost", 4)]  # and then it stood still


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (told(last=3, snapshot=None, after=(4, 5, 6)), ("lost", 1)),  # the log never began at 4
        (told(1, 2, 3, first=2), ("lost", 1)),  # it has 2 and 3
        (told(1, first=3), ("lost", 1)),  # 2 is not named
        (told(snapshot=None), ("lost", 1)),  # nothing was said of what was missed
        (told(snapshot=SNAPSHOT | {"seq": 3}), ("lost", 1)),
        (told(snapshot=SNAPSHOT | {"data": {"status": "running", "attempt": 2}}), ("lost", 1)),  # its text could be told
        (told(snapshot=SNAPSHOT | {"data": SNAPSHOT["data"] | {"text": "2 4 "}}), ("disordered", 1)),
        (told(snapshot=SNAPSHOT | {"data": SNAPSHOT["data"] | {"attempt": 1}}), ("disordered", 1)),
        (told(snapshot=SNAPSHOT | {"data": SNAPSHOT["data"] | {"status": "failed"}}), ("terminals", 1)),
        (told(snapshot=SNAPSHOT | {"data": SNAPSHOT["data"] | {"status": "completed", "result": 5}}), ("disordered", 1)),
        (told(snapshot=SNAPSHOT | {"data": SNAPSHOT["data"] | {"status": "odd"}}), ("disordered", 1)),
        (told(after=()), ("lost", 2)),  # who was told, and then stands still
        (told(after=(6,)), ("lost", 1)),
    ],
)
def test_a_gap_that_is_not_as_it_should_be(gap: Ledger, said: tuple[str, int]) -> None:
    assert said in found(gap, record=trimmed())


def test_a_gap_over_what_redis_still_has() -> None:
    assert ("lost", 1) in found(told())


def test_a_text_that_cannot_be_told_is_not_missed() -> None:
    log = [*LOG[:3], event(4, attempt=2, data={"w": "4 "}), *LOG[4:]]
    history = of("job:a", log, "e")
    history.trim(5)
    one = ledger(log=log)
    one.gap({"epoch": "e", "reason": "trimmed", "from": 1, "to": 4, "snapshot": {"seq": 4, "data": {"status": "running", "attempt": 2}}})
    for seq in (5, 6):
        one.add(log[seq - 1])
    assert found(one, record=Record(history, META)) == []


def test_a_job_s_end_may_be_told_by_a_snapshot_alone() -> None:
    one = told(last=6, snapshot={"seq": 6, "data": {"status": "completed", "attempt": 2, "result": None, "text": "4 5 "}}, after=())
    assert (one.over, found(one, record=trimmed(7))) == (True, [])
    assert not told().over or told().final


def set_back(upto: int, *, epoch: str = "f", first: int = 1) -> History:
    """Redis lost what came after `upto`, and went on with the same events but one second later."""
    history = of("job:a", LOG, "e")
    history.trim(first)
    history.set_back(upto + 1)
    if epoch != "e":
        history.begin(epoch, 100)
    for one in LOG[upto:]:
        history.add(one["seq"], json.dumps(one | {"ts": one["ts"] + 1000}).encode(), 100 + one["seq"])
    return history


def renewed(*before: int, begins: int = 1, upto: int = 3) -> Ledger:
    """Had events of the old epoch, was told that it changed, and has what is there now."""
    one = ledger(*before)
    one.gap({"type": "gap", "epoch": "f", "reason": "epoch_changed"})
    for event in LOG[begins - 1 :]:
        one.add(event | {"ts": event["ts"] + 1000 * (event["seq"] > upto)})
    return one


def test_a_new_epoch_is_told_to_who_has_what_redis_lost_and_to_nobody_else() -> None:
    record = Record(set_back(3), META | {"epoch": "f"})
    assert record.violations() == []
    assert found(renewed(1, 2, 3, 4), record=record) == []
    assert found(renewed(1, 2, 3), record=record) == [("lost", 1)]  # nothing of it was lost
    assert found(renewed(1, 2, 3, 4, begins=3), record=record) == [("lost", 2)]  # it begins where the log never did
    moved = ledger(1, 2, 3)
    moved.placed("f", True)
    for event in LOG[3:]:
        moved.add(event | {"ts": event["ts"] + 1000})
    assert found(moved, record=record) == []


def test_what_was_given_before_an_epoch_changed_counts_as_well() -> None:
    record = Record(set_back(3), META | {"epoch": "f"})
    assert found(renewed(1, 2, 4), record=record) == [("lost", 1)]
    other = ledger(1, 2, 3, 4, log=[*LOG[:3], delta(4, 2) | {"data": {"text": "other "}}])
    other.gap({"type": "gap", "epoch": "f", "reason": "epoch_changed"})
    assert ("disordered", 1) in found(other, record=record, complete=False)


def test_who_has_what_redis_lost_is_told_so() -> None:
    record = Record(set_back(3), META | {"epoch": "f"})
    assert found(ledger(1, 2, 3, 4), record=record) == [("lost", 1)]
    assert found(ledger(1, 2, 3, 4, 5, 6), record=record) == []  # who has the job's end does not follow it any more


def test_another_event_under_the_same_epoch_after_redis_was_set_back() -> None:
    record = Record(set_back(3, epoch="e"), META)
    assert {v.kind for v in record.violations()} == {"disordered"}


def test_a_job_that_redis_has_lost_need_not_end() -> None:
    history = of("job:a", LOG[:4], "e")
    history.set_back(1)
    assert judge_job(Record(history, {}), "4 5 ", ["job.completed"]) == []
    history = of("job:a", LOG[:4], "e")
    history.set_back(2)
    assert [v.kind for v in judge_job(Record(history, {"seq": "1", "epoch": "e"}), "4 5 ", ["job.completed"])] == ["terminals"]


def test_the_log_and_the_top_are_those_that_were_written() -> None:
    assert [v.kind for v in known(LOG, META | {"seq": "5"}).violations()] == ["lost"]


def test_a_command_takes_effect_once() -> None:
    log = [event(1, p="a"), event(2, p="b"), event(3, p="b"), event(4, p="c")]
    record = known(log, {"epoch": "e", "seq": "4"})

    def said(**answered: int | None) -> list[str]:
        return [v.kind for v in judge_effects(record, lambda event: event["data"].get("p"), dict(answered))]

    assert said(a=1, c=0, d=None) == []
    assert said(a=1, b=2) == ["repeated"]
    assert said(d=3) == ["lost"]
    assert said(a=2) == ["disordered"]
    record.history.set_back(4)
    record = Record(record.history, {"epoch": "e", "seq": "3"})
    assert said(c=4) == []  # Redis lost it
    assert said(a=2) == ["disordered"]
