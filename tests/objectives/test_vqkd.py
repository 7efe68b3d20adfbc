"""VQ-KD: codes by patch, a codebook that starts once and that predictions carry, and what makes no sense."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import train_step
from vitfm.config import ConfigError
from vitfm.losses import quantization
from vitfm.objectives import base, vqkd

SIZE, PATCH, BATCH, CODES, DIM = 24, 8, 6, 12, 5
MODEL = {"patch_size": PATCH, "hidden_dim": 16, "depth": 1, "num_heads": 2}
DECODER = {"hidden_dim": 16, "depth": 1, "num_heads": 2}


@dataclasses.dataclass(frozen=True)
class Data:
    """The facts that the objective reads."""

    image_size: int = SIZE


def means(params: Any, image: jax.Array) -> jax.Array:
    """A teacher's patches: the mean colours of a finer grid than the student's."""
    side = image.shape[1] // 4
    return image.reshape(len(image), side, 4, side, 4, -1).mean((2, 4))


TEACHER = base.Teacher(lambda key: {}, {"patches": means}, lambda image: image, None)


def made(**options: Any) -> base.Objective:
    defaults = {"model": MODEL, "decoder": DECODER, "codes": CODES, "code_dim": DIM, "data": Data(), "teacher": TEACHER}
    return vqkd.make(**{**defaults, **options})


@functools.cache
def objective() -> base.Objective:
    return made()


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)


@functools.cache
def variables() -> base.Variables:
    return jax.jit(objective().init)(jax.random.key(0), {"image": images()})


@functools.cache
def step() -> Any:
    """extra -> extra after a step, with parameters that stay."""

    def run(extra: Any, keys: jax.Array) -> Any:
        params = variables().params
        _, aux = objective().loss(params, extra, {"image": images()}, keys, jnp.int32(5))
        return aux.extra, objective().after_update(params, {**extra, **aux.extra}, jnp.int32(5))

    return jax.jit(run)


def keys(number: int) -> jax.Array:
    return train_step.example_keys(0, jnp.int32(number), BATCH)


def test_the_first_batch_starts_the_codebook_and_later_ones_move_it():
    assert not np.any(variables().extra["codebook"])
    started, first = step()(variables().extra, keys(0))
    assert np.linalg.norm(started["codebook"], axis=1) == pytest.approx(np.ones(CODES), rel=1e-5)
    other, _ = step()(variables().extra, keys(1))
    assert np.abs(other["codebook"] - started["codebook"]).max() > 0.1  # Other rows were the first centres.
    kept, second = step()(first, keys(1))
    np.testing.assert_array_equal(kept["codebook"], first["codebook"])
    used = np.asarray(kept["pull"]).any(1)
    assert used.sum() > 1
    np.testing.assert_array_equal(second["codebook"][~used], first["codebook"][~used])
    assert (np.abs(second["codebook"] - first["codebook"]).max(1) > 0)[used].any()


def test_predictions_carry_the_codebook():
    _, extra = step()(variables().extra, keys(0))
    params = objective().evaluated(variables().params, extra)
    assert params.keys() == {*variables().params, "codebook"}
    found = {name: jax.jit(objective().predict[name])(params, images()) for name in ("codes", "code_logits")}
    assert found["codes"].shape == (BATCH, 9) and found["codes"].dtype == jnp.int32
    np.testing.assert_array_equal(found["codes"], found["code_logits"].argmax(-1))
    assert np.abs(found["code_logits"]).max() <= 1 + 1e-5 and len(np.unique(found["codes"])) > 1
    assert {"embed_image", "features", "patches"} <= objective().predict.keys()


class Fixed(vqkd.Tokenizer):
    """One whose patches lie where its parameters say."""

    def encode(self, params: Any, image: Any, keys: Any = None) -> jax.Array:
        return params["points"]


def test_codes_are_in_row_major_order():
    points = quantization.unit(np.random.default_rng(0).normal(size=(1, 2, 3, DIM)))
    params = {"points": points, "codebook": points.reshape(6, DIM)}
    found = Fixed(None, None, DIM, jnp.float32).codes(params, np.zeros((1, 4, 6, 3)))
    np.testing.assert_array_equal(found, [np.arange(6)])


def test_a_code_is_closest_and_the_gradient_passes_it():
    rows = quantization.unit(np.random.default_rng(0).normal(size=(30, DIM)))
    codebook = quantization.unit(np.random.default_rng(1).normal(size=(CODES, DIM)))
    codes = quantization.nearest(rows, codebook)
    np.testing.assert_array_equal(codes, np.square(rows[:, None] - codebook).sum(-1).argmin(1))
    along = np.random.default_rng(2).normal(size=rows.shape)
    through = lambda rows, codebook: (quantization.quantized(rows, codebook, codes)[0] * along).sum()
    of_rows, of_codebook = jax.grad(through, (0, 1))(rows, codebook)
    np.testing.assert_allclose(of_rows, along, rtol=1e-6)
    assert not np.any(of_codebook)
    np.testing.assert_allclose(quantization.quantized(rows, codebook, codes)[0], codebook[codes], atol=1e-6)


def test_micro_batches_pull_as_the_whole_batch():
    """So that accumulation is exact, but for k-means, which needs the batch at once."""
    rows = quantization.unit(np.random.default_rng(0).normal(size=(30, DIM)))
    codes = np.random.default_rng(1).integers(0, CODES, 30)
    whole = quantization.pull(rows, codes, CODES)
    halves = [quantization.pull(rows[part], codes[part], CODES) for part in (slice(15), slice(15, None))]
    np.testing.assert_allclose(sum(halves) / 2, whole, atol=1e-7)
    assert (objective().accumulate, made(start="random").accumulate) == (None, "mean")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codes": 1}, r"objective\.codes = 1 must be at least 2"),
        ({"code_dim": 1}, r"objective\.code_dim = 1 must be at least 2"),
        ({"decay": 1.0}, r"objective\.decay = 1\.0 must be at least 0 and below 1"),
        ({"commitment": -0.1}, r"objective\.commitment = -0\.1 must be at least 0"),
        ({"model": {"name": "resnet"}}, r"objective\.model"),
        ({"model": {"dept": 2}}, r"config\.objective\.model\.dept: did you mean 'depth'"),
        ({"decoder": {"patch_size": 2}}, r"config\.objective\.decoder\.patch_size"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (None, r"set config\.teacher = "),
        (dataclasses.replace(TEACHER, functions={"logits": means}), r"'patches'; it offers logits"),
    ],
)
def test_a_teacher_without_patches_is_refused_before_anything_compiles(teacher: base.Teacher | None, words: str):
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(made(teacher=teacher).init, jax.random.key(0), {"image": images()})
