"""`python -m tests.parity.table` measures every case of every family and writes docs/parity.md.

What every objective equals is taken from the first line of its own test.
"""

from __future__ import annotations

import ast
import importlib
import pathlib
import sys

import jax

from tests.objectives.specs import NAMES
from tests.parity.family import Case, Pair, measured
from tests.parity.weights import FORWARD, GRADIENT

ROOT = pathlib.Path(__file__).parents[2]
_HEAD = f"""\
# Parity

{{objectives}}

## Architectures

Every architecture that `vitfm.interop` reads, beside the class it comes from: the same random weights, float32, on a
CPU. Errors are relative, ‖ours − theirs‖ / ‖theirs‖: of the worst output, and of the gradient of a random linear
functional of all outputs by the parameter where it is worst. `tests/parity/test_families.py` holds them under
{FORWARD:g} and {GRADIENT:g}. Written by `python -m tests.parity.table`.

| family | case | format | forward | worst gradient | at |
|---|---|---|---|---|---|
"""


_OBJECTIVES = f"""\
## Objectives

What loss and gradients of every objective equal, and the test that holds it to that: on random weights, float32, values
within {FORWARD:g} and gradients by each parameter within {GRADIENT:g}, relative, where the test does not say otherwise.

| objective | | test |
|---|---|---|
"""


def objectives() -> str:
    """The first part of the page, a line for each file in `vitfm/objectives`.

    Raises:
      FileNotFoundError: an objective has no test of its own.
    """
    return _OBJECTIVES + "\n".join(_objective(name) for name in NAMES)


def _objective(name: str) -> str:
    """The line of one; SigLIP 2, which is made of others, is held to these and not to another library."""
    places = [pathlib.Path("tests", room, f"test_{name}.py") for room in ("parity", "objectives")]
    path = next((path for path in places if (ROOT / path).exists()), None)
    if path is None:
        raise FileNotFoundError(f"No test says what {name} equals: {' or '.join(map(str, places))}.")
    says = ast.get_docstring(ast.parse((ROOT / path).read_text())).splitlines()[0]
    return f"| `{name}` | {says} | [{path.name}](../{path.as_posix()}) |"


def families() -> list[str]:
    """Names of the files in `vitfm/interop/families`; those that begin with _ are shared by several."""
    return sorted(p.stem for p in (ROOT / "vitfm/interop/families").glob("*.py") if not p.stem.startswith("_"))


def cases() -> list[Case]:
    """Of every file in `tests/parity/families`."""
    found = []
    for path in sorted((ROOT / "tests/parity/families").glob("*.py")):
        if not path.stem.startswith("_"):
            found += importlib.import_module(f"tests.parity.families.{path.stem}").CASES
    return found


def row(number: int, case: Case) -> str:
    """The line of one case, measured now."""
    errors = measured(Pair(case, seed=number))
    shown = (f"{errors.forward:.1e}", f"{errors.gradient:.1e}", f"`{errors.parameter}`")
    return " | ".join(("", case.family, case.name, case.format, *shown, "")).strip()


def main() -> int:
    with jax.default_matmul_precision("highest"):
        rows = [row(number, case) for number, case in enumerate(cases())]
    page = _HEAD.format(objectives=objectives()) + "\n".join(rows) + "\n"
    (ROOT / "docs/parity.md").write_text(page)
    print(page, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
