"""big_vision's `.npz` files, as timm and open_clip load them, in every form of names that was published."""

from __future__ import annotations

import functools
import json
import pathlib
import re
import shutil
import types
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

import vitfm
from tests.parity.reference import open_clip, relative_error, timm, torch
from vitfm import models
from vitfm.checkpoint.layout import CheckpointError
from vitfm.config import ConfigError
from vitfm.data import tokenizer
from vitfm.data.facts import Facts
from vitfm.interop import __main__ as command
from vitfm.interop import big_vision, exported, imported, weights
from vitfm.interop.families import vit
from vitfm.models import position

FORWARD = 1e-5
D, H, MLP, P, SIDE, DEPTH, K = 32, 4, 40, 8, 4, 2, 5
SIZES = {"img_size": P * SIDE, "patch_size": P, "embed_dim": D, "depth": DEPTH, "num_heads": H, "mlp_ratio": MLP / D}


RNG = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    scale = 0.3 if len(shape) == 1 else np.prod(shape[:-1] if len(shape) != 3 else D) ** -0.5
    return (RNG.normal(size=shape) * scale).astype(np.float32)


def norm() -> dict[str, np.ndarray]:
    return {"scale": 1 + random(D), "bias": random(D)}


def attention() -> dict[str, Any]:
    three = {name: {"kernel": random(D, H, D // H), "bias": random(H, D // H)} for name in ("query", "key", "value")}
    return {**three, "out": {"kernel": random(H, D // H, D), "bias": random(D)}}


def mlp() -> dict[str, Any]:
    return {
        "Dense_0": {"kernel": random(D, MLP), "bias": random(MLP)},
        "Dense_1": {"kernel": random(MLP, D), "bias": random(D)},
    }


def encoder(old: bool = False) -> dict[str, Any]:
    """A transformer; before 2022 dropout layers counted, too."""
    second = {"norm": 2, "attention": 1, "mlp": 3} if old else {"norm": 1, "attention": 0, "mlp": 0}
    block = lambda: {
        "LayerNorm_0": norm(),
        f"MultiHeadDotProductAttention_{second['attention']}": attention(),
        f"LayerNorm_{second['norm']}": norm(),
        f"MlpBlock_{second['mlp']}": mlp(),
    }
    return {**{f"encoderblock_{i}": block() for i in range(DEPTH)}, "encoder_norm": norm()}


def stem() -> dict[str, Any]:
    return {"embedding": {"kernel": random(P, P, 3, D), "bias": random(D)}}


def head(width: int = D) -> dict[str, Any]:
    return {"head": {"kernel": random(width, K), "bias": random(K)}}


def pooling() -> dict[str, Any]:
    parts = {"MultiHeadDotProductAttention_0": attention(), "LayerNorm_0": norm(), "MlpBlock_0": mlp()}
    return {"MAPHead_0": {"probe": random(1, 1, D), **parts}}


def augreg(**more: Any) -> dict[str, Any]:
    """As published with AugReg."""
    position = {"posembed_input": {"pos_embedding": random(1, SIDE**2 + 1, D)}}
    return {**stem(), "cls": random(1, 1, D), "Transformer": {**encoder(old=True), **position}, **head(), **more}


def today(**more: Any) -> dict[str, Any]:
    return {**stem(), "pos_embedding": random(1, SIDE**2, D), "Transformer": encoder(), **more}


def unplaced(**more: Any) -> dict[str, Any]:
    """With fixed positions."""
    return {name: part for name, part in today(**more).items() if name != "pos_embedding"}


def scanned(tree: dict[str, Any]) -> dict[str, Any]:
    blocks = [tree["Transformer"].pop(f"encoderblock_{i}") for i in range(DEPTH)]
    return tree | {
        "Transformer": {**tree["Transformer"], "encoderblock": jax.tree.map(lambda *x: np.stack(x), *blocks)}
    }


def save(path: pathlib.Path, tree: dict[str, Any], root: str = "") -> pathlib.Path:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    np.savez(path, **{root + "/".join(key.key for key in keys): array for keys, array in flat})
    return path


CASES = {
    "augreg": (augreg, "", {"num_classes": K}),
    "augreg, an optimizer's target": (augreg, "opt/target/", {"num_classes": K}),
    "class token without a position": (lambda: today(cls=random(1, 1, D)), "params/", {"no_embed_class": True}),
    "mean": (lambda: today(**head()), "params/", {"global_pool": "avg", "num_classes": K}),
    "MAP, scanned": (
        lambda: scanned(today(**pooling(), **head())),
        "params/",
        {"global_pool": "map", "num_classes": K},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_timm_makes_of_the_same_file(tmp_path: pathlib.Path, name: str):
    make, root, args = CASES[name]
    path = save(tmp_path / "a.npz", make(), root)
    args = {"num_classes": 0, "act_layer": "gelu_tanh", "class_token": False, "fc_norm": False, **SIZES, **args}
    args["class_token"] = args.get("global_pool", "token") == "token"
    model = timm.create_model("vit_base_patch16_224", **args).eval()
    model.load_pretrained(str(path))
    images = np.random.default_rng(0).integers(0, 256, (3, P * SIDE, P * SIDE, 3), dtype=np.uint8)
    pixels = torch.tensor(images / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        run = vitfm.load(str(path))
        pooled = model.forward_head(model.forward_features(pixels), pre_logits=True)
        assert pooled.std() > 0.1
        assert relative_error(run.embed_image(images), pooled) < FORWARD
        if args["num_classes"]:
            assert relative_error(run.logits(images), model(pixels)) < FORWARD


def fixed(rows: int, columns: int) -> np.ndarray:
    """big_vision's `posemb_sincos_2d`, number by number: [1, rows * columns, D]."""
    table, count = np.zeros((rows, columns, 4, D // 4)), D // 4
    for y, x, i in np.ndindex(rows, columns, count):
        omega = 1 / 10_000 ** (i / (count - 1))
        table[y, x, :, i] = np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)
    return table.reshape(1, rows * columns, D).astype(np.float32)


UNPLACED = {
    "mean": ({}, {"global_pool": "avg"}),
    "class token": ({"cls": random(1, 1, D)}, {"no_embed_class": True}),
    "MAP": (pooling(), {"global_pool": "map"}),
}


@pytest.mark.parametrize("name", UNPLACED)
def test_fixed_positions_are_computed_for_images_of_any_size(tmp_path: pathlib.Path, name: str):
    more, args = UNPLACED[name]
    grid, tree = (4, 6), unplaced(**more, **head())
    args = {"act_layer": "gelu_tanh", "num_classes": K, "fc_norm": False, "class_token": name == "class token", **args}
    args = {**SIZES, "img_size": [P * side for side in grid], **args}
    model = timm.create_model("vit_base_patch16_224", **args).eval()
    model.load_pretrained(str(save(tmp_path / "theirs.npz", tree | {"pos_embedding": fixed(*grid)}, "params/")))
    found = imported.read(save(tmp_path / "a.npz", tree, "params/"))
    images = np.random.default_rng(0).normal(size=(2, *args["img_size"], 3)).astype(np.float32)
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    assert any("posemb = 'sincos2d'" in note for note in found.notes)
    encoder = models.make(found.config["objective"]["model"], where="objective.model", dtype=np.float32)
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        pooled = model.forward_head(model.forward_features(pixels), pre_logits=True)
        ours = encoder.apply({"params": found.state["params"]["encoder"]}, images).pooled
    assert pooled.std() > 0.1 and relative_error(ours, pooled) < FORWARD
    assert relative_error(position.sincos(grid, D, closed=True).reshape(1, -1, D), fixed(*grid)) < FORWARD
    assert (encoder.position, encoder.image_size) == ("sincos2d", 224)


def test_the_representation_layer_is_before_the_head(tmp_path: pathlib.Path):
    hidden = {"kernel": random(D, 12), "bias": random(12)}
    tree = augreg(**{"pre_logits": hidden}) | head(12)
    run = vitfm.load(str(save(tmp_path / "a.npz", tree)))
    images = np.random.default_rng(0).integers(0, 256, (2, P * SIDE, P * SIDE, 3), dtype=np.uint8)
    with jax.default_matmul_precision("highest"):
        seen = np.tanh(run.embed_image(images) @ hidden["kernel"] + hidden["bias"])
        assert relative_error(run.logits(images), seen @ tree["head"]["kernel"] + tree["head"]["bias"]) < FORWARD


ALL = CASES | {"fixed positions": (lambda: unplaced(cls=random(1, 1, D), **head()), "", {})}


@pytest.mark.parametrize("name", ALL)
def test_every_array_comes_back_bit_for_bit(tmp_path: pathlib.Path, name: str):
    make, root, _ = ALL[name]
    found = big_vision.read(save(tmp_path / "a.npz", make(), root))
    objective = vit.big_vision_read(found.config, found.tensors.shapes)
    facts = Facts(P * SIDE, 3, 0, 0, tuple(map(str, range(found.config["num_classes"]))))
    rows = vit.big_vision_rows(objective)
    state = weights.to_ours(rows, found.tensors, imported.shapes(objective, facts))
    back = weights.to_theirs(rows, state)
    assert back.keys() == found.tensors.keys()
    assert all(back[key].tobytes() == found.tensors[key].tobytes() for key in back)


def test_it_is_imported_and_exported_from(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    path = save(tmp_path / "a.npz", {"target": augreg(), "state": {"step": np.int32(7)}}, "opt/")
    assert command.main(["import", str(path), str(tmp_path / "run")]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "vit of big_vision" in printed
    assert "the optimizer's state" in printed
    assert "normalised to [-1, 1]" in printed
    images = np.zeros((1, 40, 40, 3), np.uint8)
    run = vitfm.load(str(tmp_path / "run"))
    assert np.array_equal(run.logits(images), vitfm.load(str(path)).logits(images))
    assert list(run.config.data.label.classes) == list(map(str, range(K)))
    exported.write(str(path), str(tmp_path / "hf"))
    assert json.loads((tmp_path / "hf/config.json").read_text())["hidden_act"] == "gelu_pytorch_tanh"
    assert np.array_equal(vitfm.load(str(tmp_path / "hf")).logits(images), run.logits(images))


def test_bfloat16_is_read(tmp_path: pathlib.Path):
    small = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), today())
    state = imported.read(save(tmp_path / "a.npz", small)).state
    kernel = state["params"]["encoder"]["stem"]["patch"]["kernel"]
    assert np.array_equal(kernel, small["embedding"]["kernel"].astype(np.float32).reshape(-1, D))


def test_what_we_lack_or_what_is_broken_is_refused_by_name(tmp_path: pathlib.Path):
    with pytest.raises(ConfigError, match=r"model.position = 'sincos2d' can't be exported"):
        exported.write(str(save(tmp_path / "a.npz", unplaced())), str(tmp_path / "hf"))
    with pytest.raises(ConfigError, match=r"a.npz: cls beside MAPHead_0"):
        imported.read(save(tmp_path / "a.npz", today(cls=random(1, 1, D), **pooling())))
    with pytest.raises(ConfigError, match=r"16 x 8|\[16, 8\]"):
        imported.read(save(tmp_path / "b.npz", today(embedding={"kernel": random(16, 8, 3, D), "bias": random(D)})))
    with pytest.raises(CheckpointError, match=r"c.npz.*\n.*unexpected: surprise"):
        imported.read(save(tmp_path / "c.npz", today(surprise=random(3))))
    whole = save(tmp_path / "d.npz", today()).read_bytes()
    for keep in (0, 10, len(whole) // 2):
        (tmp_path / "d.npz").write_bytes(whole[:keep])
        with pytest.raises(CheckpointError, match=r"d.npz is truncated or no .npz"):
            imported.read(tmp_path / "d.npz")


TOKENIZER = pathlib.Path(vitfm.__file__).parent / "data/assets/emoji_bpe.json"
T = 8  # Tokens of a text.


def siglip(vocabulary: int) -> dict[str, Any]:
    text = {"pos_embedding": random(1, T, D), "Encoder_0": encoder(), "Embed_0": {"embedding": random(vocabulary, D)}}
    ends = {"head": {"kernel": random(D, D), "bias": random(D)}}
    scalars = {"t": np.array([1.5], np.float32), "b": np.array([-7.0], np.float32)}
    return {"img": scanned(today(**pooling())), "txt": scanned_text(text | ends), **scalars}


def scanned_text(tree: dict[str, Any]) -> dict[str, Any]:
    return tree | {"Encoder_0": scanned({"Transformer": tree["Encoder_0"]})["Transformer"]}


def as_open_clip(path: pathlib.Path, vocabulary: int) -> Any:
    """What open_clip's own reader of these files fills: timm's image tower and its text tower, with GELU by tanh."""
    pooled = {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh", "num_classes": 0}
    norms, gelu = (
        functools.partial(torch.nn.LayerNorm, eps=1e-6),
        functools.partial(torch.nn.GELU, approximate="tanh"),
    )
    kinds = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "act_layer": gelu, "norm_layer": norms}
    sizes = {"context_length": T, "vocab_size": vocabulary, "width": D, "heads": H, "layers": DEPTH, "output_dim": D}
    model = types.SimpleNamespace(
        visual=types.SimpleNamespace(trunk=timm.create_model("vit_base_patch16_224", **SIZES, **pooled).eval()),
        text=open_clip.transformer.TextTransformer(mlp_ratio=MLP / D, **sizes, **kinds).eval(),
        logit_bias=torch.zeros([]),
        logit_scale=torch.zeros([]),
    )
    open_clip.convert.load_big_vision_weights(model, str(path))
    return model


def test_siglip_is_what_open_clip_makes_of_the_same_file(tmp_path: pathlib.Path):
    shutil.copy(TOKENIZER, tmp_path / "tokenizer.json")
    vocabulary = tokenizer.make(str(TOKENIZER), length=T).vocab_size
    path = save(tmp_path / "a.npz", siglip(vocabulary), "params/")
    model = as_open_clip(path, vocabulary)
    run, texts = vitfm.load(str(path)), ["a red apple", "an emoji of a very small bicycle with two wheels"]
    assert run.config.data.tokenizer.length == T
    images = np.random.default_rng(0).integers(0, 256, (3, P * SIDE, P * SIDE, 3), dtype=np.uint8)
    pixels = torch.tensor(images / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
    ids = torch.tensor(tokenizer.make(str(TOKENIZER), length=T)(texts)[0], dtype=torch.long)
    unit = torch.nn.functional.normalize
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        assert relative_error(run.embed_image(images), unit(model.visual.trunk(pixels))) < FORWARD
        assert relative_error(run.embed_text(texts), unit(model.text(ids))) < FORWARD
    assert [float(run.params[name]) for name in ("logit_scale", "logit_bias")] == [1.5, -7.0]
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer.json is missing"):
        imported.read(path)
