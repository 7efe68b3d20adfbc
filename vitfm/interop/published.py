"""What tensors are called on disk, where transformers 5 calls them otherwise in memory.

Rows use the names of its classes' state dicts. Published files, and those that transformers writes, keep the names of
its fourth version for some families; both are read, the published ones are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

Renaming = Sequence[
    tuple[str, str]
]  # Patterns in a name of memory, and what stands on disk instead, one after another.

_QUERY_KEY_VALUE = tuple(
    (rf"\.attention\.{x[0]}_proj\.", f".attention.attention.{x}.") for x in ("query", "key", "value")
)
_OUT = ((r"\.attention\.o_proj\.", ".attention.output.dense."),)
_MLP = ((r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."))
_VIT = ((r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."), *_QUERY_KEY_VALUE, *_OUT, *_MLP)
_BEIT = ((r"(layer\.\d+)\.relative_position_bias\.", r"\1.attention.attention.relative_position_bias."),)
_SWIN = (
    *((old, new.replace("attention.attention", "attention.self")) for old, new in _QUERY_KEY_VALUE),
    (r"\.attention\.relative_position_bias\.relative", ".attention.self.relative"),
    *_OUT,
    *_MLP,
)
_DINOV2 = (*_QUERY_KEY_VALUE, *_OUT, (r"\.mlp\.down_proj\.", ".mlp.weights_out."))
_DINOV3 = ((r"^model\.", ""),)
PUBLISHED: Mapping[str, tuple[Renaming, ...]] = {  # model_type -> what is written, then what else is read.
    "vit": (_VIT,),
    "deit": (_VIT,),
    "beit": ((*_VIT, *_BEIT),),
    # transformers 5 writes the decoder's blocks under a name that it does not read itself.
    "vit_mae": (_VIT, (*_VIT, (r"^decoder\.decoder_layers\.", "decoder.decoder_encoder.layer."))),
    "dinov2": (_DINOV2,),
    "dinov2_with_registers": (_DINOV2,),
    "dinov3_vit": (_DINOV3,),
    "dinov3_convnext": (_DINOV3,),
    "swin": (_SWIN,),
}


# Part of a name on disk, and of those in memory whose tensors lie one after another in that one.
_JOINED: Mapping[str, tuple[str, tuple[str, ...]]] = dict.fromkeys(
    ("dinov2", "dinov2_with_registers"), (".mlp.weights_in.", (".mlp.gate_proj.", ".mlp.up_proj."))
)


def parts(model_type: str, stored: str) -> tuple[str, ...]:
    """The names in memory of a tensor on disk that is several there; () where it is one."""
    joined, names = _JOINED.get(model_type, ("", ()))
    return tuple(stored.replace(joined, name) for name in names) if joined and joined in stored else ()


def joined(model_type: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors as they are written: those that are one on disk as one."""
    whole, names = _JOINED.get(model_type, ("", ()))
    found: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        first = next((part for part in names if part in name), None)
        if first is None:
            found[name] = tensor
        elif first == names[0]:
            found[name.replace(first, whole)] = np.concatenate([tensors[name.replace(first, part)] for part in names])
    return found


def on_disk(model_type: str, name: str) -> str:
    """The name that is written."""
    return _renamed(name, PUBLISHED.get(model_type, ((),))[0])


def in_memory(model_type: str, known: Iterable[str]) -> dict[str, str]:
    """Every name on disk that stands for one of those that are known -> that one."""
    known = list(known)
    found = {_renamed(name, rules): name for rules in PUBLISHED.get(model_type, ()) for name in known}
    return found | {name: name for name in known}


def _renamed(name: str, rules: Renaming) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
