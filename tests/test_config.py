"""Recipes are read strictly: what is unknown, missing, of a wrong type or no length is refused by its path."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitfm import config
from vitfm.config import ConfigError


def tower(
    *,
    depth: int,
    width: int = 8,
    rate: float = 0.1,
    form: Literal["round", "square"] = "round",
    scale: Sequence[float] = (0.5, 1.0),
    names: Mapping[str, int] = {},
    parent: int | None = None,
    data: str,
) -> tuple[Any, ...]:
    return depth, width, rate, form, tuple(scale), dict(names), parent, data


def called(**options: Any) -> Any:
    return config.call(tower, options, where="objective.image", data="facts")


def test_call_passes_options_defaults_and_context():
    assert called(depth=3) == (3, 8, 0.1, "round", (0.5, 1.0), {}, None, "facts")
    assert called(depth=3, rate=1, form="square", scale=[1, 2], names={"a": 1}, parent=4) == (
        (3, 8, 1, "square", (1, 2), {"a": 1}, 4, "facts")
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"depth": 3, "widht": 4},
            "Unknown key config.objective.image.widht: did you mean 'width'? Known: depth,",
        ),
        ({"depth": 3, "zzz": 4}, "Unknown key config.objective.image.zzz: Known: depth"),
        ({"depth": 3, "data": "mine"}, "Unknown key config.objective.image.data: "),  # The caller's, not the recipe's.
        ({}, "config.objective.image lacks depth, needed by tests.test_config.tower."),
        ({"depth": "3"}, "config.objective.image.depth = '3' has the wrong type: str is not an instance of int"),
        ({"depth": 3.0}, "config.objective.image.depth = 3.0 has the wrong type"),
        ({"depth": None}, "config.objective.image.depth = None has the wrong type"),
        ({"depth": 3, "rate": "1e-3"}, "config.objective.image.rate = '1e-3' has the wrong type"),
        ({"depth": 3, "form": "triangle"}, "'triangle' has the wrong type: str is not any of ('round', 'square')"),
        ({"depth": 3, "scale": (0.5, "1")}, "config.objective.image.scale = (0.5, '1') has the wrong type: item 1"),
        ({"depth": 3, "names": {"a": 1, "b": "2"}}, "config.objective.image.names = {'a': 1, 'b': '2'} has the wrong"),
    ],
)
def test_call_refuses_by_path(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        called(**options)


def test_call_takes_whatever_a_function_of_the_user_takes():
    def anything(*, depth: int, **options: Any) -> dict[str, Any]:
        return {"depth": depth, **options}

    assert config.call(anything, {"depth": 1, "color": "red"}, where="x") == {"depth": 1, "color": "red"}
    assert config.call(anything, {"depth": 1}, where="x", data=2) == {"depth": 1, "data": 2}
    with pytest.raises(ConfigError, match=r"config\.x\.depth"):
        config.call(anything, {"depth": "1"}, where="x")


def test_paths_at_the_top_level():
    with pytest.raises(ConfigError, match=r"Unknown key config\.deth: did you mean 'depth'"):
        config.call(tower, {"deth": 1}, where="", data="")
    with pytest.raises(ConfigError, match=r"^config lacks depth"):
        config.call(tower, {}, where="", data="")


# Names are modules.


@pytest.fixture
def my_project(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    folder = tmp_path / "my_project"
    folder.mkdir()
    (folder / "squares.py").write_text("def make(*, n: int, extra: int = 0):\n    return n * n + extra")
    (folder / "broken.py").write_text("import a_library_nobody_has")
    (folder / "empty.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_name_is_a_module_of_the_room():
    assert config.module("optim", "adamw").__name__ == "vitfm.optim.adamw"
    assert config.module("data.sources", "tfds").__name__ == "vitfm.data.sources.tfds"


def test_a_dotted_name_is_a_module_of_the_user(my_project: pathlib.Path):
    assert config.build("models", {"name": "my_project.squares", "n": 3}, where="objective.image", extra=1) == 10
    with pytest.raises(ConfigError, match=r"config\.objective\.image\.n = 'x' has the wrong type"):
        config.build("models", {"name": "my_project.squares", "n": "x"}, where="objective.image")
    with pytest.raises(ConfigError, match=r"my_project\.empty defines no function `make`"):
        config.build("models", {"name": "my_project.empty"}, where="objective.image")
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"):  # The user's own fault, shown as it is.
        config.build("models", {"name": "my_project.broken"}, where="objective.image")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "adamv"}, "There is no optim module 'adamv': did you mean 'adamw'"),
        ({"name": "nowhere.adamw"}, "no optim module 'nowhere.adamw'"),
        ({"name": "vitfm.optim.nothing"}, "no optim module 'vitfm.optim.nothing'"),
        ({"name": ""}, "no optim module ''"),
        ({"name": ".adamw"}, "no optim module '.adamw'"),
        ({"name": 3}, "config.optim.name = 3 is not the name of a module"),
        ({"b1": 0.9}, "config.optim needs a `name`, the optim module that reads it"),
    ],
)
def test_names_that_are_no_module_are_refused(spec: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=re.escape(words)):
        config.build("optim", spec, where="optim")


def test_the_contract_of_a_room_is_not_one_of_its_names():
    with pytest.raises(ConfigError, match="no objectives module 'base': .*Known: aim, backbone, "):
        config.module("objectives", "base")


# Durations.

LENGTHS = {"where": "total", "batch_size": 64, "epoch_examples": 6400, "total": 500}


@pytest.mark.parametrize(
    ("duration", "steps"),
    [(7, 7), ("7", 7), ("7 steps", 7), ("1 step", 1), ("640 examples", 10), ("1e3 steps", 1000), (" 2.5 epochs ", 250)]
    + [("10%", 50), ("10 percent", 50), ("0.1%", 1), (0, 0), ("0 epochs", 0), ("1e-3 epochs", 1), ("1 example", 1)]
    + [("1.5e+2 steps", 150), ("96 examples", 2), ("100%", 500)],
)
def test_durations(duration: config.Duration, steps: int):
    assert config.steps(duration, **LENGTHS) == steps


UNITS = {"steps": 1.0, "examples": 1 / 64, "epochs": 100.0, "%": 5.0}


@given(st.floats(0, 1e6), st.sampled_from([*UNITS]))
def test_durations_are_the_nearest_step_and_never_lost(number: float, unit: str):
    steps = config.steps(f"{number!r} {unit}", **LENGTHS)
    exact = number * UNITS[unit]
    assert abs(steps - exact) <= 0.5 * (1 + 1e-9) or (steps == 1 and 0 < exact < 1)
    assert (steps == 0) == (exact == 0)


@given(st.integers(0, 10**7))
def test_a_number_is_steps(count: int):
    assert config.steps(count, **LENGTHS) == config.steps(str(count), **LENGTHS) == count


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_refused(text: str):
    with contextlib.suppress(ConfigError):
        assert config.steps(text, **LENGTHS) >= 0


@pytest.mark.parametrize(
    "duration", ["", "soon", "-3", -3, "3 weeks", "nan", "inf steps", "1e999", "e", "1.2.3", "3 4", True]
)
def test_what_is_no_duration_is_refused(duration: Any):
    with pytest.raises(ConfigError, match=r"config\.total = .* is not a duration.*'30 epochs'"):
        config.steps(duration, **LENGTHS)


def test_units_without_a_meaning_are_refused():
    with pytest.raises(ConfigError, match=r"config\.total = '3 epochs': the data has no length"):
        config.steps("3 epochs", where="total", batch_size=64)
    with pytest.raises(ConfigError, match=r"config\.total = '3%'.*percentage of itself"):
        config.steps("3%", where="total", batch_size=64, epoch_examples=6400)


# Recipes compared and loaded.


def test_differences_name_the_leaves():
    old = {"a": 1, "b": {"c": (1, 2), "d": {}}, "gone": 3}
    new = {"a": 2, "b": {"c": [1, 2], "d": {"e": None}}, "new": 4}
    assert config.differences(old, new) == [
        "a: 1 -> 2",
        "b.d: {} -> (absent)",
        "b.d.e: (absent) -> None",
        "gone: 3 -> (absent)",
        "new: (absent) -> 4",
    ]


leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
inside = lambda inner: inner | st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
values = st.recursive(leaves, lambda inner: st.lists(inside(inner), max_size=3).map(tuple), max_leaves=6)
recipes = st.recursive(
    st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), values | inner, max_size=3),
    max_leaves=8,
)


@given(recipes)
def test_a_recipe_read_back_from_json_is_the_same(recipe: dict[str, Any]):
    assert config.differences(json.loads(json.dumps(recipe)), recipe) == []


def test_load_file(tmp_path: pathlib.Path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config(arg=None):\n    return {'arg': arg}")
    assert config.load_file(str(file)) == {"arg": None}
    assert config.load_file(f"{file}:tiny") == {"arg": "tiny"}
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.py defines no get_config"):
        config.load_file(str(tmp_path / "empty.py"))
    (tmp_path / "wrong.py").write_text("x = 1\ndef get_config(:")
    with pytest.raises(ConfigError, match=r"wrong\.py, line 2: invalid syntax"):
        config.load_file(str(tmp_path / "wrong.py"))
    with pytest.raises(ConfigError, match=r"no config file '.*mini\.py': did you mean '.*mine\.py'"):
        config.load_file(str(tmp_path / "mini.py"))
    (tmp_path / "mine.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=r"mine\.yaml is not a Python file"):
        config.load_file(str(tmp_path / "mine.yaml"))


def test_argument(tmp_path: pathlib.Path):
    (tmp_path / "config.json").write_text("{}")
    run = str(tmp_path)
    assert config.argument(None) is None and config.argument(None, "tiny", images=5) == 5
    assert config.argument("tiny", "tiny", images=5) == "tiny" and config.argument(run, run=True) == run
    assert config.argument("1e5", images=5) == config.argument("100000", "tiny", images=5) == 100_000
    with pytest.raises(ConfigError, match=r"'tinny', where .* takes 'tiny' or 'gram'\. Did you mean 'tiny'\?"):
        config.argument("tinny", "tiny", "gram")
    with pytest.raises(ConfigError, match=r"'v3', where .* takes 'v2' or a number of images such as 100000 or 1e5\."):
        config.argument("v3", "v2", images=5)
    for arg in ("1.5", "0", "inf", "1e999", run):
        with pytest.raises(ConfigError, match="takes a number of images"):
            config.argument(arg, images=5)
    for arg in ("1e5", run):
        with pytest.raises(ConfigError, match=r"takes nothing\."):
            config.argument(arg)
    with pytest.raises(ConfigError, match=r"the workdir of a run\. There is no run in 'runs/none': .* config\.json"):
        config.argument("runs/none", run=True)


def test_user_errors_are_told_apart():
    assert issubclass(ConfigError, config.UserError)
    assert issubclass(ConfigError, ValueError)
