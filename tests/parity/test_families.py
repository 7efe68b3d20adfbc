"""Every family of `vitfm/interop/families` equals its reference: outputs, gradients, and weights there and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.parity import table
from tests.parity.family import Case, Pair, measured, torch
from tests.parity.weights import FORWARD, GRADIENT
from vitfm.interop import weights

CASES = table.cases()
FIRST = {(case.family, case.format): number for number, case in reversed(list(enumerate(CASES)))}


def _each() -> Iterator[Any]:
    """The cases by number; of each family and format the first at every push, the others where `slow` is."""
    for number, case in enumerate(CASES):
        slow = FIRST[case.family, case.format] != number
        yield pytest.param(number, id=str(case), marks=pytest.mark.slow if slow else ())


@pytest.fixture(scope="module", params=_each())
def both(request: pytest.FixtureRequest) -> Pair:
    """One case's two models; pytest runs all tests of it before the next."""
    return Pair(CASES[request.param], seed=request.param)


def test_outputs_and_gradients_are_theirs(both: Pair):
    errors = measured(both)
    assert errors.forward < FORWARD
    assert errors.gradient < GRADIENT, errors.parameter


def test_weights_come_back_bit_for_bit(both: Pair):
    back = weights.to_theirs(both.rows, both.ours()) | both.computed()
    assert {name: array.tobytes() for name, array in back.items()} == {
        name: array.tobytes() for name, array in both.tensors().items()
    }
    assert all(back[name].shape == array.shape for name, array in both.tensors().items())


def test_their_library_builds_the_same_from_what_we_write(both: Pair):
    case: Case = both.case
    rebuilt = both.rebuilt()
    tensors = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in both.tensors().items()}
    missing, unexpected = rebuilt.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(both.is_unused(name) for name in missing)
    with torch.no_grad():
        again, first = case.outputs(rebuilt, both.pixels), case.outputs(both.theirs, both.pixels)
    assert all(torch.equal(again[name], value) for name, value in first.items())


def test_every_family_has_cases():
    assert {case.family for case in CASES} == set(table.families())
