"""The page about several runs: what is best, what differs, what stands beside what; and the page in a real browser."""

from __future__ import annotations

import html
import json
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import pytest

from tests.metrics import fake
from tests.metrics.test_report import needs_browser, visit
from vitfm.config import UserError
from vitfm.metrics import comparison, curves, runs, writers

VISIT = """
const seen = {};
const plot = document.querySelector(".plot");  // The loss.
seen.colors = [...plot.querySelectorAll(".curve:not(.raw)")].map((one) => one.style.stroke);
seen.legend = [...plot.parentNode.querySelectorAll(".legend li")].map((one) => one.textContent);
plot.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
seen.tooltip = plot.querySelector(".tooltip").textContent;
seen.best = [...document.querySelectorAll(".best")].map((one) => one.closest("tr").title + " " + one.cellIndex);
document.querySelector(".enlarge").click();
seen.enlarged = document.querySelector("dialog[open] img").src.slice(0, 22);
const filter = document.querySelector(".filter");
filter.value = "seed"; filter.dispatchEvent(new Event("input"));
seen.settings = [...document.querySelectorAll(".config tbody tr:not([hidden])")].map((row) => row.textContent);
seen.beyond = document.documentElement.scrollWidth - innerWidth;
document.body.dataset.seen = JSON.stringify(seen);
"""


def write(workdir: pathlib.Path, values: dict[str, float], config: dict[str, Any] | None = None, rows: int = 3) -> Any:
    """A small run: `values` grow to what they are over some rows."""
    with writers.Writer(workdir) as writer:
        writer.config({"objective": {"name": "mae"}, "seed": 0, **(config or {})})
        for row in range(1, rows + 1):
            grown = {name: value * row / rows for name, value in values.items()}
            writer.scalars(10 * row, grown, examples=640 * row, seconds=2.0 * row)
    return workdir


def loaded(*workdirs: pathlib.Path) -> list[runs.Run]:
    return comparison._load(workdirs)


def rows_of(blocks: list[dict[str, Any]]) -> dict[str, list[str]]:
    """`name` of a row -> its cells as text, a star at the best."""
    return {
        row["name"]: [f"{cell['text']} {cell['spread']}".strip() + "*" * cell["best"] for cell in row["cells"]]
        for block in blocks
        for row in block["rows"]
    }


def test_evaluations_stand_in_one_table_with_the_best_marked(tmp_path: pathlib.Path):
    one = {
        "test/knn/top1": 0.5,
        "test/fewshot/top1_5shot": 0.25,
        "test/fewshot/top1_5shot_std": 0.01,
        "test/retrieval/median_rank": 7.5,
        "test/linear_probe/learning_rate": 0.1,
    }
    other = {
        "test/knn/top1": 0.4,
        "test/linear_probe/top1": 0.6,
        "test/linear_probe/top1_low": 0.58,
        "test/linear_probe/top1_high": 0.62,
        "test/fewshot/top1_5shot": 0.3,
        "test/retrieval/median_rank": 9.5,
        "test/linear_probe/learning_rate": 0.2,
        "ema/test/knn/top1": 0.7,
    }
    blocks = comparison._evaluations(loaded(write(tmp_path / "one", one), write(tmp_path / "other", other)))
    assert [block["title"] for block in blocks] == ["test", "test, averaged weights"]
    assert list(rows_of(blocks).items()) == [
        ("test/linear_probe/learning_rate", ["0.1", "0.2"]),
        ("test/linear_probe/top1", ["–", "60.0% 58.0% to 62.0%"]),
        ("test/knn/top1", ["50.0%*", "40.0%"]),
        ("test/fewshot/top1_5shot", ["25.0% ± 1.0%", "30.0%*"]),
        ("test/retrieval/median_rank", ["7.5*", "9.5"]),
        ("ema/test/knn/top1", ["–", "70.0%"]),
    ]


def test_equals_are_not_best(tmp_path: pathlib.Path):
    workdirs = [write(tmp_path / name, {"test/knn/top1": 0.5}) for name in ("one", "two")]
    assert rows_of(comparison._evaluations(loaded(*workdirs))) == {"test/knn/top1": ["50.0%", "50.0%"]}


def test_a_run_keeps_its_colour_where_others_have_no_curve(tmp_path: pathlib.Path):
    one = write(tmp_path / "one", {"loss": 1.0, "kl": 1.0})
    two = write(tmp_path / "two", {"loss": 2.0, "test/knn/top1": 0.5, "test/knn/top5": 0.5})
    charts = {chart["name"]: chart for group in curves.groups(loaded(one, two)) for chart in group["charts"]}
    series = {name: [(curve["label"], curve["color"]) for curve in chart["series"]] for name, chart in charts.items()}
    assert series == {
        "loss": [("one", 0), ("two", 1)],
        "kl": [("one", 0)],
        "test/knn/top1": [("two", 1)],
        "test/knn/top5": [("two", 1)],
    }


def test_settings_that_differ(tmp_path: pathlib.Path):
    configs = ({"optim": {"name": "adamw", "b2": 0.95}}, {"optim": {"name": "adamw"}, "crop": (0.5, 1)})
    folders = [write(tmp_path / str(i), {"loss": 1.0}, config) for i, config in enumerate(configs)]
    rows, count = comparison._differences([run.config for run in loaded(*folders)])
    assert rows == [("crop", ["–", "[0.5, 1]"]), ("optim.b2", ["0.95", "–"])]
    assert count == 5
    same = comparison.write([folders[0], write(tmp_path / "same", {}, configs[0])], tmp_path / "same.html")
    assert "All 4 settings are the same." in same.read_text()


def test_runs_of_one_name_are_told_apart(tmp_path: pathlib.Path):
    folders = [write(tmp_path / sweep / "mae", {"loss": 1.0}) for sweep in ("wide", "deep")]
    assert [run.name for run in loaded(*folders)] == ["wide/mae", "deep/mae"]


def test_pictures_of_one_name_stand_side_by_side(tmp_path: pathlib.Path):
    for run, names in (("one", ("attention", "masked")), ("two", ("attention",))):
        with writers.Writer(tmp_path / run) as writer:
            writer.config({})
            for name in names:
                writer.picture(20, f"test/{name}", np.zeros((4, 4, 3), np.uint8))
    pictures = comparison._pictures(loaded(tmp_path / "one", tmp_path / "two"))
    shown = {
        picture["name"]: [(one["run"], one["color"], one["step"]) for one in picture["shown"]] for picture in pictures
    }
    assert shown == {"test/attention": [("one", 0, 20), ("two", 1, 20)], "test/masked": [("one", 0, 20)]}


def test_losses_of_different_objectives_do_not_compare(tmp_path: pathlib.Path):
    note = "their losses do not compare"
    mae, again = (write(tmp_path / name, {"loss": 1.0}) for name in ("mae", "again"))
    dino = write(tmp_path / "dino", {"loss": 1.0}, {"objective": {"name": "dino"}})
    assert note in comparison.write([mae, dino], tmp_path / "out.html").read_text()
    assert note not in comparison.write([mae, again], tmp_path / "out.html").read_text()


def test_other_folders_are_refused(tmp_path: pathlib.Path):
    with pytest.raises(UserError, match="no run directory"):
        comparison.write([write(tmp_path / "mae", {"loss": 1.0}), tmp_path], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_it_asks_nothing_of_the_network_and_runs_nothing_it_was_told(tmp_path: pathlib.Path):
    config = {"note": "<script>alert(1)</script>"}
    folders = [write(tmp_path / name, {"loss": 1.0, "</script><b>": 1.0}, config) for name in ("<b>one", "two")]
    page = comparison.write([*folders, write(tmp_path / "three", {"loss": 2.0})], tmp_path / "out.html").read_text()
    assert "<script>alert" not in page and "<b>one" not in page
    assert "</script><b>" not in page
    assert "default-src 'none'" in page
    assert set(re.findall(r'(?:src|href)="([^"#:]*:?)', page)) <= {"", "data:"}


@needs_browser
def test_the_page_in_a_browser(tmp_path: pathlib.Path):
    folders = [fake.write(tmp_path / "clip"), tmp_path / "again"]
    shutil.copytree(*folders, ignore=shutil.ignore_patterns("result.json"))
    values = {"loss": 3.0, "test_style/knn/top1": 0.99, "validation/retrieval/median_rank": 1.5}
    folders.append(write(tmp_path / "mae", values, {"seed": 7}))
    dom = visit(comparison.write(folders, tmp_path / "comparison.html"), VISIT)
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    assert seen["legend"] == ["clip", "again", "mae"]
    assert seen["colors"] == ["var(--c0)", "var(--c1)", "var(--c2)"]
    assert seen["tooltip"].startswith("step 6,000") and "mae" in seen["tooltip"]
    assert "test_style/knn/top1 4" in seen["best"]  # Behind two columns of names: the third run.
    assert "validation/retrieval/median_rank 4" in seen["best"]
    assert "test_concept/zeroshot/top1 2" in seen["best"]
    assert seen["enlarged"] == "data:image/png;base64,"
    assert seen["settings"] == ["seed007"]
    assert seen["beyond"] <= 0
    assert all("NaN" not in path for path in re.findall(r' d="([^"]*)"', dom))


@needs_browser
def test_many_runs_on_a_narrow_page(tmp_path: pathlib.Path):
    """More than there are colours: the seventh is dashed. Nothing scrolls sideways but the tables."""
    folders = [write(tmp_path / f"a_run_with_a_long_name_{i}", {"loss": 1.0 + i, "t/knn/top1": 0.1}) for i in range(8)]
    script = "document.body.dataset.beyond = document.documentElement.scrollWidth - innerWidth;"
    dom = visit(comparison.write(folders, tmp_path / "comparison.html"), script, width=500)
    assert int(re.search(r'data-beyond="(-?\d+)"', dom)[1]) <= 0
    assert len(re.findall(r'class="curve [^"]*dashed"', dom)) == 2 * 2  # Two runs in two charts.
