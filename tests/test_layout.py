"""The floors of docs/design.md: a room imports only from below. Read from the imports, not run."""

from __future__ import annotations

import ast
import graphlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "vitfm"
FOUNDATION = {"config", "tree", "ranges"}
PILLARS = {"losses", "models", "data", "optim", "parallel", "checkpoint", "evals", "metrics"}
MAY_ALSO_IMPORT = {"evals": {"metrics"}}  # Evaluators draw with metrics.pictures.
ONLY = {  # Of what lies below, what these may import.
    "objectives": {"models", "losses"} | FOUNDATION,
    "train_state": {"objectives"} | FOUNDATION,
    "train_step": {"objectives", "train_state"} | FOUNDATION,
}
FLOORS = [
    FOUNDATION,
    PILLARS,
    {"objectives"},
    {"interop", "train_state", "train_step"},
    {"recipe", "run", "program", "teachers", "host", "overrides", "own_data"},
    {"bad_data", "diagnose", "evaluate", "health", "interrupt", "intervals", "results", "session", "starting"}
    | {"show", "train_lib", "workdirs"},
    {"main", "report"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: pathlib.Path) -> str:
    """Its room; the command line of a room, `python -m vitfm.evals`, stands on the floor of the main one."""
    parts = path.relative_to(PACKAGE).parts
    return "main" if parts[-1] == "__main__.py" else parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
    """Dotted names of all modules a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}, line {node.lineno}: a relative import hides its room"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def rooms_imported(path: pathlib.Path) -> set[str]:
    """The other rooms a file imports from; `vitfm` itself offers only its version and `load`."""
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("vitfm.")}
    return rooms - {room_of(path), "__version__"}


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_from_below(path: pathlib.Path):
    room = room_of(path)
    for other in rooms_imported(path):
        assert other in FLOOR, f"{room} imports {other}, which is no room"
        below = FLOOR[other] < FLOOR[room]
        side_by_side = FLOOR[other] == FLOOR[room] and room not in PILLARS
        assert below or side_by_side or other in MAY_ALSO_IMPORT.get(room, ()), f"{room} imports {other}"
        assert other in ONLY.get(room, FLOOR), f"{room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_one_room(path: pathlib.Path):
    assert room_of(path) in FLOOR, "a new room belongs on a floor of docs/design.md and of this test"
    assert len(path.read_text().splitlines()) < 300
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"torch", "tensorflow"}


def test_no_two_rooms_import_each_other():
    """Side by side on a floor, one leans on the other, never both."""
    leans: dict[str, set[str]] = {}
    for path in FILES:
        leans.setdefault(room_of(path), set()).update(rooms_imported(path))
    order = graphlib.TopologicalSorter({room: others - {room} for room, others in leans.items()})
    assert {*order.static_order()} >= {"main", "train_lib", "config"}  # It raises where there is a circle.


def test_this_test_reads_what_is_there(tmp_path: pathlib.Path):
    file = tmp_path / "x.py"
    file.write_text("import torch.nn\ndef f():\n    from vitfm.data import image\n    from vitfm import optim\n")
    assert imported(file) == {"torch.nn", "vitfm.data", "vitfm.data.image", "vitfm", "vitfm.optim"}
    assert len(FILES) > 40
