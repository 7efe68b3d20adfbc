"""MAE beside transformers' `ViTMAEForPreTraining` and `ViTMAEModel`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.parity.family import Case
from tests.parity.reference import torch, transformers
from vitfm.models import masking


def _build(cls: str, **sizes: Any) -> torch.nn.Module:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config |= {"decoder_hidden_size": 24, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 3}
    config |= {"decoder_intermediate_size": 40, "image_size": 32, "patch_size": 8, **sizes}
    model = getattr(transformers, cls)(transformers.ViTMAEConfig(**config))
    # It is made with positions of zeros, and takes its encoder for one that has got its own.
    vit = getattr(model, "vit", model)
    vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
    vit.embeddings.initialize_weights()
    if vit is not model:
        model.decoder.initialize_weights(vit.embeddings.patch_embeddings.num_patches)
    return model


def _encoded(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """All patches in order."""
    vit = getattr(model, "vit", model)
    ratio, vit.config.mask_ratio = vit.config.mask_ratio, 0.0
    order = torch.arange(float(vit.embeddings.patch_embeddings.num_patches)).expand(len(pixels), -1)
    tokens = vit(pixels, noise=order).last_hidden_state
    vit.config.mask_ratio = ratio
    return {"tokens": tokens, "pooled": tokens[:, 0]}


def _whole(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """With the reconstruction, under the masks that ours draws."""
    rows = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(len(pixels)))
    noise = np.array(masking.noise(rows, model.vit.embeddings.patch_embeddings.num_patches))
    found = model(pixels, noise=torch.tensor(noise))
    patches, logits = model.patchify(pixels), found.logits
    if model.config.norm_pix_loss:
        logits = logits * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
    mask = found.mask[..., None]
    pictures = (patches, patches * (1 - mask), patches * (1 - mask) + logits * mask)
    stacked = torch.stack([model.unpatchify(picture).permute(0, 2, 3, 1) for picture in pictures], 1)
    return {"reconstruct": stacked, **_encoded(model, pixels)}


CASES = [
    Case("vit_mae", "normalised pixels", lambda: _build("ViTMAEForPreTraining", norm_pix_loss=True), (32, 32), _whole),
    Case(
        "vit_mae",
        "raw pixels, odd sizes, 4 channels",
        lambda: _build("ViTMAEForPreTraining", image_size=35, patch_size=7, num_channels=4, mask_ratio=0.6),
        (35, 35),
        _whole,
    ),
    Case("vit_mae", "bare", lambda: _build("ViTMAEModel", layer_norm_eps=1e-6), (32, 32), _encoded),
]
