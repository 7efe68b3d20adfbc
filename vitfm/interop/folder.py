"""Folders as Hugging Face keeps them: config.json, safetensors in one file or in shards, preprocessor_config.json.

Nothing here needs torch: `safetensors` reads and writes NumPy arrays, bfloat16 among them.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vitfm.checkpoint.layout import CheckpointError, some
from vitfm.config import ConfigError

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
OPEN_CLIP = "open_clip_config.json"
_STEMS = ("model", "open_clip_model")  # `model.safetensors`, or `model.safetensors.index.json` and its shards.
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin")


@dataclasses.dataclass(frozen=True)
class Tensors(Mapping[str, np.ndarray]):
    """name -> array, read from its file when it is asked for.

    Attributes:
      files: name -> the file that holds it.
      shapes: name -> shape, known without reading.
    """

    files: Mapping[str, pathlib.Path]
    shapes: Mapping[str, tuple[int, ...]]

    def __getitem__(self, name: str) -> np.ndarray:
        with _opened(self.files[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder holds.

    Attributes:
      path: of the folder.
      format: "transformers", "timm" or "open_clip", as its configuration says.
      config: the configuration.
      processor: preprocessor_config.json, None where there is none.
      tensors: its weights.
    """

    path: pathlib.Path
    format: str
    config: Mapping[str, Any]
    processor: Mapping[str, Any] | None
    tensors: Tensors


def is_one(path: pathlib.Path) -> bool:
    """Whether a folder says that it holds a model of another library; runs of ours have a config.json, too."""
    if (path / OPEN_CLIP).is_file():
        return True
    try:
        config = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "objective" not in config


def read(path: pathlib.Path) -> Folder:
    """Reads configurations, and the names and shapes of the tensors.

    Raises:
      ConfigError: the configuration is missing, no JSON, or of no library that is known.
      CheckpointError: a file of weights is missing, truncated, or not what its index says.
    """
    file = path / OPEN_CLIP if (path / OPEN_CLIP).is_file() else path / CONFIG
    config = read_json(file)
    if config is None:
        raise ConfigError(f"{path} holds neither {CONFIG} nor {OPEN_CLIP}, so there is no model in it.")
    processor = read_json(path / PROCESSOR)
    return Folder(path, _format(file, config), config, processor, _tensors(path))


def _format(file: pathlib.Path, config: Mapping[str, Any]) -> str:
    if file.name == OPEN_CLIP:
        return "open_clip"
    formats = {"model_type": "transformers", "architecture": "timm"}
    for key, name in formats.items():
        if key in config:
            return name
    raise ConfigError(
        f"{file} has neither a `model_type`, as transformers writes, nor an `architecture`, as timm does."
    )


def read_json(file: pathlib.Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file.

    Raises:
      ConfigError: it is no JSON object.
    """
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} can't be read as JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file} holds a {type(found).__name__}, no JSON object.")
    return found


def _tensors(path: pathlib.Path) -> Tensors:
    for stem in _STEMS:
        index = read_json(path / f"{stem}.safetensors.index.json")
        if index is not None:
            return _sharded(path, f"{stem}.safetensors.index.json", index)
        if (path / f"{stem}.safetensors").exists():
            return _joined([path / f"{stem}.safetensors"])
    pickles = [name for name in _PICKLES if (path / name).exists()]
    if pickles:
        raise ConfigError(
            f"{path / pickles[0]} is a pickle, which runs code when it is read; vitfm reads safetensors only. In an "
            "environment with torch: AutoModel.from_pretrained(folder).save_pretrained(folder)."
        )
    raise ConfigError(f"{path} holds no model.safetensors (nor {', '.join(_STEMS[1:])}, nor an index of shards).")


def _sharded(path: pathlib.Path, name: str, index: Mapping[str, Any]) -> Tensors:
    """Every tensor of the index from the shard that it names, and no other."""
    where = index.get("weight_map")
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{path / name} has no `weight_map`.")
    shards = collections.defaultdict(set)
    for key, shard in where.items():
        shards[shard].add(key)
    for shard, keys in shards.items():
        if pathlib.PurePath(shard).name != shard:
            raise CheckpointError(f"{path / name}: the shard {shard!r} lies outside the folder.")
        if not (path / shard).exists():
            raise CheckpointError(f"{path / shard} is missing; {path / name} has {some(sorted(keys))} in it.")
    tensors = _joined([path / shard for shard in shards])
    for key, shard in where.items():
        if tensors.files.get(key) != path / shard:
            raise CheckpointError(f"{path / shard} lacks {key}, which {path / name} has in it.")
    extra = sorted(tensors.files.keys() - where.keys())
    if extra:
        raise CheckpointError(f"{tensors.files[extra[0]]} holds {some(extra)}, of which {path / name} knows nothing.")
    return tensors


def _joined(files: list[pathlib.Path]) -> Tensors:
    names: dict[str, pathlib.Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with _opened(path) as file:
            for name in list(file.keys()):  # It is no dict, and not iterable itself.
                if name in names:
                    raise CheckpointError(f"{path} and {names[name]} both hold {name}.")
                names[name], shapes[name] = path, tuple(file.get_slice(name).get_shape())
    return Tensors(names, shapes)


def _opened(path: pathlib.Path) -> Any:
    """The file, open for NumPy.

    Raises:
      CheckpointError: it is missing, truncated, or no safetensors file.
    """
    try:
        return safetensors.safe_open(path, "np")
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}.") from None


def write(
    path: pathlib.Path,
    configs: Mapping[str, Mapping[str, Any]],
    tensors: Mapping[str, np.ndarray],
    *,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Writes a model's folder.

    Args:
      path: of the folder; made where needed.
      configs: file name -> JSON object.
      tensors: name -> array.
      shard_bytes: most bytes of a file; beyond that there are several and an index.

    Raises:
      ConfigError: the folder holds a model or a run already.
    """
    stem = _STEMS[OPEN_CLIP in configs]
    taken = [
        name for name in (*configs, f"{stem}.safetensors", f"{stem}.safetensors.index.json") if (path / name).exists()
    ]
    if taken:
        raise ConfigError(f"{path} holds {', '.join(taken)} already; name another folder, or delete that one.")
    path.mkdir(parents=True, exist_ok=True)
    shards = _split(tensors, shard_bytes)
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [f"{stem}.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        safetensors.numpy.save_file(shard, path / name, metadata={"format": "pt"})  # transformers asks for it.
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(array.nbytes for array in tensors.values())
        configs = {
            **configs,
            f"{stem}.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map},
        }
    for name, config in configs.items():
        (path / name).write_text(json.dumps(config, indent=2) + "\n")


def _split(tensors: Mapping[str, np.ndarray], most: int) -> list[dict[str, np.ndarray]]:
    """In order, each part at most `most` bytes unless a single tensor is larger."""
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, array in tensors.items():
        if shards[-1] and size + array.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = array
        size += array.nbytes
    return shards
