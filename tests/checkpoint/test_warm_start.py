"""Each parameter of a run that starts from another is taken, resized or fresh, or the start is refused by name."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitfm import tree
from vitfm.checkpoint import warm_start
from vitfm.checkpoint.manager import CheckpointError, Checkpoints
from vitfm.config import ConfigError, UserError
from vitfm.models import resizing, stem

STEP = 30


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def encoder(grid: int = 4, seed: int = 0) -> dict[str, Any]:
    blocks = {"kernel": array(3, 8, 8, seed=seed + 2), "scale": array(3, 8, seed=seed + 3)}
    return {
        "stem": {"kernel": array(12, 8, seed=seed)},
        "position": array(grid, grid, 8, seed=seed + 1),
        "transformer": {"blocks": blocks},
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with an encoder, a decoder, a teacher and averaged weights."""
    params = {"encoder": encoder(), "decoder": {"kernel": array(8, 12)}, "head": {"kernel": array(8, 5)}}
    state = {
        "params": params,
        "extra": {"teacher": {"encoder": encoder(seed=50)}},
        "ema": {"encoder": encoder(seed=90)},
    }
    workdir = tmp_path_factory.mktemp("runs") / "mae"
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(STEP - 10, jax.tree.map(np.zeros_like, state), {})
        checkpoints.save(STEP, state, {})
    return str(workdir)


def classifier(grid: int = 4, classes: int = 7, **more: Any) -> dict[str, Any]:
    return {"encoder": encoder(grid, seed=200), "head": {"kernel": np.zeros((8, classes), np.float32)}, **more}


def start(run: str, params: Any, **options: Any) -> warm_start.Start:
    return warm_start.make(run=run, params=params, resizing=lambda options: resizing.make(**options), **options)


def assert_same(ours: Any, theirs: Any) -> None:
    ours, theirs = dict(tree.named_leaves(ours)), dict(tree.named_leaves(theirs))
    assert ours.keys() == theirs.keys()
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(ours[name], leaf, err_msg=name)


def test_the_encoder_is_taken_and_the_head_is_fresh(run: str):
    found = start(run, classifier())
    assert_same(found.leaves, {"encoder": encoder()})
    assert {row.what for row in found.rows} == {"taken", "fresh"}
    assert found.lineage["run"] == run and found.lineage["step"] == STEP
    assert found.lineage["fresh"] == ["head/kernel"]
    assert "encoder/transformer/blocks/kernel" in found.lineage["taken"]


def test_shapes_suffice(run: str):
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, classifier()))
    assert_same(start(run, shapes).leaves, {"encoder": encoder()})


def test_positions_are_resized_to_the_grid(run: str):
    found = start(run, classifier(grid=6))
    expected = jax.image.resize(encoder()["position"], (6, 6, 8), "cubic")
    np.testing.assert_array_equal(found.leaves["encoder/position"], expected)
    assert found.lineage["resized"] == {"encoder/position": "antialiased, grid 4 x 4 -> 6 x 6"}
    (row,) = [row for row in found.rows if row.what == "resized"]
    assert (row.before, row.after) == ((4, 4, 8), (6, 6, 8))


@pytest.mark.parametrize(
    ("source", "seed"),
    [("encoder", 0), ("params/encoder/", 0), ("extra/teacher/encoder", 50), ("ema/encoder", 90)],
)
def test_any_part_of_the_state_can_be_taken(run: str, source: str, seed: int):
    assert_same(start(run, classifier(), take={"encoder": source}).leaves, {"encoder": encoder(seed=seed)})


def test_parts_change_their_names(run: str):
    params = {"image": {"tower": encoder(), "projection": array(8, 4)}, "text": array(3), "logit_scale": np.float32(1)}
    found = start(run, params, take={"image/tower": "encoder"}, fresh=["projection", "^text", "logit_scale"])
    assert_same(found.leaves, {"image": {"tower": encoder()}})


def test_the_longest_prefix_counts(run: str):
    take = {"encoder": "encoder", "encoder/position": "ema/encoder/position"}
    expected = {"encoder": {**encoder(), "position": encoder(seed=90)["position"]}}
    assert_same(start(run, classifier(), take=take).leaves, expected)


def test_what_is_fresh_is_left_in_the_run(run: str):
    found = start(run, classifier(), fresh=["head", "position"])
    assert "encoder/position" not in found.leaves
    assert found.lineage["fresh"] == ["encoder/position", "head/kernel"]


def test_a_head_that_is_taken_is_not_fresh(run: str):
    found = start(run, classifier(classes=5), take={"encoder": "encoder", "head": "head"})
    assert_same(found.leaves, {"encoder": encoder(), "head": {"kernel": array(8, 5)}})
    assert start(run, {"encoder": encoder()}).lineage["fresh"] == []


def resnet(seed: int, width: int = 8) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and running statistics."""
    stem = {"kernel": array(7, 7, 3, width, seed=seed)}
    return {"encoder": {"stem": stem}}, {"batch_stats": {"stem_norm": {"mean": array(width, seed=seed + 1)}}}


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run whose encoder has batch normalisation."""
    params, extra = resnet(0)
    workdir = tmp_path_factory.mktemp("normed")
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(STEP, {"params": params, "extra": {**extra, "queue": array(4)}}, {})
    return str(workdir)


def test_running_statistics_come_along(normed: str):
    params, extra = resnet(20)
    found = start(normed, {**params, "extra": extra})
    expected, statistics = resnet(0)
    assert_same(found.leaves, {**expected, "extra": statistics})
    assert "extra/batch_stats/stem_norm/mean" in found.lineage["taken"]
    here = {**params, "extra": extra}
    assert_same(warm_start.onto(found, jax.tree.map(jnp.asarray, here)), {**expected, "extra": statistics})
    fresh = start(normed, {**params, "extra": extra}, fresh=["batch_stats"])
    assert fresh.lineage["fresh"] == ["extra/batch_stats/stem_norm/mean"]
    _, wide = resnet(20, width=9)
    with pytest.raises(CheckpointError, match=r"extra/batch_stats/stem_norm/mean \(there \[8\], here \[9\]\)"):
        start(normed, {**params, "extra": wide})


def test_running_statistics_that_are_not_there_are_missed(run: str):
    _, extra = resnet(20)
    with pytest.raises(CheckpointError, match="nothing at 'extra/batch_stats'"):
        start(run, {**classifier(), "extra": extra})


def test_what_is_resized_says_how(run: str):
    params = classifier()
    params["encoder"]["stem"] = {"kernel": array(16, 8)}  # Patches of 2 pixels, with a channel more.
    bands = {"resize": {"bands": (2, None, 0, 1), "image_channels": 4}}
    found = start(run, params, **bands)
    assert found.lineage["resized"] == {"encoder/stem/kernel": "channels 2, mean, 0, 1"}
    np.testing.assert_array_equal(
        found.leaves["encoder/stem/kernel"], stem.inflate(encoder()["stem"]["kernel"], (2, None, 0, 1), 2)
    )
    text = io.StringIO()
    warm_start.show(found, rich.console.Console(file=text, width=100))
    assert "encoder/stem/kernel  channels 2, mean, 0, 1" in text.getvalue()


def test_an_earlier_step(run: str):
    found = start(run, classifier(), step=STEP - 10)
    assert found.lineage["step"] == STEP - 10
    assert not any(leaf.any() for leaf in found.leaves.values())
    assert found.lineage["hash"] != start(run, classifier()).lineage["hash"]


def test_the_hash_is_of_what_was_read(run: str):
    one, other = start(run, classifier()), start(run, classifier(classes=9))
    assert one.lineage["hash"] == other.lineage["hash"]
    assert one.lineage["hash"] != start(run, classifier(), fresh=["head", "stem"]).lineage["hash"]


def test_values_have_the_dtype_of_the_run(run: str):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), classifier())
    leaves = start(run, params).leaves
    assert {leaf.dtype for leaf in leaves.values()} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(leaves["encoder/position"], encoder()["position"].astype(jnp.bfloat16))


def test_leaves_are_placed_as_those_they_replace(run: str):
    mesh = Mesh(np.array(jax.devices()), "fsdp")
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((None, "fsdp"), ()))
    params = jax.tree.map(
        lambda x: jax.device_put(x, split if x.ndim == 2 and x.shape[1] == 8 else whole), classifier()
    )
    head = params["head"]["kernel"]
    placed = warm_start.onto(start(run, params), params)
    assert_same(placed, {"encoder": encoder(), "head": {"kernel": np.zeros((8, 7))}})
    assert jax.tree.map(lambda x: x.sharding, placed) == jax.tree.map(lambda x: x.sharding, params)
    assert placed["encoder"]["stem"]["kernel"].sharding == split
    assert placed["head"]["kernel"] is head


def test_a_line_a_part_is_shown(run: str):
    text = io.StringIO()
    warm_start.show(start(run, classifier(grid=6)), rich.console.Console(file=text, width=100))
    lines = text.getvalue().splitlines()
    assert lines[0] == f"Starting from {run}, step {STEP}:"
    words = [line.split() for line in lines[1:]]
    assert ["taken", "encoder", "3", "arrays,", "312", "parameters"] in words
    assert ["resized", "encoder/position", "antialiased,", "grid", "4", "x", "4", "->", "6", "x", "6"] in words
    assert ["fresh", "head", "1", "arrays,", "56", "parameters"] in words
    assert len(words) == 3


def test_everything_that_does_not_fit_is_named(run: str):
    params = classifier(scale=np.zeros(1))
    del params["encoder"]["transformer"]["blocks"]["scale"]
    params["encoder"] |= {"stem": {"kernel": array(28, 8)}, "class_token": array(8), "position": array(4, 4, 16)}
    with pytest.raises(CheckpointError) as caught:
        start(run, params)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == f"config.init: {run}, step {STEP}, does not fit this model. Parameters"
    assert "missing there: params/encoder/class_token" in lines
    assert "only there: params/encoder/transformer/blocks/scale" in lines
    assert "neither taken nor fresh: scale" in lines
    (shapes,) = [line for line in lines if line.startswith("of another shape: ")]
    assert "encoder/stem/kernel (there [12, 8], here [28, 8]: 28 are no pixels of a square patch" in shapes
    assert "encoder/position (there [4, 4, 8], here [4, 4, 16]: of another width)" in shapes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"take": {"encoder": "encodr"}}, "nothing at 'params/encodr': did you mean 'params/encoder'"),
        ({"take": {"encodr": "encoder"}}, r"config\.init\.take: below 'encodr' .*did you mean 'encoder'"),
        ({"fresh": ["encoder", "head"]}, r"config\.init\.take: below 'encoder'"),
        ({"fresh": ["hed"]}, r"config\.init\.fresh: 'hed' covers nothing\. Names look like encoder/"),
        ({"fresh": ["(hed"]}, r"config\.init\.fresh: '\(hed' is no regular expression"),
        ({"step": 7}, "no complete checkpoint of step 7; it has 20, 30"),
    ],
)
def test_refuses_in_words(run: str, options: Mapping[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        start(run, classifier(), **options)


def test_a_folder_without_checkpoints_is_refused(run: str):
    with pytest.raises(ConfigError, match=r"config\.init\.run = '.*mea' holds no checkpoint: did you mean '.*mae'"):
        start(str(pathlib.Path(run).with_name("mea")), classifier())
