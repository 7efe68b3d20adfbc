"""JPEGs that cost as much to decode as photographs do: noise at every scale, and shapes; the same on every machine."""

from __future__ import annotations

import pathlib
import tarfile

import cv2
import numpy as np
import rich.progress

QUALITY = 95
SIZES = ((375, 500), (375, 500), (375, 500), (333, 500), (500, 375))  # ImageNet's most frequent.
SHARD = 500  # Files in a tar.
_CLASSES = 10


def make(folder: str | pathlib.Path, count: int) -> pathlib.Path:
    """`count` JPEGs in folders of classes, `folder`/files-N/c/00001.jpg; what is there already is kept.

    Their mean is about 500 x 375 pixels and 100 kB, with a factor of three between the small and the large.
    """
    root = pathlib.Path(folder).expanduser() / f"files-{count}"
    for number in rich.progress.track(range(count), "Photographs", disable=(root / "complete").exists()):
        path = root / f"{number % _CLASSES}" / f"{number:05}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number))
    (root / "complete").touch()
    return root


def shards(root: pathlib.Path) -> list[str]:
    """The same files in tars, as webdataset reads them."""
    files = sorted(root.glob("*/*.jpg"), key=lambda path: path.name)
    names = []
    for start in range(0, len(files), SHARD):
        name = root / f"{start // SHARD:04}.tar"
        names.append(str(name))
        if not name.exists():
            with tarfile.open(name.with_suffix(".part"), "w") as tar:
                for file in files[start : start + SHARD]:
                    tar.add(file, file.name)
            name.with_suffix(".part").rename(name)
    return names


def encoded(number: int) -> bytes:
    """The JPEG of this number."""
    pixels = cv2.cvtColor(picture(number), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def picture(number: int) -> np.ndarray:
    """uint8 [H,W,3]: noise of all scales, the finer the weaker, its channels alike, behind a few shapes."""
    rng = np.random.default_rng(number)
    height, width = SIZES[rng.integers(len(SIZES))]
    weaker = rng.uniform(0.68, 0.94)  # From an octave to the next.
    noise, amplitude = np.zeros((3, 3, 3), np.float32), 1.0
    while noise.shape[0] < max(height, width):
        noise = cv2.resize(noise, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
        shape = noise.shape[:2]
        common = rng.standard_normal((*shape, 1), np.float32)
        own = (
            rng.standard_normal((*shape, 3), np.float32) if shape[0] < 300 else 0.0
        )  # The finest detail has no colour.
        noise += amplitude * (0.9 * common + 0.4 * own)
        amplitude *= weaker
    pixels = 128 + 45 * noise[:height, :width]
    for _ in range(rng.integers(3, 9)):
        shape = np.zeros((height, width), np.float32)
        centre = tuple(int(rng.integers(side)) for side in (width, height))
        axes = tuple(int(value) for value in rng.integers(15, 150, 2))
        cv2.ellipse(shape, centre, axes, rng.uniform(0, 180), 0, 360, rng.uniform(0.3, 0.8), cv2.FILLED, cv2.LINE_AA)
        pixels += shape[..., None] * (rng.uniform(0, 255, 3).astype(np.float32) - pixels)
    return np.clip(pixels, 0, 255).astype(np.uint8)
