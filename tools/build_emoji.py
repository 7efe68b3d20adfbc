"""Builds `emoji`, the data set that ships inside vitfm: real image-text pairs drawn by five hands.

A concept is one emoji (a sequence of codepoints, without U+FE0F, without skin tones). Each is drawn in up to five
styles, rendered at 64x64 with transparency:

    noto           emoji-datasource-google    PNG
    twemoji        emoji-datasource-twitter   PNG
    openmoji       openmoji                   SVG, color/
    fluent_flat    fluentui-emoji             SVG, flat/ (no country flags, couples or families)
    fluent_modern  fluentui-emoji             SVG, modern/, shaded (no country flags, couples or families)

Names, tags, groups and subgroups are Unicode's English ones, from emojibase-data. A concept counts if emoji-datasource
knows it and it is not a mere component (skin tones, hair, regional indicators).

Splits follow from SHA-256 of the codepoints alone, never from the order of files:

    test_concept  a tenth of the concepts of every group, in every style: things never trained on
    test_style    Noto's drawings of all other concepts: known things by a hand never trained on
    validation    a twentieth of the remaining (concept, style) pairs, at most one per concept
    train         the rest

Concepts that any hand draws pixel by pixel alike (the flags of Norway and of Svalbard) stay on the same side of
test_concept, so no test image was ever trained on under another name.

The output is a prepared TFDS data set in ArrayRecord with WebP images, lossless or lossy, whichever is smaller.
Run again with the same packages it writes the same bytes.

    python tools/build_emoji.py --packages=PACKAGES --out=vitfm/data --contact_sheet=emoji.png
"""

import argparse
import concurrent.futures
import functools
import hashlib
import io
import json
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
import unittest.mock
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import resvg_py
import tensorflow_datasets as tfds
from PIL import Image
from rich import progress
from tensorflow_datasets.core.example_serializer import ExampleSerializer

PACKAGES = {
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
    "openmoji": "17.0.0",
    "fluentui-emoji": "1.3.0",
    "emojibase-data": "17.0.0",
}
STYLES = ("noto", "twemoji", "openmoji", "fluent_flat", "fluent_modern")
UNSEEN_STYLE = "noto"
SIZE = 64
QUALITY, ALPHA_QUALITY = 85, 60  # Of the lossy WebPs: some 33 dB, and the whole set stays under 12 MB.
TEST_CONCEPTS = 0.1
VALIDATION_PAIRS = 0.05

# Fluent's files are named after older Unicode names than emojibase's labels.
FLUENT_NAMES = {
    "black-bird": "blackbird",
    "deaf-man": "man-deaf",
    "deaf-person": "person-deaf",
    "deaf-woman": "woman-deaf",
    "elf": "person-elf",
    "enraged-face": "pouting-face",
    "face-with-crossed-out-eyes": "knocked-out-face",
    "fairy": "person-fairy",
    "genie": "person-genie",
    "mage": "person-mage",
    "man-blond-hair": "man-blonde-hair",
    "men-with-bunny-ears": "man-with-bunny-ears",
    "men-wrestling": "man-wrestling",
    "mermaid": "woman-merpeople",
    "merman": "man-merpeople",
    "merperson": "person-merpeople",
    "people-with-bunny-ears": "person-with-bunny-ears",
    "people-wrestling": "person-wrestling",
    "person-blond-hair": "person-blonde-hair",
    "phoenix": "phoenix-bird",
    "red-triangle-pointed-up": "red-triangle",
    "smiling-face-with-open-hands": "hugging-face",
    "stuffed-flatbread": "stuffedbread-flat",
    "superhero": "person-superhero",
    "supervillain": "person-supervillain",
    "vampire": "person-vampire",
    "woman-blond-hair": "woman-blonde-hair",
    "women-with-bunny-ears": "woman-with-bunny-ears",
    "women-wrestling": "woman-wrestling",
    "zombie": "person-zombie",
}
FLUENT_KEYCAPS = {"0023-20E3": "keycap-hashtag", "002A-20E3": "keycap-asterisk"}

MISTAKEN = {("noto", "1F1E8-1F1F6")}  # The package draws Saudi Arabia's flag for Sark's.


class Concept(NamedTuple):
    codepoint: str
    name: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


class Drawing(NamedTuple):
    concept: Concept
    style: str
    pixels: np.ndarray  # [64,64,4] uint8
    webp: bytes


def fetch(package: str, version: str, folder: pathlib.Path) -> pathlib.Path:
    """Packs `package@version` with npm and unpacks it below `folder`, unless it lies there already."""
    target = folder / f"{package}-{version}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=folder, check=True)
        with tarfile.open(folder / f"{package}-{version}.tgz") as tar, tempfile.TemporaryDirectory(dir=folder) as new:
            tar.extractall(new, filter="data")
            pathlib.Path(new, "package").rename(target)
    return target


def normalized(codepoint: str) -> str:
    """The codepoints in capitals without FE0F, the variation selector on which the packages disagree."""
    return "-".join(point for point in codepoint.upper().split("-") if point != "FE0F")


def concepts(packages: Mapping[str, pathlib.Path]) -> list[Concept]:
    """All concepts in Unicode's order."""
    data = packages["emojibase-data"]
    groups = json.loads((data / "meta/groups.json").read_text())
    drawn = json.loads((packages["emoji-datasource-google"] / "emoji.json").read_text())
    known = {normalized(entry["unified"]) for entry in drawn}
    entries = [e for e in json.loads((data / "en/data.json").read_text()) if "group" in e]
    found = []
    for entry in sorted(entries, key=lambda e: e["order"]):
        group, subgroup = groups["groups"][str(entry["group"])], groups["subgroups"][str(entry["subgroup"])]
        codepoint = normalized(entry["hexcode"])
        if group != "component" and codepoint in known:
            found.append(Concept(codepoint, entry["label"], tuple(entry["tags"]), group, subgroup))
    assert len({c.name for c in found}) == len(found), "two concepts share a name"
    return found


def by_codepoint(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
    return {normalized(path.stem): path for path in folder.glob(f"*{suffix}")}


def slug(name: str) -> str:
    """`Man's shoe` -> `mans-shoe`, as Fluent names its files."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"['.]", "", ascii_name)).strip("-")


def by_name(folder: pathlib.Path, known: Iterable[Concept]) -> dict[str, pathlib.Path]:
    """Fluent's files, which are named after the emoji; `-default` marks the one without a skin tone."""
    found = {}
    for concept in known:
        name = FLUENT_KEYCAPS.get(concept.codepoint) or slug(concept.name)
        name = FLUENT_NAMES.get(name, name)
        candidates = (name, f"{name}-default", name.removesuffix("-flat"))  # One flat file says so in its name.
        paths = [folder / f"{candidate}.svg" for candidate in candidates]
        if path := next(filter(pathlib.Path.exists, paths), None):
            found[concept.codepoint] = path
    return found


def files(packages: Mapping[str, pathlib.Path], known: Iterable[Concept]) -> dict[str, dict[str, pathlib.Path]]:
    """style -> codepoint -> the file that draws it."""
    return {
        "noto": by_codepoint(packages["emoji-datasource-google"] / "img/google/64", ".png"),
        "twemoji": by_codepoint(packages["emoji-datasource-twitter"] / "img/twitter/64", ".png"),
        "openmoji": by_codepoint(packages["openmoji"] / "color/svg", ".svg"),
        "fluent_flat": by_name(packages["fluentui-emoji"] / "icons/flat", known),
        "fluent_modern": by_name(packages["fluentui-emoji"] / "icons/modern", known),
    }


def render(path: pathlib.Path) -> np.ndarray:
    """The drawing as [64,64,4] uint8, centred where the SVG is not quite square."""
    canvas = Image.new("RGBA", (SIZE, SIZE))
    if path.suffix == ".svg":
        png = resvg_py.svg_to_bytes(svg_path=str(path), width=SIZE, height=SIZE, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    else:
        image = Image.open(path).convert("RGBA")
    canvas.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return np.asarray(canvas)


def encode(pixels: np.ndarray) -> bytes:
    """WebP, lossless or lossy, whichever is smaller."""
    image, lossless, lossy = Image.fromarray(pixels), io.BytesIO(), io.BytesIO()
    image.save(lossless, "WEBP", lossless=True, quality=75, method=4)
    image.save(lossy, "WEBP", quality=QUALITY, alpha_quality=ALPHA_QUALITY, method=4)
    return min(lossless.getvalue(), lossy.getvalue(), key=len)


def draw(concept: Concept, style: str, path: pathlib.Path) -> Drawing | None:
    """Renders and encodes one image; None for one without any transparency, which WebP would store without alpha."""
    pixels = render(path)
    if pixels[..., 3].min() == 255:
        return None
    assert pixels[..., 3].max() == 255, f"{path} is empty"
    return Drawing(concept, style, pixels, encode(pixels))


def draw_all(known: list[Concept], paths: Mapping[str, Mapping[str, pathlib.Path]], workers: int) -> list[Drawing]:
    pairs = [(c, style) for c in known for style in STYLES if c.codepoint in paths[style]]
    jobs = [(c, style, paths[style][c.codepoint]) for c, style in pairs if (style, c.codepoint) not in MISTAKEN]
    with concurrent.futures.ProcessPoolExecutor(workers) as pool:
        drawings = pool.map(draw, *zip(*jobs, strict=True), chunksize=32)
        return [d for d in progress.track(drawings, "drawing", total=len(jobs)) if d]


def rank(key: str) -> bytes:
    """A random order that is the same everywhere and for ever."""
    return hashlib.sha256(f"vitfm/emoji/1:{key}".encode()).digest()


def twins(drawings: Iterable[Drawing]) -> dict[str, str]:
    """codepoint -> the codepoint that stands for all the concepts some hand draws exactly alike."""
    parent: dict[str, str] = {}

    def root(codepoint: str) -> str:
        while parent.setdefault(codepoint, codepoint) != codepoint:
            codepoint = parent[codepoint]
        return codepoint

    first: dict[tuple[str, bytes], str] = {}
    for drawing in drawings:
        codepoint = drawing.concept.codepoint
        other = first.setdefault((drawing.style, drawing.pixels.tobytes()), codepoint)
        parent[root(codepoint)] = root(other)
    return {codepoint: root(codepoint) for codepoint in tuple(parent)}


def held_out(known: Iterable[Concept], twin: Mapping[str, str]) -> set[str]:
    """The codepoints of `test_concept`: a tenth of every group, twins together."""
    groups: dict[str, dict[str, list[str]]] = {}
    for concept in known:
        groups.setdefault(concept.group, {}).setdefault(twin[concept.codepoint], []).append(concept.codepoint)
    held: set[str] = set()
    for families in groups.values():
        wanted = round(TEST_CONCEPTS * sum(map(len, families.values())))
        for family in sorted(families, key=rank):
            if wanted >= len(families[family]):
                held.update(families[family])
                wanted -= len(families[family])
    return held


def split(known: Iterable[Concept], drawings: Iterable[Drawing]) -> dict[str, list[Drawing]]:
    """Deals the drawings to the four splits; see the head of this file."""
    drawings = list(drawings)
    held = held_out(known, twins(drawings))
    splits: dict[str, list[Drawing]] = {"train": [], "validation": [], "test_concept": [], "test_style": []}
    seen = []
    for drawing in drawings:
        if drawing.concept.codepoint in held:
            splits["test_concept"].append(drawing)
        elif drawing.style == UNSEEN_STYLE:
            splits["test_style"].append(drawing)
        else:
            seen.append(drawing)
    wanted, taken = round(VALIDATION_PAIRS * len(seen)), set()
    for drawing in sorted(seen, key=lambda d: rank(f"{d.concept.codepoint}/{d.style}")):
        to_validation = len(taken) < wanted and drawing.concept.codepoint not in taken
        splits["validation" if to_validation else "train"].append(drawing)
        taken |= {drawing.concept.codepoint} if to_validation else set()
    return splits


class Emoji(tfds.core.GeneratorBasedBuilder):
    """TFDS writes the records in the order of a hash of their keys: shuffled, and always alike."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, splits: Mapping[str, list[Drawing]], **kwargs: Any):
        self.drawings = splits
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        features = {
            "image": tfds.features.Image(shape=(SIZE, SIZE, 4)),  # Without encoding_format, WebP passes through.
            "codepoint": text(),
            "style": text(),
            "name": text(),
            "tags": tfds.features.Sequence(text()),
            "group": text(),
            "subgroup": text(),
        }
        description = "Emoji drawn by five hands, with their names, tags and groups."
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), description=description
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {name: self._generate_examples(drawings) for name, drawings in self.drawings.items()}

    def _generate_examples(self, drawings: Iterable[Drawing]) -> Iterator[tuple[str, dict[str, Any]]]:
        for concept, style, _, webp in drawings:
            example = {**concept._asdict(), "tags": list(concept.tags), "style": style, "image": webp}
            yield f"{concept.codepoint}/{style}", example


def write(splits: Mapping[str, list[Drawing]], out: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
    """Writes OUT/emoji/1.0.0 anew and returns it."""

    def serialize(self: ExampleSerializer, example: Any) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)

    target = out / "emoji" / str(Emoji.VERSION)
    shutil.rmtree(target, ignore_errors=True)  # TFDS would keep what is there.
    builder = Emoji(splits=splits, data_dir=str(out), file_format="array_record")
    # TFDS's own serializer leaves the order of the features to chance, so that no two builds are the same bytes.
    with unittest.mock.patch.object(ExampleSerializer, "serialize_example", serialize):
        builder.download_and_prepare(download_dir=str(scratch))
    return target


def contact_sheet(drawings: Iterable[Drawing], columns: int = 16, rows_per_style: int = 6) -> Image.Image:
    """Random decoded images, a band of rows for each style, over a grey chequerboard that shows transparency."""
    rows = rows_per_style * len(STYLES)
    squares = (np.indices((rows * SIZE, columns * SIZE)) // 8).sum(0) % 2
    sheet = Image.fromarray(np.where(squares, 205, 230).astype(np.uint8)).convert("RGBA")
    for band, style in enumerate(STYLES):
        chosen = sorted((d for d in drawings if d.style == style), key=lambda d: rank(d.concept.name))
        for i, drawing in enumerate(chosen[: columns * rows_per_style]):
            place = (i % columns * SIZE, (band * rows_per_style + i // columns) * SIZE)
            sheet.alpha_composite(Image.open(io.BytesIO(drawing.webp)).convert("RGBA"), place)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = functools.partial(parser.add_argument, type=pathlib.Path)
    add("--packages", required=True, help="folder for the npm packages; what lies there is not fetched again")
    add("--out", default="vitfm/data", help="the data set goes to OUT/emoji/1.0.0 (default: %(default)s)")
    add("--contact_sheet", help="also write this PNG with samples of every style, to look at")
    add("--workers", type=int, default=2, help="processes that render (default: %(default)s)")
    args = parser.parse_args()

    packages = {name: fetch(name, version, args.packages) for name, version in PACKAGES.items()}
    known = concepts(packages)
    drawings = draw_all(known, files(packages, known), args.workers)
    if args.contact_sheet:
        contact_sheet(drawings).save(args.contact_sheet)
    splits = split(known, drawings)
    target = write(splits, args.out, scratch=args.packages)
    for name, members in splits.items():
        counts = {style: sum(d.style == style for d in members) for style in STYLES}
        print(f"{name:13} {len(members):5}  {counts}")
    print(f"{sum(path.stat().st_size for path in target.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
