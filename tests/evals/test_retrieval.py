"""Recalls equal a brute-force loop's, with duplicated captions, ties and any batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evals.fake import World, unit
from vitfm.config import ConfigError
from vitfm.evals import retrieval

CAPTIONS = ("red apple", "green pear", "red apple", "plum", "fig", "plum", "red apple", "kiwi", "lime")


def world(captions: tuple[str, ...] = CAPTIONS, template: str = "{}", devices: int = 1) -> World:
    random = np.random.default_rng(1)
    names = sorted(set(captions))
    examples = [{"image": i, "name": caption} for i, caption in enumerate(captions)]
    images = unit(random.normal(size=(len(captions), 3))).astype(np.float32)
    texts = unit(random.normal(size=(len(names), 3))).astype(np.float32)
    return World(
        {"test": examples}, images, {template.format(n): v for n, v in zip(names, texts, strict=True)}, devices
    )


def looped(similarity: np.ndarray, labels: np.ndarray, k: int) -> tuple[float, float]:
    """(image-to-text, text-to-image) recall: what is wrong and not behind is ahead, whatever the order of the rest."""
    images, texts = similarity.shape
    from_image = []
    for i in range(images):
        ahead = sum(1 for j in range(texts) if j != labels[i] and not similarity[i, j] < similarity[i, labels[i]])
        from_image.append(ahead < k)
    from_text = []
    for j in range(texts):
        right = [i for i in range(images) if labels[i] == j]
        ranks = []
        for i in right:
            wrong = [other for other in range(images) if labels[other] != j]
            ranks.append(sum(1 for other in wrong if not similarity[other, j] < similarity[i, j]))
        from_text.append(min(ranks) < k)
    return float(np.mean(from_image)), float(np.mean(from_text))


@given(st.integers(1, 15), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_recalls_equal_a_loop_with_duplicates_and_ties(images: int, texts: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    texts = min(images, texts)
    labels = random.permutation(np.concatenate([np.arange(texts), random.integers(texts, size=images - texts)]))
    similarity = random.integers(0, 5, (images, texts)) / 5
    assert retrieval.recalls(similarity, labels, (k,))[k] == pytest.approx(looped(similarity, labels, k))


def test_a_model_that_says_nothing_finds_nothing() -> None:
    labels = np.array([0, 1, 1, 2])
    for similarity in (np.zeros((4, 3)), np.full((4, 3), np.nan)):
        assert retrieval.recalls(similarity, labels, (1, 2)) == {1: (0.0, 0.0), 2: (0.0, 0.0)}


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 9, 32])
@pytest.mark.parametrize("devices", [1, 4])
def test_every_image_and_caption_counts_once_in_any_batches(batch_size: int, devices: int) -> None:
    template = "a photo of {}"
    w = world(template=template, devices=devices)
    found = w.evaluate(
        name="retrieval", source="test", prefix="p", template=template, top=(1, 2), batch_size=batch_size
    )
    assert (w.asked == 1).all()
    assert {size % devices for size in w.batches} == {0}
    names = sorted(set(CAPTIONS))
    image = w.context.predict["embed_image"]({}, np.arange(len(CAPTIONS)))
    text = w.context.predict["embed_text"]({}, *w.context.tokenize([template.format(name) for name in names]))
    labels = np.array([names.index(caption) for caption in CAPTIONS])
    for k in (1, 2):
        from_image, from_text = looped(image @ text.T, labels, k)
        assert found.pop(f"p/retrieval/image_to_text_recall{k}") == pytest.approx(from_image)
        assert found.pop(f"p/retrieval/text_to_image_recall{k}") == pytest.approx(from_text)
    assert not found


def test_pictures_show_what_was_found() -> None:
    found = world().evaluate(name="retrieval", source="test", prefix="p", pictures=3)
    pictures = {name: value for name, value in found.items() if not isinstance(value, float)}
    assert set(pictures) == {"p/text_to_image", "p/image_to_text", "p/similarity"}
    assert all(value.dtype == np.uint8 and value.shape[-1] == 3 for value in pictures.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": "nam"}, r"config\.evals\.test.*'nam': did you mean 'name'"),
        ({"template": "no place"}, "exactly one"),
        ({"batch_size": -1}, r"config\.evals\.test\.batch_size = -1"),
        ({"picturs": 1}, "did you mean 'pictures'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_embedded(change: dict, message: str) -> None:
    w = world()
    with pytest.raises(ConfigError, match=message):
        w.evaluate(**{"name": "retrieval", "source": "test", "prefix": "p", **change})
    assert not w.batches


def test_images_without_a_caption_are_left_out() -> None:
    random = np.random.default_rng(2)
    names = ["plum", None, ("fig", "a fig"), " ", "kiwi", ()]
    examples = [{"image": i, "name": name} for i, name in enumerate(names)]
    vectors = unit(random.normal(size=(6, 3))).astype(np.float32)
    texts = {"plum": vectors[0], "fig": vectors[2], "kiwi": vectors[4]}
    world = World({"test": examples}, vectors, texts)
    found = dict(retrieval.make(source="test", prefix="p", top=(1,), pictures=0, context=world.context)(None))
    assert set(found.values()) == {1.0}
    assert world.asked.tolist() == [1, 0, 1, 0, 1, 0]


def test_no_caption_at_all_is_refused() -> None:
    world = World({"test": [{"image": 0, "name": None}]}, np.ones((1, 3), np.float32), {"x": np.ones(3, np.float32)})
    with pytest.raises(ConfigError, match="no example has a text in 'name'"):
        retrieval.make(source="test", prefix="p", context=world.context)
