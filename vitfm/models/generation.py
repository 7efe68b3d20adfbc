"""Texts from a model of the next token: greedy search, beam search, nucleus sampling.

Each is a pure function of `next`: (params, cache, token [B]) -> (float32 logits [B, K] of the token after it, cache),
where the leading axis of every leaf of `cache` is B. Shapes are static: what is behind the end is padding, and the loop
stops where all texts have ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitfm import config
from vitfm.config import ConfigError

Next = Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]
Choose = Callable[[jax.Array, jax.Array], jax.Array]  # (logits [B,K], step []) -> token [B].
Generate = Callable[..., jax.Array]  # (next, params, cache, keys [B]) -> [B,T].


@dataclasses.dataclass(frozen=True)
class Form:
    """Of the texts.

    Attributes:
      begin, end, padding: ids of tokens.
      length: T, the tokens of a text, the first, `begin`, among them; the last is `end` only where the model says so.
    """

    begin: int
    end: int
    padding: int
    length: int


def make(name: str = "greedy", *, form: Form, **options: Any) -> Generate:
    """(next, params, cache, keys [B]) -> token ids [B, T].

    Args:
      name: "greedy", "beam" or "nucleus".
      form: of the texts.
      **options: of the function of that name.

    Raises:
      ConfigError: there is no such way, or an option makes no sense.
    """
    if name not in _WAYS:
        raise ConfigError(f"config.objective.generation.name = {name!r}: {config.nearest(name, sorted(_WAYS))}")
    return config.call(_WAYS[name], options, where="objective.generation", form=form)


def greedy(*, form: Form) -> Generate:
    """The likeliest token at each step; keys play no part."""
    choose = lambda logits, step: logits.argmax(-1)
    return lambda next, params, cache, keys=None: _one_by_one(next, params, cache, choose, form)


def nucleus(*, top_p: float = 0.9, temperature: float = 1.0, form: Form) -> Generate:
    """Draws from the likeliest tokens (Holtzman et al. 2020, arXiv:1904.09751, section 3.1); each text by its own key.

    Args:
      top_p: they are the fewest whose probabilities sum to this; 1 draws from all tokens, and near 0 the likeliest is
        left.
      temperature: what logits are divided by before that.
      form: of the texts.
    """
    if not 0 < top_p <= 1 or temperature <= 0:
        raise ConfigError(
            f"config.objective.generation: top_p = {top_p} must lie above 0 and at most at 1, and temperature = "
            f"{temperature} above 0; name = 'greedy' takes the likeliest."
        )

    def generate(next: Next, params: Any, cache: Any, keys: jax.Array) -> jax.Array:
        def choose(logits: jax.Array, step: jax.Array) -> jax.Array:
            order = jnp.argsort(-logits, axis=-1)
            ranked = jnp.take_along_axis(logits, order, axis=-1) / temperature
            drawn = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, step), row))
            rank = drawn(keys, truncated(ranked, top_p))
            return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]

        return _one_by_one(next, params, cache, choose, form)

    return generate


def truncated(ranked: jax.Array, top_p: float) -> jax.Array:
    """Logits [..., K] in falling order, -inf behind the first whose probabilities sum to `top_p`."""
    chance = jax.nn.softmax(ranked, axis=-1)
    before = jnp.cumsum(chance, axis=-1) - chance
    return jnp.where((before < top_p).at[..., 0].set(True), ranked, -jnp.inf)


def _one_by_one(next: Next, params: Any, cache: Any, choose: Choose, form: Form) -> jax.Array:
    """[B, T], each token chosen once and for all."""
    batch = len(jax.tree.leaves(cache)[0])
    ids = jnp.full((batch, form.length), form.padding, jnp.int32).at[:, 0].set(form.begin)

    def go_on(state: tuple[Any, ...]) -> jax.Array:
        step, _, ended, _ = state
        return (step < form.length) & ~ended.all()

    def body(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, ids, ended, cache = state
        logits, cache = next(params, cache, ids[:, step - 1])
        token = jnp.where(ended, form.padding, choose(logits, step))
        return step + 1, ids.at[:, step].set(token), ended | (token == form.end), cache

    return jax.lax.while_loop(go_on, body, (jnp.int32(1), ids, jnp.zeros(batch, bool), cache))[1]


def beam(*, beams: int = 4, length_penalty: float = 0.6, form: Form) -> Generate:
    """The likeliest text of those that the `beams` likeliest beginnings lead to; keys play no part.

    Texts are compared by the logarithm of their probability over ((5 + n) / 6)^length_penalty, n tokens after the first
    (Wu et al. 2016, arXiv:1609.08144, equation 14). One that has ended stays among the beams while it is one of the
    best, so a text ends where the model says, or is cut at its greatest length.

    Args:
      beams: how many beginnings are kept; 1 is greedy search.
      length_penalty: 0 compares by probability alone, which favours short texts.
      form: of the texts.
    """
    if beams < 1 or length_penalty < 0:
        raise ConfigError(
            f"config.objective.generation: beams = {beams} must be at least 1 and length_penalty = {length_penalty} at "
            "least 0."
        )
    scale = lambda length: ((5 + length) / 6) ** length_penalty

    def generate(next: Next, params: Any, cache: Any, keys: jax.Array | None = None) -> jax.Array:
        batch = len(jax.tree.leaves(cache)[0])
        ids = jnp.full((batch, beams, form.length), form.padding, jnp.int32).at[:, :, 0].set(form.begin)
        first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)  # All beams are the same at first.
        start = (
            jnp.int32(1),
            ids,
            jnp.broadcast_to(first, (batch, beams)),
            jnp.zeros((batch, beams), jnp.int32),
            jnp.zeros((batch, beams), bool),
            jax.tree.map(lambda leaf: jnp.repeat(leaf, beams, axis=0), cache),
        )

        def go_on(state: tuple[Any, ...]) -> jax.Array:
            """Whether some text that goes on could still become the best of its beams: at most it loses no more."""
            step, _, score, length, ended, _ = state
            best = jnp.where(ended, score / scale(length), -jnp.inf).max(1)
            bound = jnp.where(ended, -jnp.inf, score / scale(form.length - 1)).max(1)
            return (step < form.length) & (bound > best).any()

        def body(state: tuple[Any, ...]) -> tuple[Any, ...]:
            step, ids, score, length, ended, cache = state
            logits, cache = next(params, cache, ids[:, :, step - 1].reshape(-1))
            chance = jax.nn.log_softmax(logits).reshape(batch, beams, -1)
            only = jnp.where(jnp.arange(chance.shape[-1]) == form.padding, 0.0, -jnp.inf)
            total = score[..., None] + jnp.where(ended[..., None], only, chance)
            length = length + ~ended
            ranked = (total / scale(length)[..., None]).reshape(batch, -1)
            _, chosen = jax.lax.top_k(ranked, beams)
            parent, token = chosen // chance.shape[-1], (chosen % chance.shape[-1]).astype(jnp.int32)
            take = lambda array: jnp.take_along_axis(array, parent, axis=1)
            score = jnp.take_along_axis(total.reshape(batch, -1), chosen, axis=1)
            ids = jnp.take_along_axis(ids, parent[..., None], axis=1).at[:, :, step].set(token)
            rows = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)
            cache = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), cache)
            return step + 1, ids, score, take(length), take(ended) | (token == form.end), cache

        _, ids, score, length, _, _ = jax.lax.while_loop(go_on, body, start)
        best = (score / scale(jnp.maximum(length, 1))).argmax(1)
        return jnp.take_along_axis(ids, best[:, None, None], axis=1)[:, 0]

    return generate


_WAYS: Mapping[str, Callable[..., Generate]] = {"greedy": greedy, "beam": beam, "nucleus": nucleus}
