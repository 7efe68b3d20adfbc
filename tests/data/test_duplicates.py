"""Near-duplicates: altered copies are found and nothing else; a table finds what comparing all pairs does."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from vitfm.config import ConfigError
from vitfm.data import duplicates, sources, viewable

Alter = Callable[[np.ndarray], np.ndarray]


def resized(side: int, filter_: int) -> Alter:
    return lambda pixels: cv2.resize(pixels, (side, side), interpolation=filter_)


def recompressed(quality: int) -> Alter:
    encode = lambda pixels: cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return lambda pixels: cv2.imdecode(encode(pixels), cv2.IMREAD_COLOR)


def brightened(factor: float) -> Alter:
    return lambda pixels: np.clip(pixels.astype(np.float32) * factor, 0, 255).astype(np.uint8)


def without_border(share: float) -> Alter:
    margin = lambda pixels: max(1, round(len(pixels) * share / 2))
    return lambda pixels: pixels[margin(pixels) : -margin(pixels), margin(pixels) : -margin(pixels)]


ALTERED = {
    "smaller": resized(40, cv2.INTER_AREA),
    "larger": resized(200, cv2.INTER_CUBIC),
    "recompressed": recompressed(40),
    "darker": brightened(0.7),
    "brighter": brightened(1.1),
    "cropped": without_border(0.05),
}


@pytest.fixture(scope="module")
def drawings() -> list[np.ndarray]:
    """160 emoji no two of which are alike: pixel by pixel they are 30 of 255 apart and more."""
    source, chosen = sources.make("tfds:emoji:train"), []
    for index in range(0, len(source), 7):
        pixels = viewable.pixels(source[index]["image"])
        if all(np.abs(pixels.astype(np.float32) - other).mean() >= 30 for other in chosen):
            chosen.append(pixels)
        if len(chosen) == 160:
            return chosen
    raise AssertionError(f"only {len(chosen)}")


def textures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Images with the spectrum of photographs, and nothing in common."""
    rng, made = np.random.default_rng(seed), []
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
    frequency[0, 0] = 1
    for _ in range(count):
        noise = np.fft.fft2(rng.normal(size=(3, 96, 96))) / frequency
        waves = np.moveaxis(np.fft.ifft2(noise).real, 0, -1)
        made.append(np.uint8(np.clip(128 + 50 * (waves - waves.mean()) / waves.std(), 0, 255)))
    return made


def prints_of(images: Iterable[np.ndarray], flips: bool = False) -> duplicates.Prints:
    return duplicates.stacked([duplicates.fingerprint(pixels, flips) for pixels in images])


def found_in(images: list[np.ndarray], distance: int = duplicates.BITS, flips: bool = False) -> list[list[int]]:
    groups = duplicates.groups(duplicates.alike(prints_of(images, flips), distance), len(images))
    return [group.tolist() for group in groups]


def pairs_of(groups: Iterable[Iterable[int]]) -> set[tuple[int, int]]:
    return {pair for group in groups for pair in itertools.combinations(sorted(group), 2)}


def test_altered_copies_are_found_and_nothing_else(drawings: list[np.ndarray]):
    altered = [alter(pixels) for alter in ALTERED.values() for pixels in drawings[:60]]
    true = pairs_of([[i, *(160 + 60 * j + i for j in range(len(ALTERED)))] for i in range(60)])
    found = pairs_of(found_in([*drawings, *altered]))
    assert len(true & found) >= 0.97 * len(true), "recall"
    assert len(true & found) >= 0.97 * len(found), "precision"


@pytest.mark.parametrize("how", ALTERED)
def test_each_sort_of_copy_is_found_in_photographs(how: str):
    images = textures(40)
    found = pairs_of(found_in([*images, *map(ALTERED[how], images)]))
    true = {(i, i + 40) for i in range(40)}
    assert len(found & true) >= 39
    assert not found - true


def test_images_that_have_nothing_in_common_are_not_found(drawings: list[np.ndarray]):
    assert not found_in(textures(300))
    assert len(pairs_of(found_in(drawings))) <= 2


def test_mirrored_copies_are_found_where_asked_for():
    images = textures(10)
    both = [*images, *(pixels[:, ::-1] for pixels in images)]
    assert not found_in(both)
    assert found_in(both, flips=True) == [[i, i + 10] for i in range(10)]


def test_the_colour_tells_two_drawings_apart():
    red, green = (np.full((64, 64, 3), 255, np.uint8) for _ in range(2))
    cv2.circle(red, (32, 32), 20, (214, 60, 40), -1)
    cv2.circle(green, (32, 32), 20, (60, 142, 40), -1)  # As bright.
    prints = prints_of([red, green])
    assert prints.bits(0, [1])[0] <= 1
    assert not found_in([red, green])


def test_images_in_which_nothing_is_seen_are_told_apart_and_match_none():
    blank = [np.full((50, 50, 3), level, np.uint8) for level in (0, 128, 255, 255)]
    prints = prints_of([*blank, *textures(3)])
    assert prints.flat.tolist() == [True] * 4 + [False] * 3
    assert not len(duplicates.alike(prints, 7))
    assert not len(duplicates.alike(prints_of(blank), 7))


def test_many_copies_of_one_image_take_few_pairs():
    images = textures(2)
    pairs = duplicates.alike(prints_of([images[0]] * 500 + [images[1]]), 7)
    assert [len(group) for group in duplicates.groups(pairs, 501)] == [500]
    assert len(pairs) < 2000


def test_the_smallest_images_have_prints():
    for shape in ((1, 1), (1, 300), (300, 1), (3, 2)):
        print_ = duplicates.fingerprint(np.zeros((*shape, 3), np.uint8))
        assert print_.codes.shape == (2,)


@st.composite
def many_codes(draw: st.DrawFn) -> np.ndarray:
    """Codes of which many are near one another."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    bases = rng.integers(0, 2**64, draw(st.integers(1, 4)), np.uint64, endpoint=False)
    codes = rng.choice(bases, draw(st.integers(2, 40)))
    for _ in range(draw(st.integers(0, 12))):
        codes = codes ^ (np.uint64(1) << rng.integers(0, 64, len(codes), np.uint64))
    return codes


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(codes=many_codes(), distance=st.integers(0, 11), chunk=st.sampled_from([3, 2**22]))
def test_the_table_finds_all_that_comparing_every_pair_does(codes: np.ndarray, distance: int, chunk: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_CHUNK", chunk)
        found = {tuple(pair) for pairs in duplicates._near(codes, distance) for pair in pairs.tolist()}
    every = itertools.combinations(range(len(codes)), 2)
    assert found == {(i, j) for i, j in every if int(codes[i] ^ codes[j]).bit_count() <= distance}


def test_what_is_found_does_not_depend_on_the_order(drawings: list[np.ndarray]):
    images = [*drawings[:40], *map(ALTERED["cropped"], drawings[:10]), *[drawings[3]] * 5]
    order = np.random.default_rng(0).permutation(len(images))
    found = found_in([images[i] for i in order])
    assert pairs_of([[int(order[i]) for i in group] for group in found]) == pairs_of(found_in(images))


def test_leakage_counts_the_images_of_each_source():
    groups = [np.array([0, 1, 5]), np.array([2, 6, 7]), np.array([3, 4])]
    owner = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2])  # Of 0 to 4, 5 to 7, and 8.
    assert duplicates.leakage(groups, owner, 3).tolist() == [[4, 3, 0], [3, 2, 0], [0, 0, 0]]


def vectors(count: int = 400) -> np.ndarray:
    """Unit vectors, the last 50 of which are nearly the first 50."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(count - 50, 32))
    return np.concatenate([own, 3 * own[:50] + 0.05 * rng.normal(size=(50, 32))]).astype(np.float32)


@pytest.mark.parametrize("exact", [50_000, 10])
def test_embeddings_that_point_the_same_way_are_found(exact: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicates, "_EXACT", exact)
    found = {tuple(pair) for pair in duplicates.close(vectors(), 0.05).tolist()}
    assert found == {(i, 350 + i) for i in range(50)}


def test_an_index_needs_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicates, "_EXACT", 10)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(ConfigError, match=r"vitfm\[search\]"):
        duplicates.close(vectors(), 0.05)


def test_a_distance_at_which_nearly_all_images_are_alike_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(duplicates, "_MOST_PAIRS", 3)
    page = np.full((96, 96, 3), 255, np.uint8)
    cv2.rectangle(page, (20, 12), (70, 80), (40, 60, 90), -1)
    forms = [cv2.circle(page.copy(), (30 + i, 30), 4, (250, 240, 200), -1) for i in range(30)]  # One form, filled in.
    with pytest.raises(ConfigError, match="nearly all images are alike"):
        duplicates.alike(prints_of(forms), 15)


def test_a_model_to_which_all_images_are_alike_is_refused():
    with pytest.raises(ConfigError, match="nearly all images are alike"):
        duplicates.close(np.ones((500, 8), np.float32), 0.05)


@pytest.mark.parametrize("distance", [-1, 16])
def test_bits_that_make_no_sense_are_refused(distance: int):
    with pytest.raises(ConfigError, match="--distance"):
        duplicates.alike(prints_of(textures(2)), distance)


@pytest.mark.parametrize("distance", [0.0, 1.0])
def test_cosines_that_make_no_sense_are_refused(distance: float):
    with pytest.raises(ConfigError, match="--distance"):
        duplicates.close(vectors(), distance)
