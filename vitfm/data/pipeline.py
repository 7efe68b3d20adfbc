"""The `data` part of a recipe, made into loaders and preprocessing."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import augment as augmentation
from vitfm.data import captions as caption_sampler
from vitfm.data import evaluation, labels, loader, mix, sources, tokenizer, views
from vitfm.data import image as images
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
      source: the training examples' source, by name; opened by `train_loader`. None for an imported model's.
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
    source: str | None
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
        """The training stream of this process.

        Raises:
          ConfigError: there is none.
        """
        if self.source is None:
            raise ConfigError("config.data.source is None, as in an imported model: name the training examples.")
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
        return np.stack([self.load_eval.cut(p, None) for p in prepared])


def make(
    *,
    source: str | None,
    image_size: int = 224,
    image: str = "image",
    alpha: bool = False,
    crop: Mapping[str, Any] | None = {},
    evaluation: Mapping[str, Any] | None = None,
    views: Mapping[str, Mapping[str, Any]] | None = None,
    label: Mapping[str, Any] | None = None,
    weight: str | None = None,
    captions: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] = {},
    columns: Mapping[str, str] = {},
    augment: Mapping[str, Any] = {},
    mix: Mapping[str, Any] | None = None,
    cache_gb: float = 0.0,
    threads: int = 2,
    workers: int = 0,
) -> Data:
    """The `data` part of a recipe.

    Args:
      source: the training examples, `scheme:name`, e.g. "tfds:emoji:train"; None for a model that will not train.
      image_size: side in pixels of the images in a batch.
      image: the feature that holds the encoded image.
      alpha: keep the alpha channel, so that `augment` can choose what shows through.
      crop: options of `vitfm.data.image.random_crop`; None resizes and takes the centre.
      evaluation: options of `vitfm.data.evaluation.make`, how images are resized where nothing is drawn, exactly as
        other libraries do; None resizes the shorter side with OpenCV and takes the centre.
      views: name -> options of `vitfm.data.views.view`: training batches have `views`, name -> [B,V,h,w,C], for
        `image`. None for none.
      label: options of `vitfm.data.labels.make`, `feature` among them: the column `label`. The classes are known once
        the source is opened, unless the options name them; without a label it is opened by `train_loader` only.
      weight: the feature that weighs each example in the loss: the column `weight`, float32; None for none.
      captions: options of `vitfm.data.captions.make`; None for no text.
      tokenizer: options of `vitfm.data.tokenizer.make`.
      columns: batch column -> feature: further columns, float32 or int32; texts become a hash, equal for equal texts.
      augment: options of `vitfm.data.augment.make`.
      mix: options of `vitfm.data.mix.make`, mixup and cutmix; None for none.
      cache_gb: decoded training images kept in memory, in GiB a process, for collections small enough to fit.
      threads: threads that read and decode.
      workers: worker processes that do so instead.

    Raises:
      ConfigError: options that make no sense.
    """
    if image_size < 1:
        raise ConfigError(f"config.data.image_size = {image_size} must be at least 1.")
    tokenize = None if captions is None else config.call(_tokenizer.make, tokenizer, where="data.tokenizer")
    caption = None if captions is None else config.call(caption_sampler.make, captions, where="data.captions")
    centre = _centre(image_size, evaluation)
    random_cut = images.cutter(image_size, crop, path="data.crop")
    train, evaluate = config.call(augmentation.make, augment, where="data.augment", path="data.augment")
    normalisation = {key: augment[key] for key in ("mean", "std") if key in augment}
    several = None if views is None else _views.make(views, image_size=image_size, crop=crop, augment=augment)
    open_source = lambda: sources.make(source)
    classes = None if label is None else config.call(_labels.make, label, where="data.label", open_source=open_source)
    facts = Facts(
        image_size,
        3,
        tokenize.vocab_size if tokenize else 0,
        tokenize.length if tokenize else 0,
        classes.classes if classes else (),
        classes.multi_label if classes else False,
    )
    return Data(
        facts,
        source,
        tokenize,
        train if several is None else several.preprocess,
        evaluate,
        functools.partial(augmentation.to_pixels, **normalisation),
        _Load(image, random_cut, several, classes, weight, caption, tokenize, dict(columns)),
        _Load(image, centre),
        image,
        alpha,
        int(cache_gb * 2**30),
        threads,
        workers,
        None if mix is None else _mixing(mix, facts, several),
    )


# `make` has options of the modules' names.
_evaluation, _labels, _mix, _tokenizer, _views = evaluation, labels, mix, tokenizer, views


def _centre(image_size: int, options: Mapping[str, Any] | None) -> images.Transform:
    """How images are resized where nothing is drawn."""
    if options is None:
        return images.cutter(image_size, None, path="data.crop")
    return config.call(_evaluation.make, options, where="data.evaluation", image_size=image_size)


def _mixing(options: Mapping[str, Any], facts: Facts, several: views.Views | None) -> Callable[..., Any]:
    """`vitfm.data.mix.make` of these options.

    Raises:
      ConfigError: there is nothing to mix.
    """
    if several is not None:
        raise ConfigError("config.data.mix mixes `image`, which config.data.views replaces; leave one of them out.")
    if not facts.num_classes:
        raise ConfigError("config.data.mix mixes images and labels; name the labels in config.data.label.")
    return config.call(_mix.make, options, where="data.mix", num_classes=facts.num_classes)


@dataclasses.dataclass(frozen=True)
class _Load:
    """(example, generator) -> arrays: `image` uint8 [S,S,C] or `views`, and for training all that comes with it.

    Attributes:
      image: the feature that holds the image.
      cut: makes `image` of it...
      views: ... unless this makes `views`, name -> uint8 [V,h,w,C].
      label: makes `label`, int32 [] or float32 [K].
      weight: the feature that `weight`, float32 [], holds.
      caption, tokenize: make `text` [T] and `text_mask` [T].
      columns: further columns and their features.
    """

    image: str
    cut: images.Transform
    views: views.Views | None = None
    label: labels.Labels | None = None
    weight: str | None = None
    caption: Callable[[Mapping[str, Any], np.random.Generator], str] | None = None
    tokenize: tokenizer.Tokenizer | None = None
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        if self.views is None:
            arrays = {"image": self.cut(example[self.image], rng)}
        else:
            arrays = {"views": self.views.cut(example[self.image], rng)}
        if self.label is not None:
            arrays["label"] = self.label(example)
        if self.weight is not None:
            arrays["weight"] = np.float32(number(sources.feature(example, self.weight, "data.weight")))
        if self.caption is not None:
            ids, mask = self.tokenize(self.caption(example, rng))
            arrays |= {"text": ids[0], "text_mask": mask[0]}
        column = lambda name, feature: number(sources.feature(example, feature, f"data.columns.{name}"))
        return arrays | {name: column(name, feature) for name, feature in self.columns.items()}


def number(value: Any) -> np.ndarray:
    """A feature as a number: float32 of a float, int32 of an integer, and of a text its CRC-32."""
    if isinstance(value, str):
        return np.int32(zlib.crc32(value.encode()) - 2**31)
    return np.float32(value) if np.issubdtype(np.asarray(value).dtype, np.floating) else np.int32(value)
