"""Options of the vision transformer beyond its sizes: tokens, positions, attention, recomputation, channels."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import models
from vitfm.config import ConfigError
from vitfm.models import attention, dot_product, position, stem, vit
from vitfm.models.transformer import Transformer
from vitfm.parallel import mesh as meshes

SMALL: dict[str, Any] = {"image_size": 32, "patch_size": 8, "hidden_dim": 16, "depth": 1, "num_heads": 2}


def shapes_of(**options: Any) -> dict[str, tuple[int, ...]]:
    model = vit.make(**{**SMALL, **options})
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    flat = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in flat}


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_each_option_adds_its_own_parameters():
    plain, block = shapes_of(), "transformer/block_00"
    added = lambda **options: {name: s for name, s in shapes_of(**options).items() if plain.get(name) != s}
    removed = lambda **options: plain.keys() - shapes_of(**options).keys()
    assert added(registers=3) == {"registers": (3, 16)}
    assert added(mask_token=True) == {"mask_token": (16,)}
    assert added(class_token=True) == {"class_token": (16,)}
    both = {f"{name}_{what}": (16,) for name in ("class", "distillation") for what in ("token", "position")}
    assert added(pool="cls", class_position=True, distillation_token=True) == both
    assert added(layer_scale=0.1) == {f"{block}/{branch}_scale": (16,) for branch in ("attention", "mlp")}
    assert added(qkv_bias="qv") == {f"{block}/attention/qkv_bias": (2, 2, 8)}
    assert removed(qkv_bias="") == {f"{block}/attention/qkv/bias"}
    assert removed(final_norm=False) == {f"transformer/norm/{leaf}" for leaf in ("scale", "bias")}
    assert all(name.endswith("bias") for name in removed(norm="rms"))
    assert added(relative_position="block") == {f"{block}/relative_position/table": (49, 2)}
    assert added(relative_position="shared", class_token=True)["transformer/relative_position/table"] == (52, 2)
    assert all(removed(position=kind) == {"position"} for kind in ("sincos", "sincos2d", "rope", "none"))
    assert {name.split("/")[0] for name in added(pool="map")} == {"pooler"}
    assert added(gated_mlp=True) == {
        f"{block}/mlp/gate/{leaf}": s for leaf, s in (("kernel", (16, 64)), ("bias", (64,)))
    }


def test_published_sizes_have_their_published_numbers_of_parameters():
    """In millions, with patches of 16 pixels up to L and of 14 above."""
    published = {"Ti": 5.5, "S": 21.7, "B": 85.8, "L": 303.3, "So400m": 412.4, "H": 630.8, "g": 1011.2, "G": 1843.5}
    for size, millions in published.items():
        patch = 16 if size in ("Ti", "S", "B", "L") else 14
        tower = models.make({"name": "vit", "size": size, "patch_size": patch, "scan": True}, where="model")
        params = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
        count = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
        assert count == pytest.approx(millions, rel=0.01), size


def test_named_sizes_are_options_that_others_override():
    spec = {"name": "vit", "size": "S", "depth": 2}
    assert models.sized(spec, "model") == {"name": "vit", "hidden_dim": 384, "depth": 2, "num_heads": 6}
    with pytest.raises(ConfigError, match=r"config\.objective\.model\.size = 'SS'.*did you mean 'S'"):
        models.make({**spec, "size": "SS"}, where="objective.model")


@pytest.mark.parametrize("pool", ["cls", "gap", "cls_gap", "cls_dist", "map", "aim"])
def test_pooled_outputs_have_the_width_that_is_told(pool: str):
    distilled = pool == "cls_dist"
    model = vit.make(**SMALL, pool=pool, registers=2, distillation_token=distilled)
    features = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 16, 3)))[0])
    assert features.pooled.shape == (2, model.hidden_dim)
    assert features.prefix == 2 + pool.startswith("cls") + distilled
    assert features.tokens.shape == (2, features.prefix + 8, 16)


@pytest.mark.parametrize(
    "options", [{"position": "rope"}, {"relative_position": "block"}, {"relative_position": "shared"}]
)
@pytest.mark.parametrize("class_token", [False, True])
def test_hidden_patches_leave_the_others_where_they_are(options: dict[str, Any], class_token: bool):
    """Tokens in another order are the same tokens, and hiding a patch is not seeing it."""
    model = vit.make(**{**SMALL, "depth": 2}, **options, class_token=class_token)
    images = some(2, 32, 24, 3)
    params = jax.jit(model.init)(jax.random.key(0), images)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    keep = np.stack([np.random.default_rng(seed).permutation(12) for seed in range(2)])
    run = jax.jit(lambda keep: model.apply(params, images, keep).tokens[:, int(class_token) :])
    whole, shuffled, some_of_them = run(np.arange(12)[None].repeat(2, 0)), run(keep), run(keep[:, :5])
    np.testing.assert_allclose(shuffled, np.take_along_axis(whole, keep[..., None], 1), atol=2e-5)
    np.testing.assert_allclose(whole, model.apply(params, images).tokens[:, int(class_token) :], atol=2e-5)
    assert np.abs(some_of_them - shuffled[:, :5]).max() > 1e-3


def test_rotary_positions_know_offsets_alone_and_leave_special_tokens():
    cosine, sine = position.Rope(base=50.0)((3, 4), 8, 2, None)
    assert cosine.shape == sine.shape == (14, 8)
    np.testing.assert_array_equal(cosine[:2], 1)
    np.testing.assert_array_equal(sine[:2], 0)
    query, key = some(8), some(8, seed=1)
    turn = lambda x, token: attention._rotated(jnp.asarray(x), (cosine[token], sine[token]))
    score = lambda a, b: turn(query, a) @ turn(key, b)
    np.testing.assert_allclose(score(2, 3), score(7, 8), rtol=1e-4)  # One column apart, in other rows.
    assert abs(score(2, 3) - score(2, 6)) > 1e-3


def test_rotary_positions_move_in_training_by_each_examples_key():
    keys = jax.random.split(jax.random.key(0), 5)
    rope = position.Rope(rescale=2.0, shift=0.1, jitter=1.2)
    cosine, _ = rope((3, 3), 8, 1, keys)
    assert cosine.shape == (5, 1, 10, 8)
    np.testing.assert_array_equal(cosine[:, :, :1], 1)
    assert np.abs(cosine[0] - cosine[1]).max() > 0.01
    np.testing.assert_allclose(cosine[3:], rope((3, 3), 8, 1, keys[3:])[0], atol=1e-6)
    np.testing.assert_array_equal(position.Rope()((3, 3), 8, 1, keys)[0], position.Rope()((3, 3), 8, 1, None)[0])
    periods = position.Rope(min_period=0.5, max_period=8.0)._periods(16)
    np.testing.assert_allclose(periods, [0.5, 0.5 * 16 ** (1 / 3), 0.5 * 16 ** (2 / 3), 8], rtol=1e-6)


@pytest.mark.parametrize("scan", [False, True])
def test_every_policy_of_recomputation_gives_the_same(scan: bool):
    x = some(2, 5, 8)
    model = lambda remat: Transformer(depth=2, num_heads=2, scan=scan, remat=remat)
    params = jax.jit(model(False).init)(jax.random.key(0), x)
    kept, results = {}, {}
    for remat in (False, "dots", "dots_no_batch", "full"):
        loss = lambda params, remat=remat: jnp.square(model(remat).apply(params, x)[0]).mean()
        residuals = jax.eval_shape(lambda params, loss=loss: jax.vjp(loss, params)[1], params)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(residuals))
        results[remat] = jax.jit(jax.value_and_grad(loss))(params)
    assert kept["full"] < kept["dots_no_batch"] < kept["dots"] < kept[False]
    for other in results.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), results[False], other)


def test_kernels_of_attention_take_the_same_arguments_in_the_same_order():
    kernels = (dot_product.attend, attention.cudnn, attention.splash)
    orders = {tuple(inspect.signature(kernel).parameters)[:5] for kernel in kernels}
    assert orders == {("query", "key", "value", "bias", "mask")}


def test_splash_attention_is_the_plain_one():
    """On a TPU's interpreter; lengths that are no whole tiles are padded, and padding is not seen."""
    query, key, value = (some(2, 2, 150, 8, seed=seed) for seed in range(3))
    plain = jax.nn.dot_product_attention(*(x.transpose(0, 2, 1, 3) for x in (query, key, value))).transpose(0, 2, 1, 3)
    found = attention.splash(query, key, value, interpret=True)
    np.testing.assert_allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize("batch", [8, 3])
def test_splash_attention_on_a_mesh_is_the_plain_one(batch: int):
    """Each device has its own examples, and all of them where they do not divide, as where a model is initialised."""
    mesh = meshes.make(data=2, fsdp=4)
    arrays = [some(batch, 2, 20, 8, seed=seed) for seed in range(3)]
    kernels = {"splash": functools.partial(attention.splash, interpret=True), "plain": dot_product.attend}
    found = {}
    for name, kernel in kernels.items():
        loss = lambda *x, kernel=kernel: jnp.square(kernel(*x, None, None)).sum()
        step = meshes.under(mesh, jax.value_and_grad(loss, (0, 1, 2)))
        found[name] = jax.jit(step, out_shardings=meshes.replicated(mesh))(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found["splash"], found["plain"])


@pytest.mark.parametrize(
    "options", [{"scan": True, "drop_path_rate": 0.5}, {"window_size": 2, "global_blocks": (1,)}, {"position": "rope"}]
)
def test_tokens_of_one_matrix_or_not_give_the_same(options: dict):
    """CPUs have them as one matrix, TPUs by image."""
    images, found = some(3, 24, 24, 3), {}
    keys = jax.random.split(jax.random.key(1), 3)
    for platform in ("cpu", "tpu"):
        model = vit.make(**{**SMALL, "depth": 2, "platform": platform, **options})
        params = jax.jit(model.init)(jax.random.key(0), images)
        loss = lambda params, model=model: jnp.square(model.apply(params, images, None, keys).tokens).sum()
        found[platform] = jax.jit(jax.value_and_grad(loss))(params)
        shapes = str(jax.make_jaxpr(loss)(params))
        assert ("f32[27,64]" in shapes) == (platform == "cpu")  # The hidden layer of 27 tokens.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found["cpu"], found["tpu"])


def test_attention_that_cannot_run_here_is_refused():
    for implementation, platform in (("cudnn", "GPU"), ("splash", "TPU")):
        with pytest.raises(ConfigError, match=f"runs on a {platform}, and this is a CPU: set it to 'plain'"):
            vit.make(**SMALL, attention=implementation)
    with pytest.raises(ConfigError, match="dtype is float32"):
        vit.make(**SMALL, attention="cudnn", platform="gpu")
    with pytest.raises(ConfigError, match="relative-position bias"):
        vit.make(**SMALL, attention="splash", platform="tpu", relative_position="block")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "cls", "class_token": False}, "pool = 'cls' needs the class token"),
        ({"relative_position": "block", "registers": 2}, "no registers"),
        ({"position": "rope", "num_heads": 8}, "heads of 2 features"),
        (
            {"position": "sincos2d", "hidden_dim": 4},
            "hidden_dim = 4 must be 8, 12, 16, ... where position = 'sincos2d'",
        ),
        ({"rope": {"bass": 3.0}}, "did you mean 'base'"),
        ({"channel_dropout": 1.0}, "channel_dropout = 1.0 is a share below 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        vit.make(**{**SMALL, **options})


def test_masked_patches_need_a_token_to_stand_for_them():
    masked = np.arange(16)[None] % 2 == 0
    model = vit.make(**SMALL, mask_token=True)
    params = model.init(jax.random.key(0), some(1, 32, 32, 3))
    run = jax.jit(lambda images: model.apply(params, images, masked=masked).tokens)
    images = some(1, 32, 32, 3)
    hidden, seen = images.copy(), images.copy()
    hidden[:, :8, :8] += 1  # Patch 0 is masked, patch 1 is not.
    seen[:, :8, 8:16] += 1
    np.testing.assert_array_equal(run(hidden), run(images))
    assert np.abs(run(seen) - run(images)).max() > 1e-4
    with pytest.raises(ConfigError, match="mask_token = True"):
        vit.make(**SMALL).init(jax.random.key(0), images, masked=masked)


def test_channels_are_dropped_by_example_and_never_all():
    images, keys = jnp.ones((512, 2, 2, 5)), jax.random.split(jax.random.key(0), 512)
    found = stem.drop_channels(images, keys, 0.5)
    assert (found == found[:, :1, :1]).all()
    kept = (found[:, 0, 0] > 0).sum(1)
    assert kept.min() == 1
    np.testing.assert_allclose(found[:, 0, 0].sum(1), 5, rtol=1e-6)  # A stem's sum keeps its size.
    assert kept.mean() == pytest.approx(2.5 + 0.5**5, abs=0.15)
    np.testing.assert_array_equal(stem.drop_channels(images[3:5], keys[3:5], 0.5), found[3:5])


def test_stems_for_other_channels():
    kernel = some(8 * 8 * 3, 16)
    np.testing.assert_array_equal(stem.inflate(kernel, 3, 8), kernel)  # Bit for bit.
    np.testing.assert_array_equal(stem.inflate(kernel, (0, 1, 2), 8), kernel)
    filters = kernel.reshape(8, 8, 3, 16)
    bands = stem.inflate(kernel, (2, None, 0, 0), 8).reshape(8, 8, 4, 16)
    np.testing.assert_allclose(bands[:, :, 0], filters[:, :, 2] * 0.75, rtol=1e-6)
    np.testing.assert_allclose(bands[:, :, 1], filters.mean(2) * 0.75, rtol=1e-6)
    with pytest.raises(ConfigError, match="names a channel that the stem of 3 does not have"):
        stem.inflate(kernel, (0, 3), 8)


def test_resized_patch_embeddings_see_the_same_in_larger_patches():
    kernel, patch = some(4 * 4 * 3, 5), some(4, 4, 3, seed=1)
    larger = np.asarray(jax.image.resize(patch, (7, 7, 3), "linear"))
    found = larger.reshape(-1) @ stem.resize_patches(kernel, 4, 7)
    np.testing.assert_allclose(found, patch.reshape(-1) @ kernel, rtol=1e-4, atol=1e-5)
    assert stem.resize_patches(kernel, 4, 4) is kernel
