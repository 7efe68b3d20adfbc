"""What the tests of every objective train: small models on the emoji, one file for each file of `vitfm/objectives`.

To add an objective, write `tests/objectives/specs/NAME.py` with `CASES`, name -> `Spec`: one by the objective's own
name, and others where a model or an option takes another path (batch statistics, a queue), which are marked `slow`,
as are those that keep nothing but parameters. Nothing else is needed: tests/test_equality.py (one device = eight, it
learns, accumulation is exact or refused) and tests/test_resume_objectives.py find it by listing the folder, and a file
that is missing here fails them by name.
Keep it small, some 64 wide and 2 deep on 32 pixels, and let what training draws (drop path, mixup) be drawn.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from tests import tiers
from vitfm.data import captions

TOWER = {"hidden_dim": 64, "depth": 2, "num_heads": 2}
VIT = {"name": "vit", "patch_size": 8, "pool": "cls", **TOWER}
RESNET = {"name": "resnet", "stem_dim": 16, "depths": (1, 1), "hidden_dims": (64, 128), "drop_path_rate": 0.3}
COLOURS = {"background": "random", "brightness": 0.3}
CAPTIONS = {"name": "name", "tags": "tags", "templates": captions.TEMPLATES}
DATA = {"source": "tfds:emoji:train", "image_size": 32, "alpha": True}


@dataclasses.dataclass(frozen=True)
class Spec:
    """One objective to be trained for some steps.

    Attributes:
      objective: of a recipe.
      data: of a recipe, beside `DATA`.
      keeps: the entries of its `extra`, exactly, but for a teacher that never moves.
      idle: patterns of parameters without a gradient, such as a bias before a batch norm: all there is of it is
        rounding, which no two meshes share. Those stay where they start, all others have to move.
      teacher: `objective` and `data` of the trained model that it learns from; None for who learns from none.
      optim: of a recipe, where AdamW at 1e-3 is not what a resumed run is to be tried with.
    """

    objective: Mapping[str, Any]
    data: Mapping[str, Any]
    keeps: tuple[str, ...] = ()
    idle: tuple[str, ...] = ()
    teacher: Mapping[str, Any] | None = None
    optim: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_OBJECTIVES = pathlib.Path(__file__).parents[3] / "vitfm/objectives"
NAMES = sorted(path.stem for path in _OBJECTIVES.glob("*.py") if path.stem not in ("__init__", "base"))


def _cases(name: str) -> dict[str, Spec]:
    """Of one objective; none where its file is missing, which `test_no_objective_is_forgotten` reports."""
    file = pathlib.Path(__file__).with_name(f"{name}.py")
    return importlib.import_module(f"{__name__}.{name}").CASES if file.exists() else {}


BY_NAME = {name: _cases(name) for name in NAMES}
CASES = {case: spec for cases in BY_NAME.values() for case, spec in cases.items()}
# At every push: who keeps something from step to step, and one of each other kind of accumulation; but SigLIP 2, which
# compiles for as long as three of them, has parts that are among the others.
FAST = {case for case, spec in CASES.items() if case in BY_NAME and (spec.keeps or case in ("clip", "mae"))}
FAST.discard("siglip2")
EACH = tiers.slow_unless(FAST.__contains__, CASES)
