"""What XLA is asked for, beside what it does by itself."""

from __future__ import annotations

import functools

import jax

from vitfm.parallel import mesh as meshes

# XLA's own choices take products and element-wise work from its library of kernels too, and order operations for many
# cores: on two a small ViT's step takes a tenth longer so. Of the library, sums alone are the faster.
_CPU: dict[str, str] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
# Products with split parameters become loops that fetch a shard at a time, where they are large enough; XLA puts those
# of the kernels' gradients off to the end of the step and keeps what they read until then: half as much memory again.
_TPU: dict[str, str] = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "100000"}


def options(mesh: jax.sharding.Mesh) -> dict[str, str]:
    """`compiler_options` for programs on `mesh`, without those that its XLA lacks."""
    wanted = {"cpu": _CPU, "tpu": _TPU}.get(mesh.devices.flat[0].platform, {})
    return {name: value for name, value in wanted.items() if _known(mesh, name, value)}


@functools.cache
def _known(mesh: jax.sharding.Mesh, name: str, value: str) -> bool:
    """Whether XLA takes the option there; its names are no promise from one release to the next."""
    try:
        jax.jit(lambda: 0, out_shardings=meshes.replicated(mesh)).lower().compile({name: value})
    except jax.errors.JaxRuntimeError:
        return False
    return True
