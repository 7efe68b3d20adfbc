"""Captions say what the example says, and depend on the generator alone."""

import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import captions

EXAMPLE = {"name": "gorilla", "tags": ("animal", "ape", "gorilla", "wild", "zoo")}
texts = st.text(st.characters(codec="utf-8", exclude_characters="{},"), min_size=1).filter(str.strip)


def sample(caption, example=EXAMPLE, n=2000):
    rng = np.random.default_rng(0)
    return [caption(example, rng) for _ in range(n)]


def test_same_generator_same_caption():
    caption = captions.make()
    assert sample(caption, n=50) == sample(pickle.loads(pickle.dumps(caption)), n=50)
    assert len(set(sample(caption))) > 50


def test_every_template_and_number_of_tags_occurs_as_often_as_promised():
    said = sample(captions.make(templates=("{}", "a drawing of {}"), tag_probability=0.25, max_tags=2))
    tags = np.array([text.count(",") for text in said])
    assert set(tags) == {0, 1, 2}
    assert np.mean(tags > 0) == pytest.approx(0.25, abs=0.04)
    assert np.mean([text.startswith("a drawing of gorilla") for text in said]) == pytest.approx(0.5, abs=0.05)


def test_tags_are_distinct_and_say_more_than_the_name():
    for text in sample(captions.make(templates=("{}",), tag_probability=1.0)):
        name, *tags = text.split(", ")
        assert name == "gorilla" and 1 <= len(tags) <= 3
        assert len(set(tags)) == len(tags) and set(tags) <= {"animal", "ape", "wild", "zoo"}


def test_words_of_a_name_with_a_colon_are_no_news():
    example = {"name": "flag: Japan", "tags": ("flag", "JP")}
    assert set(sample(captions.make(templates=("{}",), tag_probability=1.0), example, 20)) == {"flag: Japan, JP"}


def test_without_tags():
    assert set(sample(captions.make(templates=("{}",), tags=None))) == {"gorilla"}
    assert set(sample(captions.make(templates=("{}",), tag_probability=0.0))) == {"gorilla"}
    assert set(sample(captions.make(templates=("{}",)), {"name": "x", "tags": ()})) == {"x"}


@given(texts, st.lists(texts, max_size=5), st.integers(0, 2**32))
def test_any_text_is_kept_as_it_is(name, tags, seed):
    caption = captions.make(name="title", tags="words")
    example = {"title": name, "words": tags}
    said, *rest = caption(example, np.random.default_rng(seed)).split(", ")
    assert said in {template.replace("{}", name) for template in captions.TEMPLATES}
    assert set(rest) <= set(tags) and len(rest) <= 3
    assert caption.canonical(example) == name


@pytest.mark.parametrize("example", [{}, {"name": ""}, {"name": "  "}, {"name": None}, {"name": 3}])
def test_missing_name_is_named(example):
    with pytest.raises(ValueError, match="'name'"):
        captions.make()(example, np.random.default_rng(0))
    with pytest.raises(ValueError, match="'name'"):
        captions.make().canonical(example)


@pytest.mark.parametrize("example", [{"name": "x"}, {"name": "x", "words": "one, two"}])
def test_missing_tags_are_named(example):
    with pytest.raises(ValueError, match="'words'.*tags=None"):
        captions.make(tags="words", tag_probability=1.0)(example, np.random.default_rng(0))


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
        captions.make(**options)
