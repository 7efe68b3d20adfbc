"""What TFDS reads first: `dataset_info.json`, written last, when all shards of a split are there; `features.json`."""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import vitfm
from vitfm.data import files
from vitfm.data.bad import Found
from vitfm.data.prepare import plan as plan_lib
from vitfm.data.prepare import store
from vitfm.data.prepare.plan import Plan
from vitfm.data.prepare.shard import Mark

_INFO = "dataset_info.json"


def rejects(plan: Plan) -> str:
    """The file that lists what could not be used."""
    return files.join(plan.request.folder, f"rejects_{plan.request.split}.jsonl")


def finish(plan: Plan, marks: Sequence[Mark]) -> None:
    """Makes the shards a split that TFDS finds, beside those that are there."""
    request = plan.request
    with tempfile.TemporaryDirectory() as made:
        _by_tfds(plan, marks, made)
        info = json.loads(pathlib.Path(made, _INFO).read_text())
        before = store.read_json(files.join(request.folder, _INFO))
        if before is None:
            for path in sorted(pathlib.Path(made).iterdir()):
                if path.name != _INFO:
                    store.write(files.join(request.folder, path.name), path.read_bytes())
        else:
            others = [split for split in before["splits"] if split["name"] != request.split]
            info = {**before, "splits": [*others, *info["splits"]]}
    lines = [json.dumps(own._asdict(), ensure_ascii=False) for mark in marks for own in mark.rejects]
    if lines:
        store.write(rejects(plan), "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    stored = {"plan": plan.as_json(), "shards": [mark._asdict() for mark in marks]}
    store.write_json(plan_lib.finished(request), stored)
    store.write_json(files.join(request.folder, _INFO), info)
    store.remove_folder(plan_lib.work(request))


def finished(plan: Plan) -> list[Mark] | None:
    """What is in the shards of a split that is finished; None if it is not, or if one is gone or of another size.

    Marks of those that are there are then put where `shard.kept` looks for them.
    """
    stored = store.read_json(plan_lib.finished(plan.request))
    if stored is None:
        return None
    marks = [Mark(**{**own, "rejects": [Found(*found) for found in own["rejects"]]}) for own in stored["shards"]]
    info = store.read_json(files.join(plan.request.folder, _INFO)) or {"splits": ()}
    there = all(
        files.exists(plan.path(shard)) and files.size(plan.path(shard)) == mark.size for shard, mark in enumerate(marks)
    )
    if there and any(split["name"] == plan.request.split for split in info["splits"]):
        store.remove_folder(plan_lib.work(plan.request))
        return marks
    for shard, mark in enumerate(marks):
        store.write_json(plan.mark(shard), mark._asdict())
    return None


def _by_tfds(plan: Plan, marks: Sequence[Mark], folder: str) -> None:
    """Has TFDS write its files for this split alone into an empty folder."""
    import tensorflow_datasets as tfds

    request, label = plan.request, plan.roles.get("label")
    version = request.folder.rstrip("/").rpartition("/")[2]
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=request.name, version=tfds.core.Version(version), data_dir=folder, module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=plan.features(),
        supervised_keys=(plan.roles["image"], label) if label else None,
        description=f"Prepared by vitfm {vitfm.__version__} from {_named(request)}.",
    )
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=request.name, split=request.split, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=request.split,
        shard_lengths=[mark.examples for mark in marks],
        num_bytes=sum(mark.bytes for mark in marks),
        filename_template=template,
    )
    info.set_splits(tfds.core.SplitDict([split]))
    info.write_to_directory(folder)


def _named(request: Any) -> str:
    return request.source if isinstance(request.source, str) else "a mixture"
