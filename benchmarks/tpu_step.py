"""Memory and traffic of a training step on a TPU, compiled ahead of time on a machine without one.

The whole step of a run is compiled, from `program.build`: forward, loss, backward, clipping, AdamW, metrics, with
parameters, moments and batch split over the chips. It needs libtpu (`pip install "jax[tpu]"`) and no data.
"""

from __future__ import annotations

import argparse
import ast
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu asks no cloud where it runs.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # Nothing is run, so others may compile meanwhile.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from benchmarks import flags, tables, workers
from tests import imagenet
from vitfm import program, recipe
from vitfm.models.sizes import SIZES
from vitfm.parallel import mesh

_HELP = """\
examples:
  python -m benchmarks.tpu_step
  python -m benchmarks.tpu_step --topology=v6e:4x4 --models=vit_b16,vit_l16_scan --set remat=dots_no_batch
  python -m benchmarks.tpu_step --models=vit_b16 --hlo=runs/b16

reading the table, all of one chip and one step:
  GB accessed    bytes that XLA's cost analysis counts as read and written, 1e9; of the body of a scan once only
  peak GB        arguments + results - arguments that results overwrite + temporaries, 1e9
  temporaries GB the part of it that is neither state nor batch
  TFLOP          of the model by formula: products of the forward pass times 3
  ratio          over big_vision's step of the same sizes, compiled likewise
"""

# Model -> (GB accessed, peak GB) of big_vision's step: v5e:4x4, 64 images a chip, bfloat16, AdamW, parameters sharded;
# the scanned ones with full rematerialisation. Measured once, apart from this program.
BIG_VISION = {"vit_b16": (80.7, 5.28), "vit_b16_scan": (None, 2.86), "vit_l16_scan": (None, 4.74)}
MODELS: dict[str, dict[str, Any]] = {
    "vit_b16": {"size": "B"},
    "vit_b16_scan": {"size": "B", "scan": True, "remat": "full"},
    "vit_l16_scan": {"size": "L", "scan": True, "remat": "full"},
}
COLUMNS = ("GB accessed", "ratio", "peak GB", "ratio", "temporaries GB", "TFLOP", "compiled in s")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Compiles, prints the table and returns what `--out` holds."""
    arguments = _parse(argv)
    devices = topology(arguments.topology)
    sides = {}
    for model in arguments.models:
        options = {**MODELS[model], **dict(arguments.set)}
        sides[model], compiled = measure(options, devices, arguments.batch)
        print(f"{model}: {sides[model]}", file=sys.stderr)
        if arguments.hlo:
            path = pathlib.Path(f"{arguments.hlo}_{model}.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(compiled.as_text())
    same = (arguments.topology, arguments.batch) == ("v5e:4x4", 64)
    rows = {model: _cells(side, BIG_VISION[model] if same else (None, None)) for model, side in sides.items()}
    tables.show(f"Training step, {arguments.topology}, {arguments.batch} images a chip, bfloat16", COLUMNS, rows)
    result = {"benchmark": "tpu_step", "settings": vars(arguments), "jax": jax.__version__, "sides": sides}
    tables.write(arguments.out, result)
    return result


def topology(name: str) -> Sequence[jax.Device]:
    """The chips of a topology such as "v5e:4x4"; none need be there."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name=name).devices


def measure(
    model: Mapping[str, Any], devices: Sequence[jax.Device], batch: int = 64
) -> tuple[dict[str, float], jax.stages.Compiled]:
    """What the step of a supervised ViT costs a chip.

    Args:
      model: options of `vitfm.models.vit.make`, with `size`.
      devices: of a topology.
      batch: images a chip.

    Returns:
      The numbers, in bytes, operations and seconds; and the compiled step.
    """
    built = program.build(recipe.parse(config(model, batch * len(devices))), devices)
    shape = lambda x: jax.ShapeDtypeStruct(
        (built.recipe.batch_size, *x.shape), x.dtype, sharding=mesh.batch_sharding(built.mesh)
    )
    example = {key: shape(value) for key, value in built.loader.example(0).items() if key in ("image", "label")}
    start = time.monotonic()
    compiled = built.compiled(example)
    seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    arguments, results = memory.argument_size_in_bytes, memory.output_size_in_bytes
    numbers = {
        "bytes_accessed": compiled.cost_analysis()["bytes accessed"],
        "peak_bytes": arguments + results - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops": flops(model, batch),
        "compile_seconds": seconds,
    }
    return numbers, compiled


def config(model: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """The recipe of configs/vit_s16_in1k.py for another ViT, without what it draws on the device, and of no data."""
    config = imagenet.load(str(workers.ROOT / "configs" / "vit_s16_in1k.py"))
    config["objective"] = {
        "name": "supervised",
        "model": {
            "name": "vit",
            "patch_size": 16,
            "pool": "gap",
            "activation": "gelu_tanh",
            "platform": "tpu",
            **model,
        },
    }
    config["data"] |= {"augment": {}, "mix": None, "threads": 1}
    return config | {"batch_size": batch_size, "dtype": "bfloat16", "mesh": {"data": 1, "fsdp": -1}, "evals": {}}


def flops(model: Mapping[str, Any], batch: int, image_size: int = 224, classes: int = 1000) -> float:
    """Operations of a training step of a ViT by formula: 2 a product's multiplication, the backward pass 2 forward."""
    sizes = SIZES[model["size"]] | model
    width, tokens = sizes["hidden_dim"], (image_size // 16) ** 2
    block = tokens * width * (4 * width + 2 * sizes.get("mlp_dim", 4 * width)) + 2 * tokens**2 * width
    return 6.0 * batch * (tokens * 16 * 16 * 3 * width + sizes["depth"] * block + width * classes)


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; a value that is no Python literal is a text."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def _cells(side: Mapping[str, float], theirs: tuple[float | None, float | None]) -> list[str]:
    """A row of the table, in the order of `COLUMNS`."""
    accessed, peak = side["bytes_accessed"] / 1e9, side["peak_bytes"] / 1e9
    ratio = lambda ours, other: f"{ours / other:.2f}x of {other}" if other else "-"
    return [
        f"{accessed:.1f}",
        ratio(accessed, theirs[0]),
        f"{peak:.2f}",
        ratio(peak, theirs[1]),
        f"{side['temporary_bytes'] / 1e9:.2f}",
        f"{side['flops'] / 1e12:.2f}",
        f"{side['compile_seconds']:.0f}",
    ]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.tpu_step",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--topology", default="v5e:4x4", help="kind and arrangement of chips (v5e:4x4)")
    parser.add_argument(
        "--models",
        type=flags.names("model", MODELS),
        default=list(MODELS),
        metavar="NAME,...",
        help=f"of {', '.join(MODELS)} (all)",
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images a chip (64)")
    parser.add_argument(
        "--set", type=_option, nargs="*", default=(), metavar="OPTION=VALUE", help="options of the model, over its own"
    )
    parser.add_argument("--hlo", metavar="PREFIX", help="write the compiled programs to PREFIX_MODEL.txt")
    parser.add_argument("--out", metavar="FILE", help="write all numbers as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
