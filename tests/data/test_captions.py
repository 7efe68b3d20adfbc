"""Captions say what the example says, and depend on the generator alone."""

import dataclasses
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitfm import recipe as recipes
from vitfm.config import ConfigError
from vitfm.data import captions, pipeline
from vitfm.data.bad import BadExample

EXAMPLE = {"name": "gorilla", "tags": ("animal", "ape", "gorilla", "wild", "zoo")}
texts = st.text(st.characters(codec="utf-8", exclude_characters="{},"), min_size=1).filter(str.strip)


def drawn(**options: Any) -> captions.Captions:
    """Captions of things that are drawn, as `EXAMPLE` is."""
    return captions.make(**{"name": "name", "tags": "tags", "templates": captions.TEMPLATES, **options})


def sample(caption, example=EXAMPLE, n=2000):
    rng = np.random.default_rng(0)
    return [caption(example, rng) for _ in range(n)]


def test_same_generator_same_caption():
    caption = drawn()
    assert sample(caption, n=50) == sample(pickle.loads(pickle.dumps(caption)), n=50)
    assert len(set(sample(caption))) > 50


def test_every_template_and_number_of_tags_occurs_as_often_as_promised():
    said = sample(drawn(templates=("{}", "a drawing of {}"), tag_probability=0.25, max_tags=2))
    tags = np.array([text.count(",") for text in said])
    assert set(tags) == {0, 1, 2}
    assert np.mean(tags > 0) == pytest.approx(0.25, abs=0.04)
    assert np.mean([text.startswith("a drawing of gorilla") for text in said]) == pytest.approx(0.5, abs=0.05)


def test_tags_are_distinct_and_say_more_than_the_name():
    for text in sample(drawn(templates=("{}",), tag_probability=1.0)):
        name, *tags = text.split(", ")
        assert name == "gorilla" and 1 <= len(tags) <= 3
        assert len(set(tags)) == len(tags) and set(tags) <= {"animal", "ape", "wild", "zoo"}


def test_words_of_a_name_with_a_colon_are_no_news():
    example = {"name": "flag: Japan", "tags": ("flag", "JP")}
    assert set(sample(drawn(templates=("{}",), tag_probability=1.0), example, 20)) == {"flag: Japan, JP"}


def test_a_text_comes_as_it_is_unless_more_is_asked_for():
    assert set(sample(captions.make("name"))) == {"gorilla"}
    assert set(sample(drawn(templates=("{}",), tag_probability=0.0))) == {"gorilla"}
    for none in ((), None):
        assert set(sample(drawn(templates=("{}",)), {"name": "x", "tags": none})) == {"x"}


def test_one_of_several_texts_is_drawn_and_those_that_say_nothing_are_not():
    example = {"text": ("a red apple", "", "fruit", None, " ")}
    caption = captions.make("text")
    said = sample(caption, example)
    assert set(said) == {"a red apple", "fruit"}
    assert np.mean([text == "fruit" for text in said]) == pytest.approx(0.5, abs=0.05)
    assert caption.canonical(example) == "a red apple"
    tagged = captions.make("text", "tags", tag_probability=1.0)
    assert set(sample(tagged, {**example, "tags": ("red", "food")})) >= {"a red apple, food", "fruit, red"}


@given(texts, st.lists(texts, max_size=5), st.integers(0, 2**32))
def test_any_text_is_kept_as_it_is(name, tags, seed):
    caption = captions.make("title", "words", captions.TEMPLATES)
    example = {"title": name, "words": tags}
    said, *rest = caption(example, np.random.default_rng(seed)).split(", ")
    assert said in {template.replace("{}", name) for template in captions.TEMPLATES}
    assert set(rest) <= set(tags) and len(rest) <= 3
    assert caption.canonical(example) == name


@pytest.mark.parametrize("text", ["", "  ", None, (), ("", None)])
def test_an_example_without_text_is_a_bad_one(text):
    for ask in (lambda caption, example: caption(example, np.random.default_rng(0)), captions.Captions.canonical):
        with pytest.raises(BadExample, match=r"no caption: 'name' is") as error:
            ask(captions.make("name"), {"name": text})
        assert error.value.reason == "caption"


@pytest.mark.parametrize("example", [{}, {"nam": "x"}, {"name": 3}, {"name": (3,)}, {"name": b"x"}])
def test_what_no_example_could_have_is_the_recipes_fault(example: Mapping[str, Any]):
    with pytest.raises(ConfigError, match=r"config\.data\.captions\.name = 'name'"):
        captions.make("name")(example, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("example", "message"),
    [({"name": "x"}, "is no feature"), ({"name": "x", "words": "one, two"}, "'one, two'.*tags=None")],
)
def test_missing_tags_are_named(example, message):
    with pytest.raises(ConfigError, match=f"'words'.*{message}"):
        captions.make("name", "words", tag_probability=1.0)(example, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"templates": ()}, "at least one"),
        ({"templates": ("a photo",)}, "a photo"),
        ({"templates": ("{} {}",)}, "{} {}"),
    ]
    + [({"tag_probability": 1.5}, "1.5"), ({"max_tags": 0}, "max_tags")],
)
def test_wrong_options_are_refused(options, word):
    with pytest.raises(ConfigError, match=re.escape(word)):
        captions.make("name", **options)


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A source that says, or does not, which feature is its caption."""

    roles: Mapping[str, str]
    name: str = "spoken"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": b"", "alt": "a red apple"}


def test_the_source_says_which_feature_it_is():
    made = captions.make(open_source=lambda: Spoken({"caption": "alt"}))
    assert made.name == "alt" and set(sample(made, Spoken({})[0], 9)) == {"a red apple"}
    with pytest.raises(ConfigError, match=r"spoken does not say which .* config\.data\.captions\.name: alt, image"):
        captions.make(open_source=lambda: Spoken({"image": "image"}))
    captions.make("alt", open_source=pytest.fail)  # What is named needs no source.


def test_a_run_stores_it_and_loads_where_the_data_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline.sources, "make", lambda spec: Spoken({"caption": "alt"}))
    config = {"data": {"source": "folder:/images", "captions": {}, "image_size": 16}}
    stored = recipes.with_classes(config, pipeline.make(**config["data"]).facts)
    assert stored["data"]["captions"] == {"name": "alt"}
    assert config["data"]["captions"] == {}
    monkeypatch.setattr(pipeline.sources, "make", lambda spec: pytest.fail("opened"))
    assert pipeline.make(**stored["data"]).load_train.caption == captions.make("alt")
    imported = pipeline.make(source=None, captions={}, image_size=16)  # Which will not train.
    assert imported.facts.caption is None
