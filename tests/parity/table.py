"""`python -m tests.parity.table` measures every case of every family and writes docs/parity.md."""

from __future__ import annotations

import importlib
import pathlib
import sys

import jax

from tests.parity.family import Case, Pair, measured
from tests.parity.weights import FORWARD, GRADIENT

ROOT = pathlib.Path(__file__).parents[2]
_HEAD = f"""\
# Parity

Every architecture that `vitfm.interop` reads, beside the class it comes from: the same random weights, float32, on a
CPU. Errors are relative, ‖ours − theirs‖ / ‖theirs‖: of the worst output, and of the gradient of a random linear
functional of all outputs by the parameter where it is worst. `tests/parity/test_families.py` holds them under
{FORWARD:g} and {GRADIENT:g}. Written by `python -m tests.parity.table`.

| family | case | format | forward | worst gradient | at |
|---|---|---|---|---|---|
"""


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
    (ROOT / "docs/parity.md").write_text(_HEAD + "\n".join(rows) + "\n")
    print(_HEAD + "\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
