"""A trained run is loaded and used on images and texts as people have them."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import vitfm
from tests import tiny
from vitfm import config as config_lib
from vitfm import main, overrides, train_lib
from vitfm import recipe as recipes
from vitfm import run as runs
from vitfm.checkpoint.manager import CheckpointError, Checkpoints
from vitfm.config import ConfigError
from vitfm.data import formats, sources
from vitfm.evals import embeddings
from vitfm.parallel import mesh as meshes


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of five steps."""
    workdir = tmp_path_factory.mktemp("run") / "clip"
    words = tiny.arguments(workdir, "--config.total=5", "--config.evals={}")
    arguments, pairs = main._parse(words)
    train_lib.train(overrides.load(arguments.config, pairs), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def run(workdir: pathlib.Path) -> runs.Run:
    return vitfm.load(str(workdir))


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def test_it_knows_what_it_is(run: runs.Run, workdir: pathlib.Path) -> None:
    assert run.step == 5
    assert run.config.objective.image.hidden_dim == 32
    assert {"embed_image", "embed_text"} <= set(dir(run))
    stored = Checkpoints(workdir / "checkpoints").restore_subtree("params", 5)
    assert jax.tree.structure(stored) == jax.tree.structure(run.params)


def test_an_earlier_checkpoint_is_loaded_by_its_step(workdir: pathlib.Path, run: runs.Run) -> None:
    earlier = vitfm.load(str(workdir), step=4)
    assert earlier.step == 4
    batch = picture(32, 32)[None]
    assert np.abs(earlier.embed_image(batch) - run.embed_image(batch)).max() > 1e-6
    with pytest.raises(CheckpointError, match="no complete checkpoint of step 3; it has 4, 5"):
        vitfm.load(str(workdir), step=3)


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (17, 90), (1, 1), (300, 31)])
@pytest.mark.parametrize("channels", [3, 4])
def test_images_of_any_size_become_unit_vectors(run: runs.Run, shape: tuple[int, int], channels: int) -> None:
    batch = np.stack([picture(*shape, channels, seed) for seed in range(3)])
    embedded = run.embed_image(batch)
    assert embedded.shape == (3, 32)
    assert embedded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)


def test_a_list_may_mix_sizes_and_channels(run: runs.Run) -> None:
    several = [picture(32, 32), picture(50, 20, 4), picture(90, 200)]
    embedded = run.embed_image(several)
    for image, row in zip(several, embedded, strict=True):
        np.testing.assert_allclose(run.embed_image([image])[0], row, rtol=1e-4, atol=1e-5)


def test_transparent_pixels_are_white(run: runs.Run) -> None:
    clear = picture(32, 32, 4)
    clear[..., 3] = 0
    opaque = np.concatenate([picture(32, 32), np.full((32, 32, 1), 255, np.uint8)], -1)
    white = np.full((32, 32, 3), 255, np.uint8)
    embedded = run.embed_image([clear, white, opaque, picture(32, 32)])
    np.testing.assert_allclose(embedded[0], embedded[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embedded[2], embedded[3], rtol=1e-4, atol=1e-5)
    assert np.abs(embedded[0] - embedded[2]).max() > 1e-3


def test_texts(run: runs.Run) -> None:
    texts = ["red apple", "", "a drawing of a cat, animal", "日本", "x " * 500]
    embedded = run.embed_text(texts)
    assert embedded.shape == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(run.embed_text("red apple")[0], embedded[0], rtol=1e-4, atol=1e-5)
    assert np.abs(embedded[0] - embedded[2]).max() > 1e-3


def test_more_than_a_batch_is_taken_in_chunks(run: runs.Run) -> None:
    several = [picture(8, 8, seed=seed) for seed in range(131)]
    embedded = run.embed_image(several)
    np.testing.assert_allclose(embedded[127:], run.embed_image(several[127:]), rtol=1e-4, atol=1e-5)
    assert run.embed_text([str(i) for i in range(131)]).shape == (131, 32)


def test_users_and_evaluators_see_the_same_embeddings(run: runs.Run) -> None:
    recipe = recipes.parse(run.config)
    data = recipes.make_data(recipe)
    objective = recipes.make_objective(recipe, data)
    context = runs.eval_context(data, objective, meshes.make())
    source = sources.make("tfds:emoji:validation[:20]")
    examples = [source[i] for i in range(20)]
    seen = embeddings.of_images(context, run.params, source, context.batch_size(7))
    pixels = [formats.decode(example["image"], data.spec) for example in examples]
    np.testing.assert_allclose(run.embed_image(pixels), seen, rtol=1e-4, atol=1e-5)
    names = [example["name"] for example in examples]
    found = embeddings.of_texts(context, run.params, names, context.batch_size(7))
    np.testing.assert_allclose(run.embed_text(names), found, rtol=1e-4, atol=1e-5)


def test_a_function_that_evaluators_ask_for_again_is_compiled_once(run: runs.Run) -> None:
    recipe = recipes.parse(run.config)
    data = recipes.make_data(recipe)
    context = runs.eval_context(data, recipes.make_objective(recipe, data), meshes.make())
    traced = []

    def doubled(whole: jax.Array, rows: jax.Array) -> jax.Array:
        traced.append(rows.shape)
        return 2 * rows

    rows = np.ones((context.devices, 3), np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(context.on_devices(doubled)(np.float32(0), rows), 2 * rows)
    assert traced == [rows.shape]


def test_users_and_evaluators_give_predict_functions_options(run: runs.Run) -> None:
    recipe = recipes.parse(run.config)
    data = recipes.make_data(recipe)
    context = runs.eval_context(data, recipes.make_objective(recipe, data), meshes.make())
    source = sources.make("tfds:emoji:validation[:3]")
    pixels = [formats.decode(source[i]["image"], data.spec) for i in range(3)]
    size = context.batch_size(3)
    plain, raw = (embeddings.of_images(context, run.params, source, size, "patches", **o) for o in ({}, {"blocks": 1}))
    np.testing.assert_allclose(run.patches(pixels), plain, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.patches(pixels, blocks=1), raw, rtol=1e-4, atol=1e-5)
    assert np.abs(raw - plain).max() > 1e-2


@pytest.mark.parametrize(
    "batch",
    [
        picture(32, 32),  # One image is no batch.
        picture(32, 32)[None, ..., :1],
        picture(32, 32)[None] / 255,
        [picture(32, 32), picture(32, 32)[..., 0]],
        picture(32, 32)[None, :0],
        [],
    ],
)
def test_what_is_no_batch_of_images_is_refused(run: runs.Run, batch: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"embed_image takes images, uint8 \[B,H,W,3 or 4\]"):
        run.embed_image(batch)


@pytest.mark.parametrize("texts", [[], [3], [b"cat"]])
def test_what_is_no_text_is_refused(run: runs.Run, texts: list) -> None:
    with pytest.raises(ValueError, match="embed_text takes a list of one or more str"):
        run.embed_text(texts)


def test_an_unknown_function_is_refused_with_those_there_are(run: runs.Run) -> None:
    there = "attention, embed_image, embed_text, features, patches"
    with pytest.raises(AttributeError, match=f"offers {there}; not 'logits'"):
        run.logits  # noqa: B018


def test_what_is_no_run_is_refused(tmp_path: pathlib.Path, workdir: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no run in .*config\.json does not exist"):
        vitfm.load(str(tmp_path))
    shutil.copy(workdir / "config.json", tmp_path)
    with pytest.raises(ConfigError, match="has saved no checkpoint yet"):
        vitfm.load(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_run_of_a_newer_config_is_refused_by_the_key(tmp_path: pathlib.Path, workdir: pathlib.Path) -> None:
    config = json.loads((workdir / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "from_the_future": 1}))
    with pytest.raises(ConfigError, match=r"Unknown key config\.from_the_future"):
        vitfm.load(str(tmp_path))


def test_a_damaged_checkpoint_is_refused(tmp_path: pathlib.Path, workdir: pathlib.Path) -> None:
    broken = shutil.copytree(workdir, tmp_path / "broken")
    state = broken / "checkpoints/5/state"
    files = [path for path in state.rglob("*") if path.is_file() and path.stat().st_size > 1e5]
    for path in files:
        content = bytearray(path.read_bytes())
        content[500::1000] = bytes(byte ^ 1 for byte in content[500::1000])  # Parameters and moments lie in any order.
        path.write_bytes(bytes(content))
    assert files
    with pytest.raises(CheckpointError, match=r"5 (is damaged|can't be read).*Step 4 is intact"):
        vitfm.load(str(broken))
    assert vitfm.load(str(broken), step=4).step == 4


def test_a_classifier_is_loaded_where_its_data_is_not(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    config = config_lib.load_file("configs/supervised.py:tiny").to_dict()
    config["objective"]["model"] = {"name": "vit", "patch_size": 16, "hidden_dim": 16, "depth": 1, "num_heads": 1}
    config |= {"total": 1, "batch_size": 8, "evals": {}, "checkpoint": {}, "accumulate": 1}
    train_lib.train(config, str(tmp_path / "run"))

    def gone(name: str) -> None:
        raise AssertionError(f"{name} is opened")

    monkeypatch.setattr(sources, "make", gone)
    run = vitfm.load(str(tmp_path / "run"))
    assert run.logits(np.stack([picture(40, 30)])).shape == (1, 98)
    assert len(set(run.config.data.label.classes)) == 98
