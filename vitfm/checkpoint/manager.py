"""The one adapter around Orbax: save without holding up the loop, keep what the rules say, trust nothing when reading.

A step is a directory: `state` (arrays by name, see `layout`) and `meta` (JSON: what the caller says of the run,
versions, a description and a content hash of every leaf, and a digest of all that). Orbax writes to a temporary name
and renames, so a directory with its commit marker is whole. Orbax keeps no checksum of array data; hence the hashes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies

from vitfm.checkpoint import integrity, layout, quiet
from vitfm.checkpoint.layout import CheckpointError

PyTree = Any
Restored = TypeVar("Restored")

_COMMITTED = "commit_success.txt"  # Orbax's last file in a directory of a step.
_SLICE = 4096  # Bytes: where devices would each store less of a leaf, which takes a program each, one stores it all.


class _Damaged(CheckpointError):
    """A step can't be read or is not what was saved; another step may be."""


class Checkpoints:
    """The checkpoints of one run.

    Nothing is written, created or cleaned up before the first `save`, so a reader may watch a run that is training. In
    a run of several processes every process calls every method.

    Args:
      directory: holds a directory for each step; a path or a URL that `etils.epath` knows ("gs://...").
      keep: how many of the newest steps to keep.
      keep_every: steps that are multiples of it are kept forever.
      asynchronous: write in the background; `save` returns when the state has left the devices.

    Raises:
      CheckpointError: `keep` or `keep_every` is below 1.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 2,
        keep_every: int | None = None,
        asynchronous: bool = True,
    ) -> None:
        if keep < 1 or (keep_every is not None and keep_every < 1):
            raise CheckpointError(f"keep = {keep}, keep_every = {keep_every}: both must be at least 1.")
        quiet.orbax()
        self.directory = epath.Path(directory if "://" in os.fspath(directory) else os.path.abspath(directory))
        self._keep = keep
        self._keep_every = keep_every
        self._asynchronous = asynchronous
        self._writer: ocp.CheckpointManager | None = None
        self._unfinished: tuple[int, int] | None = None  # (step, bytes) of the save that `wait` has not confirmed.

    def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> bool:
        """Saves `state` as `step`; False if that step is already there. `state` may be donated on return.

        Waits for the save before it, then for `state` to be computed, hashed and copied to host memory.

        Args:
          step: at least 0.
          state: any pytree of arrays and numbers; its leaves' names must differ.
          meta: JSON-serialisable; `versions` is added where it has none.

        Raises:
          CheckpointError: the save before this one failed, a later step is there, or this one can't be stored.
        """
        self.wait()
        steps = self.steps()
        if step in steps:
            return False
        if steps and step < steps[-1]:
            raise CheckpointError(
                f"Step {step} can't be saved in {self.directory}, which holds step {steps[-1]} and keeps the newest. "
                "To go on from an earlier step, delete the directories of those after it."
            )
        leaves = layout.leaves(state)
        hashes = integrity.dispatch(leaves)
        arrays = layout.nest({name: layout.stored(leaf) for name, leaf in leaves.items()})
        record = layout.record(meta, leaves, integrity.collect(hashes))
        self._unfinished = step, layout.host_bytes(leaves)
        with self._failing_as_unsaved():
            writer = self._open_writer()
            writer.reload()  # Someone may have deleted a step; one that only Orbax remembers would count as kept.
            if step in writer.all_steps():
                writer.delete(step)  # A directory without its commit marker is no checkpoint.
            items = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(record))
            writer.save(step, args=items, force=True)
        if not self._asynchronous:
            self.wait()
        return True

    def wait(self) -> None:
        """Returns when the last save is whole on disk.

        Raises:
          CheckpointError: it failed; the steps before it are untouched, and saving may go on.
        """
        if self._unfinished is None:
            return
        with self._failing_as_unsaved():
            self._writer.wait_until_finished()
            step, _ = self._unfinished
            if step not in self.steps():
                raise FileNotFoundError(f"{self.directory / str(step)} has no {_COMMITTED}")
        self._unfinished = None

    def close(self) -> None:
        """Waits for the last save and frees Orbax's threads.

        Raises:
          CheckpointError: that save failed.
        """
        self.wait()
        self._close_writer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Complete, committed steps on disk now, ascending."""
        if not self.directory.exists():
            return []
        found = (path for path in self.directory.iterdir() if path.name.isdigit())
        return sorted(int(path.name) for path in found if (path / _COMMITTED).exists())

    def latest(self) -> int | None:
        """The newest complete step, None if there is none."""
        return max(self.steps(), default=None)

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """What `save` was given as `meta`, with `versions`; of the newest step by default.

        Raises:
          CheckpointError: no such step, or its meta is damaged.
        """
        return self._recovering(self._known(step), lambda step: self._read_record(step)["meta"])

    def restore(self, like: PyTree, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
        """(state, meta) of a step, the newest by default, after checking every leaf's hash.

        Args:
          like: a pytree of `jax.ShapeDtypeStruct` with shardings (or arrays); the result has its structure, and each
            leaf is read straight into its sharding (without one: onto the first local device), whatever the sharding
            was when it was saved.
          step: a complete step.

        Raises:
          CheckpointError: no such step; damage, with the newest step that is intact; or other leaves than `like` has.
        """
        wanted = layout.leaves(like)

        def read(step: int) -> tuple[PyTree, dict[str, Any]]:
            record = self._read_record(step)
            layout.check(wanted, record["leaves"], str(self.directory / str(step)))
            how = {name: ocp.ArrayRestoreArgs(sharding=layout.sharding(leaf)) for name, leaf in wanted.items()}
            leaves = self._read_leaves(step, record, how)
            return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted]), record["meta"]

        return self._recovering(self._known(step), read)

    def restore_subtree(self, prefix: str, step: int | None = None) -> Any:
        """Only the leaves below `prefix` ("params", "params/encoder"), hashes checked, with no class of the writer.

        Returns:
          nested dicts, by the parts of the names below `prefix`, of numpy arrays in host memory (PRNG keys: of JAX). If
          `prefix` names a leaf, that leaf.

        Raises:
          CheckpointError: no such step; nothing below `prefix`; or damage, with the newest step that is intact.
        """

        def read(step: int) -> Any:
            record = self._read_record(step)
            names = layout.below(prefix, record["leaves"])
            leaves = self._read_leaves(step, record, {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names})
            return layout.nest({names[name]: leaf for name, leaf in leaves.items()})

        return self._recovering(self._known(step), read)

    def _known(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.directory} holds no complete checkpoint.")
        if step is not None and step not in steps:
            known = ", ".join(map(str, steps))
            raise CheckpointError(f"{self.directory} holds no complete checkpoint of step {step}; it has {known}.")
        return steps[-1] if step is None else step

    def _read_record(self, step: int) -> dict[str, Any]:
        """The JSON beside the arrays, its digest checked."""
        with self._failing_as_damaged(step):
            return layout.checked_record(ocp.JsonCheckpointHandler().restore(self.directory / str(step) / "meta"))

    def _read_leaves(self, step: int, record: Mapping[str, Any], how: Mapping[str, ocp.RestoreArgs]) -> dict[str, Any]:
        """The leaves named in `how`, as it says, their hashes checked."""
        held = record["leaves"]
        with self._failing_as_damaged(step):
            arrays = ocp.PyTreeCheckpointHandler().restore(
                self.directory / str(step) / "state",
                args=ocp.args.PyTreeRestore(
                    item=layout.nest(dict.fromkeys(how, 0)), restore_args=layout.nest(how), partial_restore=True
                ),
            )
            found = layout.leaves(arrays)
            leaves = {name: layout.loaded(found[name], held[name]) for name in how}
            hashes = integrity.hashes(leaves)
        bad = [name for name in leaves if hashes[name] != held[name]["hash"]]
        if bad:
            raise _Damaged(f"{self.directory / str(step)} is damaged: {layout.some(bad)} differ from what was saved.")
        return leaves

    def _recovering(self, step: int, read: Callable[[int], Restored]) -> Restored:
        """`read(step)`; where the step is damaged, the error says which other step can be read."""
        try:
            return read(step)
        except _Damaged as error:
            others = [other for other in reversed(self.steps()) if other != step]
            intact = next((other for other in others if _succeeds(read, other)), None)
            raise CheckpointError(f"{error} {self._advice(intact)}") from error

    def _advice(self, intact: int | None) -> str:
        if intact is None:
            return "No other step is intact."
        newer = ", ".join(str(self.directory / str(step)) for step in self.steps() if step > intact)
        return f"Step {intact} is intact" + (f": to go on from it, delete {newer} and start again." if newer else ".")

    def _open_writer(self) -> ocp.CheckpointManager:
        if self._writer is None:
            kept = [policies.LatestN(self._keep)]
            if self._keep_every is not None:
                kept.append(policies.preservation_policy.EveryNSteps(self._keep_every))
            options = ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(kept),
                enable_async_checkpointing=self._asynchronous,
                cleanup_tmp_directories=True,
            )
            on_devices = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_SLICE)
            on_hosts = ocp.type_handlers.NumpyHandler()
            kinds = ocp.type_handlers.create_type_handler_registry((jax.Array, on_devices), (np.ndarray, on_hosts))
            # zstd shrinks trained weights by 8% and takes five times as long, on cores the loader needs.
            arrays = ocp.PyTreeCheckpointHandler(use_compression=False, type_handler_registry=kinds)
            handlers = {"state": arrays, "meta": ocp.JsonCheckpointHandler()}
            self._writer = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        return self._writer

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    @contextlib.contextmanager
    def _failing_as_unsaved(self) -> Iterator[None]:
        """Turns whatever Orbax raises while saving into one sentence, and drops its manager, which may be stuck."""
        try:
            yield
        except Exception as error:
            (step, size), self._unfinished = self._unfinished, None
            with contextlib.suppress(Exception):  # It raises the same error again.
                self._close_writer()
            latest = self.latest()
            left = "No step is saved yet." if latest is None else f"Step {latest} is intact."
            raise CheckpointError(
                f"Step {step} ({size / 1e6:.1f} MB) was not saved in {self.directory}: {quiet.reason(error)}. {left}"
            ) from error

    @contextlib.contextmanager
    def _failing_as_damaged(self, step: int) -> Iterator[None]:
        """Orbax and TensorStore raise errors of any type for files that are missing or make no sense."""
        try:
            yield
        except Exception as error:
            raise _Damaged(f"{self.directory / str(step)} can't be read: {quiet.reason(error)}.") from error


def _succeeds(read: Callable[[int], Any], step: int) -> bool:
    try:
        read(step)
    except CheckpointError:
        return False
    return True
