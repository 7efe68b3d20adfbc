"""Text to token ids, with any `tokenizer.json` of Hugging Face's `tokenizers`.

    tokenizer = tokenizer.make("emoji_bpe", length=16)       # shipped; or the path of a tokenizer.json
    ids, mask = tokenizer(["a red apple", "a bicycle"])      # int32 [2,16], bool [2,16]

A row is the beginning token, the text's pieces, the end token, and padding. Too long a text loses its last pieces,
never its end token, from which CLIP's text tower reads.
"""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from vitfm.config import ConfigError, nearest

ASSETS = pathlib.Path(__file__).parent / "assets"
# What the special tokens are called in the tokenizers of CLIP, SigLIP, T5, BERT, GPT-2, Llama and our own.
BEGIN = ("<bos>", "<|startoftext|>", "<s>", "[CLS]", "<|begin_of_text|>")
END = ("<eos>", "<|endoftext|>", "</s>", "[SEP]", "<|end_of_text|>")
PAD = ("<pad>", "[PAD]")


class Tokenizer:
    """Encodes texts to rows of one length; see the head of this file. Remembers the ids of texts it has seen."""

    def __init__(self, path: str, length: int, pad: str | None = None, lowercase: bool = False):
        self.length = length
        self._arguments = (path, length, pad, lowercase)
        self._pieces = _load(path)
        pads = (pad,) if pad else ((self._pieces.padding or {}).get("pad_token"), *PAD)
        self._lowercase = lowercase
        self._pieces.no_padding()
        self._pieces.no_truncation()
        self._pieces.encode_special_tokens = True  # A caption that spells "<eos>" does not end there.
        self.bos_id = self._begin()
        self.eos_id = self._find(END)
        if self.eos_id is None:
            raise ConfigError(f"Tokenizer {path!r} has no end-of-text token; looked for {', '.join(END)}.")
        self.pad_id = self._find(tuple(filter(None, pads)))
        if self.pad_id is None and pad:
            raise ConfigError(f"Tokenizer {path!r} has no token {pad!r} to pad with.")
        self.pad_id = self.eos_id if self.pad_id is None else self.pad_id
        if length <= self._overhead:
            raise ConfigError(
                f"Tokenizer length {length} leaves no room for text beside {self._overhead} special tokens."
            )
        self._encode = functools.lru_cache(maxsize=1 << 16)(self._encode)

    @property
    def vocab_size(self) -> int:
        """One above the highest id, special tokens included."""
        return max(self._pieces.get_vocab(with_added_tokens=True).values()) + 1

    def __call__(self, texts: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes one text or B texts.

        Returns:
          ids: int32 [B, T].
          mask: bool [B, T], true where a token is not padding.
        """
        rows = [self._encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        ids = np.full((len(rows), self.length), self.pad_id, np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids, np.arange(self.length) < np.array([len(tokens) for tokens in rows], np.int32)[:, None]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of one row, without special tokens."""
        special = {self.pad_id, self.bos_id, self.eos_id}
        return self._pieces.decode([int(i) for i in ids if int(i) not in special]).strip()

    def to_json(self) -> dict[str, Any]:
        """What a tokenizer.json of it holds: a row of it, made by whoever reads that file, is one of ours."""
        whole = json.loads(self._pieces.to_str())
        token = self._pieces.id_to_token
        fixed = {"strategy": {"Fixed": self.length}, "direction": "Right", "pad_to_multiple_of": None}
        if self._lowercase:
            steps = [{"type": "Lowercase"}, *filter(None, [whole["normalizer"]])]
            whole["normalizer"] = {"type": "Sequence", "normalizers": steps}
        whole["padding"] = {**fixed, "pad_id": self.pad_id, "pad_type_id": 0, "pad_token": token(self.pad_id)}
        return whole

    @property
    def _overhead(self) -> int:
        return 1 + (self.bos_id is not None)

    def _begin(self) -> int | None:
        """The beginning token; None where the vocabulary has none, or the file adds special tokens and not this one."""
        token = self._find(BEGIN)
        added = None if self._pieces.post_processor is None else self._pieces.encode("").ids
        return token if added is None or token in added else None

    def _encode(self, text: str) -> tuple[int, ...]:
        text = text.lower() if self._lowercase else text
        begin = () if self.bos_id is None else (self.bos_id,)
        pieces = self._pieces.encode(text, add_special_tokens=False).ids
        return (*begin, *pieces[: self.length - self._overhead], self.eos_id)

    def _find(self, names: Sequence[str]) -> int | None:
        """The id of the first of `names` that the vocabulary has."""
        return next((i for i in map(self._pieces.token_to_id, names) if i is not None), None)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str, int, str | None, bool]]:
        return Tokenizer, self._arguments  # A worker process starts with an empty memory.


def make(path: str = "emoji_bpe", length: int = 16, pad: str | None = None, lowercase: bool = False) -> Tokenizer:
    """The tokenizer that vitfm ships under the name `path`, or that of a file `path`.

    Args:
      path: "emoji_bpe", or the path of a Hugging Face tokenizer.json.
      length: T, the tokens of every row.
      pad: the token that fills a row; None takes that of the file's own padding, else its padding token, else the end.
        It matters to text towers that see the padding, as SigLIP's do.
      lowercase: texts are lowercased before the file's own normalisation.
    """
    return Tokenizer(path, length, pad, lowercase)


def _load(path: str) -> tokenizers.Tokenizer:
    shipped = ASSETS / f"{path}.json"
    file = shipped if shipped.is_file() else pathlib.Path(path).expanduser()
    if not file.is_file():
        known = [asset.stem for asset in ASSETS.glob("*.json")]
        raise ConfigError(f"No tokenizer {path!r}: neither a file nor one that vitfm ships; {nearest(path, known)}")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:
        raise ConfigError(f"{str(file)!r} is no tokenizer.json of Hugging Face's `tokenizers`: {error}") from None
