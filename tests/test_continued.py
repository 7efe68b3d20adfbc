"""Any objective goes on from an encoder alone, as other libraries store it, and its new heads learn first."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from tests import tiers, tiny
from tests.interop import folders
from tests.objectives import specs
from tests.parity.families import vit_mae
from tests.parity.family import randomise
from tests.parity.reference import torch, transformers
from tests.test_resume_objectives import write_untrained
from vitfm import config as config_lib
from vitfm import program, starting, train_lib, tree
from vitfm import recipe as recipes
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import ConfigError
from vitfm.data.tokenizer import ASSETS
from vitfm.interop import imported
from vitfm.objectives import base
from vitfm.train_state import TrainState

STILL, TOTAL = 2, 4  # Steps in which the encoder stands still, and of the run.
VIEW = {"crop": {"scale": (0.4, 1.0)}}
TEXT = {"name": "text", "hidden_dim": 16, "depth": 1, "num_heads": 2}
HEADS = {"prototypes": 8, "hidden_dim": 8, "bottleneck_dim": 4, "momentum": 0.9}
# Objective -> where its encoder lies, what is fresh, what its recipe says of objective and data beside the encoder.
OBJECTIVES: Mapping[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "dino": ("encoder", "^head", HEADS, {"views": {"global": {"count": 2, **VIEW}}}),
    "dinov2": ("encoder", "^(patch_)?head", HEADS, {"views": {"global": {"count": 2, **VIEW}}}),
    "mae": ("encoder", "^decoder", {"decoder": {"hidden_dim": 16, "depth": 1, "num_heads": 2}}, {}),
    "supervised": ("encoder", "^head", {}, {"label": {"feature": "subgroup"}}),
    "clip": ("image/tower", "projection|^text|^logit_scale", {"text": TEXT, "embed_dim": 8}, {}),
}
# Objective -> why no library's image encoder is what it starts from. All others of vitfm/objectives do.
WITHOUT: Mapping[str, str] = {
    "backbone": "it is such an encoder as it was read, and has no loss to go on with",
    "dvae": "its convolutions are those of DALL-E's codes, of no use without the decoder they were trained with",
}


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the recipe of an objective says of an encoder that it did not choose.

    Attributes:
      model: options, in place of its own defaults or of what the folder says.
      fresh: what the encoder then has and the folder may lack, the beginnings of the parameters' names.
      parts: what of the folder's encoder it takes; None for all.
    """

    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    parts: tuple[str, ...] | None = None


_PLAIN = {"stem_norm": False, "out_bias": True, "mlp_bias": True}  # A ViT's, where AIM's are others.
FITS: Mapping[str, Fit] = {
    "aim": Fit({"pool": "gap", "mask_token": False, **_PLAIN}, parts=("stem", "position", "transformer")),
    "beit": Fit({"relative_position": None}),
    "deit": Fit({"distillation_token": True, "pool": "cls_dist"}, fresh=("distillation_",)),
    "simmim": Fit({"mask_token": True}, fresh=("mask_token",)),
}
COPIES = ("teacher", "gram")  # What an objective may keep beside its parameters and that has to follow them.
CONTINUED = [name for name in specs.NAMES if name not in WITHOUT]
# DINOv2 for all of them; the other sources for who is trained as they were, and for one that is not.
PAIRS = [(name, "dinov2") for name in CONTINUED]
PAIRS += [("mae", "mae"), ("clip", "clip"), ("siglip", "siglip"), *(("simmim", s) for s in ("mae", "clip", "siglip"))]


def _modules() -> dict[str, torch.nn.Module]:
    """Source -> a model of transformers': encoders alone, and both of CLIP's towers."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    image = {**sizes, "image_size": 16, "patch_size": 8}
    text = {**sizes, "intermediate_size": 24, "vocab_size": 4128, "max_position_embeddings": 16}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    towers = transformers.CLIPConfig(vision_config={**image, "intermediate_size": 24}, text_config=text)
    return {
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**image, mlp_ratio=2)),
        "mae": next(case for case in vit_mae.CASES if case.name == "bare").build(),
        "clip": transformers.CLIPModel(towers),
        "siglip": transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**image, intermediate_size=24)),
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Folders of transformers' with random weights: those of `_modules` and a classifier, "vit"."""
    folder = tmp_path_factory.mktemp("continued")
    for name, module in _modules().items():
        randomise(module, 0)
        module.save_pretrained(folder / name)
    shutil.copy(ASSETS / "emoji_bpe.json", folder / "clip/tokenizer.json")
    folders.write(folder / "vit")
    return {path.name: path for path in folder.iterdir()}


def recipe(name: str, source: pathlib.Path) -> dict[str, Any]:
    """Everything that could move the encoder is on: momentum, weight decay, clipping, averaging."""
    encoder, fresh, options, data = OBJECTIVES[name]
    model = dict(imported.read(source).config["objective"]["model"])
    del model["image_size"]  # The images are larger, so positions are resized.
    model.setdefault("position", "learned")  # What a ViT has and an MAE has not, where a recipe doesn't say.
    config = tiny.get_config().to_dict()
    part = "image" if name == "clip" else "model"
    text = {key: config["data"].pop(key) for key in ("captions", "tokenizer", "columns")}
    config["data"] |= {"threads": 1, **data, **(text if name == "clip" else {})}
    return config | {
        "total": TOTAL,
        "batch_size": 8,
        "objective": {"name": name, part: model, **options},
        "init": {"run": str(source), "take": {encoder: "encoder"}, "fresh": [fresh]},
        "optim": {
            "name": "adamw",
            "learning_rate": 0.01,
            "schedule": {"name": "constant"},
            "weight_decay": 0.5,
            "freeze": [(f"^{encoder}/", f"{100 * STILL // TOTAL}%")],
        },
        "ema_decay": 0.5,
        "checkpoint": {"every": 1, "keep": TOTAL},
        "evals": {},
    }


@pytest.mark.parametrize("name", tiers.slow_unless("dino".__eq__, OBJECTIVES))
def test_heads_learn_first(name: str, sources: dict[str, pathlib.Path], tmp_path: pathlib.Path):
    source = sources["dinov2" if "dino" in name else "vit"]
    config, workdir = recipe(name, source), tmp_path / name
    train_lib.train(config, str(workdir))
    states = {step: tiny.state(workdir, step) for step in range(1, TOTAL + 1)}
    encoder = f"params.{OBJECTIVES[name][0].replace('/', '.')}."
    lineage = Checkpoints(workdir / "checkpoints").meta(TOTAL)["lineage"]
    resized = {OBJECTIVES[name][0] + "/position": "bicubic, grid 2 x 2 -> 4 x 4"}
    assert lineage["resized"] == resized and lineage["run"] == str(source)

    there = imported.leaves(imported.read(source).state)
    inner = [leaf for leaf in states[1] if leaf.startswith(encoder)]
    for leaf in inner:
        if not leaf.endswith(".position"):
            old = there["params/encoder/" + leaf.removeprefix(encoder).replace(".", "/")]
            np.testing.assert_array_equal(states[1][leaf], old, err_msg=leaf)
    same = lambda leaf, one, other: np.array_equal(states[one][leaf], states[other][leaf])
    assert len(inner) > 10
    assert all(same(leaf, 1, STILL) for leaf in inner)
    unused = "mask_token"  # No gradient and no decay.
    assert not any(same(leaf, STILL, STILL + 1) for leaf in inner if unused not in leaf)
    averaged = [leaf.replace("params.", "ema.", 1) for leaf in inner]
    averaged += [leaf for leaf in states[1] if leaf.startswith("extra.teacher.encoder.")]
    assert all(np.allclose(states[1][leaf], states[STILL][leaf], rtol=1e-6) for leaf in averaged)

    heads = [leaf for leaf in states[1] if leaf.startswith("params.") and leaf not in inner]
    assert heads and not all(same(leaf, 1, STILL) for leaf in heads)
    moments = [leaf for leaf in states[1] if ".mu." in leaf or ".nu." in leaf]
    own = [leaf for leaf in moments if encoder.removeprefix("params") in leaf]
    assert len(own) == 2 * len(inner)
    for leaf in own:
        assert not states[STILL][leaf].any(), leaf
        assert states[STILL + 1][leaf].any() or unused in leaf, leaf

    for step in range(STILL, TOTAL + 1):  # Going on from before the encoder moves.
        shutil.rmtree(workdir / f"checkpoints/{step}")
    train_lib.train(config, str(workdir))
    tiny.assert_equal_bits(tiny.state(workdir, TOTAL), states[TOTAL])


def test_batch_statistics_come_along(tmp_path: pathlib.Path):
    """Through the whole loop: with nothing learned and a momentum of 0 a run ends with what it started from."""
    config = recipe("supervised", folders.write(tmp_path / "vit")) | {"total": 2, "ema_decay": None, "checkpoint": {}}
    model = {"name": "resnet", "stem_dim": 8, "depths": (1, 1), "hidden_dims": (16, 32)}
    config["optim"] = {"name": "adamw", "learning_rate": 0.01}
    config["objective"]["model"] = model
    first = {key: value for key, value in config.items() if key != "init"}
    train_lib.train(first, str(tmp_path / "first"))
    config["objective"]["model"] = {**model, "momentum": 0.0}
    config["optim"] |= {"learning_rate": 0.0}
    config["init"] = {"run": str(tmp_path / "first")}
    train_lib.train(config, str(tmp_path / "second"))
    parts = ("extra.batch_stats.", "params.encoder.")
    one, other = (
        {name: leaf for name, leaf in tiny.state(tmp_path / run, 2).items() if name.startswith(parts)}
        for run in ("first", "second")
    )
    assert one["extra.batch_stats.stem_norm.mean"].any()
    tiny.assert_equal_bits(one, other)
    lineage = Checkpoints(tmp_path / "second/checkpoints").meta(2)["lineage"]
    assert "extra/batch_stats/stem_norm/mean" in lineage["taken"]
    assert all(name.startswith("head/") for name in lineage["fresh"])


@pytest.mark.slow
def test_dinov2_goes_on_at_a_higher_resolution(tmp_path: pathlib.Path):
    """As configs/dinov2_l16_in1k.py:highres says, of a run with two heads: nothing is learned, so all is as it was."""
    take = dict(config_lib.load_file("configs/dinov2_l16_in1k.py:highres").init.take)
    config = recipe("supervised", folders.write(tmp_path / "vit")) | {"ema_decay": None}
    config["data"] |= {"label": None, "views": {"global": {"count": 2, **VIEW}}}
    config["objective"] |= {"name": "dinov2", **HEADS, "momentum": 0.5}
    first = {key: value for key, value in config.items() if key != "init"} | {"total": 2}
    first["optim"] = {"name": "adamw", "learning_rate": 0.01}
    train_lib.train(first, str(tmp_path / "first"))
    config["data"]["image_size"] = 48
    config["init"] = {"run": str(tmp_path / "first"), "take": take | {"patch_head": "extra/teacher/patch_head"}}
    config["optim"] = {"name": "adamw", "learning_rate": 0.0}
    train_lib.train(config | {"total": 1}, str(tmp_path / "second"))

    old, new = tiny.state(tmp_path / "first", 2), tiny.state(tmp_path / "second", 1)
    teacher = {name: leaf for name, leaf in old.items() if name.startswith("extra.teacher.")}
    assert {name.split(".")[2] for name in teacher} == {"encoder", "head", "patch_head"}
    position = "encoder.position"
    for name, leaf in teacher.items():
        part = name.removeprefix("extra.teacher.")
        if part != position:
            np.testing.assert_array_equal(new[f"params.{part}"], leaf, err_msg=part)
            np.testing.assert_array_equal(new[name], leaf, err_msg=part)
    moved = [name for name in teacher if np.any(old[name] != old[name.replace("extra.teacher", "params")])]
    assert {name.split(".")[2] for name in moved} == {"encoder", "head", "patch_head"}  # It was not the student's.
    assert new[f"params.{position}"].shape[:2] == (6, 6) and old[f"params.{position}"].shape[:2] == (4, 4)
    lineage = Checkpoints(tmp_path / "second/checkpoints").meta(1)["lineage"]
    assert list(lineage["resized"]) == ["encoder/position"] and not lineage["fresh"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Where the encoder of an objective, or of a folder, lies.

    Attributes:
      option: its options in the objective's.
      prefix: its parameters'.
    """

    option: str
    prefix: str


def encoder_of(objective: Mapping[str, Any]) -> Encoder:
    """The image tower of those that have a text's beside it; of all others the encoder."""
    return Encoder("image", "image/tower") if "image" in objective else Encoder("model", "encoder")


def going_on(name: str, source: pathlib.Path) -> dict[str, Any]:
    """The objective as all tests train it, but with the encoder of a folder: everything beside that one is fresh."""
    spec, fit = specs.CASES[name], FITS.get(name, Fit())
    theirs = imported.read(source).config["objective"]
    here, there = encoder_of(spec.objective), encoder_of(theirs)
    model = {"position": "learned", **theirs[there.option], **fit.model}
    parts = [""] if fit.parts is None else [f"/{part}" for part in fit.parts]
    lacking = [f"^{here.prefix}/{token}" for token in fit.fresh if not theirs[there.option].get(token)]
    return {
        "total": 2,
        "batch_size": 8,
        "objective": {**spec.objective, here.option: model},
        "data": {**specs.DATA, **spec.data, "threads": 1},
        "teacher": spec.teacher and {"run": "", **spec.teacher},
        "init": {
            "run": str(source),
            "take": {here.prefix + part: there.prefix + part for part in parts},
            "fresh": [f"^(?!{here.prefix}/)", *lacking],
        },
        "ema_decay": 0.5,
        "log_every": 1,
    }


def started(config: Mapping[str, Any]) -> TrainState:
    """The state of step 0 as a run has it, but that what it doesn't start from is 7: nothing is drawn or compiled."""
    p = program.build(recipes.parse(config), jax.devices()[:1])
    sevens = jax.tree.map(lambda leaf: jax.device_put(np.full(leaf.shape, 7, leaf.dtype), leaf.sharding), p.shapes)
    p = dataclasses.replace(p, init=lambda key: sevens)
    return starting.state(types.SimpleNamespace(program=p, first=0, teacher=None, start=starting.read(p)))


def below(state: Any, prefix: str) -> dict[str, np.ndarray]:
    """Leaves whose names go on after a prefix, by what these go on with."""
    leaves = tree.named_leaves(state)
    return {name.removeprefix(prefix): np.asarray(leaf) for name, leaf in leaves if name.startswith(prefix)}


def encoders(state: TrainState, prefix: str) -> dict[str, dict[str, np.ndarray]]:
    """The encoder in the parameters, in their average, and in what else the objective keeps, by their names."""
    found = {"params": below(state.params, prefix), "ema": below(state.ema, prefix)}
    for kept in state.extra.keys() - {base.FROZEN}:
        leaves = below(state.extra, f"{kept}/")
        inner = {leaf.removeprefix("encoder/"): value for leaf, value in leaves.items()}  # Wherever the tower lies.
        copy = {leaf: value for leaf, value in inner.items() if leaf in found["params"]}
        found |= {kept: copy} if copy else {}
    return found


def test_who_does_not_go_on_from_an_encoder_is_an_objective():
    assert WITHOUT.keys() <= set(specs.NAMES) and FITS.keys() <= set(CONTINUED)


@pytest.mark.parametrize(("name", "source"), PAIRS)
def test_every_objective_starts_from_the_encoder_of_a_folder(
    name: str, source: str, sources: dict[str, pathlib.Path]
) -> None:
    """Parameters, their average, and all copies that the objective keeps beside them are what the folder has."""
    config, read, fit = going_on(name, sources[source]), imported.read(sources[source]), FITS.get(name, Fit())
    theirs = below(read.state["params"], f"{encoder_of(read.config['objective']).prefix}/")
    wanted = {leaf: x for leaf, x in theirs.items() if fit.parts is None or leaf.split("/")[0] in fit.parts}
    found = encoders(started(config), f"{encoder_of(config['objective']).prefix}/")
    assert found.keys() == {"params", "ema", *(kept for kept in specs.CASES[name].keeps if kept in COPIES)}
    assert len(wanted) > 10
    for where, leaves in found.items():
        assert all(leaf in wanted or leaf.startswith(fit.fresh) for leaf in leaves), where
        for leaf, value in wanted.items():
            np.testing.assert_array_equal(leaves[leaf], value, err_msg=f"{where}: {leaf}")


def test_aim_says_what_it_takes_of_an_encoder_with_a_class_token(sources: dict[str, pathlib.Path]):
    config = going_on("aim", sources["dinov2"])
    config["objective"]["model"] |= {"pool": "cls"}
    with pytest.raises(ConfigError, match=f"pool must be 'gap'.*{re.escape(str(config['init']['take']))}"):
        program.build(recipes.parse(config))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source"), PAIRS)
def test_every_objective_trains_on_from_the_encoder_of_a_folder(
    name: str, source: str, sources: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    config = going_on(name, sources[source])
    if config["teacher"]:
        write_untrained(specs.CASES[name].teacher, tmp_path / "teacher")
        config["teacher"] = {"run": str(tmp_path / "teacher")}
    train_lib.train(config, str(tmp_path / name))
    losses = [row["loss"] for row in tiny.rows(tmp_path / name) if "loss" in row]
    assert len(losses) == 2 and np.isfinite(losses).all()
    lineage = Checkpoints(tmp_path / name / "checkpoints").meta(2)["lineage"]
    assert lineage["run"] == str(sources[source]) and lineage["taken"]
