"""The `data` part of a recipe, made into loaders and preprocessing."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitfm import config
from vitfm.data import augment as augmentation
from vitfm.data import captions as caption_sampler
from vitfm.data import image as images
from vitfm.data import loader, sources, tokenizer
from vitfm.data.decoded import Decoded
from vitfm.data.sources import Source


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an objective needs to know of the batches to build its model.

    Attributes:
      image_size: side in pixels.
      channels: of the image after preprocessing.
      vocab_size: of the tokenizer; 0 without text.
      text_length: tokens a text is padded to; 0 without text.
      classes: names of the labels, in the order of their indices; none without labels.
      multi_label: an example may have several labels: `label` is float32 [B,K] instead of int32 [B].
    """

    image_size: int
    channels: int
    vocab_size: int
    text_length: int
    classes: tuple[str, ...] = ()
    multi_label: bool = False

    @property
    def num_classes(self) -> int:
        """K; 0 without labels."""
        return len(self.classes)


@dataclasses.dataclass(frozen=True)
class Data:
    """Everything a run asks of its data.

    Attributes:
      facts: for the objective.
      source: the training examples' source, by name; opened by `train_loader`.
      tokenizer: texts -> (ids [B,T], mask [B,T]); None without text.
      preprocess_train: (batch, keys [B]) -> batch, on the device.
      preprocess_eval: batch -> batch, on the device.
      to_pixels: normalised images, float [...,H,W,3] -> uint8, on the host.
      load_train: (example, generator) -> arrays, on the host.
      load_eval: likewise, without chance.
      image_key: the feature that holds the encoded image.
      alpha: batches carry a fourth, alpha channel until they are preprocessed.
      cache_bytes: of decoded training images kept in memory.
      threads, workers: of the training loader.
      mix: (batch, keys [B]) -> batch, on the device after `preprocess_train`, over the whole batch, since it couples
        rows; None for none.
    """

    facts: Facts
    source: str
    tokenizer: tokenizer.Tokenizer | None
    preprocess_train: Callable[[Mapping[str, jax.Array], jax.Array], Mapping[str, jax.Array]]
    preprocess_eval: Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]]
    to_pixels: Callable[[np.ndarray], np.ndarray]
    load_train: loader.Load
    load_eval: loader.Load
    image_key: str
    alpha: bool
    cache_bytes: int
    threads: int
    workers: int
    mix: Callable[[Mapping[str, jax.Array], jax.Array], Mapping[str, jax.Array]] | None = None

    def train_loader(self, *, batch_size: int, seed: int) -> loader.TrainLoader:
        """The training stream of this process."""
        return loader.TrainLoader(
            Decoded(sources.make(self.source), self.image_key, alpha=self.alpha, cache_bytes=self.cache_bytes),
            self.load_train,
            batch_size,
            seed,
            jax.process_index(),
            jax.process_count(),
            self.threads,
            self.workers,
        )

    def eval_batches(self, source: Source, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Every example of `source` once, padded and marked by `valid`; this process's rows."""
        return loader.evaluation_batches(
            Decoded(source, self.image_key, alpha=self.alpha),
            self.load_eval,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def prepare_images(self, pixels: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """uint8 images [H,W,3 or 4] of any size, stacked or a list -> the batch the evaluation preprocessing takes."""
        prepared = [images.with_channels(np.asarray(p), alpha=self.alpha) for p in pixels]
        return np.stack([images.resize(p, self.facts.image_size) for p in prepared])


def make(
    *,
    source: str,
    image_size: int = 224,
    image: str = "image",
    alpha: bool = False,
    crop: Mapping[str, Any] | None = {},
    captions: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] = {},
    columns: Mapping[str, str] = {},
    augment: Mapping[str, Any] = {},
    cache_gb: float = 0.0,
    threads: int = 2,
    workers: int = 0,
) -> Data:
    """The `data` part of a recipe.

    Args:
      source: the training examples, `scheme:name`, e.g. "tfds:emoji:train".
      image_size: side in pixels of the images in a batch.
      image: the feature that holds the encoded image.
      alpha: keep the alpha channel, so that `augment` can choose what shows through.
      crop: options of `vitfm.data.image.random_crop`; None resizes and takes the centre.
      captions: options of `vitfm.data.captions.make`; None for no text.
      tokenizer: options of `vitfm.data.tokenizer.make`.
      columns: batch column -> feature: further columns, as integers; texts become a hash, equal for equal texts.
      augment: options of `vitfm.data.augment.make`.
      cache_gb: decoded training images kept in memory, in GiB a process, for collections small enough to fit.
      threads: threads that read and decode.
      workers: worker processes that do so instead.
    """
    tokenize = None if captions is None else config.call(_tokenizer.make, tokenizer, where="data.tokenizer")
    caption = None if captions is None else config.call(caption_sampler.make, captions, where="data.captions")
    cut = lambda pixels, rng: images.resize(pixels, image_size)
    random_cut = cut if crop is None else config.call(images.random_crop, crop, where="data.crop", size=image_size)
    preprocess_train, preprocess_eval, to_pixels = config.call(augmentation.make, augment, where="data.augment")
    facts = Facts(image_size, 3, tokenize.vocab_size if tokenize else 0, tokenize.length if tokenize else 0)
    return Data(
        facts,
        source,
        tokenize,
        preprocess_train,
        preprocess_eval,
        to_pixels,
        _Load(image, random_cut, caption, tokenize, dict(columns)),
        _Load(image, cut, None, None, {}),
        image,
        alpha,
        int(cache_gb * 2**30),
        threads,
        workers,
    )


_tokenizer = tokenizer  # `make` has an option of the module's name.


@dataclasses.dataclass(frozen=True)
class _Load:
    """(example, generator) -> arrays: `image` uint8 [S,S,C], `text` [T], `text_mask` [T] and the further columns."""

    image: str
    cut: images.Transform
    caption: Callable[[Mapping[str, Any], np.random.Generator], str] | None
    tokenize: tokenizer.Tokenizer | None
    columns: Mapping[str, str]

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        arrays = {"image": self.cut(example[self.image], rng)}
        if self.caption is not None:
            ids, mask = self.tokenize(self.caption(example, rng))
            arrays |= {"text": ids[0], "text_mask": mask[0]}
        column = lambda name, feature: integer(sources.feature(example, feature, f"data.columns.{name}"))
        return arrays | {name: column(name, feature) for name, feature in self.columns.items()}


def integer(value: Any) -> np.ndarray:
    """An int32 of a feature: itself, or for text its CRC-32."""
    number = zlib.crc32(value.encode()) - 2**31 if isinstance(value, str) else value
    return np.int32(number)
