"""Schedules hit their endpoints, warm up, and never exceed the peak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm import config
from vitfm.optim import schedules

NAMES = ("cosine", "linear", "constant", "trapezoid", "rsqrt")
few = settings(max_examples=25, deadline=None)  # Each example is a handful of eager JAX operations.


def to_steps(duration: config.Duration, where: str) -> int:
    return config.steps(duration, where=where, batch_size=10, epoch_examples=200, total=300)


def factors(total: int, **spec: Any) -> np.ndarray:
    """The factor at steps 0, ..., total."""
    factor = schedules.make(spec, total=total, to_steps=lambda duration, where: int(duration))
    return np.broadcast_to(np.asarray(factor(np.arange(total + 1))), total + 1)


runs = st.integers(1, 400).flatmap(lambda total: st.tuples(st.just(total), st.integers(0, total)))
phases = st.integers(1, 400).flatmap(
    lambda total: st.integers(0, total).flatmap(
        lambda warmup: st.tuples(st.just(total), st.just(warmup), st.integers(0, total - warmup))
    )
)


@few
@given(st.sampled_from(NAMES), runs)
def test_never_above_the_peak_nor_below_zero(name: str, run: tuple[int, int]):
    total, warmup = run
    values = factors(total, name=name, warmup=warmup)
    assert values.min() >= 0
    assert values.max() <= 1 + 1e-6
    if warmup < total or name not in ("cosine", "linear"):
        assert values[warmup] == pytest.approx(1)  # The peak is reached, right after the warm-up.


@few
@given(st.sampled_from(NAMES), runs)
def test_warms_up_in_equal_steps_from_the_first(name: str, run: tuple[int, int]):
    total, warmup = run
    values = factors(total, name=name, warmup=warmup)
    np.testing.assert_allclose(values[:warmup], np.arange(1, warmup + 1) / max(warmup, 1), rtol=1e-5)


@few
@given(st.sampled_from(["cosine", "linear"]), runs, st.floats(0, 1))
def test_goes_down_to_its_end(name: str, run: tuple[int, int], end: float):
    total, warmup = run
    values = factors(total, name=name, warmup=warmup, end=end)
    if warmup < total:
        assert values[-1] == pytest.approx(end, abs=1e-6)
        assert (np.diff(values[warmup:]) <= 1e-6).all()
        middle = (warmup + total) / 2
        if middle.is_integer():
            assert values[int(middle)] == pytest.approx((1 + end) / 2, abs=1e-5)


@few
@given(st.sampled_from(["trapezoid", "rsqrt"]), phases)
def test_cools_down_to_zero_at_the_end(name: str, run: tuple[int, int, int]):
    total, warmup, cooldown = run
    values = factors(total, name=name, warmup=warmup, cooldown=cooldown)
    plain = factors(total, name=name, warmup=warmup)
    np.testing.assert_array_equal(values[: total - cooldown + 1], plain[: total - cooldown + 1])
    down = np.arange(cooldown, -1, -1) / max(cooldown, 1) if cooldown else 1
    np.testing.assert_allclose(values[total - cooldown :], plain[total - cooldown :] * down, rtol=1e-5, atol=1e-7)


def test_a_cosine_may_end_before_the_run():
    values = factors(50, name="cosine", warmup=10, end=0.25, length=30)
    np.testing.assert_array_equal(values[:31], factors(30, name="cosine", warmup=10, end=0.25))
    assert (values[30:] == 0.25).all()


def test_shapes_between_the_ends():
    assert (factors(50, name="constant", warmup=10)[10:] == 1).all()
    assert (factors(50, name="trapezoid", warmup=10, cooldown=5)[10:46] == 1).all()
    rsqrt = factors(50, name="rsqrt", warmup=10, timescale=10)
    np.testing.assert_allclose(rsqrt[[10, 20, 40]], [1, 0.5**0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("length", "steps"), [("5%", 15), ("2 epochs", 40), ("250 examples", 25), ("7 steps", 7), (9, 9)]
)
def test_lengths_are_durations(length: config.Duration, steps: int):
    given_as = schedules.make({"name": "cosine", "warmup": length}, total=300, to_steps=to_steps)
    np.testing.assert_array_equal(given_as(np.arange(301)), schedules.cosine(total=300, warmup=steps)(np.arange(301)))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "cosin"}, r"optim\.schedule\.name = 'cosin': did you mean 'cosine'"),
        ({"warmup": 3}, r"optim\.schedule\.name = None"),
        ({"name": "cosine", "cooldown": 3}, r"Unknown key config\.optim\.schedule\.cooldown: .*warmup"),
        ({"name": "cosine", "total": 3}, r"Unknown key config\.optim\.schedule\.total"),
        ({"name": "cosine", "end": "low"}, r"optim\.schedule\.end = 'low' has the wrong type"),
        ({"name": "cosine", "warmup": "soon"}, r"optim\.schedule\.warmup = 'soon' is not a duration"),
        ({"name": "cosine", "warmup": 301}, "phases|301 steps in a run of 300"),
        ({"name": "trapezoid", "warmup": "60%", "cooldown": "60%"}, "360 steps in a run of 300"),
        ({"name": "cosine", "length": 301}, r"optim\.schedule\.length = 301 is 301 steps, .* in a run of 300"),
        ({"name": "cosine", "warmup": 9, "length": "1%"}, r"length = '1%' is 3 steps, of which 9 warm up"),
    ],
)
def test_refuses_in_words(spec: Mapping[str, Any], words: str):
    with pytest.raises(config.ConfigError, match=words):
        schedules.make(spec, total=300, to_steps=to_steps)


def value(spec: Any) -> Any:
    return schedules.value(spec, total=300, to_steps=to_steps, where="objective.momentum")


def course(shape: str, start: float, end: float, length: config.Duration = "100%") -> np.ndarray:
    """The values at steps 0, ..., 300."""
    return np.asarray(value({"name": shape, "start": start, "end": end, "length": length})(np.arange(301)))


def test_a_number_is_constant():
    assert value(0.9)(0) == value(0.9)(300) == 0.9
    assert value(1)(jnp.asarray(5)) == 1


@few
@given(st.sampled_from(["cosine", "linear"]), st.floats(-1, 2), st.floats(-1, 2), st.integers(1, 300))
def test_a_value_runs_from_its_start_to_its_end_and_stays(shape: str, start: float, end: float, length: int):
    values = course(shape, start, end, length)
    assert values[0] == pytest.approx(start, abs=1e-6)
    np.testing.assert_allclose(values[length:], end, atol=1e-6)
    assert (np.diff(values) * np.sign(end - start) >= -1e-6).all()
    if length % 2 == 0:
        assert values[length // 2] == pytest.approx((start + end) / 2, abs=1e-6)


def test_values_are_those_of_dino():
    """Its `cosine_scheduler`: final + (base - final) (1 + cos(pi i / n)) / 2 at iteration i of n."""
    i = np.arange(300)
    expected = 1 + 0.5 * (0.996 - 1) * (1 + np.cos(np.pi * i / 300))
    np.testing.assert_allclose(course("cosine", 0.996, 1.0)[:300], expected, rtol=1e-6)
    np.testing.assert_allclose(course("linear", 0.04, 0.07, "50%")[[0, 75, 150, 151]], [0.04, 0.055, 0.07, 0.07])


@pytest.mark.parametrize(("length", "steps"), [("80%", 240), (7, 7), (300, 300)])
def test_a_switch_is_at_its_end_from_its_step_on(length: config.Duration, steps: int):
    values = course("switch", 0.0, 0.25, length)
    assert not values[:steps].any() and (values[steps:] == 0.25).all()


def test_a_value_of_a_traced_step():
    momentum = value({"name": "cosine", "start": 0.5, "end": 1.0, "length": "2 epochs"})
    traced = jax.jit(jax.vmap(momentum))(jnp.arange(60))
    np.testing.assert_allclose(traced, momentum(np.arange(60)), rtol=1e-6)
    assert traced[39] < 1 and traced[40] == 1  # 40 steps.


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("0.9", r"config\.objective\.momentum = '0\.9' is neither a number nor a schedule"),
        (True, r"config\.objective\.momentum = True is neither"),
        ({"name": "cosin", "start": 1, "end": 0}, r"momentum\.name = 'cosin': did you mean 'cosine'"),
        ({"start": 1, "end": 0}, r"momentum\.name = None"),
        ({"name": "linear", "start": 1}, r"config\.objective\.momentum lacks end"),
        ({"name": "linear", "start": 1, "end": 0, "lenght": 2}, r"momentum\.lenght: did you mean 'length'"),
        ({"name": "linear", "start": 1, "end": "0"}, r"momentum\.end = '0' has the wrong type"),
        ({"name": "linear", "start": 1, "end": 0, "length": "soon"}, r"momentum\.length = 'soon' is not a duration"),
        ({"name": "linear", "start": 1, "end": 0, "length": 301}, r"momentum\.length = 301 is 301 steps in a run of 3"),
        ({"name": "linear", "start": 1, "end": 0, "length": 0}, r"momentum\.length = 0 is 0 steps"),
    ],
)
def test_refuses_values_in_words(spec: Any, words: str):
    with pytest.raises(config.ConfigError, match=words):
        value(spec)


def test_steps_fall_at_their_shares_of_the_run():
    values = factors(20, name="steps", warmup=2, at=(0.25, 0.75), factor=0.1)
    np.testing.assert_allclose(values, [0.5] + [1] * 4 + [0.1] * 10 + [0.01] * 6, rtol=1e-5)
