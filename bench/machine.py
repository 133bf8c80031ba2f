"""On what, and with what, it was measured."""

import json
import os
import platform
import re
import shutil
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.house import MODULES, QUEUES, ROOT
from bench.stage import PINNED
from rt.localredis import find_server

_PYTHON = ("arq", "fastapi", "uvicorn", "websockets", "uvloop", "redis", "hiredis")
_QUEUES = ("saq", "taskiq", "taskiq-redis")
_NPM = ("ws", "socket.io", "@socket.io/redis-streams-adapter", "bullmq", "ioredis")


def describe() -> dict[str, Any]:
    """Words for the report, in its order."""
    server = find_server()
    return {
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"),
        "cpu": f"{os.cpu_count()} x {_cpu()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "pinned": "web and worker on one core, Redis and the load client on the other" if PINNED else "nothing is pinned",
        "python": f"{platform.python_version()}, built {'with' if _optimised() else 'WITHOUT'} optimisations",
        "redis": f"{server.kind} {server.version}" if server else "none",
        "node": _said("node", "--version"),
        "packages": ", ".join([*_ours(), *_queues(), *_npm()]),
    }


def _optimised() -> bool:
    """A distribution's Python is; one that pyenv compiles is not, unless it is told to, and is about a quarter slower."""
    return "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "") or "-fprofile-use" in (
        sysconfig.get_config_var("PY_CORE_CFLAGS") or ""
    )


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _ours() -> list[str]:
    out = []
    for name in _PYTHON:
        try:
            out.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return out


def _queues() -> list[str]:
    if not (QUEUES / "pip").exists():
        return []
    listed = {one["name"].lower(): one["version"] for one in json.loads(_said(str(QUEUES / "pip"), "list", "--format=json") or "[]")}
    return [f"{name} {listed[name]}" for name in _QUEUES if name in listed]


def _npm() -> list[str]:
    found = [(name, MODULES / name / "package.json") for name in _NPM]
    return [f"{name} {json.loads(path.read_text())['version']}" for name, path in found if path.exists()]


def _said(*words: str) -> str:
    if not shutil.which(words[0]):
        return ""
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()
