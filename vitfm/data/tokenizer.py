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

    def __init__(self, path: str, length: int):
        self.length = length
        self._arguments = (path, length)
        self._pieces = _load(path)
        self._pieces.no_padding()
        self._pieces.no_truncation()
        self._pieces.encode_special_tokens = True  # A caption that spells "<eos>" does not end there.
        self.bos_id = self._find(BEGIN)
        self.eos_id = self._find(END)
        if self.eos_id is None:
            raise ConfigError(f"Tokenizer {path!r} has no end-of-text token; looked for {', '.join(END)}.")
        self.pad_id = next(i for i in (self._find(PAD), self.eos_id) if i is not None)
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
        """What a tokenizer.json of it holds."""
        return json.loads(self._pieces.to_str())

    @property
    def _overhead(self) -> int:
        return 1 + (self.bos_id is not None)

    def _encode(self, text: str) -> tuple[int, ...]:
        begin = () if self.bos_id is None else (self.bos_id,)
        pieces = self._pieces.encode(text, add_special_tokens=False).ids
        return (*begin, *pieces[: self.length - self._overhead], self.eos_id)

    def _find(self, names: Sequence[str]) -> int | None:
        """The id of the first of `names` that the vocabulary has."""
        return next((i for i in map(self._pieces.token_to_id, names) if i is not None), None)

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str, int]]:
        return Tokenizer, self._arguments  # A worker process starts with an empty memory.


def make(path: str = "emoji_bpe", length: int = 16) -> Tokenizer:
    """The tokenizer that vitfm ships under the name `path`, or that of a file `path`.

    Args:
      path: "emoji_bpe", or the path of a Hugging Face tokenizer.json.
      length: T, the tokens of every row.
    """
    return Tokenizer(path, length)


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
