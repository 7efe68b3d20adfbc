"""CLIP beside transformers' `CLIPModel` and open_clip's `CLIP`."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.parity.family import BATCH, Case
from tests.parity.reference import CLIP, torch, transformers

VOCABULARY, LENGTH = 40, 9
_END = VOCABULARY - 1


def _texts() -> dict[str, np.ndarray]:
    """Of different lengths, each with the end of text last, which is the highest id."""
    rng = np.random.default_rng(1)
    lengths = np.array([LENGTH, *rng.integers(2, LENGTH, BATCH - 1)])
    mask = np.arange(LENGTH) < lengths[:, None]
    text = np.where(mask, rng.integers(3, _END, mask.shape), 0).astype(np.int32)
    text[np.arange(BATCH), lengths - 1] = _END
    return {"text": text, "text_mask": mask}


TEXT = _texts()


def _transformers(act: str = "quick_gelu", **vision: Any) -> torch.nn.Module:
    blocks = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "hidden_act": act}
    text = {"hidden_size": 24, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "eos_token_id": _END}
    text |= {"bos_token_id": 1, "pad_token_id": 0}
    vision = {"hidden_size": 32, "image_size": 32, "patch_size": 8, **blocks, **vision}
    config = transformers.CLIPConfig(text_config={**blocks, **text}, vision_config=vision, projection_dim=20)
    return transformers.CLIPModel(config)


def _of_transformers(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    seen = model.vision_model(pixels, interpolate_pos_encoding=True)
    output = model(torch.tensor(TEXT["text"], dtype=torch.long), pixels, interpolate_pos_encoding=True)
    return {
        "embed_image": output.image_embeds,
        "embed_text": output.text_embeds,
        "tokens": model.vision_model.post_layernorm(seen.last_hidden_state),
    }


def _open_clip_config(quick_gelu: bool, **vision: Any) -> dict[str, Any]:
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "mlp_ratio": 2.0, **vision}
    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 24, "heads": 3, "layers": 1}
    return {"model_cfg": {"embed_dim": 20, "quick_gelu": quick_gelu, "vision_cfg": vision, "text_cfg": text}}


def _of_open_clip(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    image, text, _ = model(pixels, torch.tensor(TEXT["text"], dtype=torch.long))
    return {"embed_image": image, "embed_text": text}


def _open_clip_case(name: str, quick_gelu: bool, image: tuple[int, int], **vision: Any) -> Case:
    config = _open_clip_config(quick_gelu, **vision)
    build = lambda: CLIP(**config["model_cfg"])
    return Case("clip", name, build, image, _of_open_clip, "open_clip", config=config, text=TEXT)


CASES = [
    Case("clip", "quick GELU", _transformers, (32, 32), _of_transformers, text=TEXT),
    Case(
        "clip",
        "GELU, odd sizes, not square",
        lambda: _transformers("gelu", hidden_size=48, num_attention_heads=3, image_size=21, patch_size=7),
        (28, 14),
        _of_transformers,
        text=TEXT,
    ),
    _open_clip_case("quick GELU", True, (32, 32)),
    _open_clip_case("GELU, odd sizes", False, (21, 21), image_size=21, patch_size=7, width=48),
]
