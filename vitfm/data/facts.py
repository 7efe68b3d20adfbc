"""What an objective needs to know of its data."""

from __future__ import annotations

import dataclasses


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
      mean, std: of the normalisation, by channel or one for all: image * std + mean is in [0, 1].
      bos_id, eos_id, pad_id: the tokenizer's beginning, which not all have, end and padding.
      label: the feature that the labels come from; None without labels.
      caption: the feature that the texts come from; None without text, or for a model that will not train.
    """

    image_size: int
    channels: int
    vocab_size: int
    text_length: int
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    label: str | None = None
    caption: str | None = None

    @property
    def num_classes(self) -> int:
        """K; 0 without labels."""
        return len(self.classes)
