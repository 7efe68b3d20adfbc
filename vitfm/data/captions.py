"""Captions from labels: a sampled sentence for training, one fixed wording for evaluation.

caption = captions.make()
caption(example, np.random.default_rng(0))     # "a drawing of gorilla, animal"
caption.canonical(example)                     # "gorilla"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.config import ConfigError

TEMPLATES = ("{}", "{} emoji", "an emoji of {}", "a drawing of {}", "a picture of {}", "an icon of {}")


@dataclasses.dataclass(frozen=True)
class Captions:
    """Samples a caption of an example: a template around its name, sometimes followed by some of its tags."""

    name: str
    tags: str | None
    templates: tuple[str, ...]
    tag_probability: float
    max_tags: int

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> str:
        """A caption that depends on the example and the generator alone."""
        name = self.canonical(example)
        caption = self.templates[rng.integers(len(self.templates))].replace("{}", name)
        if self.tags and rng.random() < self.tag_probability:
            caption = ", ".join((caption, *self._some_tags(example, name, rng)))
        return caption

    def canonical(self, example: Mapping[str, Any]) -> str:
        """The name alone, what an evaluator asks for."""
        name = example.get(self.name)
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"Captions need text in {self.name!r}, but the example has {_contents(example, self.name)}."
            )
        return name

    def _some_tags(self, example: Mapping[str, Any], name: str, rng: np.random.Generator) -> list[str]:
        """One to `max_tags` tags that say more than the name, in random order."""
        tags = example.get(self.tags)
        if tags is None or isinstance(tags, str):
            raise ValueError(
                f"Captions need a sequence of strings in {self.tags!r}, but the example has "
                f"{_contents(example, self.tags)}; `tags=None` does without."
            )
        words = set(name.lower().replace(":", " ").split())
        new = [tag for tag in tags if tag.lower() not in words]
        return list(rng.permutation(np.array(new, object))[: rng.integers(1, self.max_tags + 1)])


def make(
    name: str = "name",
    tags: str | None = "tags",
    templates: Sequence[str] = TEMPLATES,
    tag_probability: float = 0.5,
    max_tags: int = 3,
) -> Captions:
    """Captions from the fields of an example.

    Args:
      name: the field that names what is seen.
      tags: the field with further words (it may be empty), or None to use names only.
      templates: sentences with one `{}` for the name; each is as likely.
      tag_probability: how often tags follow.
      max_tags: the most tags that follow.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(f"Caption template {template!r} needs exactly one '{{}}', where the name goes.")
    if not templates or not 0 <= tag_probability <= 1 or max_tags < 1:
        raise ConfigError(
            "Captions need at least one template, 0 <= tag_probability <= 1 and max_tags >= 1; "
            f"got {len(templates)}, {tag_probability} and {max_tags}."
        )
    return Captions(name, tags, tuple(templates), tag_probability, max_tags)


def _contents(example: Mapping[str, Any], key: str) -> str:
    return repr(example[key]) if key in example else f"only {', '.join(map(repr, sorted(example)))}"
