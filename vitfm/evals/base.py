"""The contract of evaluators: they see predict functions and data, never an objective's insides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitfm import config

Value = float | np.ndarray  # A metric, or a picture uint8 [H, W, 3].
Evaluate = Callable[[Any], Iterator[tuple[str, Value]]]  # params -> (name, value)


@dataclasses.dataclass(frozen=True)
class Context:
    """What an evaluator works with.

    Attributes:
      predict: name -> jitted function (params, arrays of a global batch) -> array that every process holds whole;
        images are uint8 as loaded.
      open_source: name -> a random-access sequence of examples.
      batches: (source, batch_size) -> global batches of `image` and `valid`, each example once, padded.
      tokenize: texts -> (ids [B,T], mask [B,T]); None without text.
      picture: example -> its image, uint8 [H,W,3], for people.
      devices: a batch is split among them.
      where: the evaluator's path in the recipe, for messages.
    """

    predict: Mapping[str, Callable[..., jax.Array]]
    open_source: Callable[[str], Sequence[Mapping[str, Any]]]
    batches: Callable[[Sequence[Mapping[str, Any]], int], Iterator[Mapping[str, jax.Array]]]
    tokenize: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None
    picture: Callable[[Mapping[str, Any]], np.ndarray]
    devices: int = 1
    where: str = "evals"

    def need(self, evaluator: str, *names: str) -> None:
        """Refuses an evaluator whose predict functions the objective lacks.

        Raises:
          ConfigError: with what is missing and what there is.
        """
        missing = [name for name in names if name not in self.predict]
        if missing:
            raise config.ConfigError(
                f"config.{self.where}: evaluator {evaluator!r} needs {', '.join(missing)}, which this objective does "
                f"not offer; it offers {', '.join(sorted(self.predict)) or 'nothing'}."
            )

    def batch_size(self, wanted: int) -> int:
        """The smallest size from `wanted` up that divides among the devices; nothing measured depends on it.

        Raises:
          ConfigError: it is below 1.
        """
        if wanted < 1:
            raise config.ConfigError(f"config.{self.where}.batch_size = {wanted} must be at least 1.")
        return -(-wanted // self.devices) * self.devices

    def templates(self, key: str, templates: str | Sequence[str]) -> list[str]:
        """One template, or several, as a list.

        Raises:
          ConfigError: one of them has not exactly one place for the name, or there are none.
        """
        templates = [templates] if isinstance(templates, str) else list(templates)
        bad = [template for template in templates if template.count("{}") != 1]
        if bad or not templates:
            raise config.ConfigError(
                f"config.{self.where}.{key} = {bad or templates!r}: each template needs exactly one '{{}}', where "
                "the name goes."
            )
        return templates

    def feature(self, source: Sequence[Mapping[str, Any]], name: str) -> list[str]:
        """One text feature of every example.

        Raises:
          ConfigError: the examples have no such feature.
        """
        if name not in source[0]:
            raise config.ConfigError(
                f"config.{self.where} asks for the feature {name!r}: {config.nearest(name, sorted(source[0]))}"
            )
        return [source[i][name] for i in range(len(source))]


def make(name: str, spec: Mapping[str, Any], context: Context) -> Evaluate:
    """The evaluator `spec["name"]` names: a file of `vitfm/evals`, or a dotted path to the user's own.

    Args:
      name: its key in the recipe's `evals`.
      spec: `name` and options.
      context: what it works with.
    """
    where = f"evals.{name}"
    return config.build(
        "evals", spec, where=where, others=("every",), context=dataclasses.replace(context, where=where)
    )
