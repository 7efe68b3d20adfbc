"""Parameters by path: names, and rules that cover every leaf and are all of use."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitfm import tree
from vitfm.config import ConfigError

PARAMS = {
    "image": {"norm": {"scale": np.ones(3), "bias": np.zeros(3)}, "kernel": np.ones((2, 3))},
    "text": {"kernel": np.ones((4, 2))},
    "logit_scale": np.ones(()),
}
NAMES = ["image/kernel", "image/norm/bias", "image/norm/scale", "logit_scale", "text/kernel"]


def test_names_are_slash_separated_and_in_the_order_of_jax():
    assert [name for name, _ in tree.named_leaves(PARAMS)] == NAMES
    assert [leaf.shape for _, leaf in tree.named_leaves(PARAMS)] == [leaf.shape for leaf in jax.tree.leaves(PARAMS)]
    assert [name for name, _ in tree.named_leaves([{"a": 1}, (2,)])] == ["0/a", "1/0"]


def test_first_rule_that_matches_wins():
    values = tree.by_rule([("norm", 1), ("^image", 2), ("kernel$", 3), (".*", 4)], PARAMS, where="x")
    assert dict(tree.named_leaves(values)) == dict(zip(NAMES, [2, 1, 1, 4, 3], strict=True))


def test_a_leaf_that_no_rule_covers_is_named():
    with pytest.raises(ConfigError, match=r"No rule of config\.optim\.decay covers logit_scale; .*'\.\*'"):
        tree.by_rule([("image|text", 1)], PARAMS, where="optim.decay")


def test_a_rule_that_covers_nothing_is_named():
    with pytest.raises(
        ConfigError, match=r"config\.x that cover nothing: 'norms' .*image/kernel, image/norm/bias"
    ) as error:
        tree.by_rule([("norms", 1), (".*", 2)], PARAMS, where="x")
    assert "'.*'" not in str(error.value)
    with pytest.raises(ConfigError, match=r"cover nothing: 'text/kernel' \(a rule before may take"):
        tree.by_rule([("kernel", 1), ("text/kernel", 2), (".*", 3)], PARAMS, where="x")


def test_a_pattern_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"config\.x: '\(' is no regular expression"):
        tree.by_rule([("(", 1), (".*", 2)], PARAMS, where="x")


def test_values_may_be_anything():
    values = tree.by_rule([("kernel", ("data", None)), (".*", "replicate")], PARAMS, where="x")
    assert values["text"]["kernel"] == ("data", None)
    assert values["logit_scale"] == "replicate"


@given(st.permutations(NAMES), st.integers(0, 5))
def test_rules_for_single_leaves_reach_exactly_them(order: list[str], count: int):
    rules = [(f"^{name}$", index) for index, name in enumerate(order[:count])]
    rest = [(".*", -1)] if count < len(order) else []
    values = dict(tree.named_leaves(tree.by_rule(rules + rest, PARAMS, where="x")))
    assert values == {name: index if index < count else -1 for index, name in enumerate(order)}


def test_count():
    assert tree.count(PARAMS) == 3 + 3 + 6 + 8 + 1
    assert tree.count({"a": jax.ShapeDtypeStruct((5, 2), jnp.float32), "b": {}}) == 10
