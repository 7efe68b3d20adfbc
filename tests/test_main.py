"""What is wrong with a command line is said in one message, before anything compiles, with a way to mend it."""

import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from tests import tiny
from vitfm import main, program, train_lib
from vitfm import overrides as config_overrides
from vitfm.data import tokenizer

Refuse = Callable[..., str]

ONLY_IMAGES = '''
"""An objective that embeds images and nothing else."""
import jax.numpy as jnp
from vitfm.objectives import base

def make(*, data, dtype, needs=None):
    embed = lambda params, image: image.mean((1, 2)) * params["kernel"]
    def init(key, batch):
        if needs:
            batch[needs]
        return base.Variables({"kernel": jnp.ones(3), "bias": jnp.zeros(3)})
    def loss(params, extra, batch, key, step):
        return (embed(params, batch["image"]) ** 2).mean(), base.Aux({}, extra)
    return base.Objective(init, loss, {"embed_image": embed}, "mean")
'''


@pytest.fixture
def refuse(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Runs a tiny run with overrides and returns the message it is refused with."""

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("got as far as compiling or writing")

    monkeypatch.setattr(train_lib, "_begin", never)
    monkeypatch.setattr(train_lib, "_train", never)
    monkeypatch.setattr(jax.stages.Lowered, "compile", never)

    def run(*overrides: str) -> str:
        workdir = tmp_path / "run"
        capsys.readouterr()
        assert main.main([*tiny.arguments(workdir), *overrides]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("vitfm: ")
        assert "Traceback" not in captured.err
        assert not workdir.exists()
        return captured.err

    return run


NAMES = {
    # The top, and several depths.
    "--config.objectiv.name=clip": r"Unknown key config\.objectiv: did you mean 'objective'\?",
    "--config.bach_size=8": r"config\.bach_size: did you mean 'batch_size'\?",
    "--config.objective.embed_dims=8": r"config\.objective\.embed_dims: did you mean 'embed_dim'\?",
    "--config.objective.image.hiden_dim=8": r"config\.objective\.image\.hiden_dim: did you mean 'hidden_dim'\?",
    "--config.objective.text.image_size=8": r"config\.objective\.text\.image_size",
    "--config.objective.image.norm.kind=rms": r"config\.objective\.image\.norm",
    "--config.data.imagesize=8": r"config\.data\.imagesize: did you mean 'image_size'\?",
    "--config.data.crop.rotate=8": r"config\.data\.crop\.rotate: did you mean 'rotation'\?",
    "--config.data.augment.greyscale=1": r"config\.data\.augment\.greyscale: did you mean 'grayscale'\?",
    "--config.data.captions.tag=x": r"config\.data\.captions\.tag: did you mean 'tags'\?",
    "--config.data.tokenizer.lenght=9": r"config\.data\.tokenizer\.lenght: did you mean 'length'\?",
    "--config.optim.learning_rat=1": r"config\.optim\.learning_rat: did you mean 'learning_rate'\?",
    "--config.optim.weigth_decay=1": r"config\.optim\.weigth_decay: did you mean 'weight_decay'\?",
    "--config.optim.beta1=1": r"config\.optim\.beta1: .*Known: b1, b2, .*clip_norm, .*learning_rate, .*name",
    "--config.optim.schedule.warmups=1": r"config\.optim\.schedule\.warmups: did you mean 'warmup'\?",
    "--config.mesh.fdsp=1": r"config\.mesh\.fdsp: did you mean 'fsdp'\?",
    "--config.checkpoint.evry=1": r"config\.checkpoint\.evry: did you mean 'every'\?",
    "--config.profile.begin=1": r"config\.profile\.begin: .*Known: start, steps",
    "--config.evals.validation.evry=1": r"config\.evals\.validation\.evry: did you mean 'every'\?",
    "--config.evals.validation.captio=x": r"config\.evals\.validation\.captio: did you mean 'caption'\?",
    # Modules.
    "--config.objective.name=clop": r"objectives module 'clop': did you mean 'clip'\?",
    "--config.objective.name=base": r"objectives module 'base'",
    "--config.objective.name=vitfm.losses.contrastive": r"config\.objective\.name.*no function `make`",
    "--config.objective.name=my.objective": r"objectives module 'my\.objective'",
    "--config.objective.name=.clip": r"objectives module '\.clip'",
    "--config.objective.name=3": r"objectives module '3'",
    "--config.objective.name=None": r"config\.objective\.name = None is not the name",
    "--config.objective.image.name=vitt": r"models module 'vitt': did you mean 'vit'\?",
    "--config.data.source=tfd:emoji": r"sources module 'tfd': did you mean 'tfds'\?",
    "--config.optim.name=adam": r"optim module 'adam': did you mean 'adamw'\?",
    "--config.optim.schedule.name=cosin": r"config\.optim\.schedule\.name = 'cosin': did you mean 'cosine'\?",
    "--config.evals.validation.name=retreival": r"evals module 'retreival': did you mean 'retrieval'\?",
    "--config.evals.other.source=x": r"config\.evals\.other needs a `name`",
}
VALUES = {
    # Types.
    "--config.batch_size=many": r"config\.batch_size = 'many' has the wrong type.*wanted int",
    "--config.batch_size=16.5": r"config\.batch_size = 16\.5 has the wrong type",
    "--config.objective=clip": r"config\.objective = 'clip' has the wrong type",
    "--config.objective.image=vit": r"config\.objective\.image = 'vit' has the wrong type",
    "--config.objective.image.depth=two": r"config\.objective\.image\.depth = 'two' has the wrong type",
    "--config.optim.learning_rate=fast": r"config\.optim\.learning_rate = 'fast' has the wrong type",
    "--config.dtype=float16": r"config\.dtype = 'float16' has the wrong type.*'bfloat16'",
    "--config.evals.validation=None": r"config\.evals.* has the wrong type",
    "--config.ema_decay=1.5": r"config\.ema_decay = 1\.5 must lie between 0 and 1",
    "--config.total.steps=3": r"--config\.total\.steps: total is a value, '10 steps', and holds no keys",
    '--config.sharding=(("[","fsdp"),)': r"config\.sharding.*'\['",
    '--config.sharding=((".*","fdsp"),)': r"config\.sharding.*'fdsp'",
    # Batches and devices; the tests have eight.
    "--config.batch_size=12": r"config\.batch_size = 12 does not divide among 8 devices.*8 or 16",
    "--config.batch_size=0": r"config\.batch_size = 0 must be at least 1",
    "--config.accumulate=0": r"config\.accumulate = 0 must be at least 1",
    "--config.accumulate=3": r"config\.batch_size = 16 does not divide.*accumulate = 3",
    "--config.accumulate=16": r"8 devices and 16 micro-batches",
    "--config.mesh.data=3": r"config\.mesh: data = 3 x fsdp = 1 does not make 8 devices",
    "--config.mesh.fsdp=16": r"config\.mesh: .*fsdp = 16 does not make 8 devices",
    "--config.mesh.data=0": r"config\.mesh: data = 0",
    # Durations.
    "--config.total=soon": r"config\.total = 'soon' is not a duration.*'500 steps'",
    "--config.total=10%": r"config\.total = '10%': the length of the run cannot be a percentage of itself",
    "--config.total=-5": r"config\.total = '-5' is not a duration",
    "--config.total=0": r"config\.total = '0' is no step at all",
    "--config.total=5 minutes": r"config\.total = '5 minutes' is not a duration",
    "--config.log_every=often": r"config\.log_every = 'often' is not a duration",
    "--config.checkpoint.every=often": r"config\.checkpoint\.every = 'often' is not a duration",
    "--config.checkpoint.keep=0": r"config\.checkpoint\.keep = 0 must be at least 1",
    "--config.checkpoint.keep_every=0": r"config\.checkpoint\.keep_every = 0 must be at least 1",
    "--config.evals.validation.every=often": r"config\.evals\.validation\.every = 'often' is not a duration",
    "--config.optim.schedule.warmup=11 steps": r"config\.optim\.schedule: .*11 steps in a run of 10",
    "--config.profile.start=9": r"config\.profile: 5 steps from step 9 on are not within the run's 10",
    # Data.
    "--config.data.source=emoji": r"'emoji' lacks its scheme.*'tfds:emoji:train'",
    "--config.data.source=tfds:imagnet2012": r"'imagnet2012'.*\n.*download_and_prepare\(\)",
    "--config.data.source=tfds:emoji:trian": r"'trian'.*did you mean 'train'\?",
    "--config.evals.validation.source=tfds:coco": r"'coco'.*\n.*download_and_prepare\(\)",
    "--config.evals.validation.caption=nmae": r"config\.evals\.validation.*'nmae': did you mean 'name'\?",
    "--config.data.tokenizer.path=/no/such.json": r"No tokenizer '/no/such\.json': neither a file nor one that vitfm",
    "--config.data.image=picture": r"config\.data\.image = 'picture' is no feature: .*image",
    "--config.data.columns.concept=codepint": r"'codepint'.*'codepoint'",
    "--config.data.captions.name=nmae": r"'nmae'.*'name'",
    "--config.data.captions=None": r"The objective needs 'text' in a batch; config\.data makes concept, image",
}


@pytest.mark.parametrize("override", NAMES)
def test_an_unknown_name_is_refused_with_the_nearest(refuse: Refuse, override: str) -> None:
    assert_says(refuse(override), NAMES[override])


@pytest.mark.parametrize("override", VALUES)
def test_an_impossible_value_is_refused_with_the_reason(refuse: Refuse, override: str) -> None:
    assert_says(refuse(override), VALUES[override])


def assert_says(message: str, pattern: str) -> None:
    assert re.search(pattern, message), message


def test_an_unknown_config_file_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([f"--config={tiny.ROOT}/configs/clop.py"]) == 2
    assert "configs/clip.py'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "defines no get_config"),
        ("def get_config(arg=None):\n    return 3", "returns 3, not a ConfigDict"),
        ("def get_config(arg=None) return 3", "line 1"),
        ("def get_config(arg=None):\n    return dict(total=3)", "config lacks objective, data, batch_size"),
    ],
)
def test_a_file_that_is_no_config_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], source: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(source)
    assert main.main([f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--workdri=x", "Unknown argument '--workdri=x': did you mean '--workdir'?"),
        ("clip", "Unknown argument 'clip'"),
        ("--distributed=here", "--distributed=here is neither 'auto' nor HOST:PORT,PROCESSES,INDEX"),
        ("--distributed=localhost,2,0", "neither 'auto' nor"),
        ("--distributed=localhost:1234,two,0", "neither 'auto' nor"),
        ("--distributed=localhost:1234,2,2", "INDEX counts from 0 and is below PROCESSES, 2"),
    ],
)
def test_an_unknown_argument_is_refused(refuse: Refuse, word: str, message: str) -> None:
    assert message in refuse(word)


def test_a_workdir_of_another_config_is_refused_with_the_keys_that_differ(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    arguments = tiny.arguments(tmp_path / "run")
    config = config_overrides.load(
        str(tiny.ROOT / "tests/tiny.py"), [("seed", "7"), ("optim.b2", "0.5"), ("log_every", "1")]
    )
    (tmp_path / "run/config.json").write_text(config.to_json())
    assert main.main([*arguments, '--config.optim.decay_rules=((".*", True),)']) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"vitfm: {tmp_path}/run holds a run of another config; these keys differ (there -> here):"
    assert [line.split(":")[0].strip() for line in lines[1:-1]] == ["optim.b2", "optim.decay_rules", "seed"]
    assert lines[1].strip() == "optim.b2: 0.5 -> 0.98"
    assert lines[-1].startswith("Give another --workdir")
    (tmp_path / "run/config.json").write_text("{")
    assert main.main(arguments) == 2
    assert "config.json is not valid JSON" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main.main([f"--config={tiny.ROOT}/tests/tiny.py", f"--workdir={tmp_path}/file/run"]) == 2
    assert f"--workdir={tmp_path}/file/run can't be used" in capsys.readouterr().err


def test_an_evaluator_that_the_objective_cannot_serve_is_refused(
    refuse: Refuse, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_images").mkdir()
    (tmp_path / "only_images/objective.py").write_text(ONLY_IMAGES)
    monkeypatch.syspath_prepend(tmp_path)
    mine = "--config.objective={'name': 'only_images.objective'}"
    message = refuse(mine)
    assert "config.evals.validation: evaluator 'retrieval' needs embed_text" in message
    assert "it offers embed_image." in message
    message = refuse(mine, "--config.objective.needs=depth_map", "--config.evals={}")
    assert "The objective needs 'depth_map' in a batch; config.data makes concept, image, text, text_mask." in message


def test_accumulation_that_is_not_exact_is_refused_with_the_objectives_reason(
    refuse: Refuse, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ONLY_IMAGES.replace('"mean")', 'None, why_not="its loss has no micro-batches.")')
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/objective.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    message = refuse("--config.objective={'name': 'whole.objective'}", "--config.evals={}", "--config.accumulate=2")
    assert "config.accumulate = 2: this objective refuses accumulation: its loss has no micro-batches." in message


def test_a_tokenizer_file_that_is_none_is_refused(refuse: Refuse, tmp_path: pathlib.Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "is no tokenizer.json" in refuse(f"--config.data.tokenizer.path={tmp_path}/tokenizer.json")


def overridden(*overrides: str) -> dict[str, Any]:
    arguments, pairs = main._parse([f"--config={tiny.ROOT}/tests/tiny.py", *overrides])
    return config_overrides.load(arguments.config, pairs).to_dict()


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--config.total=10 steps"], "10 steps"),
        (["--config.total=500"], "500"),
        (["--config.log_every=10%"], "10%"),
        (["--config.total", "2e6 examples"], "2e6 examples"),
        (["--config.optim.learning_rate=1"], 1.0),
        (["--config.optim.learning_rate=3e-4"], 3e-4),
        (["--config.ema_decay=0.9"], 0.9),
        (["--config.ema_decay=None"], None),
        (["--config.optim.clip_norm=None"], None),
        (["--config.data.crop.flip=true"], True),
        (["--config.data.crop.flip=False"], False),
        (["--config.data.crop.scale=(0.5, 1)"], (0.5, 1)),
        (["--config.data.source=tfds:emoji:train[:50%]"], "tfds:emoji:train[:50%]"),
        (["--config.data.source=None"], None),
        (["--config.profile.start=5"], 5),
        (["--config.evals={}"], {}),
        (["--config.checkpoint.every=1%", "--config.checkpoint.every=2%"], "2%"),
        (["--config.some.new.key=[1, 'a']"], [1, "a"]),
        (["--config.seed=-1"], -1),
        (["--config.note={[]: 1}"], "{[]: 1}"),
        (["--config.note="], ""),
    ],
)
def test_overrides_are_read_as_python_writes_them(words: list[str], value: Any) -> None:
    config = overridden(*words)
    for part in words[0].split("=")[0].removeprefix("--config.").split("."):
        config = config[part]
    assert config == value
    assert type(config) is type(value)


def test_what_is_not_overridden_stays() -> None:
    plain, changed = overridden(), overridden("--config.optim.b2=0.5")
    assert changed["optim"].pop("b2") == 0.5
    del plain["optim"]["b2"]
    assert changed == plain


def test_overrides_reach_the_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[program.Program] = []

    def stop(session: Any, stack: Any) -> None:
        seen.append(session.program)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_lib, "_begin", stop)
    overrides = ["--config.total=2 epochs", "--config.optim.learning_rate=1", "--config.ema_decay=0.9"]
    assert main.main([*tiny.arguments(tmp_path / "run"), *overrides, "--config.mesh.fsdp=4"]) == 130
    assert seen[0].total == round(2 * 5980 / 16)
    assert seen[0].recipe.ema_decay == 0.9
    assert dict(seen[0].mesh.shape) == {"data": 2, "fsdp": 4}
    assert seen[0].shapes.ema is not None


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for part in (
        "--config",
        "--workdir",
        "--distributed",
        "--config.optim.learning_rate=3e-3",
        "'30 epochs'",
        "recipe",
    ):
        assert part in text


def test_a_shipped_tokenizer_is_found_by_its_name() -> None:
    """The refusals above are not for want of the assets."""
    assert tokenizer.make("emoji_bpe").vocab_size > np.int32(1000)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=configs/clp.py"], "did you mean 'configs/clip.py'?"),
        (["--config=configs/clip.py:tiny", "--config.optim.learning_rat=1"], "did you mean 'learning_rate'?"),
        ([], "--config"),
    ],
)
def test_a_process_refuses_without_a_stack(tmp_path: pathlib.Path, words: list[str], message: str) -> None:
    command = [sys.executable, "-m", "vitfm.main", *words, f"--workdir={tmp_path}/run"]
    done = subprocess.run(command, cwd=tiny.ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()
