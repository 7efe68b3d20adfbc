"""Every recipe of the folder is built, with all it takes after the colon, and those of full size are traced.

They read `emoji` or a stand-in for their data, and nothing is computed.
"""

from __future__ import annotations

import itertools
import pathlib
import re
import runpy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import imagenet, tiers
from vitfm import config, program, recipe, tree
from vitfm.data import loader
from vitfm.evals import base as evaluation
from vitfm.run import eval_context

ROOM = pathlib.Path(__file__).parents[1] / "configs"
PATHS = {path.stem: path for path in sorted(ROOM.glob("*.py"))}
MODULES = {name: runpy.run_path(str(path)) for name, path in PATHS.items()}


def taken(name: str) -> tuple[list[str], bool]:
    """What a recipe takes after the colon, as it says where it refuses: names, and whether a number of images."""
    with pytest.raises(config.ConfigError, match="where this recipe takes") as error:
        config.load_file(f"{PATHS[name]}:?")
    said = str(error.value).partition("where this recipe takes ")[2]
    return re.findall(r"'(\w+)'", said), "a number of images" in said


def sources(name: str) -> set[str]:
    """The data sets that a recipe names."""
    leaves = (str(leaf) for _, leaf in config.flatten(config.load_file(str(PATHS[name])).to_dict()))
    return {leaf.split(":")[1] for leaf in leaves if leaf.startswith("tfds:")}


FULL = [name for name in PATHS if sources(name) != {"emoji"}]
NAMED = [f"{name}:{argument}" for name in PATHS for argument in taken(name)[0]]
FEWER = [f"{name}:1e4" for name in PATHS if taken(name)[1]]
TRACED = [name for name in (*PATHS, *NAMED) if name.partition(":")[0] in FULL]
# Those of a minute are trained in tests/test_recipes.py.
BUILT = [*(name for name in (*PATHS, *NAMED) if name not in TRACED and not name.endswith("tiny")), *FEWER]

# What gradients move, as published.
PARAMETERS = {
    # timm's vit_small_patch16_224, without its learned positions and class token; the head has a hidden layer.
    "vit_s16_in1k": 22_050_664 - 198 * 384 + 385 * 384,
    # All of the published code's, without the fixed positions of encoder and decoder.
    "mae_b16_in1k": 111_907_840 - 197 * (768 + 512),
    # transformers' SiglipModel of its default configuration, with the vocabulary of the tokenizer that stands in.
    "siglip_b16_webli": 203_155_970 - (32_000 - 4_128) * 768,
    # SigLIP's of 256 pixels with a mask token; six blocks with cross-attention, its norms and the last one, embeddings,
    # positions, mask token and logits; two of lightly's DINOProjectionHead.
    "siglip2_b16_webli": (
        203_155_970
        - (32_000 - 4_128) * 768
        + (256 - 196) * 768
        + 768
        + 6 * (8 * 769 * 768 + 769 * 3072 + 3073 * 768 + 4 * 2 * 768)
        + 2 * 768
        + (2 * 4_128 + 64 + 1) * 768
        + 2 * (769 * 2048 + 2049 * 2048 + 2049 * 256 + 65_536 * 256)
    ),
    # open_clip's ViT-B-32 without the class token's own position, with the vocabulary of the tokenizer that stands in.
    "clip_b32_laion400m": 151_277_313 - 768 - (49_408 - 4_128) * 512,
    # timm's vit_base_patch16_224 without its head; twelve blocks of its width, a last norm, embeddings, positions, a
    # map of that width; the scale.
    "lit_b16_webli": 85_798_656 + 12 * 7_087_872 + 2 * 768 + (4_128 + 16) * 768 + 769 * 768 + 1,
    # open_clip's coca_ViT-B-32 without the class token's own position, with that tokenizer's vocabulary.
    "coca_b32_webli": 253_560_065 - 768 - 2 * (49_408 - 4_128) * 512,
    # timm's vit_small_patch16_224 without its head and the class token's own position; lightly's DINOProjectionHead.
    "dino_s16_in1k": 21_665_664 - 384 + 22_286_592,
    "dino_s16_in1k:paper": 21_665_664 - 384 + 22_286_592,
    # timm's vit_large_patch16_224 without its head and the class token's own position, layer scales, the mask token;
    # lightly's DINOProjectionHead.
    "dinov2_l16_in1k": 303_301_632 - 1024 + 48 * 1024 + 1024 + 23_597_312,
    "dinov2_l16_in1k:gram": 303_301_632 - 1024 + 48 * 1024 + 1024 + 23_597_312,
    "dinov2_l16_in1k:highres": 303_301_632 - 1024 + 48 * 1024 + 1024 + 23_597_312 + (32**2 - 14**2) * 1024,
    # Blocks of four D x D maps, two norms, layer scales and a gated MLP; the stem, 16 x 16 positions, class and mask
    # token, a norm; two of lightly's DINOProjectionHead.
    "dinov2_l16_in1k:l14": (
        24 * (4 * 1025 * 1024 + 6 * 1024 + 1025 * 2 * 2736 + 2737 * 1024)
        + (3 * 14**2 + 1 + 16**2 + 2 + 2) * 1024
        + 2 * (1025 * 2048 + 2049 * 2048)
        + (384 + 256) * (2049 + 131_072)
    ),
    # DINO's with a mask token, and 8,192 of 65,536 prototypes.
    "ibot_s16_in1k": 21_665_664 - 384 + 384 + 22_286_592 - (65_536 - 8_192) * 256,
    # torchvision's resnet50 without its classifier; lightly's SimCLRProjectionHead without the last bias.
    "simclr_r50_in1k": 25_557_032 - 2_049_000 + 4_460_800 - 128,
    # torchvision's resnet50 without its classifier; an MLP, or one linear map.
    "moco_v2_r50_in1k": 25_557_032 - 2_049_000 + 2_049 * (2_048 + 128),
    "moco_v2_r50_in1k:v1": 25_557_032 - 2_049_000 + 2_049 * 128,
    # timm's vit_small_patch16_224 without head and positions; lightly's MoCoProjectionHeads of 3 and 2 layers without
    # the last norms' scales and biases.
    "moco_v3_s16_in1k": 21_665_664 - 197 * 384 + 19_415_552 - 512 + 2_105_856 - 512,
    # timm's vit_base_patch16_224 without head, positions and biases of keys; layer scales, a table of biases by offset,
    # the mask token and a linear map to pixels.
    "simmim_b16_in1k": 85_798_656 - (197 + 12) * 768 + 24 * 768 + (27**2 + 3) * 12 + 768 + 769 * 768,
    # timm's swin_base_patch4_window7_224 without its head, tables of windows of 6 for 24 blocks' 376 heads; the mask
    # token and a linear map to pixels.
    "simmim_b16_in1k:swin": 87_768_224 - 1_025_000 - (13**2 - 11**2) * 376 + 128 + 1_025 * 3_072,
    # As SimMIM's, with a linear map to 8,192 codes.
    "beit_b16_in1k": 85_798_656 - (197 + 12) * 768 + 24 * 768 + (27**2 + 3) * 12 + 768 + 769 * 8192,
    "beit_b16_in1k:v2": 85_798_656 - (197 + 12) * 768 + 24 * 768 + (27**2 + 3) * 12 + 768 + 769 * 8192,
    # timm's vit_base_patch16_224 without its head and the class token's own position; the same with 3 of 12 blocks over
    # 32 channels of one pixel; two hidden layers, maps to 32 dimensions of codes and to 768 of the teacher.
    "vqkd_b16_in1k": 2 * (85_798_656 - 768) - 9 * 7_087_872 - (768 - 32) * 768 + 769 * (2 * 768 + 32 + 768),
    # The maps and norms of 24 blocks, the stem and its norm, the last norm; lightly's AIMPredictionHead.
    "aim_06b_in1k": 24 * (12 * 1536**2 + 4 * 1536) + (588 + 1 + 2 + 2) * 1536 + 407_056_384,
    # transformers' FlavaImageCodebook, and DALL-E's decoder.
    "dvae_in1k": 53_786_240 + 43_829_766,
    # torchvision's resnet50 with 4 classes.
    "rotation_r50_in1k": 25_557_032 - 2_049_000 + 4 * 2_049,
    # timm's vit_base_patch14_dinov2 at 224 pixels without the class token's own position and a mask token; two maps to
    # the teacher's width.
    "distill_b14_in1k": 86_580_480 - (37**2 - 16**2 + 2) * 768 + 2 * 769 * 1024,
    # torchvision's resnet50 without its classifier, and a map to 128 numbers.
    "triplet_r50_vggface2": 25_557_032 - 2_049_000 + 2_049 * 128,
    # timm's deit_small_distilled_patch16_224 without the two tokens' own positions.
    "deit_s16_in1k": 22_436_432 - 2 * 384,
}


def loaded(name: str) -> dict[str, Any]:
    """A recipe on the stand-in for its data, with what the recipe of its teacher, which has not run, says of that."""
    stem, _, argument = name.partition(":")
    found = imagenet.load(f"{PATHS[stem]}:{argument}")
    unknown = {leaf for _, leaf in config.flatten(found) if re.match(r"tfds:(?!emoji:)", str(leaf))}
    assert not unknown, f"{name} reads {unknown}: tests/imagenet.py has no stand-in for that, its LENGTHS lack it."
    teacher = found.get("teacher")
    if teacher and "objective" not in teacher:  # runs/deit_teacher is of configs/deit.py:teacher.
        of = loaded(pathlib.Path(teacher["run"]).name.replace("_", ":"))
        found["teacher"] = {**{key: of[key] for key in ("objective", "data", "teacher") if key in of}, **teacher}
    return found


def built(name: str, folder: pathlib.Path) -> program.Program:
    """The program of a recipe, whose evaluators are made, too, and fit into its run."""
    p = program.build(recipe.parse(loaded(name)))
    context = eval_context(p.data, p.objective, p.mesh, str(folder))
    for evaluator, spec in p.recipe.evals.items():
        evaluation.make(evaluator, {key: value for key, value in spec.items() if key != "every"}, context)
        assert p.to_steps(spec.get("every", 0), evaluator) <= p.total
    return p


@pytest.mark.parametrize("name", tiers.slow_unless(PATHS.__contains__, TRACED))
def test_full_size_recipes(name: str, tmp_path: pathlib.Path):
    p = built(name, tmp_path)
    assert tree.count(p.shapes.params) == PARAMETERS[name]
    example = {key: value for key, value in p.loader.example(0).items() if key != loader.REPLACED}
    rows = lambda leaf: jax.ShapeDtypeStruct((p.recipe.batch_size, *leaf.shape), leaf.dtype)
    state, metrics = jax.eval_shape(p.step, p.shapes, jax.tree.map(rows, jax.tree.map(np.asarray, example)))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, p.shapes)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize("name", tiers.slow_unless(lambda name: name not in FEWER, BUILT))
def test_embedded_recipes_and_those_for_fewer_images(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    if name in FEWER:
        fewer = {split: 10_000 for split in imagenet.LENGTHS if split.endswith(":train")}
        monkeypatch.setattr(imagenet, "LENGTHS", imagenet.LENGTHS | fewer)
    p = built(name, tmp_path)
    assert p.loader.epoch <= 10_000 and p.total >= 100


@pytest.mark.parametrize("name", [name for name, module in MODULES.items() if "scaled" in module])
def test_fewer_images_get_smaller_batches_more_epochs_and_no_more_steps(name: str):
    scaled, own = MODULES[name]["scaled"], MODULES[name]["IMAGES"]
    sizes = {images: scaled(images) for images in (10_000, 100_000, 1_281_167)}
    steps = [images * size["epochs"] / size["batch_size"] for images, size in sizes.items()]
    for fewer, more in itertools.pairwise(sizes.values()):
        assert fewer["batch_size"] <= more["batch_size"] and fewer["epochs"] >= more["epochs"]
        assert fewer["learning_rate"] <= more["learning_rate"]
        assert fewer.get("momentum", 0) <= more.get("momentum", 0)
    assert all(fewer <= 1.3 * more for fewer, more in itertools.pairwise(steps))
    assert all(size.get("queue", 0) <= images / 15 for images, size in sizes.items())
    whole = config.load_file(str(PATHS[name]))
    assert whole.batch_size == scaled(own)["batch_size"]
    if name in FULL:  # Their argument is the number of images.
        small = config.load_file(f"{PATHS[name]}:1e4")
        assert small.batch_size == sizes[10_000]["batch_size"]
        for found, size in ((small, sizes[10_000]), (whole, scaled(own))):
            assert found.optim.learning_rate == size["learning_rate"]
    else:  # What they measured is what is advised for ten thousand images; Muon's rate is its own.
        measured = {key: whole.objective[key] for key in sizes[10_000] if key in whole.objective}
        assert measured == {key: sizes[10_000][key] for key in measured}


def documented(path: pathlib.Path) -> set[str]:
    """What a recipe says it may be given after the colon, in its header or what it says of `get_config`."""
    return set(re.findall(rf"(?:/{path.stem}\.py|`):(\w+)\b(?!/)", path.read_text()))


@pytest.mark.parametrize("name", PATHS)
def test_a_recipe_takes_what_it_says_and_nothing_else(name: str):
    path, (names, numbers) = PATHS[name], taken(name)
    starts = "argument(arg, run=True)" in path.read_text()  # A run's workdir: tests/test_finetune.py gives one.
    plain = config.load_file(str(path)).to_dict()
    for argument in documented(path):
        assert config.load_file(f"{path}:{argument}").to_dict() != plain, argument
    assert set(names) == {argument for argument in documented(path) if not argument[0].isdigit()}
    assert numbers == any(argument[0].isdigit() for argument in documented(path))
    for slip in ("tinny", "1e", "-5", "0", "nan", "runs/none"):
        said = f"'{slip}', where this recipe takes " + ("the workdir of a run" if starts else "")
        with pytest.raises(config.ConfigError, match=re.escape(said)) as error:
            config.load_file(f"{path}:{slip}")
        assert all(repr(name) in str(error.value) for name in names)
