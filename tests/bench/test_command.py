"""`python -m bench` as a process: a real row, without node; and Ctrl-C, which leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.house import ROOT

START = [sys.executable, "-m", "bench", "start", "--systems", "rt", "--repeats", "1", "--json"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc")


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "BENCH_HOME": str(home)}


def test_a_row_measures_real_processes_and_keeps_its_result(tmp_path: Path) -> None:
    done = subprocess.run(START, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    (sample,) = result["samples"]["rt"]
    assert len(sample["lists"]["start_ms"]) == 40
    assert all(0 < took < 5000 for took in sample["lists"]["start_ms"])
    assert sample["faults"] == {"lost": 0, "repeated": 0}
    assert result["machine"]["python"]
    assert json.loads((tmp_path / "results" / "start.json").read_text()) == result


def test_ctrl_c_ends_everything_that_was_started(tmp_path: Path) -> None:
    with subprocess.Popen(
        START, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as bench:
        log = tmp_path / "logs" / "rt.worker.log"
        until = time.monotonic() + 60
        while not (log.exists() and "ready" in log.read_text()):
            assert time.monotonic() < until
            time.sleep(0.05)
        children = children_of(bench.pid)
        assert len(children) >= 2  # Redis and the worker
        bench.send_signal(signal.SIGINT)
        assert bench.wait(30) == 130
    # One that was being started in that instant is ended by the system, with its parent, and a moment later.
    until = time.monotonic() + 10
    while running := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, running
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    """Of the main thread, which starts them all."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("words", [["nothing"], ["growth", "nothing"], ["all", "--skip", "nothing"], ["tokens", "--repeats", "0"]])
def test_a_mistyped_word_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    assert "error:" in capsys.readouterr().err
