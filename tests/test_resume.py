"""A run that was killed, at any moment and however often, ends as the run that was never interrupted, bit for bit."""

import json
import pathlib
import signal
import subprocess
import time

import pytest

from tests import tiny
from vitfm.checkpoint.manager import Checkpoints

EVENTS = 131  # Of a whole run, as `tests.killed` counts them.


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The run that was never interrupted."""
    workdir = tmp_path_factory.mktemp("resume") / "clean"
    done = tiny.run(["tests.killed", "SIGKILL", "none", ".", "1"], workdir)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == pytest.approx(EVENTS, abs=10)  # Threads race to make the same directories.
    return workdir


def killed(workdir: pathlib.Path, event: str, pattern: str, nth: int = 1) -> None:
    """Starts or goes on with the run until it dies at an event."""
    done = tiny.run(["tests.killed", "SIGKILL", event, pattern, str(nth)], workdir)
    assert done.returncode == -signal.SIGKILL, f"{event} {pattern}: {done.stdout}{done.stderr}"


def assert_same_run(workdir: pathlib.Path, clean: pathlib.Path) -> None:
    """Everything that a finished run leaves, but for the clock, is equal."""
    for step in Checkpoints(clean / "checkpoints").steps():
        tiny.assert_equal_bits(tiny.state(workdir, step), tiny.state(clean, step))
    assert Checkpoints(workdir / "checkpoints").steps() == Checkpoints(clean / "checkpoints").steps()
    assert tiny.rows(workdir) == tiny.rows(clean)
    names = sorted(path.name for path in (clean / "pictures").iterdir())
    pictures = [path for path in sorted((workdir / "pictures").iterdir()) if path.suffix == ".png"]
    assert [path.name for path in pictures] == names
    assert all(path.read_bytes() == (clean / "pictures" / path.name).read_bytes() for path in pictures)
    one, other = (json.loads((path / "result.json").read_text()) for path in (workdir, clean))
    assert one.keys() == other.keys()
    unequal = {name for name in one if one[name] != other[name]}
    assert unequal <= {"seconds", "images_per_second", "phases", "peak_memory_bytes", "data/wait"}
    assert (workdir / "report.html").is_file()


def finish(workdir: pathlib.Path) -> str:
    done = tiny.run(["vitfm.main"], workdir)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_run_killed_at_every_kind_of_moment(clean: pathlib.Path) -> None:
    workdir = clean.with_name("killed")
    killed(workdir, "step", "^3$")  # Dispatched and computing; nothing is saved yet.
    assert not (workdir / "checkpoints").exists()
    killed(workdir, "os.rename", r"4\.orbax-checkpoint-tmp/state")  # Half of the first save.
    assert Checkpoints(workdir / "checkpoints").latest() is None
    killed(workdir, "step", "^7$")  # Between two saves, after the rows and pictures of an evaluation.
    assert Checkpoints(workdir / "checkpoints").latest() == 4
    killed(workdir, "os.rename", r"10\.orbax-checkpoint-tmp$")  # All of the last save but its name.
    killed(workdir, "evaluate", "", nth=2)  # The final evaluation, after the one that going on from step 8 begins with.
    killed(workdir, "os.rename", r"result\.json")  # Everything but the last word.
    assert Checkpoints(workdir / "checkpoints").latest() == tiny.TOTAL
    assert "going on from step 10" in finish(workdir)
    assert_same_run(workdir, clean)


def test_a_signal_saves_and_stops_at_any_step(clean: pathlib.Path) -> None:
    workdir = clean.with_name("stopped")
    # Between saves; where a save and an evaluation are due; after the last step.
    for name, step in (("SIGTERM", 5), ("SIGINT", 8), ("SIGTERM", tiny.TOTAL)):
        done = tiny.run(["tests.killed", name, "step", f"^{step}$", "1"], workdir)
        assert done.returncode == 128 + signal.Signals[name], done.stderr
        assert done.stderr.strip() == f"Stopped at step {step}, which is saved; the same command goes on from it."
        assert Checkpoints(workdir / "checkpoints").latest() == step
    assert f"going on from step {tiny.TOTAL}" in finish(workdir)
    assert_same_run(workdir, clean)


def test_a_finished_run_trains_nothing_when_run_again(clean: pathlib.Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in clean.rglob("*")}
    output = finish(clean)
    assert f"{clean} is finished" in output
    assert "validation/retrieval/text_to_image_recall1" in output
    assert "step" not in output
    assert before == {path: path.stat().st_mtime_ns for path in clean.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("nth", range(2, EVENTS, 5))
def test_killed_at_any_change_of_a_file_or_step(clean: pathlib.Path, nth: int) -> None:
    workdir = clean.with_name(f"any_{nth}")
    killed(workdir, "any", "", nth)
    finish(workdir)
    assert_same_run(workdir, clean)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.0, 3.0, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0])
def test_killed_from_outside_by_the_clock_again_and_again(clean: pathlib.Path, seconds: float) -> None:
    workdir = clean.with_name(f"clock_{seconds}")
    for _ in range(3):
        command = ["python", "-m", "vitfm.main", *tiny.arguments(workdir)]
        with subprocess.Popen(command, cwd=tiny.ROOT, env=tiny.environment(), stdout=subprocess.DEVNULL) as process:
            time.sleep(seconds)
            process.kill()
    finish(workdir)
    assert_same_run(workdir, clean)
