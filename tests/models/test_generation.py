"""Generation on models small enough that every text can be counted."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.config import ConfigError
from vitfm.models import generation
from vitfm.models.generation import Form

WORDS, BATCH = 5, 4
FORM = Form(begin=0, end=1, padding=2, length=5)  # 0, 1 and 2 are words as any other to the model.


def step(params: jax.Array, cache: dict[str, jax.Array], token: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """A model that remembers all: the cache holds the tokens so far as one number, and the example's own."""
    code = cache["code"] * WORDS + token
    # Codes of different lengths lie behind one another.
    return params[cache["example"], cache["start"] + code], {
        "code": code,
        "example": cache["example"],
        "start": cache["start"] + WORDS ** (cache["count"] + 1),
        "count": cache["count"] + 1,
    }


def cache(examples: Any = range(BATCH)) -> dict[str, jax.Array]:
    zeros = jnp.zeros(len(examples), jnp.int32)
    return {"code": zeros, "example": jnp.asarray(examples), "start": zeros, "count": zeros}


@functools.cache
def model() -> np.ndarray:
    """Logits [B, codes, words] of every text so far."""
    codes = sum(WORDS**count for count in range(1, FORM.length + 1))
    return np.random.default_rng(0).normal(0, 1.5, (BATCH, codes, WORDS)).astype(np.float32)


def run(name: str, examples: Any = range(BATCH), keys: Any = None, form: Form = FORM, **options: Any) -> np.ndarray:
    generate = generation.make(name, form=form, **options)
    keys = jax.random.split(jax.random.key(0), len(examples)) if keys is None else keys
    return np.asarray(jax.jit(lambda *given: generate(step, *given))(model(), cache(examples), keys))


def chances(example: int, text: tuple[int, ...]) -> list[float]:
    """Logarithms of the probabilities of a text's tokens after the first, one by one, in NumPy."""
    code, start, found = 0, 0, []
    for count, (before, after) in enumerate(itertools.pairwise(text)):
        code = code * WORDS + before
        logits = model()[example, start + code].astype(np.float64)
        found.append(logits[after] - np.log(np.exp(logits).sum()))
        start += WORDS ** (count + 1)
    return found


def texts() -> list[tuple[int, ...]]:
    """Every text: ended, or cut at its greatest length."""
    whole = [(FORM.begin, *rest) for rest in itertools.product(range(WORDS), repeat=FORM.length - 1)]
    ended = lambda text: text[: text.index(FORM.end) + 1] if FORM.end in text[1:] else text
    return sorted({ended(text) for text in whole})


def padded(text: tuple[int, ...]) -> list[int]:
    return [*text, *[FORM.padding] * (FORM.length - len(text))]


def greedy_in_numpy(example: int) -> list[int]:
    text = (FORM.begin,)
    while len(text) < FORM.length and (len(text) == 1 or text[-1] != FORM.end):
        text = max(((*text, word) for word in range(WORDS)), key=lambda text: chances(example, text)[-1])
    return padded(text)


def test_greedy_takes_the_likeliest_token_and_stops_at_the_end():
    found = run("greedy").tolist()
    assert found == [greedy_in_numpy(example) for example in range(BATCH)]
    assert any(FORM.end in text[1:-1] for text in found) and any(FORM.end not in text for text in found)


def test_one_beam_and_a_nucleus_of_one_are_greedy():
    np.testing.assert_array_equal(run("beam", beams=1), run("greedy"))
    np.testing.assert_array_equal(run("nucleus", top_p=1e-6), run("greedy"))


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_enough_beams_find_the_best_of_all_texts(length_penalty: float):
    def score(example: int, text: tuple[int, ...]) -> float:
        return sum(chances(example, text)) / ((5 + len(text) - 1) / 6) ** length_penalty

    best = [max(texts(), key=functools.partial(score, example)) for example in range(BATCH)]
    found = run("beam", beams=WORDS ** (FORM.length - 1), length_penalty=length_penalty)
    assert found.tolist() == [padded(text) for text in best]


def test_beams_find_better_texts_than_greedy_search():
    probability = lambda rows: [
        sum(chances(example, tuple(row[: row.index(1, 1) + 1] if 1 in row[1:] else row)))
        for example, row in enumerate(rows)
    ]
    greedy, beams = probability(run("greedy").tolist()), probability(run("beam", beams=4, length_penalty=0.0).tolist())
    assert all(a >= b - 1e-5 for a, b in zip(beams, greedy, strict=True)) and sum(beams) > sum(greedy) + 0.1


@pytest.mark.parametrize(("top_p", "temperature"), [(1.0, 1.0), (0.7, 1.0), (0.7, 2.0)])
def test_tokens_are_drawn_as_often_as_the_truncated_distribution_says(top_p: float, temperature: float):
    count = 20_000
    form = Form(0, 1, 2, 2)
    keys = jax.random.split(jax.random.key(1), count)
    drawn = run("nucleus", [0] * count, keys, form, top_p=top_p, temperature=temperature)[:, 1]
    chance = np.exp(model()[0, 0].astype(np.float64) / temperature)
    chance /= chance.sum()
    order = np.argsort(-chance)
    size = int(np.searchsorted(np.cumsum(chance[order]), top_p)) + 1
    expected = np.zeros(WORDS)
    expected[order[:size]] = chance[order[:size]] / chance[order[:size]].sum()
    assert 1 < size < WORDS or top_p == 1
    observed = np.bincount(drawn, minlength=WORDS) / count
    assert not observed[expected == 0].any()
    np.testing.assert_allclose(observed, expected, atol=4 * 0.5 / count**0.5)


def test_a_text_depends_on_its_own_example_and_key_alone():
    keys = jax.random.split(jax.random.key(3), BATCH)
    whole = run("nucleus", keys=keys, top_p=0.95)
    np.testing.assert_array_equal(run("nucleus", keys=keys, top_p=0.95), whole)
    order = np.array([2, 0])
    np.testing.assert_array_equal(run("nucleus", order, keys[order], top_p=0.95), whole[order])
    others = run("nucleus", keys=jax.random.split(jax.random.key(4), BATCH), top_p=0.95)
    assert (others != whole).any()
    np.testing.assert_array_equal(run("beam", order, beams=3), run("beam", beams=3)[order])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "greed"}, r"generation\.name = 'greed'.*greedy"),
        ({"name": "beam", "beams": 0}, "beams = 0"),
        ({"name": "beam", "length_penalty": -1.0}, "length_penalty = -1"),
        ({"name": "nucleus", "top_p": 0.0}, "top_p = 0"),
        ({"name": "nucleus", "temperature": 0.0}, "temperature = 0"),
        ({"name": "greedy", "beams": 3}, "beams"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        generation.make(**options, form=FORM)
