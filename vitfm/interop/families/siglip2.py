"""SigLIP 2 for any aspect ratio (Tschannen et al. 2025, arXiv:2502.14786): transformers' `Siglip2Model` and
`Siglip2ForImageClassification`. Its fixed resolutions are `siglip`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.interop.families import siglip, siglip2_vision_model
from vitfm.interop.weights import Row

UNUSED = siglip.UNUSED

PATCHES = True  # Images reach it as padded patches.


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective; vocabulary and length of the texts come from the tokenizer."""
    return siglip.read_as("Siglip2", siglip2_vision_model, config)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json; who knows the tokenizer adds `vocab_size` and its like."""
    return siglip.write_as("Siglip2", siglip2_vision_model, objective, num_classes)


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return siglip.rows_of(siglip2_vision_model, objective)
