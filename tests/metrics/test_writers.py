"""One run directory: what is written, and what a resumed run finds."""

import json
import math
import pathlib
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from vitfm.config import ConfigError, UserError
from vitfm.metrics import files, writers


def rows(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def events(workdir):
    """TensorBoard events in the order written, read by the record format: length, checksum, bytes, checksum."""
    for path in sorted(workdir.glob("events.out.tfevents.*"), key=lambda path: path.name.rsplit(".", 1)[-1]):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            yield event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += length + 16


def write_steps(workdir, steps, *, step=None):
    with writers.Writer(workdir, step=step) as writer:
        for at in steps:
            writer.scalars(at, {"loss": 1 / at, "test/knn/top1": np.float32(0.5)}, examples=at * 8, seconds=at / 2)


def test_rows_hold_position_then_metrics(tmp_path):
    write_steps(tmp_path, [1, 2])
    assert rows(tmp_path)[1] == {"step": 2, "examples": 16, "seconds": 1.0, "loss": 0.5, "test/knn/top1": 0.5}
    assert list(rows(tmp_path)[0]) == ["step", "examples", "seconds", "loss", "test/knn/top1"]


def test_a_row_is_on_disk_at_once(tmp_path):
    writer = writers.Writer(tmp_path)
    writer.scalars(1, {"loss": 1.0}, examples=1, seconds=1)
    assert len(rows(tmp_path)) == 1
    writer.close()
    writer.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_is_null(tmp_path, value):
    with writers.Writer(tmp_path) as writer:
        writer.scalars(1, {"loss": value}, examples=1, seconds=1)
        writer.result({"metrics": {"loss": value}, "list": [value, 1.0]})
    assert rows(tmp_path)[0]["loss"] is None
    result = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert result == {"metrics": {"loss": None}, "list": [None, 1.0]}


def test_a_metric_cannot_take_the_name_of_a_position(tmp_path):
    with writers.Writer(tmp_path) as writer, pytest.raises(ValueError, match="'step'"):
        writer.scalars(1, {"step": 3.0}, examples=1, seconds=1)


def test_resuming_drops_what_lies_beyond(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40], step=0)
    write_steps(tmp_path, [30], step=20)
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 30]


def test_resuming_drops_rows_that_were_added_after_the_checkpoint(tmp_path):
    write_steps(tmp_path, [10, 20, 20], step=0)  # A row of step 20 before its checkpoint, and an evaluation after it.
    with writers.Writer(tmp_path, step=20, rows=2):
        pass
    assert [row["step"] for row in rows(tmp_path)] == [10, 20]


def test_going_on_takes_the_result_back(tmp_path):
    with writers.Writer(tmp_path, step=0) as writer:
        writer.result({"step": 20})
    with writers.Writer(tmp_path):
        assert (tmp_path / "result.json").exists()
    with writers.Writer(tmp_path, step=10):
        assert not (tmp_path / "result.json").exists()


def test_an_evaluation_of_a_finished_run_only_adds(tmp_path):
    write_steps(tmp_path, [10, 20])
    write_steps(tmp_path, [20], step=None)
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 20]


@pytest.mark.parametrize("torn", [b'{"step": 30, "lo', b'{"step": 30', b"\x00\x00", b"\n", b"3"])
def test_a_torn_last_line_is_repaired(tmp_path, torn):
    write_steps(tmp_path, [10, 20])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    assert [row["step"] for row in files.read_rows(tmp_path / "metrics.jsonl")] == [10, 20]
    write_steps(tmp_path, [30], step=20)
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 30]


def test_a_whole_last_row_without_its_newline_is_kept(tmp_path):
    write_steps(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    write_steps(tmp_path, [30])
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 30]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    write_steps(tmp_path, [10])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'oops\n{"step": 20}\n')
    with pytest.raises(UserError, match="line 2"):
        writers.Writer(tmp_path)


def test_tensorboard_reads_scalars_and_the_purge(tmp_path):
    write_steps(tmp_path, [10, 20, 30], step=0)
    write_steps(tmp_path, [30], step=20)
    seen = list(events(tmp_path))
    scalars = [(event.step, v.simple_value) for event in seen for v in event.summary.value if v.tag == "loss"]
    assert scalars == [(at, pytest.approx(1 / at)) for at in (10, 20, 30, 30)]
    starts = [event.step for event in seen if event.session_log.status == event_pb2.SessionLog.START]
    assert starts == [1, 21]


def test_pictures_are_written_and_rewound(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[..., 0] = 200  # red
    with writers.Writer(tmp_path, step=0) as writer:
        path = writer.picture(10, "eval/grid", image)
        writer.picture(20, "eval/grid", image)
    assert path == tmp_path / "pictures" / "eval__grid_00000010.png"
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image)
    assert files.picture_name(path) == ("eval/grid", 10)
    assert sum(v.HasField("image") for event in events(tmp_path) for v in event.summary.value) == 2
    own = path.with_name("mine.png")
    own.write_bytes(b"")
    writers.Writer(tmp_path, step=10).close()
    assert sorted((tmp_path / "pictures").iterdir()) == [path, own]


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)])
def test_other_arrays_are_no_pictures(tmp_path, image):
    with writers.Writer(tmp_path) as writer, pytest.raises(ValueError, match="uint8"):
        writer.picture(1, "grid", image)


def test_config_is_written_whole(tmp_path):
    values = {"optim": {"betas": (0.9, 0.98), "seeds": np.arange(2)}, "path": pathlib.Path("a/b"), "none": None}
    with writers.Writer(tmp_path) as writer:
        writer.config(values)
        with pytest.raises(ConfigError, match=r"config\.optim\.clip"):
            writer.config({"optim": {"clip": math.inf}})
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == {"optim": {"betas": [0.9, 0.98], "seeds": [0, 1]}, "path": "a/b", "none": None}


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.replace(path, b"old")
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_imports_no_torch_and_others_may_afterwards():
    pytest.importorskip("torch")
    lines = ["import sys", "import vitfm.evaluate, vitfm.train_lib"]
    lines += ["print('torch' in sys.modules)", "import torch", "print(torch.__name__)"]
    run = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "torch"]
