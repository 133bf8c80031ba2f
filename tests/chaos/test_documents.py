"""Every Python program in the documents runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.stack import ROOT, Stack

PROGRAMS = [
    pytest.param(program, id=f"{page}-{number}")
    for page in ("README.md", "docs/clients.md")
    for number, program in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    if "rt.client" in program
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_documents_runs(program: str, shared: Stack, tmp_path: Path) -> None:
    env = os.environ | {"RT_URL": f"http://127.0.0.1:{shared.ports[0]}", "RT_TOKEN": shared.token()}
    done = subprocess.run([sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
