"""A metric outside of the range that its objective calls healthy is told once, marked in its rows, and reported."""

from __future__ import annotations

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from vitfm import evaluate, train_lib
from vitfm.evals import attention
from vitfm.losses import diagnostics
from vitfm.metrics import report, runs


def test_a_collapse_is_told_once_and_reported(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]):
    config = tiny.get_config()
    config.objective.name = "tests.collapsed"
    config.log_every = 1
    config.evals = {}
    train_lib.train(config, str(tmp_path))
    told = [line for line in "".join(capfd.readouterr()).splitlines() if "Warning: " in line]
    assert len(told) == 1
    assert "Warning: effective_rank is 1 at step 1, outside 2 to inf: the features are about to be" in told[0]
    rows = tiny.rows(tmp_path)
    assert [row["warning/effective_rank"] for row in rows] == pytest.approx([1.0] * tiny.TOTAL)
    assert not any("warning/uniformity" in row for row in rows)
    assert not any("warning" in name for name in json.loads((tmp_path / "result.json").read_text()))
    page = report.write(tmp_path).read_text()
    assert "effective_rank was outside its healthy range at steps 1 to 10, last 1." in page
    assert not any(name.startswith("warning") for name in runs.load(tmp_path).final)


def test_a_run_without_warnings_has_none(tmp_path: pathlib.Path):
    config = tiny.get_config()
    config.evals = {}
    train_lib.train(config, str(tmp_path))
    assert 'class="card warning"' not in (tmp_path / "report.html").read_text()


def test_an_evaluators_metric_warns_as_a_losses_does(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention, "evenness", lambda maps: 0.003)
    config = tiny.get_config()
    config.objective.image.pool = "cls"
    spec = {"name": "attention", "source": "tfds:emoji:validation[:8]", "prefix": "validation", "every": 5, "count": 4}
    config.evals = {"attention": spec}
    train_lib.train(config, str(tmp_path))
    warning = "Warning: validation/attention/entropy is 0.003 at step"
    told = [line for line in "".join(capfd.readouterr()).splitlines() if warning in line]
    assert len(told) == 1 and f"{warning} 5, outside 0.01 to 0.99: heads that look at one patch" in told[0]
    marked = lambda: [row["step"] for row in tiny.rows(tmp_path) if "warning/validation/attention/entropy" in row]
    assert marked() == [5, 10]
    evaluate.evaluate(str(tmp_path), ["attention"], {}, [])
    assert f"{warning} 10, outside" in capfd.readouterr().out
    assert marked() == [5, 10, 10]
    assert not any("warning" in name for name in json.loads((tmp_path / "result.json").read_text()))
    page = report.write(tmp_path).read_text()
    assert "validation/attention/entropy was outside its healthy range at steps 5 to 10, last 0.003." in page


def test_ranges_tell_collapsed_features_from_others():
    within = lambda name, ranges, value: ranges[name].least <= float(value) <= ranges[name].most
    features = jax.random.normal(jax.random.key(0), (256, 32))
    unit = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
    same = jnp.ones((256, 32)) / math.sqrt(32)
    for rows, healthy in ((unit, True), (same, False)):
        assert within("effective_rank", diagnostics.VIEWS, diagnostics.effective_rank(rows)) == healthy
        assert within("uniformity", diagnostics.VIEWS, diagnostics.uniformity(rows)) == healthy
    ranges = diagnostics.of_teacher(64)
    for logits, healthy in (
        (features, True),
        (0 * features, False),
        (1e4 * jax.nn.one_hot(features.argmax(1), 64), False),
    ):
        logits = jnp.pad(logits, ((0, 0), (0, 64 - logits.shape[1])), constant_values=0)
        entropy = diagnostics.entropy(jax.nn.softmax(logits))
        assert within("teacher_entropy", ranges, entropy) == healthy, entropy
