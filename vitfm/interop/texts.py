"""How texts reach a model: another library's tokenizer as the `data.tokenizer` of a recipe, and back."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.data import tokenizer as tokenizers
from vitfm.data.facts import Facts
from vitfm.data.tokenizer import Tokenizer
from vitfm.interop import folder

_LENGTHS = {"clip": 77, "siglip": 64, "coca": 77}  # Of texts, where a configuration does not say.
# SigLIP read texts in lower case, whatever the tokenizer.json does with them; Gemma's is that of SigLIP 2.
_LOWERCASE = ("SiglipTokenizer", "Siglip2Tokenizer", "GemmaTokenizer", "GemmaTokenizerFast")


def tokenizer(found: folder.Folder, objective: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `vitfm.data.tokenizer.make`, by tokenizer.json and, where there is one, tokenizer_config.json.

    Raises:
      ConfigError: there is no tokenizer.json, or its texts end otherwise than the model reads them.
    """
    beside = found.path if found.path.is_dir() else found.path.parent  # Of a single file.
    file = beside / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            f"{file} is missing, which the text tower's tokens are made by. Where transformers is installed: "
            "AutoTokenizer.from_pretrained(NAME).save_pretrained(folder)."
        )
    text = found.config.get("text_config") or found.config.get("model_cfg", {}).get("text_cfg", {})
    length = text.get("max_position_embeddings") or text.get("context_length") or _LENGTHS[objective["name"]]
    theirs = folder.read_json(beside / "tokenizer_config.json") or {}
    pad = theirs.get("pad_token")  # A name, or a mapping with the name and how it is split off.
    pad = pad.get("content") if isinstance(pad, Mapping) else pad
    options = {"path": str(file.absolute()), "length": length, **({"pad": pad} if pad else {})}
    if objective["name"] == "clip":
        _check_end(text.get("eos_token_id"), tokenizers.make(**options).eos_id, file)
    lowercase = objective["name"] == "siglip" and theirs.get("tokenizer_class") in _LOWERCASE
    return {**options, "lowercase": True} if lowercase else options


def _check_end(theirs: Any, ours: int, file: pathlib.Path) -> None:
    """Refuses a configuration by which a text is read elsewhere than at its end, where 2 is what old CLIPs say."""
    if theirs not in (None, 2, ours):
        raise ConfigError(
            f"config.json: text_config.eos_token_id = {theirs}, the token at which a text is read, is not the end of "
            f"{file}, {ours}: one of the two is of another model."
        )


def with_texts(theirs: dict[str, Any], facts: Facts, special: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the tokenizer's vocabulary and length, where it has a text tower.

    Args:
      theirs: the configuration, which is changed.
      facts: the numbers.
      special: key -> id of special tokens, which transformers keeps there: its CLIP reads a text at the first end.
    """
    if "text_config" in theirs:
        texts = {"vocab_size": facts.vocab_size, "max_position_embeddings": facts.text_length}
        theirs["text_config"] |= {**texts, **special}
    if "text_cfg" in theirs.get("model_cfg", {}):
        texts = {"vocab_size": facts.vocab_size, "context_length": facts.text_length}
        end = special.get("eos_token_id", facts.vocab_size - 1)
        if end != facts.vocab_size - 1:  # It reads a text at its highest id unless told where.
            texts |= {"pool_type": "eos", "eos_id": end}
        theirs["model_cfg"]["text_cfg"] |= texts
    if "multimodal_cfg" in theirs.get("model_cfg", {}):  # CoCa, whose class token leaves out padding by its id.
        theirs["model_cfg"]["text_cfg"] |= {"pad_id": special.get("pad_token_id", 0)}
        sizes = {"vocab_size": facts.vocab_size, "context_length": facts.text_length}
        theirs["model_cfg"]["multimodal_cfg"] |= sizes
    return theirs


def special(tokenizer: Tokenizer | None) -> dict[str, int]:
    """transformers' keys of the special tokens' ids."""
    if tokenizer is None:
        return {}
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    return {key: token for key, token in ids.items() if token is not None}
