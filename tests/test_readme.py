"""The README says what is so: its settings are the program's, and the files that it names exist."""

import re
from pathlib import Path
from typing import Any

from pydantic import AliasChoices
from pydantic_core import PydanticUndefined

from rt.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    """The table as the README has it. After a change of a setting: `python -m tests.test_readme`."""
    rows = ["| variable | default | what it does |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = str(alias.choices[-1]) if isinstance(alias, AliasChoices) else f"RT_{name.upper()}"
        default = (
            ""
            if field.default in (None, "", PydanticUndefined)
            else str(field.default).lower()
            if isinstance(field.default, bool)
            else str(field.default)
        )
        rows.append(f"| `{variable}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_settings_table_is_the_program_s() -> None:
    assert settings_table() in README, "run `python -m tests.test_readme`"


def test_every_setting_says_what_it_does() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_every_file_that_the_documents_name_exists() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} names {target}"


def test_the_application_of_the_page_on_rooms_is_one() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/rooms.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "chat.py", "exec"), names)
    app = names["app"]
    assert (list(app.jobs), list(app.handlers), app.stream_policy) == (["answer"], ["ask"], names["may"])


def test_every_test_that_the_guarantees_name_exists() -> None:
    for name in re.findall(r"`(tests/[^`]+\.py)`", (ROOT / "docs/guarantees.md").read_text()):
        assert (ROOT / name).exists(), name


if __name__ == "__main__":
    start = README.index("| variable | default |")
    end = README.index("\n\n", start)
    (ROOT / "README.md").write_text(README[:start] + settings_table() + README[end:])
