"""Tensors are called on disk what transformers calls them there, family by family."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.parity import table
from tests.parity.reference import transformers
from vitfm.interop import published

FIRST = {case.family: case for case in reversed(table.cases()) if case.format == "transformers"}
# It writes a name that it does not read: its table renames every `layers.` back, that of the decoder, too.
WRONG = {"vit_mae": lambda name: name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")}


@pytest.mark.parametrize("family", sorted(FIRST))
def test_names_on_disk_are_those_of_transformers(family: str):
    case = FIRST[family]
    model = case.build()
    kind = model.config.model_type.replace("-", "_")
    unused = [pattern for pattern, _ in getattr(case.module, "UNUSED", ())]
    used = lambda names: {name for name in names if not any(re.search(pattern, name) for pattern in unused)}
    memory = used(model.state_dict())
    tensors = {published.on_disk(kind, name): np.zeros(2) for name in memory}
    ours = set(published.joined(kind, tensors))
    theirs = used(transformers.core_model_loading.revert_weight_conversion(model, dict(model.state_dict())))
    assert ours == {WRONG.get(family, str)(name) for name in theirs}
    known = published.in_memory(kind, memory)
    read = {part for name in theirs for part in published.parts(kind, name) or (name,)}
    assert {known[name] for name in read} == memory
