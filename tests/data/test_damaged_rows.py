"""A damaged row of a table is one bad example for whatever reads the table: it has a key, and the rest goes on."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from tests.data import broken
from vitfm.data import measure, pipeline, sources, summary
from vitfm.data.sources import base
from vitfm.show import duplicates

TABLES = {
    "x.jsonl": [json.dumps({"image": f"{n}.png", "caption": f"c {n}"}).encode() for n in range(9)]
    + [b'{"image": "9.p'],
    "x.csv": [b"image,caption", *(b"%d.png,c %d" % (n, n) for n in range(9)), b"9.png,caf\xe9"],
    "y.csv": [b"image,caption", *(b"%d.png,c %d" % (n, n) for n in range(9)), b"9.png,c,d,e"],
}


@pytest.fixture(params=TABLES)
def table(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> str:
    """A table of ten images, the last row of which is damaged."""
    rng = np.random.default_rng(0)
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(broken.encoded(broken.picture(rng), "PNG"))
    (tmp_path / request.param).write_bytes(b"\n".join(TABLES[request.param]) + b"\n")
    return f"{request.param.partition('.')[2]}:{tmp_path}/{request.param}"


def test_it_has_a_key(table: str):
    source = sources.make(table)
    wanted = [*(f"{number}.png" for number in range(9)), f"{table.rpartition('/')[2]}[9]"]
    assert [source.key(index) for index in range(10)] == source.keys() == wanted
    assert source.key(-1) == wanted[-1] and source.column("caption")[9] is None


def test_training_replaces_it(table: str):
    loader = pipeline.make(source=table, image_size=8).train_loader(batch_size=10, seed=0)
    batch = loader.batch(0)
    ((_, found),) = loader.replaced(0, batch["replaced"])
    assert found.key == f"{table.rpartition('/')[2]}[9]" and found.reason == "corrupt"


def test_what_looks_at_data_counts_it(table: str):
    source = sources.make(table)
    assert summary.make(source).rejects[0].count == 1
    assert measure.measure(source).bad["corrupt"][:2] == (1, base.key(source, 9))
    (unreadable,) = duplicates.perceptual([table]).look.unreadable
    assert unreadable[1].key == base.key(source, 9)


def test_prepare_rejects_it(prepare: Callable[..., str], table: str, tmp_path: pathlib.Path):
    prepare(table)
    (line,) = (tmp_path / "out/mine/1.0.0/rejects_train.jsonl").read_text().splitlines()
    assert json.loads(line)["key"] == base.key(sources.make(table), 9)
