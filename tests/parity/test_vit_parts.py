"""What published vision transformers are made of equals torch's, timm's and transformers': resizing, norms, tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import table
from tests.parity.family import Case, Pair, randomise
from tests.parity.reference import relative_error, timm, torch, transformers
from vitfm.models import position, stem, text, transformer

FORWARD = 1e-5
resized = torch.nn.functional.interpolate


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("grid", [(4, 5), (7, 3), (13, 16), (1, 2), (6, 6)])
def test_positions_are_resized_as_torch_does(grid: tuple[int, int]):
    ours = some(6, 6, 3)
    theirs = torch.tensor(ours).permute(2, 0, 1)[None]
    scale = tuple((side + 0.1) / 6 for side in grid)
    expected = {
        "bicubic": resized(theirs, grid, mode="bicubic"),
        "antialiased": resized(theirs, grid, mode="bicubic", antialias=True),
        "bilinear": resized(theirs, grid, mode="bilinear", antialias=True),
        "bicubic_offset": resized(theirs, scale_factor=scale, mode="bicubic"),
    }
    for method, value in expected.items():
        if method == "bicubic_offset" and grid == (6, 6):
            continue  # The identity, as in DINOv2's own code, which then does not call it.
        found = position.resize_position(jnp.asarray(ours), grid, method)
        assert relative_error(found, value[0].permute(1, 2, 0)) < FORWARD, method
    rows, columns = (position.linear_matrix(6, side) for side in grid)
    plain = np.einsum("hi,wj,ijd->hwd", rows, columns, ours)
    assert relative_error(plain, resized(theirs, grid, mode="bilinear")[0].permute(1, 2, 0)) < FORWARD


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_stems_are_inflated_as_in_timm(channels: int):
    kernel = some(8, 3, 4, 4)
    theirs = timm.models.adapt_input_conv(channels, torch.tensor(kernel)) if channels != 2 else None
    ours = stem.inflate(kernel.transpose(2, 3, 1, 0), channels)
    if channels == 2:  # Where timm repeats red and green alone.
        np.testing.assert_allclose(ours.sum(2), kernel.transpose(2, 3, 1, 0).sum(2), rtol=1e-5, atol=1e-6)
    else:
        assert relative_error(ours.transpose(3, 2, 0, 1), theirs) < FORWARD


@pytest.mark.parametrize("sizes", [(8, 16), (8, 12), (8, 5), (16, 8)])
def test_patch_embeddings_are_resized_as_in_timm(sizes: tuple[int, int]):
    old, new = sizes
    kernel = some(8, 3, old, old)
    resample = timm.layers.resample_patch_embed
    theirs = resample(torch.tensor(kernel), [new, new], interpolation="bilinear", antialias=True)
    ours = stem.resize_patches(kernel.transpose(2, 3, 1, 0).reshape(-1, 8), old, new)
    assert relative_error(ours.reshape(new, new, 3, 8).transpose(3, 2, 0, 1), theirs) < FORWARD


def block_of(style: transformer.Style, rows: Mapping[str, tuple[str, ...]], module: Any, **options: Any) -> float:
    """The error of one of our blocks beside theirs, whose state dict's names are `rows`."""
    randomise(module, 0)
    x, named = some(2, 5, 16), {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    block = transformer.Block(num_heads=2, mlp_dim=24, style=style, **options)
    like = jax.eval_shape(lambda: block.init(jax.random.key(0), x.reshape(-1, 16), 5))

    def leaf(path: Any, like: Any) -> np.ndarray:
        tensor = named.pop(rows[jax.tree_util.keystr(path[1:], simple=True, separator="/")])
        return (tensor.T if tensor.ndim == 2 else tensor).reshape(like.shape)

    params = jax.tree_util.tree_map_with_path(leaf, like)
    assert not named
    with torch.no_grad():
        theirs = module(torch.tensor(x))
    assert theirs.std() > 0.1
    return relative_error(block.apply(params, x.reshape(-1, 16), 5).reshape(x.shape), theirs)


TORCH_LAYER = {"norm1": "attention_norm", "self_attn.in_proj_": "attention/qkv", "self_attn.out_proj": "attention/out"}
TORCH_LAYER |= {"norm2": "mlp_norm", "linear1": "mlp/up", "linear2": "mlp/down"}
TIMM_LAYER = {"norm1": "attention_norm", "attn.qkv": "attention/qkv", "attn.proj": "attention/out"}
TIMM_LAYER |= {"norm2": "mlp_norm", "mlp.fc1": "mlp/up", "mlp.fc2": "mlp/down"}
QK_NORM = {"attn.q_norm": "attention/query_norm", "attn.k_norm": "attention/key_norm"}


def names(modules: Mapping[str, str]) -> dict[str, str]:
    """Our parameters -> theirs."""
    kinds = lambda ours: {"weight": "scale" if ours.endswith("norm") else "kernel", "bias": "bias"}
    dotted = lambda theirs, leaf: theirs + leaf if theirs.endswith("_") else f"{theirs}.{leaf}"
    pairs = ((ours, theirs, leaf, kind) for theirs, ours in modules.items() for leaf, kind in kinds(ours).items())
    return {f"{ours}/{kind}": dotted(theirs, leaf) for ours, theirs, leaf, kind in pairs}


def test_norms_before_and_after_the_sum_are_torchs():
    layer = lambda **options: torch.nn.TransformerEncoderLayer(16, 2, 24, 0.0, "gelu", batch_first=True, **options)
    for placement, first in (("pre", True), ("post", False)):
        module = layer(norm_first=first).eval()
        assert block_of(transformer.Style(placement=placement), names(TORCH_LAYER), module, epsilon=1e-5) < FORWARD


def test_norms_of_branches_and_of_queries_and_keys_are_timms():
    from timm.models import vision_transformer

    options = {"dim": 16, "num_heads": 2, "mlp_ratio": 1.5, "qkv_bias": True}
    module = vision_transformer.ResPostBlock(**options).eval()
    assert block_of(transformer.Style(placement="residual"), names(TIMM_LAYER), module, epsilon=1e-5) < FORWARD
    module = vision_transformer.Block(**options, qk_norm=True).eval()
    assert block_of(transformer.Style(qk_norm=True), names(TIMM_LAYER | QK_NORM), module, epsilon=1e-5) < FORWARD


def masked_case(family: str) -> Case:
    """The first case whose model has a mask token."""
    with_token = {"dinov2": "larger, not square", "beit": "shared biases, normed mean, larger, not square"}
    wanted = with_token.get(family)
    return next(case for case in table.cases() if case.family == family and wanted in (None, case.name))


@pytest.mark.parametrize("family", ["dinov2", "dinov2_with_registers", "dinov3_vit", "beit"])
def test_masked_patches_are_theirs(family: str):
    both = Pair(masked_case(family))
    count = np.prod([side // both.tower.patch_size for side in both.case.image])
    masked = np.random.default_rng(1).uniform(size=(len(both.image), count)) < 0.4
    theirs = both.theirs(both.pixels, bool_masked_pos=torch.tensor(masked)).last_hidden_state
    along = some(*theirs.shape)
    (theirs * torch.tensor(along)).sum().backward()
    name = both.rows[[row[0] for row in both.rows].index("params/encoder/mask_token")][1]
    params = both.ours()["params"]["encoder"]
    encode = lambda params: both.tower.apply({"params": params}, both.image, masked=jnp.asarray(masked)).tokens
    assert relative_error(jax.jit(encode)(params), theirs) < FORWARD
    grads = jax.jit(jax.grad(lambda params: (encode(params) * along).sum()))(params)
    assert relative_error(grads["mask_token"], both.theirs.get_parameter(name).grad.reshape(-1)) < 1e-4


def test_siglips_text_tower_is_transformers():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.SiglipTextConfig(vocab_size=50, max_position_embeddings=7, projection_size=24, **sizes)
    module = transformers.SiglipTextModel(config).eval()
    randomise(module, 0)
    options = {"hidden_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 48, "activation": "gelu_tanh", "epsilon": 1e-6}
    siglip = {"causal": False, "see_padding": True, "pool": "final", "projection_dim": 24}
    tower = text.make(vocab_size=50, length=7, **options, **siglip)
    assert tower.hidden_dim == 24
    tokens = np.random.default_rng(0).integers(0, 50, (3, 7), dtype=np.int32)
    mask = np.arange(7) < np.array([3, 7, 5])[:, None]
    like = jax.eval_shape(lambda: tower.init(jax.random.key(0), tokens, mask))["params"]
    named = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    clip = {"layer_norm1": "attention_norm", "layer_norm2": "mlp_norm", "mlp.fc1": "mlp/up", "mlp.fc2": "mlp/down"}
    clip |= {"self_attn.out_proj": "attention/out", "qkv": "attention/qkv"}
    rows = {"embedding": "embeddings.token_embedding.weight", "position": "embeddings.position_embedding.weight"}
    rows |= names({"final_layer_norm": "transformer/norm", "head": "projection"})
    for layer in range(2):
        rows |= names({f"encoder.layers.{layer}.{a}": f"transformer/block_{layer:02d}/{b}" for a, b in clip.items()})
        for leaf in ("weight", "bias"):
            parts = [named.pop(f"encoder.layers.{layer}.self_attn.{x}_proj.{leaf}") for x in "qkv"]
            named[f"encoder.layers.{layer}.qkv.{leaf}"] = np.concatenate(parts)

    def leaf(path: Any, like: Any) -> np.ndarray:
        ours = jax.tree_util.keystr(path, simple=True, separator="/")
        tensor = named.pop(rows[ours])
        return (tensor.T if ours.endswith("kernel") else tensor).reshape(like.shape)

    params = jax.tree_util.tree_map_with_path(leaf, like)
    assert not named
    with torch.no_grad():
        theirs = module(torch.tensor(tokens)).pooler_output
    assert theirs.std() > 0.1
    assert relative_error(tower.apply({"params": params}, tokens, mask).pooled, theirs) < FORWARD
