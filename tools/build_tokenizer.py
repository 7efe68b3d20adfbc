"""Builds vitfm/data/assets/emoji_bpe.json, the tokenizer of the embedded data set's captions.

A byte-level BPE in the format of Hugging Face's `tokenizers`. It learns from the names, tags, caption templates, groups
and subgroups of the split `train`, and so never saw the held-out concepts. Captions are folded to lower case. A pair of
pieces is merged only where it occurs twice; a rare word stays in parts, so the parts are trained too, and a word never
seen is spelled in parts that mean something. Pieces 0, 1, 2 are <pad>, <bos>, <eos>.

    python tools/build_tokenizer.py --out=vitfm/data/assets/emoji_bpe.json
"""

import argparse
import itertools
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from vitfm.data import captions, sources

SPECIAL = ["<pad>", "<bos>", "<eos>"]


def corpus() -> list[str]:
    """Every training concept's name and tags once, in one of the templates by turns, then groups and subgroups."""
    source = sources.make("tfds:emoji:train")
    concepts, groups = set(), set()
    for i in range(len(source)):
        example = source[i]
        concepts.add((example["name"], *example["tags"]))
        groups |= {example["group"].replace("-", " "), example["subgroup"].replace("-", " ")}
    templates = itertools.cycle(captions.TEMPLATES)
    sentences = [
        ", ".join((template.replace("{}", name), *tags))
        for template, (name, *tags) in zip(templates, sorted(concepts), strict=False)
    ]
    return sentences + sorted(groups)


def train(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # A word is one word wherever it stands.
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # All 256 bytes: no text is unknown.
        show_progress=True,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default="vitfm/data/assets/emoji_bpe.json", help="%(default)s")
    parser.add_argument("--vocab_size", type=int, default=8192, help="at most so many pieces (default: %(default)s)")
    args = parser.parse_args()
    tokenizer = train(corpus(), args.vocab_size)
    tokenizer.save(str(args.out), pretty=False)
    print(f"{tokenizer.get_vocab_size()} pieces, {args.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
