"""What was saved comes back bit for bit, or is refused in words; whatever happens to disks and processes meanwhile."""

from __future__ import annotations

import logging
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from vitfm.checkpoint.manager import CheckpointError, Checkpoints

PyTree = Any


@flax.struct.dataclass
class State:
    step: jax.Array
    params: PyTree
    opt_state: PyTree
    extra: PyTree
    ema: PyTree


def make_state(width: int = 32) -> State:
    params = {
        "encoder": {"kernel": jax.random.normal(jax.random.key(0), (16, width)), "bias": jnp.ones(width, jnp.bfloat16)},
        "head": jax.random.normal(jax.random.key(1), (width, 8)),
        "tail": jnp.zeros((3, 2)),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1e-3)))
    extra = {
        "keys": jax.random.split(jax.random.key(3), 8),
        "legacy_key": jax.random.key(4, impl="rbg"),
        "queue": [jnp.arange(8), jnp.array([True, False]), jnp.float16(1.5)],
        "nothing": None,
        "empty": {},
    }
    return State(jnp.int32(7), params, optimizer.init(params), extra, None)


def like(state: PyTree, sharding: jax.sharding.Sharding | None = None) -> PyTree:
    """What to restore into: all of `state` with one sharding, or with its own."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state)


def bits(leaf: Any) -> bytes:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()


def assert_same(restored: PyTree, saved: PyTree) -> None:
    """Equal structures, shapes, dtypes and bits."""
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert bits(one) == bits(other)


def sharded(axes: tuple[str, ...], sizes: tuple[int, ...], spec: tuple[Any, ...]) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()).reshape(sizes), axes), PartitionSpec(*spec))


def saved(directory: pathlib.Path, *steps: int, **options: Any) -> tuple[Checkpoints, State]:
    """Checkpoints that hold `make_state()` at each of `steps`, and that state."""
    state = make_state()
    checkpoints = Checkpoints(directory, **options)
    for step in steps:
        assert checkpoints.save(step, state, {"at": step})
    checkpoints.wait()
    return checkpoints, state


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_state_comes_back(tmp_path: pathlib.Path, asynchronous: bool):
    state = make_state()
    with Checkpoints(tmp_path / "new" / "checkpoints", asynchronous=asynchronous) as checkpoints:
        assert checkpoints.latest() is None
        assert checkpoints.save(3, state, {"config": {"lr": 1e-3, "sizes": (1, 2)}})
        checkpoints.wait()
        assert checkpoints.latest() == 3
        restored, meta = checkpoints.restore(like(state))
    assert_same(restored, state)
    assert isinstance(restored, State)
    assert meta["config"] == {"lr": 1e-3, "sizes": [1, 2]}
    assert set(meta["versions"]) == {"vitfm", "jax", "flax", "optax", "orbax-checkpoint"}
    assert Checkpoints(tmp_path / "new" / "checkpoints").meta() == meta


def test_python_numbers_come_back_as_arrays(tmp_path: pathlib.Path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"step": 5, "rate": 0.1, "on": True}, {})
        checkpoints.wait()
        restored, _ = checkpoints.restore({"step": 0, "rate": 0.0, "on": False})
        without, _ = checkpoints.restore({name: jax.ShapeDtypeStruct((), x.dtype) for name, x in restored.items()})
    assert without == restored
    assert restored == {"step": jnp.int32(5), "rate": jnp.float32(0.1), "on": jnp.bool_(True)}


def test_a_step_is_saved_once(tmp_path: pathlib.Path):
    checkpoints, state = saved(tmp_path, 1)
    assert not checkpoints.save(1, state, {"at": "again"})
    assert checkpoints.meta()["at"] == 1


def test_no_step_before_the_newest(tmp_path: pathlib.Path):
    """The rules would remove it at once; a run that goes back is told to clear its way."""
    checkpoints, state = saved(tmp_path, 1, 5)
    with pytest.raises(CheckpointError, match=r"Step 3 can't be saved in .*, which holds step 5"):
        checkpoints.save(3, state, {})
    shutil.rmtree(tmp_path / "5")
    assert checkpoints.save(3, state, {})
    checkpoints.close()
    assert checkpoints.steps() == [1, 3]


def test_another_mesh(tmp_path: pathlib.Path):
    """Saved on 8 devices, split; restored on 2x4, on 4, on 1: the same bits, in the sharding asked for."""
    whole = {"w": jax.random.normal(jax.random.key(0), (16, 8)), "k": jax.random.split(jax.random.key(1), 8)}
    on_eight = sharded(("d",), (8,), ("d",))
    others = [
        sharded(("a", "b"), (2, 4), ("b",)),
        sharded(("a", "b"), (4, 2), ()),
        NamedSharding(Mesh(jax.devices()[:4], ("d",)), PartitionSpec("d")),
        SingleDeviceSharding(jax.devices()[5]),
        on_eight,
    ]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.device_put(whole, on_eight), {})
        checkpoints.wait()
        for sharding in others:
            restored, _ = checkpoints.restore(like(whole, sharding))
            assert_same(restored, whole)
            assert restored["w"].sharding.is_equivalent_to(sharding, 2)


@pytest.mark.parametrize("kind", ["single", "replicated", "split"])
def test_buffers_donated_right_after_save(tmp_path: pathlib.Path, kind: str):
    """The next steps overwrite the state in place while it is still being written."""
    sharding = {
        "single": SingleDeviceSharding(jax.devices()[0]),
        "replicated": sharded(("d",), (8,), ()),
        "split": sharded(("d",), (8,), ("d",)),
    }[kind]
    start = np.asarray(jax.random.normal(jax.random.key(0), (64, 4096)))
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 7, s), donate_argnums=0, out_shardings=sharding)
    jax.block_until_ready(overwrite({"w": jax.device_put(jnp.array(start), sharding)}))
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in range(3):
            state = jax.jit(lambda x: {"w": x + 0}, out_shardings=sharding)(start)
            checkpoints.save(step, state, {})
            for _ in range(3):
                state = jax.block_until_ready(overwrite(state))
        checkpoints.wait()
        for step in range(3):
            restored, _ = checkpoints.restore(like(state), step)
            assert bits(restored["w"]) == start.tobytes()


def test_restored_buffers_can_be_donated(tmp_path: pathlib.Path):
    checkpoints, state = saved(tmp_path, 1)
    restored, _ = checkpoints.restore(like(state))
    head = np.array(state.params["head"])
    twice = jax.jit(lambda p: jax.tree.map(lambda x: x * 2, p), donate_argnums=0)(restored.params)
    again, _ = checkpoints.restore(like(state))
    np.testing.assert_array_equal(twice["head"], head * 2)
    assert_same(again, state)


def test_host_arrays_changed_right_after_save(tmp_path: pathlib.Path):
    array = np.random.default_rng(0).normal(size=(256, 1024)).astype(np.float32)
    before = array.copy()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, {"w": array}, {})
        array[:] = 0
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.restore_subtree("w"), before)


def test_a_subtree_needs_no_class(tmp_path: pathlib.Path):
    checkpoints, state = saved(tmp_path, 1)
    params = checkpoints.restore_subtree("params")
    assert_same(params, jax.tree.map(np.asarray, state.params))
    assert checkpoints.restore_subtree("params/encoder").keys() == {"kernel", "bias"}
    assert int(checkpoints.restore_subtree("step")) == 7
    assert bits(checkpoints.restore_subtree("extra/keys")) == bits(state.extra["keys"])
    assert checkpoints.restore_subtree("").keys() == {"step", "params", "opt_state", "extra"}
    with pytest.raises(CheckpointError, match=r"nothing at 'parms': did you mean 'params'\?"):
        checkpoints.restore_subtree("parms")
    with pytest.raises(CheckpointError, match="did you mean 'params/encoder'"):
        checkpoints.restore_subtree("params/encode")


def test_a_subtree_is_checked_alone(tmp_path: pathlib.Path):
    """A damaged head does not keep anyone from the encoder."""
    checkpoints, state = saved(tmp_path, 1)
    damage(tmp_path / "1", state, "head")
    assert_same(checkpoints.restore_subtree("params/encoder"), jax.tree.map(np.asarray, state.params["encoder"]))
    with pytest.raises(CheckpointError, match="damaged: params/head differ"):
        checkpoints.restore_subtree("params")


@pytest.mark.parametrize(
    ("options", "left"),
    [({}, [5, 6]), ({"keep": 1}, [6]), ({"keep": 1, "keep_every": 2}, [2, 4, 6]), ({"keep": 9}, [1, 2, 3, 4, 5, 6])],
)
def test_keep_rules(tmp_path: pathlib.Path, options: dict[str, int], left: list[int]):
    with Checkpoints(tmp_path, **options) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, {"w": jnp.full(4, step)}, {})
    assert Checkpoints(tmp_path).steps() == left
    with Checkpoints(tmp_path, **options) as checkpoints:
        assert int(checkpoints.restore_subtree("w", left[0])[0]) == left[0]


def test_keep_rules_hold_over_restarts(tmp_path: pathlib.Path):
    for step in range(1, 5):
        saved(tmp_path, step)[0].close()
    assert Checkpoints(tmp_path).steps() == [3, 4]


def test_reading_leaves_the_disk_alone(tmp_path: pathlib.Path):
    """A reader neither creates a directory nor removes what another process is writing."""
    assert Checkpoints(tmp_path / "absent").latest() is None
    with pytest.raises(CheckpointError, match="absent holds no complete checkpoint"):
        Checkpoints(tmp_path / "absent").restore({})
    assert not (tmp_path / "absent").exists()
    saved(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as reader:
        assert reader.latest() == 1
        reader.restore_subtree("params")
    assert (tmp_path / "2.orbax-checkpoint-tmp").exists()


def test_an_uncommitted_step_is_ignored_and_replaced(tmp_path: pathlib.Path):
    _, state = saved(tmp_path, 1, 2)
    (tmp_path / "2" / "commit_success.txt").unlink()
    shutil.copytree(tmp_path / "1", tmp_path / "3.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [1]
    with pytest.raises(CheckpointError, match="no complete checkpoint of step 2; it has 1"):
        checkpoints.restore(like(state), 2)
    assert checkpoints.save(2, state, {"at": "second try"})
    checkpoints.close()
    assert checkpoints.meta()["at"] == "second try"
    assert not (tmp_path / "3.orbax-checkpoint-tmp").exists()


def damage(step: pathlib.Path, state: State, name: str) -> None:
    """Puts arrays under `step` in which one bit of leaf `params/<name>` differs from what was saved."""
    leaf = np.array(state.params[name])
    leaf.view(np.uint8).flat[5] ^= 8
    other = step.parent.parent / f"{step.parent.name}-{step.name}-damaged"
    with Checkpoints(other) as checkpoints:
        checkpoints.save(int(step.name), state.replace(params={**state.params, name: jnp.array(leaf)}), {})
    shutil.rmtree(step / "state")
    shutil.copytree(other / step.name / "state", step / "state")


def test_damage_names_the_leaf_and_the_way_out(tmp_path: pathlib.Path):
    checkpoints, state = saved(tmp_path, 1, 2, 3, keep=3)
    damage(tmp_path / "3", state, "head")
    damage(tmp_path / "2", state, "tail")
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(like(state))
    message = str(caught.value)
    assert f"{tmp_path}/3 is damaged: params/head differ" in message
    assert f"Step 1 is intact: to go on from it, delete {tmp_path}/2, {tmp_path}/3 and start again." in message
    assert_same(checkpoints.restore(like(state), 1)[0], state)
    with pytest.raises(CheckpointError, match=r"2 is damaged: params/tail differ .* Step 1 is intact: .*2, .*3 and"):
        checkpoints.restore(like(state), 2)
    damage(tmp_path / "1", state, "head")
    with pytest.raises(CheckpointError, match="No other step is intact"):
        checkpoints.restore(like(state))


def flip(path: pathlib.Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_no_bit_flips_unnoticed(tmp_path: pathlib.Path):
    """Each flip, in array data or around it, is refused, or changes nothing that is restored."""
    checkpoints, state = saved(tmp_path, 1)
    target = like(state)
    files = [path for path in sorted((tmp_path / "1").rglob("*")) if path.is_file() and path.stat().st_size]
    data = max(files, key=lambda path: path.stat().st_size)
    rng = np.random.default_rng(0)
    positions = [(data, int(bit)) for bit in rng.integers(0, 8 * data.stat().st_size, 20)]
    positions += [(path, int(rng.integers(0, 8 * path.stat().st_size))) for path in files for _ in range(2)]
    refused = 0
    for path, bit in positions:
        flip(path, bit)
        try:
            assert_same(checkpoints.restore(target)[0], state)
        except CheckpointError:
            refused += 1
        flip(path, bit)
    assert refused >= 20
    assert_same(checkpoints.restore(target)[0], state)


def test_meta_is_hashed_too(tmp_path: pathlib.Path):
    checkpoints, state = saved(tmp_path, 1)
    path = tmp_path / "1" / "meta" / "metadata"
    path.write_text(path.read_text().replace('"at": 1', '"at": 2'))
    with pytest.raises(CheckpointError, match="is not what was saved"):
        checkpoints.meta()
    with pytest.raises(CheckpointError, match="is not what was saved"):
        checkpoints.restore(like(state))


@pytest.mark.parametrize("pattern", ["meta", "meta/metadata", "state", "state/manifest.ocdbt", "state/d/*"])
def test_missing_files_are_no_stack_trace(tmp_path: pathlib.Path, pattern: str):
    checkpoints, state = saved(tmp_path, 1)
    removed = list((tmp_path / "1").glob(pattern))
    for path in removed:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert removed
    with pytest.raises(CheckpointError, match=f"{tmp_path}/1"):
        checkpoints.restore(like(state))


def test_another_state_names_the_leaves(tmp_path: pathlib.Path):
    checkpoints, state = saved(tmp_path, 1)
    params = {
        "encoder": {"kernel": jnp.ones((16, 33)), "bias": jnp.ones(32)},
        "neck": jnp.ones(2),
    }
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(like(state.replace(params=params)))
    message = str(caught.value)
    assert "missing in the checkpoint: params/neck;" in message
    assert "only in the checkpoint: params/head, params/tail;" in message
    assert "params/encoder/bias (checkpoint bfloat16[32], run float32[32])" in message
    assert "params/encoder/kernel (checkpoint float32[16, 32], run float32[16, 33])" in message
    assert "intact" not in message


@pytest.mark.parametrize(
    ("state", "meta", "message"),
    [
        ({"w": "text"}, {}, "'w' is of type str"),
        ({"w": np.ones(2)}, {}, "'w' is float64, which JAX holds only with jax_enable_x64"),
        ({"a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, {}, "'a/b' and 'a/b' share a name"),
        ({"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, {}, "share a name"),
        ({"a": jnp.ones(1), "a/b": jnp.ones(1)}, {}, "'a/b' lies inside leaf 'a'"),
        ({"w": jnp.ones(1)}, {"x": {1, 2}}, "must be JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: pathlib.Path, state: PyTree, meta: dict[str, Any], message: str):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError, match=message):
            checkpoints.save(1, state, meta)
        assert checkpoints.save(1, {"w": jnp.ones(1)}, {})
    assert checkpoints.latest() == 1


def test_keep_must_be_positive(tmp_path: pathlib.Path):
    with pytest.raises(CheckpointError, match="keep = 0"):
        Checkpoints(tmp_path, keep=0)


def save_and_wait(checkpoints: Checkpoints, step: int, state: PyTree) -> None:
    checkpoints.save(step, state, {})
    checkpoints.wait()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_failed_write_is_told_and_mended(
    tmp_path: pathlib.Path, asynchronous: bool, capfd: pytest.CaptureFixture[str]
):
    """A limit on the size of files stands for a full disk: the step before stays, and saving goes on afterwards."""
    checkpoints, state = saved(tmp_path, 1, keep=1, asynchronous=asynchronous)
    big = {"w": jax.random.normal(jax.random.key(0), (512, 1024))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        message = rf"Step 2 \(2.1 MB\) was not saved in {tmp_path}: .* Step 1 is intact"
        with pytest.raises(CheckpointError, match=message):
            save_and_wait(checkpoints, 2, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert checkpoints.steps() == [1]
    assert_same(checkpoints.restore(like(state))[0], state)
    assert checkpoints.save(2, big, {})
    checkpoints.close()
    assert checkpoints.steps() == [2]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting needs root")
def test_a_full_disk_is_called_that(tmp_path: pathlib.Path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("no tmpfs here")
    try:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, {"w": jax.random.normal(jax.random.key(0), (1024, 1024))}, {})
        with pytest.raises(CheckpointError, match=r"the disk is full; free some space .* No step is saved yet"):
            checkpoints.wait()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def run_worker(*arguments: str, devices: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-m", "tests.checkpoint.workers", *arguments]
    root = pathlib.Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True)


def test_kill_in_the_middle_of_a_save(tmp_path: pathlib.Path):
    worker = run_worker("killed", str(tmp_path))
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL, output
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("2.")], "nothing was being written"
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        np.testing.assert_array_equal(checkpoints.restore_subtree("w"), np.arange(8.0))
        assert checkpoints.save(2, {"w": jnp.ones(3)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_two_processes(tmp_path: pathlib.Path):
    """They save one array together; one process, on other devices, restores it."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    workers = [run_worker("one_of_two", str(tmp_path), address, str(i), devices=2) for i in range(2)]
    for worker in workers:
        output, _ = worker.communicate(timeout=90)
        assert worker.returncode == 0, output
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [2]
    restored, _ = checkpoints.restore(
        {"w": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=sharded(("d",), (8,), ("d",)))}
    )
    np.testing.assert_array_equal(restored["w"], np.arange(32.0).reshape(8, 4))


def test_orbax_is_quiet_and_others_are_not(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, logger="absl"):
        saved(tmp_path, 1)[0].restore_subtree("params")
        assert not caplog.records
        logging.getLogger("absl").info("from someone else")
    assert [record.message for record in caplog.records] == ["from someone else"]
