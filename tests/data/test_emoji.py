"""The embedded data set keeps the promises of its README."""

import collections
import pathlib
import re

import cv2
import numpy as np
import pytest

from vitfm.data import sources

FOLDER = pathlib.Path(sources.__file__).parents[1] / "emoji"
SPLITS = ("train", "validation", "test_concept", "test_style")
STYLES = ("noto", "twemoji", "openmoji", "fluent_flat", "fluent_modern")


def pixels(example):
    return cv2.imdecode(np.frombuffer(example["image"], np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.fixture(scope="module")
def splits():
    opened = {split: sources.make(f"tfds:emoji:{split}") for split in SPLITS}
    return {split: [source[i] for i in range(len(source))] for split, source in opened.items()}


@pytest.fixture(scope="module")
def everything(splits):
    return [example for split in SPLITS for example in splits[split]]


def test_counts_are_those_of_the_readme(splits):
    rows = re.findall(r"^\| `(\w+)` +\|([ \d|]+\d) +\|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    promised = {name: [int(n) for n in numbers.split("|")] for name, numbers in rows if name in SPLITS}
    counts = {split: collections.Counter(e["style"] for e in examples) for split, examples in splits.items()}
    assert promised == {split: [counts[split].total(), *(counts[split][s] for s in STYLES)] for split in SPLITS}


def test_each_concept_has_one_name_and_each_name_one_concept(everything):
    pairs = {(e["codepoint"], e["name"], e["tags"], e["group"], e["subgroup"]) for e in everything}
    assert len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs}) == 1906
    assert not any("FE0F" in codepoint for codepoint, *_ in pairs)
    assert not any(f"1F3F{tone}" in codepoint for codepoint, *_ in pairs for tone in "BCDEF")


def test_every_pair_of_concept_and_style_occurs_once(everything):
    pairs = [(e["codepoint"], e["style"]) for e in everything]
    assert len(set(pairs)) == len(pairs)
    assert {style for _, style in pairs} == set(STYLES)


def test_held_out_concepts_are_never_trained_on(splits):
    held = {e["codepoint"] for e in splits["test_concept"]}
    for split in ("train", "validation", "test_style"):
        assert not held & {e["codepoint"] for e in splits[split]}


def test_held_out_concepts_are_a_tenth_of_every_group(splits, everything):
    def sizes(examples):
        return collections.Counter({e["codepoint"]: e["group"] for e in examples}.values())

    all_concepts, held = sizes(everything), sizes(splits["test_concept"])
    assert all(abs(held[group] - n / 10) <= 0.5 for group, n in all_concepts.items())


def test_noto_is_never_trained_on_and_draws_what_the_others_teach(splits):
    assert {e["style"] for e in splits["test_style"]} == {"noto"}
    assert "noto" not in {e["style"] for split in ("train", "validation") for e in splits[split]}
    assert {e["codepoint"] for e in splits["test_style"]} <= {e["codepoint"] for e in splits["train"]}


def test_validation_is_a_twentieth_whose_concepts_stay_in_train(splits):
    train, validation = splits["train"], splits["validation"]
    concepts = [e["codepoint"] for e in validation]
    assert len(validation) == round(0.05 * (len(train) + len(validation)))
    assert len(set(concepts)) == len(concepts)
    assert set(concepts) <= {e["codepoint"] for e in train}


def test_records_are_shuffled(splits):
    styles = [e["style"] for e in splits["train"][:200]]
    assert all(styles.count(style) > 20 for style in STYLES[1:])


def test_every_image_is_a_drawing_on_nothing(splits):
    seen = collections.defaultdict(set)
    for split in SPLITS:
        for example in splits[split]:
            image = pixels(example)
            alpha = image[..., 3]
            assert image.shape == (64, 64, 4) and image.dtype == np.uint8
            assert alpha.min() < 255 and (alpha == 255).mean() > 0.01, (example["name"], example["style"])
            rows, columns = np.nonzero(alpha > 64)
            assert max(np.ptp(rows), np.ptp(columns)) >= 12, (example["name"], example["style"])
            assert abs(rows.min() + rows.max() - 63) < 40 and abs(columns.min() + columns.max() - 63) < 40
            seen[split].add((example["style"], image.tobytes()))
    trained = seen["train"] | seen["validation"]
    assert not trained & seen["test_concept"]
    assert not seen["test_style"] & seen["test_concept"]


def test_is_small_and_names_no_machine():
    files = list((FOLDER / "1.0.0").iterdir())
    assert sum(file.stat().st_size for file in files) <= 12e6
    assert not any(re.search(rb"/(work|home|root|tmp|Users)/", file.read_bytes()) for file in files)


@pytest.mark.parametrize(
    "needle",
    ["`noto`", "`twemoji`", "`openmoji`", "`fluent_flat`", "`fluent_modern`", "Apache-2.0", "CC BY 4.0", "CC BY-SA 4.0"]
    + ["Copyright (c) Microsoft Corporation", "Permission is hereby granted", "TERMS AND CONDITIONS", "Unicode License"]
    + ["`emoji-datasource-google` 16.0.0", "`emoji-datasource-twitter` 16.0.0", "`openmoji` 17.0.0"]
    + ["`fluentui-emoji` 1.3.0", "`emojibase-data` 17.0.0"],
)
def test_licences_name_every_source(needle):
    assert needle in (FOLDER / "LICENSES.md").read_text()
