"""Named sizes of vision transformers, as published; what an option does not name is 4 D, or the default.

Ti to B of DeiT (Touvron et al. 2021, arXiv:2012.12877) and ViT (Dosovitskiy et al. 2021, arXiv:2010.11929), So400m of
Alabdulmohsin et al. 2023 (arXiv:2305.13035), g and G of Zhai et al. 2022 (arXiv:2106.04560), all as in big_vision;
"g-swiglu" is DINOv2's ViT-g (Oquab et al. 2024, arXiv:2304.07193, table 17), "S+", "H+" and "7B" are DINOv3's (Siméoni
et al. 2025, arXiv:2508.10104).
"""

from __future__ import annotations

from typing import Any

_SWIGLU = {"gated_mlp": True, "activation": "silu"}
SIZES: dict[str, dict[str, Any]] = {
    "mu": {"hidden_dim": 32, "depth": 1, "num_heads": 2},
    "Ti": {"hidden_dim": 192, "depth": 12, "num_heads": 3},
    "S": {"hidden_dim": 384, "depth": 12, "num_heads": 6},
    "M": {"hidden_dim": 512, "depth": 12, "num_heads": 8},
    "B": {"hidden_dim": 768, "depth": 12, "num_heads": 12},
    "L": {"hidden_dim": 1024, "depth": 24, "num_heads": 16},
    "So400m": {"hidden_dim": 1152, "depth": 27, "num_heads": 16, "mlp_dim": 4304},
    "H": {"hidden_dim": 1280, "depth": 32, "num_heads": 16},
    "g": {"hidden_dim": 1408, "depth": 40, "num_heads": 16, "mlp_dim": 6144},
    "G": {"hidden_dim": 1664, "depth": 48, "num_heads": 16, "mlp_dim": 8192},
    "S+": {"hidden_dim": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536, **_SWIGLU},
    "H+": {"hidden_dim": 1280, "depth": 32, "num_heads": 20, "mlp_dim": 5120, **_SWIGLU},
    "g-swiglu": {"hidden_dim": 1536, "depth": 40, "num_heads": 24, "mlp_dim": 4096, **_SWIGLU},
    "7B": {"hidden_dim": 4096, "depth": 40, "num_heads": 32, "mlp_dim": 8192, "qkv_bias": "", **_SWIGLU},
}
