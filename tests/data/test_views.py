"""Views of one decoded image: as many and as large as asked for, each with draws of its own, in any order."""

from __future__ import annotations

import itertools
from typing import Any

import cloudpickle
import jax
import numpy as np
import pytest

from vitfm.config import ConfigError
from vitfm.data import formats, pipeline, sources

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
VIEWS = {
    "local": {"count": 3, "size": 12, "crop": {"scale": (0.1, 0.3)}},
    "global": {"count": 2, "augment": [{"brightness": 0.0}, {"grayscale": 1.0}]},
}


def data(**options: Any) -> pipeline.Data:
    defaults = {"image_size": 24, "crop": {"scale": (0.5, 1.0), "flip": False}, "threads": 1, "views": VIEWS}
    return pipeline.make(source="tfds:emoji:train", **{**defaults, "augment": {**PLAIN, "brightness": 0.5}, **options})


def first(data: pipeline.Data, steps: int = 1, first_step: int = 0) -> list[dict[str, Any]]:
    stream = data.train_loader(batch_size=6, seed=3).batches(first_step)
    batches = list(itertools.islice(stream, steps))
    stream.close()
    return batches


def keys(count: int = 6) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


def equal(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_a_batch_has_every_view_and_no_image():
    (batch,) = first(data())
    shapes = {name: view.shape for name, view in batch["views"].items()}
    assert shapes == {"local": (6, 3, 12, 12, 3), "global": (6, 2, 24, 24, 3)}
    assert all(view.dtype == np.uint8 for view in batch["views"].values())
    assert "image" not in batch
    processed = jax.eval_shape(data().preprocess_train, batch, keys())["views"]
    assert {name: view.shape for name, view in processed.items()} == shapes
    assert all(view.dtype == np.float32 for view in processed.values())


def test_the_image_may_be_kept_beside_its_views():
    kept, alone = data(keep_image=True), data(views=None)
    (batch,), (images,) = first(kept), first(alone)
    np.testing.assert_array_equal(batch["image"], images["image"])  # Views are drawn after it.
    assert {name: view.shape[1] for name, view in batch["views"].items()} == {"local": 3, "global": 2}
    ready = jax.jit(kept.preprocess_train)(batch, keys())
    np.testing.assert_array_equal(ready["image"], jax.jit(alone.preprocess_train)(images, keys())["image"])
    views = jax.jit(data().preprocess_train)({"views": batch["views"]}, keys())["views"]
    jax.tree.map(np.testing.assert_array_equal, ready["views"], views)
    with pytest.raises(ConfigError, match="there are none"):
        data(keep_image=True, views=None)


def test_evaluation_still_has_the_image():
    (batch,) = data().eval_batches(sources.make("tfds:emoji:validation[:3]"), 4)
    assert batch["image"].shape == (4, 24, 24, 3)
    assert data().preprocess_eval(batch)["image"].dtype == np.float32


def test_an_image_is_decoded_once_for_all_its_views(monkeypatch: pytest.MonkeyPatch):
    decoded, decode = [], formats.decode
    monkeypatch.setattr(formats, "decode", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    data().train_loader(batch_size=6, seed=3).example(0)
    assert len(decoded) == 1


def test_views_are_crops_of_one_image_and_all_differ():
    (batch,) = first(data())
    for row in range(6):
        views = [*batch["views"]["local"][row], *(view[::2, ::2] for view in batch["views"]["global"][row])]
        assert all((a != b).any() for a, b in itertools.combinations(views, 2))
    # The smaller a crop, the less it sees of the white on which emoji stand.
    white = {name: (view == 255).all(-1).mean() for name, view in batch["views"].items()}
    assert white["local"] < white["global"]


def test_order_in_the_recipe_and_history_change_nothing():
    turned = data(views=dict(reversed(VIEWS.items())))
    both, late = first(data(), steps=2), first(turned, first_step=1)
    assert equal(both[1], late[0]) and not equal(both[0], late[0])
    one, other = (jax.jit(d.preprocess_train)({"views": both[0]["views"]}, keys()) for d in (data(), turned))
    assert equal(one, other)


def test_worker_processes_receive_what_cuts():
    loader = data().train_loader(batch_size=6, seed=3)
    copy = cloudpickle.loads(cloudpickle.dumps(loader))
    assert equal(copy.example(5), loader.example(5))


def test_every_view_is_augmented_as_asked_by_a_key_of_its_own():
    (batch,) = first(data())
    views = {name: np.broadcast_to(view[:1, :1] // 2, view.shape) for name, view in batch["views"].items()}
    found = jax.jit(data().preprocess_train)({"views": views}, keys())["views"]
    factors = np.asarray(found["local"]).mean((2, 3, 4)) / (views["local"].mean() / 255)
    assert len(np.unique(factors.round(5))) == 18  # Pixels are alike, so what differs are draws.
    assert 0.49 < factors.min() < 0.75 and 1.25 < factors.max() < 1.51
    plain, gray = np.moveaxis(np.asarray(found["global"]), 1, 0)
    np.testing.assert_allclose(plain, views["global"][:, 0] / 255, atol=1e-6)
    assert np.ptp(gray, axis=-1).max() < 1e-5 < 0.1 < np.ptp(plain, axis=-1).max()


def test_an_examples_views_depend_on_it_and_its_key_alone():
    (batch,) = first(data())
    preprocess, order = jax.jit(data().preprocess_train), np.array([4, 0, 5, 1, 2, 3])
    whole = preprocess({"views": batch["views"]}, keys())["views"]
    turned = preprocess({"views": jax.tree.map(lambda x: x[order], batch["views"])}, keys()[order])["views"]
    for name in VIEWS:
        np.testing.assert_allclose(turned[name], whole[name][order], atol=1e-6)


def test_a_view_without_crop_is_the_resized_image():
    (image,) = first(data(views=None, crop=None))
    for options in ({"views": {"whole": {"crop": None}}}, {"views": {"whole": {}}, "crop": None}):
        (view,) = first(data(**options))
        np.testing.assert_array_equal(view["views"]["whole"][:, 0], image["image"])


def test_a_view_may_show_all_of_an_image():
    (image,) = first(data(views=None, crop="pad"))
    views = {"whole": {"crop": "pad"}, "own": {}, "part": {"crop": {"scale": (0.1, 0.2)}}}
    (batch,) = first(data(views=views, crop="pad"))
    for name in ("whole", "own"):
        np.testing.assert_array_equal(batch["views"][name][:, 0], image["image"])
    assert (batch["views"]["part"][:, 0] != image["image"]).any()


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({}, r"data\.views = \{\} has no view"),
        ({"global": {"count": 0}}, r"views\.global\.count = 0 must be at least 1"),
        ({"global": {"size": 0}}, r"views\.global\.size = 0 must be at least 1"),
        ({"global": {"cuont": 2}}, r"Unknown key config\.data\.views\.global\.cuont: did you mean 'count'"),
        ({"global": {"count": 2, "augment": [{}]}}, r"views\.global\.augment has 1 entries for count = 2"),
        ({"global": {"augment": {"hue": 2.0}}}, r"data\.views\.global\.augment\.hue = 2\.0"),
        ({"global": {"augment": [{"blur": {"probability": 2.0}}]}}, r"global\.augment\.0\.blur\.probability = 2\.0"),
        ({"global": {"augment": {"mean": (0, 0, 0)}}}, r"global\.augment: mean and std belong to"),
        ({"global": {"crop": {"scale": (1.0, 0.5)}}}, r"views\.global\.crop\.scale = \(1\.0, 0\.5\)"),
        ({"global": {"crop": {"sclae": (0.5, 1.0)}}}, r"views\.global\.crop\.sclae: did you mean 'scale'"),
    ],
)
def test_views_that_make_no_sense_are_refused(views: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        data(views=views)
