"""What evaluators ask of sources."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.evals.fake import World
from vitfm.config import ConfigError


class Known(list):
    """Examples whose features are known without reading them."""

    read = 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        return super().__getitem__(index)

    def column(self, feature: str) -> list[Any]:
        return [example[feature] for example in self]


def test_a_feature_of_all_examples_is_read_at_once_where_it_can_be():
    examples = [{"image": i, "age": np.int64(i), "words": np.array([i, i]), "name": str(i)} for i in range(9)]
    context = World({}, np.zeros((9, 2)), {}).context
    known = Known(examples)
    for feature, values in (("age", [*range(9)]), ("words", [(i, i) for i in range(9)]), ("name", [*"012345678"])):
        assert context.feature(known, feature) == context.feature(examples, feature) == values
    assert known.read == 3  # The first, for the names of its features.
    for source in (known, examples):
        with pytest.raises(ConfigError, match=r"config\.evals asks for the feature 'nmae': did you mean 'name'"):
            context.feature(source, "nmae")
