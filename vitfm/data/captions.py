"""Captions: what an example says of its image, or a sampled sentence around its name; one fixed wording for evaluation.

caption = captions.make(name="caption")                                    # texts as they are
caption = captions.make(name="name", tags="tags", templates=TEMPLATES)
caption(example, np.random.default_rng(0))                                 # "a drawing of gorilla, animal"
caption.canonical(example)                                                 # "gorilla"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.config import ConfigError
from vitfm.data.bad import BadExample
from vitfm.data.sources import base

# For names of things that are drawn, such as emoji.
TEMPLATES = ("{}", "{} emoji", "an emoji of {}", "a drawing of {}", "a picture of {}", "an icon of {}")


@dataclasses.dataclass(frozen=True)
class Captions:
    """Samples a caption of an example: a template around one of its texts, sometimes followed by some of its tags.

    Attributes:
      name: the feature of the text, or of several; None for a model that will not train.
    """

    name: str | None
    tags: str | None
    templates: tuple[str, ...]
    tag_probability: float
    max_tags: int

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> str:
        """A caption that depends on the example and the generator alone.

        Raises:
          BadExample: it has no text.
          ConfigError: there are no such features, or of another kind.
        """
        texts = self._texts(example)
        name = texts[rng.integers(len(texts))] if len(texts) > 1 else texts[0]
        caption = self.templates[rng.integers(len(self.templates))].replace("{}", name)
        if self.tags and rng.random() < self.tag_probability:
            caption = ", ".join((caption, *self._some_tags(example, name, rng)))
        return caption

    def canonical(self, example: Mapping[str, Any]) -> str:
        """The text alone, the first of several, what an evaluator asks for."""
        return self._texts(example)[0]

    def _texts(self, example: Mapping[str, Any]) -> Sequence[str]:
        """Those that say anything."""
        value = base.feature(example, self.name, "data.captions.name")
        several = (value,) if isinstance(value, str) or value is None else value
        if not isinstance(several, Sequence) or not all(isinstance(text, str | None) for text in several):
            raise ConfigError(
                f"config.data.captions.name = {self.name!r} should be texts; an example has {value!r:.60}."
            )
        texts = [text for text in several if text and text.strip()]
        if not texts:
            raise BadExample("caption", f"It has no caption: {self.name!r} is {value!r}.")
        return texts

    def _some_tags(self, example: Mapping[str, Any], name: str, rng: np.random.Generator) -> list[str]:
        """One to `max_tags` tags that say more than the name, in random order."""
        tags = base.feature(example, self.tags, "data.captions.tags")
        if isinstance(tags, str) or not isinstance(tags, Sequence | None):
            raise ConfigError(
                f"config.data.captions.tags = {self.tags!r} should be sequences of texts; an example has {tags!r:.60}. "
                "`tags=None` does without."
            )
        words = set(name.lower().replace(":", " ").split())
        new = [tag for tag in tags or () if tag.lower() not in words]
        return list(rng.permutation(np.array(new, object))[: rng.integers(1, self.max_tags + 1)])


def make(
    name: str | None = None,
    tags: str | None = None,
    templates: Sequence[str] = ("{}",),
    tag_probability: float = 0.5,
    max_tags: int = 3,
    *,
    open_source: Callable[[], base.Source] | None = None,
) -> Captions:
    """Captions from the features of an example.

    Args:
      name: the feature that says what is seen, a text or several, of which one is drawn each time. None takes the one
        that the training source says is its caption.
      tags: a feature with further words (it may be empty), or None for none.
      templates: sentences with one `{}` for the text; each is as likely.
      tag_probability: how often tags follow.
      max_tags: the most tags that follow.
      open_source: opens the training source; None where there is none.

    Raises:
      ConfigError: options that make no sense, or a source that does not know its captions.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"Caption template {template!r} needs exactly one '{{}}', where the name goes.")
    if not templates or not 0 <= tag_probability <= 1 or max_tags < 1:
        raise ConfigError(
            "Captions need at least one template, 0 <= tag_probability <= 1 and max_tags >= 1; "
            f"got {len(templates)}, {tag_probability} and {max_tags}."
        )
    if name is None and open_source is not None:
        name = _role(open_source())
    return Captions(name, tags, tuple(templates), tag_probability, max_tags)


def _role(source: base.Source) -> str:
    """The feature that the source says is its caption."""
    name = base.role(source, "caption")
    if name is None:
        raise ConfigError(
            f"config.data.captions: {source.name} does not say which feature is its caption. Name it, "
            f"config.data.captions.name: {', '.join(sorted(base.first(source)))}."
        )
    return name
