"""Programs that `test_manager` runs in processes of their own: `python -m tests.checkpoint.workers NAME ARGUMENTS`."""

from __future__ import annotations

import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitfm.checkpoint.manager import Checkpoints


def killed(directory: str) -> None:
    """Dies by SIGKILL while step 2 is being written."""
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, {"w": jnp.arange(8.0)}, {})
    checkpoints.wait()
    checkpoints.save(2, {"w": jnp.ones((8192, 4096))}, {})
    while not any(name.startswith("2") for name in os.listdir(directory)):  # A thread of Orbax' begins to write.
        time.sleep(1e-4)
    os.kill(os.getpid(), signal.SIGKILL)


def one_of_two(directory: str, address: str, process: str) -> None:
    """One of two processes, of two devices each, that save and restore one global array together."""
    jax.distributed.initialize(address, num_processes=2, process_id=int(process))
    sharding = NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))
    state = jax.jit(lambda: {"w": jnp.arange(32.0).reshape(8, 4)}, out_shardings=sharding)()
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    with Checkpoints(directory, keep=1) as checkpoints:
        for step in (1, 2):
            assert checkpoints.save(step, state, {"step": step})
            assert not checkpoints.save(step, state, {})
        restored, meta = checkpoints.restore(like)
    assert meta["step"] == 2
    for shard, other in zip(restored["w"].addressable_shards, state["w"].addressable_shards, strict=True):
        assert (shard.data == other.data).all()


if __name__ == "__main__":
    {"killed": killed, "one_of_two": one_of_two}[sys.argv[1]](*sys.argv[2:])
