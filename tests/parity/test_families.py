"""Every family of `vitfm/interop/families` equals its reference: outputs, gradients, and weights there and back."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from tests.parity import table
from tests.parity.family import Case, Pair, measured, torch
from tests.parity.weights import FORWARD, GRADIENT
from vitfm.interop import weights

CASES = table.cases()
pair = functools.cache(lambda number: Pair(CASES[number], seed=number))
each = pytest.mark.parametrize("number", range(len(CASES)), ids=[str(case) for case in CASES])


@each
def test_outputs_and_gradients_are_theirs(number: int):
    errors = measured(pair(number))
    assert errors.forward < FORWARD
    assert errors.gradient < GRADIENT, errors.parameter


@each
def test_weights_come_back_bit_for_bit(number: int):
    both = pair(number)
    back = weights.to_theirs(both.rows, both.ours()) | both.computed()
    assert {name: array.tobytes() for name, array in back.items()} == {
        name: array.tobytes() for name, array in both.tensors().items()
    }
    assert all(back[name].shape == array.shape for name, array in both.tensors().items())


@each
def test_their_library_builds_the_same_from_what_we_write(number: int):
    both = pair(number)
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
