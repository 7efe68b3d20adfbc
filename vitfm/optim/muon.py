"""Muon: momentum, orthogonalised by Newton-Schulz, for matrices; NAdam for the rest (Jordan et al. 2024).

The update of each matrix is scaled to the root mean square of Adam's (Liu et al. 2025, arXiv:2502.16982), so that one
learning rate and one weight decay serve both.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import optax
from optax import contrib

from vitfm import tree
from vitfm.config import ConfigError
from vitfm.optim import layers

_JOINT = re.compile(r"(qkv|kv|query)/kernel$")


def _dimensions(name: str, leaf: Any) -> contrib.MuonDimensionNumbers:
    """Kernels are [in, out]; the joint one of attention, [in, 3, heads, head width], is three matrices; a
    convolution's, [height, width, in, out], is one (Jordan et al. 2024).

    Those of stacked blocks have one more axis in front, and are as many matrices as there are blocks.
    """
    first = int(layers.is_stacked(name))
    if len(leaf.shape) - first == 4 and not _JOINT.search(name):
        return contrib.MuonDimensionNumbers(reduction_axis=(first, first + 1, first + 2), output_axis=first + 3)
    if len(leaf.shape) - first == 4:
        return contrib.MuonDimensionNumbers(reduction_axis=first, output_axis=(first + 2, first + 3))
    return contrib.MuonDimensionNumbers(reduction_axis=first, output_axis=first + 1)


def make(
    *,
    beta: float = 0.95,
    newton_schulz_steps: int = 5,
    rms: float = 0.2,
    matrices: str = r"block(s|_\d+)/((?!depthwise).)*kernel$",
    b1: float = 0.9,
    b2: float = 0.95,
    epsilon: float = 1e-8,
    adam_learning_rate: float = 1.0,
    params: Any,
) -> optax.GradientTransformation:
    """Muon's direction.

    Args:
      beta: decay of the momentum (Nesterov's form).
      newton_schulz_steps: iterations of the orthogonalisation.
      rms: root mean square of a matrix's update, relative to the learning rate.
      matrices: pattern of the parameter paths that Muon moves; Adam moves the others, filters of one channel too.
      b1, b2, epsilon: of Adam, which has Nesterov's momentum here (Dozat 2016).
      adam_learning_rate: of Adam's part, relative to the common learning rate.
      params: tree of the parameters' shapes.
    """
    tree.by_rule(((matrices, True), (".*", False)), params, where="optim.matrices")  # An idle pattern is an error.
    for name, leaf in tree.named_leaves(params):
        if re.search(matrices, name) and len(leaf.shape) - layers.is_stacked(name) not in (2, 4):
            raise ConfigError(f"config.optim.matrices = {matrices!r} names {name} of shape {leaf.shape}, no matrix.")
    muon = contrib.muon(
        learning_rate=1.0,
        beta=beta,
        ns_steps=newton_schulz_steps,
        consistent_rms=rms,
        eps=epsilon,
        adam_b1=b1,
        adam_b2=b2,
        adam_learning_rate=adam_learning_rate,
        muon_weight_dimension_numbers=lambda leaves: jax.tree_util.tree_map_with_path(
            lambda path, leaf: _dimensions(tree.name(path), leaf) if re.search(matrices, tree.name(path)) else None,
            leaves,
        ),
    )
    return optax.chain(muon, optax.scale(-1.0))  # contrib.muon descends; the learning rate, applied later, does too.
