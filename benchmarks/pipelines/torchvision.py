"""torchvision's transforms, of Pillow's images or of tensors, and torch's `DataLoader`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import PIL.Image

from benchmarks import pipelines
from tests.parity import operators

_LIBRARY = operators.register()

import torch  # noqa: E402
import torchvision  # noqa: E402
from torchvision import datasets, io, transforms  # noqa: E402
from torchvision.transforms import InterpolationMode, v2  # noqa: E402

VERSIONS = {"torch": torch.__version__, "torchvision": torchvision.__version__, "pillow": PIL.__version__}


class Views:
    """All crops of an image, name -> uint8 [V,3,h,w], as DINO's DataAugmentationDINO makes them, but for colours."""

    def __init__(self, interpolation: InterpolationMode):
        self._makers = {
            name: (count, transform(side, scale, interpolation))
            for name, (count, side, scale) in pipelines.VIEWS.items()
        }

    def __call__(self, image: PIL.Image.Image) -> dict[str, torch.Tensor]:
        return {name: torch.stack([make(image) for _ in range(count)]) for name, (count, make) in self._makers.items()}


def transform(side: int, scale: tuple[float, float], interpolation: InterpolationMode) -> transforms.Compose:
    """A random-resized crop, mirrored or not: an image -> uint8 [3,side,side]."""
    crop = transforms.RandomResizedCrop(side, scale, pipelines.RATIO, interpolation)
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])


def one(settings: Mapping[str, Any]) -> Any:
    """An image -> its crop."""
    if not settings["tensors"]:
        return transform(pipelines.GLOBAL, pipelines.SCALE, InterpolationMode.BILINEAR)
    crop = v2.RandomResizedCrop(pipelines.GLOBAL, pipelines.SCALE, pipelines.RATIO, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


def columns(settings: Mapping[str, Any]) -> Any:
    """An image -> dict of tensors."""
    if settings["crops"] == "ten":
        return Views(InterpolationMode(settings["interpolation"]))
    crop = one(settings)
    return lambda image: {"image": crop(image)}


def endless(loader: torch.utils.data.DataLoader) -> pipelines.Batches:
    """Its epochs, one after another."""
    while True:
        yield from loader


def of_tensors(images: datasets.ImageFolder) -> tuple[Any, str]:
    """path -> uint8 [3,H,W], by torchvision where its decoder runs, and whose it is."""
    by_torchvision = lambda path: io.decode_jpeg(io.read_file(path), mode=io.ImageReadMode.RGB)
    try:
        by_torchvision(images.samples[0][0])
        return by_torchvision, "torchvision"
    except RuntimeError:  # Its compiled part is for another torch.
        return lambda path: v2.functional.pil_to_tensor(datasets.folder.default_loader(path)), "pillow"


def make(settings: Mapping[str, Any]) -> tuple[pipelines.Batches, dict[str, str]]:
    """As torchvision's classification reference reads ImageNet."""
    images, versions = datasets.ImageFolder(settings["root"], columns(settings)), dict(VERSIONS)
    if settings["tensors"]:
        images.loader, versions["decoder"] = of_tensors(images)
    loader = torch.utils.data.DataLoader(
        images,
        batch_size=settings["batch"],
        shuffle=True,
        num_workers=settings["workers"],
        persistent_workers=True,
        drop_last=True,
    )
    return (batch for batch, _ in endless(loader)), versions


if __name__ == "__main__":
    pipelines.serve(make)
