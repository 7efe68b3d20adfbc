"""Zero-shot accuracies equal a plain loop's, whatever the batches; what can't be measured is refused at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evals.fake import World, unit
from vitfm.config import ConfigError
from vitfm.evals import zeroshot

CLASSES = ("cat", "cow", "dog", "elk", "fox", "owl", "pig")
TASKS = {"zeroshot": {"label": "name"}}


def world(images: int, templates: tuple[str, ...] = ("{}",), devices: int = 1, seed: int = 0) -> World:
    random = np.random.default_rng(seed)
    labels = random.integers(len(CLASSES), size=images)
    examples = [{"image": i, "name": CLASSES[label], "kind": "animal"} for i, label in enumerate(labels)]
    texts = [template.format(name) for name in CLASSES for template in templates]
    vectors = unit(random.normal(size=(len(texts), 5))).astype(np.float32)
    names = [{"image": 0, "name": name} for name in CLASSES]
    sources = {"test": examples, "names": names, "few": names[:3]}
    return World(
        sources,
        unit(random.normal(size=(images, 5))).astype(np.float32),
        dict(zip(texts, vectors, strict=True)),
        devices,
    )


def looped(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Top-k accuracy by counting, for each image, the classes that are not behind its own."""
    right = 0
    for row, label in zip(scores, labels, strict=True):
        ahead = sum(1 for other in range(len(row)) if other != label and not row[other] < row[label])
        right += ahead < k
    return right / len(labels)


@given(st.integers(1, 20), st.integers(2, 8), st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=50, deadline=None)
def test_topk_equals_a_loop_with_ties_and_nans(images: int, classes: int, k: int, seed: int, broken: bool) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (images, classes)) / 4  # Few values, so many ties.
    scores[random.random(scores.shape) < 0.1 * broken] = np.nan
    labels = random.integers(classes, size=images)
    found = zeroshot.topk_accuracies(scores, labels, (k,))
    assert found == ({k: looped(scores, labels, k)} if k < classes else {})


def test_a_model_that_says_nothing_is_never_right() -> None:
    labels = np.array([0, 1, 2])
    for scores in (np.zeros((3, 4)), np.full((3, 4), np.nan), np.full((3, 4), np.inf)):
        assert zeroshot.topk_accuracies(scores, labels, (1, 2, 3)) == {1: 0.0, 2: 0.0, 3: 0.0}


def test_k_from_the_number_of_classes_on_says_nothing() -> None:
    assert zeroshot.topk_accuracies(np.eye(3), np.arange(3), (1, 2, 3, 10)) == {1: 1.0, 2: 1.0}


def test_class_embeddings_are_the_normalised_means_over_templates() -> None:
    templates = ("{}", "a photo of {}", "{}!")
    w = world(4, templates)
    found = zeroshot.class_embeddings(w.context, {}, CLASSES, templates, 4)
    texts = [w.context.tokenize([template.format(CLASSES[2])]) for template in templates]
    vectors = np.concatenate([w.context.predict["embed_text"]({}, *text) for text in texts])
    np.testing.assert_allclose(found[2], vectors.mean(0) / np.linalg.norm(vectors.mean(0)), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8, 16, 17, 64])
@pytest.mark.parametrize("devices", [1, 4])
def test_every_example_counts_once_in_any_batches(batch_size: int, devices: int) -> None:
    w, templates = world(17, ("{}", "a {}"), devices), ("{}", "a {}")
    spec = {"name": "zeroshot", "source": "test", "prefix": "p", "tasks": TASKS, "templates": templates, "top": (1, 3)}
    found = w.evaluate(**spec, batch_size=batch_size)
    assert (w.asked == 1).all()
    assert {size % devices for size in w.batches} == {0}
    assert len(set(w.batches)) == 1  # One program serves all.
    assert found == world(17, templates).evaluate(**spec, batch_size=17)
    labels = np.array([CLASSES.index(example["name"]) for example in w.context.open_source("test")])
    seen = sorted(set(labels))  # Without `classes` the candidates are the labels that occur.
    image = np.concatenate([w.context.predict["embed_image"]({}, np.arange(17))])
    text = zeroshot.class_embeddings(w.context, {}, [CLASSES[i] for i in seen], templates, 4)
    scores = image @ text.T
    own = np.array([seen.index(label) for label in labels])
    assert found == {f"p/zeroshot/top{k}": pytest.approx(looped(scores, own, k)) for k in (1, 3)}


def test_tasks_have_their_own_labels_and_candidates() -> None:
    tasks = {"all": {"label": "name", "classes": "names"}, "own": {"label": "name"}, "kind": {"label": "kind"}}
    w = world(5)
    found = w.evaluate(name="zeroshot", source="test", prefix="p", tasks=tasks, templates="{}", top=(1, 6))
    names = {example["name"] for example in w.context.open_source("test")}
    assert len(names) < 6  # So top-6 says something of all candidates only, and of one kind nothing does.
    assert set(found) == {"p/all/top1", "p/all/top6", "p/own/top1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": {"t": {"label": "nam"}}}, r"config\.evals\.test.*'nam': did you mean 'name'"),
        ({"tasks": {"t": {"lable": "name"}}}, r"config\.evals\.test\.tasks\.t\.lable: did you mean 'label'"),
        ({"tasks": {"t": {}}}, r"config\.evals\.test\.tasks\.t lacks label"),
        ({"tasks": {"t": {"label": "name", "classes": "few"}}}, "are no candidates"),
        ({"templates": ("no place",)}, r"config\.evals\.test\.templates = \['no place'\]"),
        ({"templates": ("{} {}",)}, "exactly one"),
        ({"templates": ()}, "exactly one"),
        ({"batch_size": 0}, r"config\.evals\.test\.batch_size = 0"),
        ({"top": 5}, r"config\.evals\.test\.top = 5 has the wrong type"),
        ({"evry": 5}, r"config\.evals\.test\.evry: did you mean 'every'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_embedded(change: dict, message: str) -> None:
    w = world(50)
    with pytest.raises(ConfigError, match=message):
        w.evaluate(**{"name": "zeroshot", "source": "test", "prefix": "p", "tasks": TASKS, **change})
    assert not w.batches


def test_an_objective_without_texts_is_refused_by_what_it_lacks() -> None:
    w = world(5)
    del w.context.predict["embed_text"]
    with pytest.raises(ConfigError, match=r"config\.evals\.test.*needs embed_text.*it offers embed_image"):
        w.evaluate(name="zeroshot", source="test", prefix="p", tasks=TASKS)
