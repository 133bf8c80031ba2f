"""The rules of the house: which way imports point, who knows which library, what stays pure."""

import ast
import importlib
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import rt

PACKAGE = Path(rt.__file__).parent
ROOT = PACKAGE.parent

#: From the ground up: a module imports from lines above its own, and within its line without a cycle; never from below.
LINES: list[tuple[str, set[str]]] = [
    ("the package", {"rt"}),
    (
        "vocabulary",
        {
            "rt.errors",
            "rt.settings",
            "rt.events",
            "rt.codec",
            "rt.cursor",
            "rt.keys",
            "rt.gate",
            "rt.telemetry",
            "rt.pipeline",
            "rt.sentinel",
            "rt.redis",
            "rt.inspect",
            "rt.tokens",
            "rt.localredis",
            "rt.signals",
        },
    ),
    ("the way back", {"rt.streams"}),
    ("work", {"rt.jobs", "rt.app"}),
    ("one life each", {"rt.actors"}),
    ("the roof", {"rt.api"}),
    ("front doors", {"rt.cli", "rt.screen", "rt.sources", "rt.children", "rt.dev", "rt.doctor", "rt.bench", "rt.builtin", "rt.client"}),
]

#: Who may know a library. A name stands for its whole package.
LIBRARIES: dict[str, set[str]] = {
    "redis": {"rt.redis", "rt.pipeline", "rt.sentinel", "rt.streams", "rt.jobs"},
    "fakeredis": {"rt.redis"},
    "arq": {"rt.jobs.queue", "rt.jobs.worker"},
    "fastapi": {"rt.api"},
    "starlette": {"rt.api"},
    "uvicorn": {"rt.api"},
    "websockets": {"rt.api", "rt.bench", "rt.client.link"},
    "ormsgpack": {"rt.codec"},
    "pydantic_core": {"rt.codec"},
    "json": {"rt.codec"},
    "orjson": set(),
    "msgpack": set(),
    "pickle": {"rt.jobs.payload"},
    "jwt": {"rt.tokens"},
    "structlog": {"rt.telemetry"},
    "logging": {"rt.telemetry"},
    # The route that shows the numbers; they are counted through `rt.telemetry`.
    "prometheus_client": {"rt.telemetry", "rt.api.health"},
    "typer": {"rt.cli"},
    "rich": {"rt.cli", "rt.screen"},
    "httpx2": {"rt.jobs.models.openai", "rt.client.http"},
}

#: Modules that decide and do nothing: no await, no clock, no I/O. Beside each, what it may draw by chance, and why.
PURE: dict[str, set[str]] = {
    "rt.errors": set(),
    "rt.events": set(),
    "rt.codec": {"secrets"},  # a word that no client can guess marks its own
    "rt.cursor": {"secrets"},  # a new epoch
    "rt.keys": set(),
    "rt.streams.replay": set(),
    "rt.streams.timeline": set(),
    "rt.jobs.job": {"random"},  # jitter; a test gives its own
    "rt.actors.messages": set(),
    "rt.actors.session": set(),
    "rt.actors.router": set(),
    "rt.actors.frames": set(),
    "rt.client.errors": set(),
    "rt.client.events": set(),
    "rt.client.messages": set(),
    "rt.client.backoff": {"random"},  # jitter; a test gives its own
    "rt.client.transcript": set(),
    "rt.client.session": set(),
}
IMPURE = {"asyncio", "threading", "time", "datetime", "random", "secrets", "uuid", "socket", "os", "subprocess", "pathlib", "io"}

#: Modules that load others only when they need them: a command line that answers at once, and one of two models.
LAZY = {"rt.cli", "rt.jobs.models"}


class Import(NamedTuple):
    module: str
    line: int
    at_top: bool
    for_types: bool


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def imports(name: str) -> Iterator[Import]:
    """Every module that a module imports, `from package import module` included."""

    def walk(node: ast.AST, at_top: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            top = at_top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            types = for_types or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
            if isinstance(child, ast.Import):
                for one in child.names:
                    yield Import(one.name, child.lineno, top, types)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno} imports relatively"
                assert child.module
                for one in child.names:
                    whole = f"{child.module}.{one.name}"
                    yield Import(whole if whole in MODULES else child.module, child.lineno, top, types)
            else:
                yield from walk(child, top, types)

    return walk(TREES[name], True, False)


IMPORTS = {name: list(imports(name)) for name in MODULES}


def line_of(name: str) -> int:
    for number, (_, members) in enumerate(LINES[1:], start=1):
        if any(name == one or name.startswith(f"{one}.") for one in members):
            return number
    assert name == "rt", f"{name} lives on no line of the house: write it into LINES"
    return 0


def within(name: str, allowed: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def test_every_module_has_its_line() -> None:
    for name in MODULES:
        line_of(name)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_upwards(name: str) -> None:
    for one in IMPORTS[name]:
        if one.module.split(".")[0] == "rt" and not (name == "rt" and one.for_types):
            assert line_of(one.module) <= line_of(name), f"{name}:{one.line} imports {one.module} from below"


def test_imports_make_no_cycle() -> None:
    graph = {
        name: {one.module for one in found if one.at_top and not one.for_types and one.module in MODULES and one.module != name}
        for name, found in IMPORTS.items()
    }
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names them


def test_no_import_within_a_function_hides_a_cycle() -> None:
    for name, found in IMPORTS.items():
        hidden = [one for one in found if not one.at_top and one.module.split(".")[0] == "rt"]
        assert not hidden or name in LAZY, f"{name}:{hidden[0].line} imports {hidden[0].module} within a function"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_known_where_it_belongs_and_nowhere_else(library: str) -> None:
    for name, found in IMPORTS.items():
        for one in found:
            if one.module.split(".")[0] == library:
                assert within(name, LIBRARIES[library]), f"{name}:{one.line} knows {library}"


def test_arq_is_known_to_two_files() -> None:
    knowing = {name for name, found in IMPORTS.items() if any(one.module.split(".")[0] == "arq" for one in found)}
    assert knowing == {"rt.jobs.queue", "rt.jobs.worker"}


def test_the_client_needs_the_vocabulary_alone() -> None:
    for name, found in IMPORTS.items():
        if within(name, {"rt.client"}):
            for one in found:
                if one.module.split(".")[0] == "rt":
                    assert line_of(one.module) <= 1 or within(one.module, {"rt.client"}), f"{name}:{one.line} imports {one.module}"
                    assert one.module != "rt.redis"


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_waits_for_nothing_and_reads_no_clock(name: str) -> None:
    for node in ast.walk(TREES[name]):
        assert not isinstance(node, ast.Await | ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith), f"{name}:{node.lineno} waits"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("open", "print", "input"), f"{name}:{node.lineno} does I/O"
    for one in IMPORTS[name]:
        root = one.module.split(".")[0]
        assert root not in IMPURE - PURE[name], f"{name}:{one.line} imports {one.module}"
    unused = PURE[name] - {one.module.split(".")[0] for one in IMPORTS[name]}
    assert not unused, f"{name} no longer needs {unused}"


def test_every_script_is_loaded_by_somebody_and_every_loaded_one_is_there() -> None:
    there = {str(path.relative_to(PACKAGE).with_suffix("")) for path in PACKAGE.rglob("*.lua")}
    loaded = set()
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load_script":
                loaded |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    assert loaded == there


def test_every_script_says_what_it_takes() -> None:
    for path in PACKAGE.rglob("*.lua"):
        head = path.read_text().split("\n\n")[0]
        assert head.startswith("-- "), path
        assert "Library" in head or "KEYS" in head, path


def test_public_names_are_there_and_listed_once() -> None:
    assert rt.__all__ == sorted(rt.__all__)
    for name in rt.__all__:
        assert getattr(rt, name) is not None
    homes = vars(rt)["_HOMES"]
    assert set(rt.__all__) == {*homes, "__version__"}
    for name, home in homes.items():
        assert getattr(rt, name) is getattr(importlib.import_module(home), name)
    for_types = {one.module for one in IMPORTS["rt"] if one.for_types}
    assert for_types == set(homes.values())
    with pytest.raises(AttributeError):
        rt.nothing  # noqa: B018


def test_no_task_is_made_and_forgotten() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
                call = node.value.func
                if call.attr in ("create_task", "ensure_future"):
                    # A TaskGroup keeps what it makes, and waits for it.
                    owner = ast.unparse(call.value)
                    assert owner.endswith(("group", "tasks")), f"{name}:{node.lineno} makes a task that nobody owns"


def test_no_except_swallows_a_cancel() -> None:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                bare = node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "BaseException")
                named = node.type is not None and "CancelledError" in ast.dump(node.type)
                if bare or named:
                    raises = any(isinstance(one, ast.Raise) for one in ast.walk(node))
                    assert raises, f"{name}:{node.lineno} may swallow a CancelledError"


# Joined, so that this file does not hold them itself.
FORBIDDEN = re.compile(
    "|".join(["/" + "work" + r"\b", "/".join(["shared", "(design|notes)"]), "/" + "root" + r"\b", "/" + "home" + r"/\w"])
)
SKIPPED = {"__pycache__", "node_modules", "dist", "build"}


def texts() -> Iterator[tuple[Path, str]]:
    for top in sorted(ROOT.iterdir()):
        if top.name.startswith(".") or top.name in SKIPPED:
            continue
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not SKIPPED & set(path.parts) and not path.name.startswith("."):
                try:
                    yield path, path.read_text()
                except UnicodeDecodeError:
                    continue  # an image, a font


def test_no_file_names_a_place_on_somebody_s_machine() -> None:
    for path, text in texts():
        found = FORBIDDEN.search(text)
        assert not found, f"{path.relative_to(ROOT)} holds {found[0]!r}"


def test_no_file_holds_both_sides_of_a_merge() -> None:
    for path, text in texts():
        assert not re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE), path.relative_to(ROOT)
