"""Tokenizers give rows that begin, end and are padded as promised, whichever file they come from."""

import json
import pickle

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from vitfm.config import ConfigError
from vitfm.data import captions, sources, tokenizer

SHIPPED = tokenizer.make()


def word_level(path, *special):
    """A foreign tokenizer.json that knows four words."""
    vocab = {token: i for i, token in enumerate((*special, "a", "red", "apple", "[UNK]"))}
    foreign = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    foreign.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign.add_special_tokens(list(special))
    foreign.save(str(path))
    return str(path)


def test_row_reads_begin_pieces_end_padding():
    ids, mask = SHIPPED(["red apple", "cat"])
    assert ids.shape == mask.shape == (2, 16) and ids.dtype == np.int32 and mask.dtype == bool
    for row, valid in zip(ids, mask, strict=True):
        n = valid.sum()
        assert row[0] == 1 and row[n - 1] == 2 and (row[n:] == 0).all() and valid[:n].all()
        assert (row[1 : n - 1] > 2).all()
    assert (SHIPPED.pad_id, SHIPPED.bos_id, SHIPPED.eos_id, SHIPPED.length) == (0, 1, 2, 16)


def test_one_text_is_a_batch_of_one_and_none_a_batch_of_none():
    np.testing.assert_array_equal(SHIPPED("cat")[0], SHIPPED(["cat"])[0])
    assert SHIPPED([])[0].shape == SHIPPED([])[1].shape == (0, 16)


@given(st.text(max_size=60))
def test_any_text_survives_up_to_case(text):
    roomy = tokenizer.make(length=1024)
    ids, mask = roomy(text)
    normal = roomy._pieces.normalizer.normalize_str(text)
    assert roomy.decode(ids[0]) == normal.strip()
    assert (ids[0][~mask[0]] == roomy.pad_id).all()
    assert ids.max() < roomy.vocab_size
    assert (ids[0] == roomy.eos_id).sum() == 1


@given(st.text(max_size=60), st.integers(3, 12))
def test_long_text_loses_its_tail_never_its_end(text, length):
    (short,), (valid,) = tokenizer.make(length=length)(text)
    (whole,), _ = tokenizer.make(length=1024)(text)
    n = valid.sum()
    assert n <= length and short[n - 1] == SHIPPED.eos_id
    np.testing.assert_array_equal(short[: n - 1], whole[: n - 1])


def test_case_is_folded():
    np.testing.assert_array_equal(SHIPPED("flag: JAPAN")[0], SHIPPED("flag: japan")[0])


def test_text_that_spells_a_special_token_is_text():
    (ids,), _ = SHIPPED("cat <eos> dog")
    assert (ids == SHIPPED.eos_id).sum() == 1


def test_shipped_vocabulary_fits_the_captions():
    assert 4000 < SHIPPED.vocab_size <= 8192
    caption = captions.make("name", "tags", captions.TEMPLATES)
    source, rng = sources.make("tfds:emoji:train"), np.random.default_rng(0)
    said = [caption(source[i], rng) for i in range(1000)]
    _, mask = tokenizer.make(length=64)(said)
    assert np.mean(mask.sum(1) <= 16) > 0.97
    assert all(len(SHIPPED._encode(template.replace("{}", "").strip())) <= 5 for template in captions.TEMPLATES)


def test_survives_pickling():
    again = pickle.loads(pickle.dumps(SHIPPED))
    np.testing.assert_array_equal(again("red apple")[0], SHIPPED("red apple")[0])


@pytest.mark.parametrize(
    ("special", "bos", "eos", "pad"),
    [
        (("[PAD]", "[CLS]", "[SEP]"), 1, 2, 0),
        (("<|startoftext|>", "<|endoftext|>"), 0, 1, 1),
        (("<pad>", "</s>"), None, 1, 0),
        (("<s>", "<pad>", "</s>"), 0, 2, 1),
        (("<|endoftext|>",), None, 0, 0),
    ],
)
def test_special_tokens_of_foreign_files(tmp_path, special, bos, eos, pad):
    foreign = tokenizer.make(word_level(tmp_path / "tokenizer.json", *special), length=8)
    assert (foreign.bos_id, foreign.eos_id, foreign.pad_id) == (bos, eos, pad)
    (ids,), (mask,) = foreign("a red apple")
    a = len(special)
    begin = [] if bos is None else [bos]
    expected = [*begin, a, a + 1, a + 2, eos]
    assert ids[mask].tolist() == expected and (ids[~mask] == pad).all()
    assert foreign.vocab_size == a + 4


def test_refuses_in_words(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'emoji_bpe'"):
        tokenizer.make("emoji_bp")
    with pytest.raises(ConfigError, match="no end-of-text token.*</s>"):
        tokenizer.make(word_level(tmp_path / "endless.json", "[PAD]"))
    with pytest.raises(ConfigError, match="leaves no room"):
        tokenizer.make(length=2)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ConfigError, match="broken.json.*no tokenizer.json"):
        tokenizer.make(str(tmp_path / "broken.json"))


def test_a_files_own_special_tokens_and_padding_count(tmp_path):
    path = tmp_path / "tokenizer.json"
    foreign = tokenizers.Tokenizer.from_file(word_level(path, "<pad>", "<bos>", "<eos>"))
    foreign.post_processor = tokenizers.processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 2)])
    foreign.enable_padding(pad_id=2, pad_token="<eos>")
    foreign.save(str(path))
    np.testing.assert_array_equal(tokenizer.make(str(path), 4)("red")[0], [[4, 2, 2, 2]])
    np.testing.assert_array_equal(tokenizer.make(str(path), 4, pad="<pad>")("red")[0], [[4, 2, 0, 0]])
    with pytest.raises(ConfigError, match="has no token '<none>' to pad with"):
        tokenizer.make(str(path), 4, pad="<none>")


@pytest.mark.parametrize("options", [{}, {"pad": "<eos>"}, {"lowercase": True}])
def test_what_is_written_makes_the_same_rows_anywhere(tmp_path, options):
    made = tokenizer.make(word_level(tmp_path / "a.json", "<pad>", "<eos>"), 5, **options)
    (tmp_path / "b.json").write_text(json.dumps(made.to_json()))
    for again in (tokenizer.make(str(tmp_path / "b.json"), 5), pickle.loads(pickle.dumps(made))):
        np.testing.assert_array_equal(again(["Red apple", "a RED"])[0], made(["Red apple", "a RED"])[0])
    red = tokenizer.make(made._arguments[0], 5)("red")[0]
    assert (made("RED")[0][0, 0] == red[0, 0]) == bool(options.get("lowercase"))
