"""Means over the steps of a row do not depend on when they were read, nor on a restart in between."""

import json

import jax.numpy as jnp
import pytest

from vitfm.metrics.window import Window


def metrics(step: int, *, healthy: bool = True) -> dict:
    return {"loss": jnp.float32(1 / (step + 2)), "seconds": 0.1 * step, "healthy": jnp.bool_(healthy)}


def filled(first: int, last: int, window: Window | None = None) -> Window:
    window = window or Window()
    for step in range(first, last + 1):
        window.add(step, metrics(step))
    return window


def test_means_are_over_the_steps_read() -> None:
    window = filled(1, 5)
    assert window.read(3)
    assert window.take() == {
        "loss": pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3),
        "seconds": pytest.approx(0.2),
    }
    assert window.read(5)
    assert window.take()["seconds"] == pytest.approx(0.45)


def test_a_stored_window_goes_on_to_the_same_means() -> None:
    whole = filled(1, 7)
    assert whole.read(7)
    before = filled(1, 4)
    assert before.read(2)
    assert before.read(4)
    after = filled(5, 7, Window(**json.loads(json.dumps(before.stored()))))
    assert after.read(7)
    assert after.take() == whole.take()


def test_it_stops_at_the_first_step_that_is_not_healthy() -> None:
    window = filled(1, 3)
    window.add(4, metrics(4, healthy=False))
    window.add(5, metrics(5))
    assert not window.read(5)
    assert window.take() == filled_to_three()


def filled_to_three() -> dict[str, float]:
    window = filled(1, 3)
    assert window.read(3)
    return window.take()
