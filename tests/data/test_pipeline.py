"""The `data` part of a recipe: labels, weights, columns and mixing reach the batch, and the source stays closed."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import jax
import numpy as np
import pytest

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import pipeline, sources


@dataclasses.dataclass(frozen=True)
class Examples:
    """Ten images of one colour each, and what is known of them."""

    name: str = "examples"

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> dict[str, Any]:
        kind = ("even", "odd")[index % 2]
        return {
            "image": cv2.imencode(".png", np.full((9, 9, 3), 20 * index, np.uint8))[1].tobytes(),
            "id": np.int64(index),
            "kind": kind,
            "kinds": (kind, "large") if index > 4 else (kind,),
            "score": np.float32(index / 4),
            "ok": np.bool_(index > 4),
        }


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which sources were opened."""
    names: list[str] = []
    monkeypatch.setattr(sources, "make", lambda spec: names.append(spec) or Examples())
    return names


def made(**options: Any) -> pipeline.Data:
    return config.call(pipeline.make, {"source": "ours:", "image_size": 8, "crop": None, **options}, where="data")


def batch(data: pipeline.Data) -> dict[str, Any]:
    stream = data.train_loader(batch_size=10, seed=0).batches()
    found = next(stream)
    stream.close()
    return found


def test_columns_keep_their_kind():
    found = batch(made(columns={"id": "id", "score": "score", "ok": "ok", "kind": "kind"}, weight="score"))
    kinds = {name: found[name].dtype.name for name in ("id", "score", "ok", "kind", "weight")}
    assert kinds == {"id": "int32", "score": "float32", "ok": "int32", "kind": "int32", "weight": "float32"}
    np.testing.assert_array_equal(found["score"], found["id"] / 4)
    np.testing.assert_array_equal(found["weight"], found["id"] / 4)
    assert len(set(found["kind"])) == 2


def test_labels_reach_the_batch_and_the_facts():
    data = made(label={"feature": "kind"}, columns={"id": "id"})
    assert data.facts.classes == ("even", "odd") and data.facts.num_classes == 2 and not data.facts.multi_label
    found = batch(data)
    np.testing.assert_array_equal(found["label"], found["id"] % 2)
    assert found["label"].dtype == np.int32


def test_several_labels_are_multi_hot():
    data = made(label={"feature": "kinds"}, columns={"id": "id"})
    assert data.facts.multi_label and data.facts.classes == ("even", "large", "odd")
    found = batch(data)
    expected = np.stack([found["id"] % 2 == 0, found["id"] > 4, found["id"] % 2 == 1], 1)
    np.testing.assert_array_equal(found["label"], expected.astype(np.float32))


def test_the_source_is_opened_for_unknown_labels_only(opened: list[str]):
    assert made().facts.classes == () and made().facts.num_classes == 0
    assert made(label={"feature": "kind", "classes": ["odd", "even"], "multi_label": False}).facts.num_classes == 2
    assert opened == []
    made(label={"feature": "kind"})
    assert opened == ["ours:"]


def test_an_unknown_class_stops_the_run():
    """It is no unreadable image, for which another could stand in."""
    data = made(label={"feature": "kind", "classes": ["even"], "multi_label": False})
    with pytest.raises(ConfigError, match="'kind' = 'odd' is none of 1 classes"):
        batch(data)


def test_evaluation_has_images_alone():
    data = made(label={"feature": "kind"}, weight="score", columns={"id": "id"}, mix={"mixup": 0.2})
    (found,) = data.eval_batches(Examples(), 16)
    assert found.keys() == {"image", "valid"}


def test_mixing_softens_the_labels():
    data = made(label={"feature": "kind"}, weight="score", mix={"mixup": 1.0, "cutmix": 1.0})
    keys = jax.random.split(jax.random.key(0), 10)
    found = jax.jit(lambda batch, keys: data.mix(data.preprocess_train(batch, keys), keys))(batch(data), keys)
    assert found["label"].shape == (10, 2) and found["weight"].shape == (10,)
    np.testing.assert_allclose(found["label"].sum(1), 1, atol=1e-6)
    assert 0.02 < np.asarray(found["label"]).min(1).max() <= 0.5
    assert made().mix is None


def test_pixels_come_back():
    data = made(augment={"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)})
    found = batch(data)
    trained = data.preprocess_train(found, jax.random.split(jax.random.key(0), 10))
    for processed in (trained, data.preprocess_eval(found)):
        np.testing.assert_array_equal(data.to_pixels(processed["image"]), found["image"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mix": {"mixup": 0.2}}, r"data\.mix mixes images and labels; .* config\.data\.label"),
        ({"mix": {"mixpu": 0.2}, "label": {"feature": "kind"}}, r"data\.mix\.mixpu: did you mean 'mixup'"),
        (
            {"mix": {"mixup": 0.2}, "views": {"a": {}}, "label": {"feature": "kind"}},
            r"data\.mix mixes `image`, which config\.data\.views",
        ),
        ({"label": {}}, r"config\.data\.label: .* does not say which feature is its label"),
        ({"label": {"feature": "knd"}}, r"data\.label\.feature = 'knd' is no feature: did you mean 'kind'"),
        ({"label": {"feature": "score"}}, r"data\.label\.feature = 'score': labels are texts"),
        ({"image_size": 0}, r"data\.image_size = 0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)


@pytest.mark.parametrize(
    ("options", "words"), [({"weight": "scroe"}, "weight = 'scroe'"), ({"columns": {"a": "di"}}, r"columns\.a = 'di'")]
)
def test_a_missing_feature_stops_the_run(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options).train_loader(batch_size=2, seed=0).example(0)
