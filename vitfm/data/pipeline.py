"""The `data` part of a recipe, made into loaders and preprocessing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import augment as augmentation
from vitfm.data import bad, balance, dense, evaluation, inputs, labels, loader, mix, patches, sources, tokenizer, views
from vitfm.data import captions as caption_sampler
from vitfm.data import image as images
from vitfm.data.balance import Balanced
from vitfm.data.decoded import Decoded
from vitfm.data.example import Load
from vitfm.data.facts import Facts
from vitfm.data.inputs import Input
from vitfm.data.sources.base import Source


@dataclasses.dataclass(frozen=True)
class Data:
    """Everything a run asks of its data.

    Attributes:
      facts: for the objective.
      source: the training examples' source, by name; opened by `train_loader`. None for an imported model's.
      tokenizer: texts -> (ids [B,T], mask [B,T]); None without text.
      preprocess_train: (batch, keys [B]) -> batch, on the device.
      preprocess_eval: batch -> batch, on the device.
      to_pixels: normalised images, float [...,H,W,C] -> uint8 [...,H,W,3], on the host.
      load_train: (example, generator) -> arrays, on the host.
      load_eval: likewise, without chance.
      image_key: the feature that holds the encoded image.
      spec: of the images, as they are read and until they are preprocessed.
      cache_bytes: of decoded training images kept in memory.
      threads, workers: of the training loader; evaluation reads with as many threads.
      max_bad: the share of training examples that may be bad.
      mix: (batch, keys [B]) -> batch, on the device after `preprocess_train`, over the whole batch, since it couples
        rows; None for none.
      balance: (source, batch_size, seed) -> the order of the training stream; None for one permutation an epoch.
    """

    facts: Facts
    source: str | Mapping[str, Any] | None
    tokenizer: tokenizer.Tokenizer | None
    preprocess_train: Callable[[Mapping[str, jax.Array], jax.Array], Mapping[str, jax.Array]]
    preprocess_eval: Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]]
    to_pixels: Callable[[np.ndarray], np.ndarray]
    load_train: loader.Load
    load_eval: loader.Load
    image_key: str
    spec: Input
    cache_bytes: int
    threads: int
    workers: int
    max_bad: float
    mix: Callable[[Mapping[str, jax.Array], jax.Array], Mapping[str, jax.Array]] | None = None
    balance: Callable[[Source, int, int], Balanced] | None = None

    def train_loader(self, *, batch_size: int, seed: int) -> loader.TrainLoader:
        """The training stream of this process.

        Raises:
          ConfigError: there is none.
        """
        if self.source is None:
            raise ConfigError("config.data.source is None, as in an imported model: name the training examples.")
        source = sources.make(self.source)
        return loader.TrainLoader(
            Decoded(source, self.image_key, self.spec, cache_bytes=self.cache_bytes, lazy=True),
            self.load_train,
            batch_size,
            seed,
            jax.process_index(),
            jax.process_count(),
            self.threads,
            self.workers,
            None if self.balance is None else self.balance(source, batch_size, seed),
            source.order(seed) if hasattr(source, "order") else None,
        )

    def eval_batches(
        self, source: Source, batch_size: int, unreadable: Callable[[bad.Found], None] | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Every example of `source` once, padded and marked by `valid`; this process's rows.

        Images that can't be read come as zeros, and `unreadable` is told of them; without it the first one raises.
        """
        return loader.evaluation_batches(
            Decoded(source, self.image_key, self.spec),
            self.load_eval,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=self.threads,
            unreadable=unreadable,
        )

    def prepare_images(self, pixels: np.ndarray | Sequence[np.ndarray]) -> Any:
        """Images of `spec`, [H,W,C], of any size, stacked or a list -> the batch the evaluation preprocessing takes.

        8-bit RGB may have an alpha channel, or lack one.
        """
        pixels = [np.asarray(p) for p in pixels]
        rgb = self.spec.channels == 3 and self.spec.dtype == "uint8"
        prepared = [images.with_channels(p, alpha=self.spec.alpha) for p in pixels] if rgb else pixels
        return jax.tree.map(lambda *rows: np.stack(rows), *(self.load_eval.cut(p, None) for p in prepared))


def make(
    *,
    source: str | Mapping[str, Any] | None,
    image_size: int = 224,
    channels: int = 3,
    image: str = "image",
    alpha: bool = False,
    input: Mapping[str, Any] = {},
    crop: Mapping[str, Any] | Literal["pad"] | None = {},
    evaluation: Mapping[str, Any] | None = None,
    patches: Mapping[str, Any] | None = None,
    views: Mapping[str, Mapping[str, Any]] | None = None,
    keep_image: bool = False,
    label: Mapping[str, Any] | None = None,
    balance: Mapping[str, Any] | None = None,
    weight: str | None = None,
    captions: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] = {},
    columns: Mapping[str, str] = {},
    boxes: Mapping[str, Any] | None = None,
    mask: Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] = {},
    mix: Mapping[str, Any] | None = None,
    cache_gb: float = 0.0,
    threads: int = 2,
    workers: int = 0,
    max_bad: float = 0.1,
) -> Data:
    """The `data` part of a recipe.

    Args:
      source: the training examples, `scheme:name`, e.g. "tfds:emoji:train", or options of `vitfm.data.mixture.make`;
        None for a model that will not train.
      image_size: side in pixels of the images in a batch.
      channels: of the images: 3 of RGB, 1 of gray, or as many as the files have, or `input` chooses of theirs.
      image: the feature that holds the encoded image.
      alpha: keep the alpha channel, so that `augment` can choose what shows through.
      input: options of `vitfm.data.inputs.make`: type and range of the numbers in the files, their spacing, and so on.
      crop: options of `vitfm.data.image.random_crop`; None resizes and takes the centre; "pad" shows all of an image,
        in the middle of a square.
      evaluation: options of `vitfm.data.evaluation.make`, how images are resized where nothing is drawn, exactly as
        other libraries do; None resizes the shorter side with OpenCV and takes the centre.
      patches: options of `vitfm.data.patches.make`: images keep their aspect ratio, and `image` is a dict of padded
        patches, for encoders that take these (`vitfm.models.naflex`). Nothing is drawn then but by its own `crop`. None
        for images of one size.
      views: name -> options of `vitfm.data.views.view`: training batches have `views`, name -> [B,V,h,w,C], for
        `image`. None for none.
      keep_image: batches have `image`, too, cut and augmented as `crop` and `augment` say, beside `views`.
      label: options of `vitfm.data.labels.make`, `feature` among them: the column `label`. The classes are known once
        the source is opened, unless the options name them; without a label it is opened by `train_loader` only.
      balance: options of `vitfm.data.balance.make`: so many images of each class in a batch; None for any.
      weight: the feature that weighs each example in the loss: the column `weight`, float32; None for none.
      captions: options of `vitfm.data.captions.make`; None for no text.
      tokenizer: options of `vitfm.data.tokenizer.make`.
      columns: batch column -> feature: further columns, float32 or int32; texts become a hash, equal for equal texts.
      boxes, mask: options of `vitfm.data.dense.boxes` and `mask`: columns `box` and `segment`, which follow `image` as
        it is cropped and mirrored. None for none.
      augment: options of `vitfm.data.augment.make`.
      mix: options of `vitfm.data.mix.make`, mixup and cutmix; None for none.
      cache_gb: decoded training images kept in memory, in GiB a process, for collections small enough to fit.
      threads: threads that read and decode.
      workers: worker processes that do so instead.
      max_bad: the share of training examples that can't be used, and that others stand for, beyond which a run stops.

    Raises:
      ConfigError: options that make no sense.
    """
    if not 0 <= max_bad <= 1:
        raise ConfigError(f"config.data.max_bad = {max_bad} is a share of the training examples, from 0 to 1.")
    if image_size < 1:
        raise ConfigError(f"config.data.image_size = {image_size} must be at least 1.")
    tokenize = None if captions is None else config.call(_tokenizer.make, tokenizer, where="data.tokenizer")
    spec = config.call(_inputs.make, input, where="data.input", channels=channels, alpha=alpha)
    train, evaluate = config.call(augmentation.make, augment, where="data.augment", path="data.augment", spec=spec)
    if patches is None:
        centre = _centre(image_size, evaluation, spec)
        random_cut = images.cutter(image_size, crop, path="data.crop", **spec.sampling)
    else:
        drawn = {"crop": crop, "evaluation": evaluation, "views": views, "mix": mix, "augment": augment.keys() - _FIXED}
        _refuse_with_patches([name for name, given in drawn.items() if given])
        random_cut, centre = config.call(_patches.make, patches, where="data.patches", spec=spec)
        evaluate = _patches.normalising(evaluate)
        train = lambda batch, keys: evaluate(batch)
    defaults = {"mean": augmentation.MEAN * channels, "std": augmentation.STD * channels}
    normalisation = {key: tuple(augment.get(key) or default) for key, default in defaults.items()}
    if keep_image and views is None:
        raise ConfigError("config.data.keep_image = True keeps `image` beside config.data.views: there are none.")
    options = {"image_size": image_size, "crop": crop, "augment": augment, "beside": train if keep_image else None}
    several = None if views is None else _views.make(views, **options, spec=spec)
    in_the_way = {"patches": patches, "views": views if not keep_image else None, "mix": mix}
    in_the_way |= {f"augment.{name}": augment.get(name) for name in ("flip", "randaugment")}
    carried = dense.make(boxes, mask, [name for name, given in in_the_way.items() if given not in (None, 0)])
    open_source = lambda: sources.make(source)
    classes = None if label is None else config.call(_labels.make, label, where="data.label", open_source=open_source)
    asked = {"where": "data.captions", "open_source": open_source if source is not None else None}
    caption = None if captions is None else config.call(caption_sampler.make, captions, **asked)
    facts = Facts(
        image_size,
        channels,
        tokenize.vocab_size if tokenize else 0,
        tokenize.length if tokenize else 0,
        classes.classes if classes else (),
        classes.multi_label if classes else False,
        normalisation["mean"],
        normalisation["std"],
        *((tokenize.bos_id, tokenize.eos_id, tokenize.pad_id) if tokenize else ()),
        label=classes.feature if classes else None,
        caption=caption.name if caption else None,
    )
    return Data(
        facts,
        source,
        tokenize,
        train if several is None else several.preprocess,
        evaluate,
        functools.partial(augmentation.to_pixels, **normalisation),
        Load(image, random_cut, several, classes, weight, caption, tokenize, dict(columns), carried),
        Load(image, centre),
        image,
        spec,
        int(cache_gb * 2**30),
        threads,
        workers,
        max_bad,
        None if mix is None else _mixing(mix, facts, several),
        None if balance is None else config.call(_balance.make, balance, where="data.balance", labels=classes),
    )


# `make` has options of the modules' names.
_balance, _evaluation, _inputs, _labels, _mix, _patches = balance, evaluation, inputs, labels, mix, patches
_tokenizer, _views = tokenizer, views
_FIXED = {"mean", "std"}  # Of `augment`, what changes no picture.


def _refuse_with_patches(names: Sequence[str]) -> None:
    if names:
        keys = ", ".join(f"config.data.{name}" for name in names)
        raise ConfigError(f"config.data.patches: images keep their shape and nothing is drawn; leave out {keys}.")


def _centre(image_size: int, options: Mapping[str, Any] | None, spec: Input) -> images.Transform:
    """How images are resized where nothing is drawn."""
    if options is None:
        return images.cutter(image_size, None, path="data.crop", **spec.sampling)
    context = {"image_size": image_size, "colours": spec.channels == 3}
    return config.call(_evaluation.make, options, where="data.evaluation", **context)


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
