"""Who looks for each patch at its place refuses encoders that leave patches out; others take them."""

from __future__ import annotations

import pytest

from tests.objectives import specs
from vitfm import recipe as recipes
from vitfm.config import ConfigError

OF_PLACES = ("aim", "beit", "dinov2", "mae", "simmim", "vqkd", "distill")


def make(name: str) -> None:
    """The objective of the spec of a name, its encoder with patch dropout."""
    spec = specs.CASES[name]
    model = {**spec.objective.get("model", {}), "patch_dropout": 0.25}
    objective = {**spec.objective, "model": model} | ({"patches": 1.0} if name == "distill" else {})
    recipe = recipes.parse({"objective": objective, "data": {**specs.DATA, **spec.data}, "total": 1, "batch_size": 1})
    recipes.make_objective(recipe, recipes.make_data(recipe), lambda value, where: lambda step: value)


@pytest.mark.parametrize("name", OF_PLACES)
def test_patch_dropout_is_refused_where_patches_have_places(name: str):
    with pytest.raises(ConfigError, match=r"config\.objective\.model\.patch_dropout = 0\.25 leaves patches out"):
        make(name)


@pytest.mark.parametrize("name", ["dino", "simclr", "triplet"])
def test_it_is_taken_where_they_have_none(name: str):
    make(name)
