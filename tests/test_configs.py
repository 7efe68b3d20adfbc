"""The full-size recipes are built and traced as they are, with a stand-in for ImageNet; nothing of them is computed."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import imagenet
from vitfm import program, recipe, tree
from vitfm.data import loader
from vitfm.evals import base as evaluation
from vitfm.run import eval_context

CONFIGS = {path.stem: path for path in sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*_in1k.py"))}

# What gradients move, as published.
PARAMETERS = {
    # timm's vit_small_patch16_224, without its learned positions and class token; the head has a hidden layer.
    "vit_s16_in1k": 22_050_664 - 198 * 384 + 385 * 384,
    # All of the published code's, without the fixed positions of encoder and decoder.
    "mae_b16_in1k": 111_907_840 - 197 * (768 + 512),
    # timm's vit_small_patch16_224 without its head and the class token's own position; lightly's DINOProjectionHead.
    "dino_s16_in1k": 21_665_664 - 384 + 22_286_592,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_full_size_recipes(name: str, tmp_path: pathlib.Path):
    p = program.build(recipe.parse(imagenet.load(str(CONFIGS[name]))))
    assert tree.count(p.shapes.params) == PARAMETERS[name]
    example = {key: value for key, value in p.loader.example(0).items() if key != loader.REPLACED}
    rows = lambda leaf: jax.ShapeDtypeStruct((p.recipe.batch_size, *leaf.shape), leaf.dtype)
    state, metrics = jax.eval_shape(p.step, p.shapes, jax.tree.map(rows, jax.tree.map(np.asarray, example)))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, p.shapes)
    assert metrics["loss"].shape == ()
    context = eval_context(p.data, p.objective, p.mesh, str(tmp_path))
    for evaluator, spec in p.recipe.evals.items():
        evaluation.make(evaluator, {key: value for key, value in spec.items() if key != "every"}, context)
        assert p.to_steps(spec.get("every", 0), evaluator) <= p.total
