"""Weights from and to Hugging Face folders: transformers, timm and open_clip. Needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from vitfm.config import UserError

_HELP = """\
examples:
  python -m vitfm.interop import ~/dinov2-base runs/dinov2           a run: evaluate it, or start others from it
  python -m vitfm.evals --run=runs/dinov2 --eval=knn --train=tfds:emoji:train --test=tfds:emoji:test --label=group
  python -m vitfm.main --config=configs/x.py --config.init.run=runs/dinov2   or the folder itself, without an import
  python -m vitfm.interop import vit_b16.npz runs/vit                big_vision's, for which nothing else is needed
  python -m vitfm.interop import ~/vit runs/bgr_nir --bands=2,1,0,mean --mean=.4,.4,.4,.5 --std=.2,.2,.2,.2   4 channels
  python -m vitfm.interop export runs/mine ~/mine                    AutoModel.from_pretrained("~/mine") opens it
  python -m vitfm.interop export runs/mine ~/mine --format=timm      timm.create_model("local-dir:~/mine")
  python -m vitfm.interop export ~/vit-base ~/vit-timm --format=timm from one library to another

A folder is what `save_pretrained` writes or huggingface.co serves: config.json (open_clip: open_clip_config.json),
safetensors in one file or in shards, and preprocessor_config.json. Every tensor is taken, or named with the reason why
not; a folder that asks for what vitfm lacks is refused by key and value. In Python, `vitfm.load(folder)` needs no
import; of vitfm.interop, `imported.read` with `workdir.write`, and `exported.write`, are these commands.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 2 to be mended by the user."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        if arguments.command == "import":
            _import(arguments)
        else:
            _export(arguments)
    except UserError as error:
        print(f"vitfm: {error}", file=sys.stderr)
        return 2
    return 0


def _import(arguments: argparse.Namespace) -> None:
    from vitfm.interop import imported, workdir  # JAX is imported once the command line is known to make sense.

    found = imported.read(arguments.folder, bands=arguments.bands, mean=arguments.mean, std=arguments.std)
    workdir.write(found, arguments.run)
    workdir.show(found)
    print(f"Run: {arguments.run}")


def _export(arguments: argparse.Namespace) -> None:
    from vitfm.interop import exported

    options = {key: getattr(arguments, key) for key in ("format", "family", "dtype", "step")}
    written = exported.write(arguments.run, arguments.folder, **options)
    print(
        f"{written.path}: {written.family} of {arguments.format}, {len(written.tensors)} tensors in {arguments.dtype}"
    )
    for note in written.notes:
        print(f"  {note}")


def _bands(text: str) -> list[int | None]:
    """ "2,1,0,mean"."""
    return [None if band == "mean" else int(band) for band in text.split(",")]


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m vitfm.interop",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="import | export")
    reader = commands.add_parser("import", help="another library's folder -> a run")
    reader.add_argument("folder", metavar="HF_DIR", help="the folder to read, or a .npz file of big_vision")
    reader.add_argument("run", metavar="DIR", help="the workdir to write")
    reader.add_argument("--bands", type=_bands, help="for images of other channels: which old one each stands for")
    numbers = lambda text: [float(number) for number in text.split(",")]
    reader.add_argument("--mean", type=numbers, help="of the channels, for values in [0, 1], separated by commas")
    reader.add_argument("--std", type=numbers, help="their standard deviations")
    writer = commands.add_parser("export", help="a run, or another library's folder -> a folder")
    writer.add_argument("run", metavar="RUN", help="a workdir, or a folder to translate")
    writer.add_argument("folder", metavar="HF_DIR", help="the folder to write")
    writer.add_argument("--format", choices=("transformers", "timm", "open_clip"), default="transformers")
    writer.add_argument("--family", help="as which file of vitfm/interop/families (default: the first that fits)")
    writer.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the arrays")
    writer.add_argument("--step", type=int, metavar="N", help="which checkpoint (default: the latest)")
    return parser.parse_args(list(argv))


if __name__ == "__main__":
    sys.exit(main())
