"""The report, opened in a real browser."""

import html
import json
import re
import shutil
import subprocess

import pytest

from tests.metrics import fake
from vitfm.config import UserError
from vitfm.metrics import curves, report, runs, writers

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome binary on the path")

# What a reader would do, each followed by what is then on the page.
VISIT = """
const seen = {};
const plot = document.querySelector(".plot");
const hover = () => plot.dispatchEvent(new PointerEvent("pointermove", {clientX: plot.getBoundingClientRect().right}));
const curve = () => plot.querySelector(".curve").getAttribute("d");
hover(); seen.tooltip = plot.querySelector(".tooltip").textContent;
plot.dispatchEvent(new PointerEvent("pointerleave")); seen.left = plot.querySelectorAll(".mark").length;
plot.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
plot.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
seen.key = plot.querySelector(".tooltip").textContent;
const linear = curve(); document.querySelector(".log").click(); seen.log = curve() !== linear;
document.querySelector("[value=seconds]").click(); seen.time = plot.querySelector("svg").textContent;
document.querySelector(".enlarge").click();
seen.enlarged = document.querySelector("dialog[open] img").src.slice(0, 22);
const filter = document.querySelector(".filter");
filter.value = "WEIGHT_decay"; filter.dispatchEvent(new Event("input"));
seen.settings = [...document.querySelectorAll(".config tr:not([hidden])")].map((row) => row.textContent);
document.body.dataset.seen = JSON.stringify(seen);
"""


def visit(path, script="", width=1280):
    """The page's DOM after its script, and then `script`, ran; nothing may have been said on the console."""
    page = path.with_name("visited.html")
    page.write_text(path.read_text().replace("</body>", f"<script>{{{script}}}</script></body>"))
    profile = f"--user-data-dir={path.parent / 'profile'}"
    quiet = "--no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-gpu"
    logged = f"--enable-logging=stderr --v=0 --window-size={width},900 --virtual-time-budget=1000 --dump-dom"
    command = [BROWSER, "--headless", "--no-sandbox", profile, *quiet.split(), *logged.split(), page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return report.write(fake.write(tmp_path_factory.mktemp("runs") / "clip_small"))


@needs_browser
def test_the_page_in_a_browser(finished):
    dom = visit(finished, VISIT)
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', dom)[1]))
    paths = re.findall(r'class="curve [^"]*" style="[^"]*" d="([^"]*)"', dom)
    assert sum(path.count("L") + path.count("M") >= 300 for path in paths) >= 9  # every training metric
    assert sum(path.count("L") == 5 for path in paths) == len(fake.EVALUATIONS)
    assert all("NaN" not in path for path in paths)
    assert dom.count('class="lost"') == 1
    assert seen["tooltip"].startswith("step 6,000")
    assert seen["left"] == 0
    assert seen["key"].startswith("step 5,980")
    assert seen["log"]
    assert "min" in seen["time"]
    assert seen["enlarged"] == "data:image/png;base64,"
    assert seen["settings"] == ["optim.weight_decay0.2"]


@needs_browser
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_never_scrolls_sideways(finished, width):
    dom = visit(finished, "document.body.dataset.beyond = document.documentElement.scrollWidth - innerWidth;", width)
    assert int(re.search(r'data-beyond="(-?\d+)"', dom)[1]) <= 0


@needs_browser
def test_a_young_run_in_a_browser(tmp_path):
    with writers.Writer(tmp_path) as writer:
        writer.scalars(5, {"loss": float("nan"), "accuracy": 0.0, "<b>odd</b>": 1.0}, examples=40, seconds=0)
    dom = visit(report.write(tmp_path), width=400)
    assert ">unfinished<" in dom
    assert dom.count('class="curve ') == 3
    assert "<b>odd" not in dom
    assert "NaN" not in re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)


def test_it_asks_nothing_of_the_network(finished):
    page = finished.read_text()
    assert set(re.findall(r'(?:src|href)="([^"#:]*:?)', page)) == {"", "data:"}
    assert set(re.findall(r"https?://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert "url(" not in page and "@import" not in page
    assert "default-src 'none'" in page


def test_it_tells_what_the_run_was(finished):
    page = finished.read_text()
    for part in ("clip_small", ">finished<", "vitfm · clip", "12 min 7 s", "8,450", "4 x TPU v5e", "jax 0.10.2"):
        assert part in page
    assert page.count('<img src="data:image/png;base64,') == 3
    assert "step 6,000" in page and "step 5,000" not in page
    assert "84.4%" in page  # of the time, for training


def test_evaluations_are_one_table_a_split(finished):
    page = finished.read_text().replace("\N{NO-BREAK SPACE}", " ")
    tables = re.findall(r'<table class="evaluations">.*?</table>', page, flags=re.DOTALL)
    assert len(tables) == 3
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", tables[1])).strip()
    assert text == "top 1 top 5 zeroshot 61.2% 87.4% zeroshot group 73.1% – knn 55.3% –"
    assert "median rank" in tables[0]


def test_what_a_config_says_is_text(finished):
    page = finished.read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&#39;config&#39;)&lt;/script&gt; &amp; more" in page


def test_a_metric_cannot_close_the_data(tmp_path):
    with writers.Writer(tmp_path) as writer:
        writer.scalars(1, {"</script><script>alert(1)": 1.0}, examples=1, seconds=1)
    page = report.write(tmp_path).read_text()
    assert "<script>alert" not in page
    data = re.search(r'id="data">(.*?)</script>', page, flags=re.DOTALL)[1]
    assert json.loads(data)[0]["charts"][0]["name"].startswith("</script>")


def test_a_run_that_has_not_measured_yet(tmp_path):
    with writers.Writer(tmp_path) as writer:
        writer.config({"objective": "mae"})
    page = report.write(tmp_path).read_text()
    assert "Nothing was measured yet." in page
    assert "vitfm · mae" in page


def test_every_number_of_a_result_that_is_not_about_the_run_is_a_metric(finished):
    final = runs.load(finished.parent).final
    assert {name: final[name] for name in fake.EVALUATIONS} == fake.EVALUATIONS
    assert final["loss"] == 1.234  # The result's, where a row has another.
    assert final["images_per_second"] != fake.SPEED  # The last row's: of the training loop, as its curve is.
    assert not {"step", "examples", "seconds", "peak_memory_bytes", "seed", "device"} & final.keys()


def test_a_run_that_went_on_beyond_its_result_is_unfinished(tmp_path):
    with writers.Writer(tmp_path) as writer:
        writer.result({"step": 1})
        writer.scalars(2, {"loss": 1.0}, examples=1, seconds=1)
    assert not runs.load(tmp_path).finished


def test_other_folders_and_broken_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        report.write(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        report.write(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="list"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_long_curves_are_thinned_but_keep_their_spikes(tmp_path):
    rows = [{"step": i, "examples": i, "seconds": i, "loss": 1 + i % 7 / 10} for i in range(20_000)]
    rows[7_777]["loss"], rows[12_345]["loss"] = 99.0, None
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = runs.load(tmp_path)
    curve = curves.groups([run])[0]["charts"][0]["series"][0]
    assert len(curve["step"]) <= 1100
    assert (curve["step"][0], curve["step"][-1]) == (0, 19_999)
    assert 99.0 in curve["values"] and None in curve["values"]
