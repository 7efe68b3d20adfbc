"""The device mesh: `data` splits the batch and copies the parameters, `fsdp` splits both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vitfm.config import ConfigError

AXES = ("data", "fsdp")
BATCH = PartitionSpec(AXES)  # The batch axis is split over every device.


def make(*, data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices.

    Args:
      data: copies of the parameters; -1 takes the devices that `fsdp` leaves.
      fsdp: devices among which one copy of the parameters and the optimizer's state is split; -1 takes all.
      devices: other than those that are there, for programs that are compiled here and run elsewhere.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices.
    """
    count = len(devices or jax.devices())
    sizes = [data, fsdp]
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // max(1, sizes[1 - sizes.index(-1)])
    if min(sizes) < 1 or int(np.prod(sizes)) != count:
        raise ConfigError(
            f"config.mesh: data = {data} x fsdp = {fsdp} does not make {count} devices. Leave one of them -1."
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis split over all devices."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, PartitionSpec())


def under(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` for `jax.jit`, traced where kernels that XLA can't split by itself find the mesh to do so."""

    @functools.wraps(function)
    def traced(*given: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*given)

    return traced


def place_local(mesh: Mesh, tree: Any) -> Any:
    """Each process's own rows [B/processes, ...] -> global arrays [B, ...], split over all devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), tree)


def place_global(mesh: Mesh, tree: Any) -> Any:
    """Arrays that every process holds whole -> the same arrays, split over all devices."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index]), tree)


def check_batch(batch_size: int, accumulate: int, devices: int | None = None) -> None:
    """Refuses a batch that does not split evenly among `devices`, those that are there when None.

    Raises:
      ConfigError: a micro-batch does not divide among the devices.
    """
    devices = jax.device_count() if devices is None else devices
    if batch_size % (devices * accumulate):
        unit = devices * accumulate
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        raise ConfigError(
            f"config.batch_size = {batch_size} does not divide among {devices} devices"
            + (f" and {accumulate} micro-batches" if accumulate > 1 else "")
            + f"; take {f'{below} or ' if below else ''}{above}."
        )
