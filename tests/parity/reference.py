"""Torch references, importable where torchvision came without its compiled operators (as its CPU-less wheels do)."""

import numpy as np
import torch

from tests.parity import operators

_LIBRARY = operators.register()  # Kept alive: the operators go with it.

import lightly.loss  # noqa: E402
import lightly.models  # noqa: E402
import open_clip  # noqa: E402
import timm  # noqa: E402
import transformers  # noqa: E402
from open_clip.coca_model import CoCa  # noqa: E402
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # noqa: E402

__all__ = [
    "CLIP",
    "CLIPTextCfg",
    "CLIPVisionCfg",
    "CoCa",
    "lightly",
    "open_clip",
    "randomise",
    "relative_error",
    "timm",
    "torch",
    "transformers",
]


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Draws every parameter again: matrices by their fan-in, norm scales around 1, the rest large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    norms = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.LayerNorm)}
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in norms:
                parameter.copy_(1 + 0.3 * noise)
            elif parameter.ndim >= 2:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(1 + 0.3 * noise)


def relative_error(ours: object, theirs: object) -> float:
    """The norm of the difference relative to the norm of the reference, in float64."""
    a, b = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, np.float64) for x in (ours, theirs))
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
