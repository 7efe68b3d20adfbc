"""The full-size recipes are built and traced as they are, on a stand-in for their data; nothing is computed."""

from __future__ import annotations

import itertools
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import imagenet
from vitfm import config, program, recipe, tree
from vitfm.data import loader
from vitfm.evals import base as evaluation
from vitfm.run import eval_context

ROOM = pathlib.Path(__file__).parents[1] / "configs"
DATA = ("in1k", "webli", "laion400m", "vggface2")
CONFIGS = {path.stem: path for data in DATA for path in sorted(ROOM.glob(f"*_{data}.py"))}

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
    # timm's vit_large_patch16_224 without its head and the class token's own position, layer scales, the mask token;
    # lightly's DINOProjectionHead.
    "dinov2_l16_in1k": 303_301_632 - 1024 + 48 * 1024 + 1024 + 23_597_312,
    # DINO's with a mask token, and 8,192 of 65,536 prototypes.
    "ibot_s16_in1k": 21_665_664 - 384 + 384 + 22_286_592 - (65_536 - 8_192) * 256,
    # torchvision's resnet50 without its classifier; lightly's SimCLRProjectionHead without the last bias.
    "simclr_r50_in1k": 25_557_032 - 2_049_000 + 4_460_800 - 128,
    # timm's vit_small_patch16_224 without head and positions; lightly's MoCoProjectionHeads of 3 and 2 layers without
    # the last norms' scales and biases.
    "moco_v3_s16_in1k": 21_665_664 - 197 * 384 + 19_415_552 - 512 + 2_105_856 - 512,
    # timm's vit_base_patch16_224 without head, positions and biases of keys; layer scales, a table of biases by offset,
    # the mask token and a linear map to pixels.
    "simmim_b16_in1k": 85_798_656 - (197 + 12) * 768 + 24 * 768 + (27**2 + 3) * 12 + 768 + 769 * 768,
    # As SimMIM's, with a linear map to 8,192 codes.
    "beit_b16_in1k": 85_798_656 - (197 + 12) * 768 + 24 * 768 + (27**2 + 3) * 12 + 768 + 769 * 8192,
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


@pytest.mark.parametrize("name", CONFIGS)
def test_full_size_recipes(name: str, tmp_path: pathlib.Path):
    p = program.build(recipe.parse(imagenet.load(str(CONFIGS[name]))))
    assert tree.count(p.shapes.params) == PARAMETERS[name]
    example = {key: value for key, value in p.loader.example(0).items() if key != loader.REPLACED}
    rows = lambda leaf: jax.ShapeDtypeStruct((p.recipe.batch_size, *leaf.shape), leaf.dtype)
    state, metrics = jax.eval_shape(p.step, p.shapes, jax.tree.map(rows, jax.tree.map(np.asarray, example)))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, p.shapes)
    assert metrics["loss"].shape == ()
    context = eval_context(p.data, p.objective, p.mesh, str(tmp_path))
    for evaluator, spec in p.recipe.evals.items():
        evaluation.make(evaluator, {key: value for key, value in spec.items() if key != "every"}, context)
        assert p.to_steps(spec.get("every", 0), evaluator) <= p.total


SCALED = [path for path in sorted(ROOM.glob("*.py")) if "def scaled(" in path.read_text()]


@pytest.mark.parametrize("path", SCALED, ids=lambda path: path.stem)
def test_fewer_images_get_smaller_batches_more_epochs_and_no_more_steps(path: pathlib.Path):
    module = runpy.run_path(str(path))
    scaled = module["scaled"]
    sizes = {images: scaled(images) for images in (10_000, 100_000, 1_281_167)}
    steps = [images * size["epochs"] / size["batch_size"] for images, size in sizes.items()]
    for fewer, more in itertools.pairwise(sizes.values()):
        assert fewer["batch_size"] <= more["batch_size"] and fewer["epochs"] >= more["epochs"]
        assert fewer["learning_rate"] <= more["learning_rate"]
        assert fewer.get("momentum", 0) <= more.get("momentum", 0)
    assert all(fewer <= 1.3 * more for fewer, more in itertools.pairwise(steps))
    assert all(size.get("queue", 0) <= images / 15 for images, size in sizes.items())
    if path.stem in CONFIGS:  # Their argument is the number of images.
        small, whole = (config.load_file(f"{path}{arg}") for arg in (":1e4", ""))
        assert small.batch_size == sizes[10_000]["batch_size"]
        assert whole.batch_size == scaled(module["IMAGES"])["batch_size"]
        for found, size in ((small, sizes[10_000]), (whole, scaled(module["IMAGES"]))):
            assert found.optim.learning_rate == size["learning_rate"]


def documented(path: pathlib.Path) -> set[str]:
    """What a recipe says it may be given after the colon, in its header or what it says of `get_config`."""
    return set(re.findall(rf"(?:/{path.stem}\.py|`):(\w+)\b(?!/)", path.read_text()))


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.stem)
def test_a_recipe_takes_what_it_says_and_nothing_else(path: pathlib.Path):
    starts = "argument(arg, run=True)" in path.read_text()  # A run's workdir: tests/test_finetune.py gives one.
    plain = config.load_file(str(path)).to_dict()
    for argument in documented(path):
        assert config.load_file(f"{path}:{argument}").to_dict() != plain, argument
    names = set(re.findall(r'"(\w+)"', *re.findall(r"config_lib\.argument\((.*)\)", path.read_text())))
    assert names == {argument for argument in documented(path) if not argument[0].isdigit()}
    for slip in ("tinny", "1e", "-5", "0", "nan", "runs/none"):
        said = f"'{slip}', where this recipe takes " + ("the workdir of a run" if starts else "")
        with pytest.raises(config.ConfigError, match=re.escape(said)) as error:
            config.load_file(f"{path}:{slip}")
        assert all(repr(name) in str(error.value) for name in names)
