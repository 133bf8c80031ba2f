"""Where the benchmark keeps what it installs and measures: $BENCH_HOME, by default ~/.cache/rt-bench, never the source tree.

    node/node_modules   the load client's and the peers' packages
    queues/bin          the Python environment of SAQ and taskiq, whose redis-py is not ours
    logs, results       of the last runs

`bench/peers/setup` makes the first two.
"""

import os
import shutil
from pathlib import Path

HOME = Path(os.environ.get("BENCH_HOME", "~/.cache/rt-bench")).expanduser().resolve()
BENCH = Path(__file__).parent
PEERS = BENCH / "peers"
ROOT = BENCH.parent
MODULES = HOME / "node" / "node_modules"
QUEUES = HOME / "queues" / "bin"

_ASK = "run bench/peers/setup"


def missing(needs: tuple[str, ...]) -> str | None:
    """Why something cannot run here: the first of the needs ("node", an npm package as "npm:bullmq", "queues") that is not there."""
    for need in needs:
        kind, _, name = need.partition(":")
        if kind in ("node", "npm") and not shutil.which("node"):
            return "there is no node on PATH"
        if kind == "npm" and not (MODULES / name).exists():
            return f"the npm package {name} is not installed: {_ASK}"
        if kind == "queues" and not (QUEUES / "python").exists():
            return f"the environment of SAQ and taskiq is not installed: {_ASK}"
    return None
