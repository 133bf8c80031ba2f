"""The load client counts what is lost, repeated and out of order. It needs node, and none of the packages."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from bench.house import BENCH

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="there is no node on PATH")


def node(code: str) -> Any:
    """What a script prints, as JSON."""
    done = subprocess.run(["node", "-e", code], cwd=BENCH / "client", capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("given", "lost", "repeated", "disordered"),
    [
        ([0, 1, 2, 3], 0, 0, 0),
        ([0, 1, 3], 1, 0, 0),
        ([0, 1, 1, 2, 3], 0, 1, 0),
        ([0, 2, 1, 3], 0, 0, 1),
        ([3, 2, 1, 0], 0, 0, 3),
        ([0, 1, 2, 3, 4], 0, 1, 0),
        ([], 4, 0, 0),
    ],
)
def test_a_journal_counts_each_fault(given: list[int], lost: int, repeated: int, disordered: int) -> None:
    found = node(f"""
        const {{ Journal, Faults }} = require('./journal.js');
        const journal = new Journal(4), faults = new Faults();
        for (const i of {given}) journal.take(i);
        faults.add(journal);
        console.log(JSON.stringify(faults));
    """)
    assert found == {"lost": lost, "repeated": repeated, "disordered": disordered}


def rt(*frames: dict[str, Any]) -> Any:
    """What our adapter makes of frames: the tokens that it hands out, and the faults."""
    return node(f"""
        const {{ rt }} = require('./adapters.js');
        const {{ Faults }} = require('./journal.js');
        const tokens = [], token = (job, i, ts) => tokens.push([job, i, ts ?? null]);
        const c = {{ faults: new Faults(), send() {{}}, ready() {{}}, token }};
        rt.opened(c);
        for (const frame of {json.dumps(frames)}) rt.frame(c, JSON.stringify(frame));
        console.log(JSON.stringify({{ tokens, ...c.faults }}));
    """)


def event(seq: int, text: str) -> dict[str, Any]:
    return {"type": "job.delta", "stream": "job:1", "seq": seq, "data": {"text": text}}


NAMED = {"type": "reply", "id": "j0", "data": {"job_id": "1", "stream": "job:1", "duplicate": False}}


def test_words_are_tokens_wherever_a_delta_was_cut_and_whenever_its_name_came() -> None:
    found = rt(event(1, "word-0 wor"), NAMED, event(2, "d-1@17.5 word-2 "))
    assert found["tokens"] == [["j0", 0, None], ["j0", 1, 17.5], ["j0", 2, None]]
    assert (found["lost"], found["repeated"]) == (0, 0)


def test_a_hole_in_a_stream_is_a_loss_and_an_old_seq_a_repetition() -> None:
    assert rt(NAMED, event(1, "word-0 "), event(4, "word-1 "))["lost"] == 2
    assert rt(NAMED, event(1, "word-0 "), event(1, "word-0 "))["repeated"] == 1


def test_a_gap_frame_and_a_failed_job_are_losses() -> None:
    assert rt({"type": "gap", "stream": "job:1", "epoch": "e", "reason": "trimmed", "from": 3, "to": 7})["lost"] == 5
    assert rt({"type": "job.failed", "stream": "job:1", "seq": 1, "final": True, "data": {"error": {}}})["lost"] == 1
