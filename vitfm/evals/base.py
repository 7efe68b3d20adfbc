"""The contract of evaluators: they see predict functions and data, never an objective's insides."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitfm import config
from vitfm.ranges import Range

Value = float | np.ndarray  # A metric, or a picture uint8 [H, W, 3].


class Watched(float):
    """A metric with the range outside of which the loop warns.

    Attributes:
      healthy: the range.
    """

    healthy: Range

    def __new__(cls, value: float, healthy: Range) -> Watched:
        made = super().__new__(cls, value)
        made.healthy = healthy
        return made


Evaluate = Callable[[Any], Iterator[tuple[str, Value]]]  # params -> (name, value)


def collected(
    measured: Iterable[tuple[str, Value]], picture: Callable[[str, np.ndarray], None]
) -> tuple[dict[str, float], dict[str, Range]]:
    """Metrics by name, and the ranges of those that are watched; pictures go to `picture(name, pixels)`."""
    values: dict[str, float] = {}
    ranges: dict[str, Range] = {}
    for name, value in measured:
        if np.ndim(value):
            picture(name, value)
            continue
        values[name] = float(value)
        if isinstance(value, Watched):
            ranges[name] = value.healthy
    return values, ranges


@dataclasses.dataclass
class Shared:
    """What several evaluators need, kept from the first that asks.

    Attributes:
      columns: (source, feature) -> its value in every example.
      params: the parameters that `features` come from; others drop them.
      features: source -> [N,L,P,D], see `embeddings.features_of`.
    """

    columns: dict[tuple[str, str], list[Any]] = dataclasses.field(default_factory=dict)
    params: Any = None
    features: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Context:
    """What an evaluator works with.

    Attributes:
      predict: name -> jitted function (params, arrays of a global batch) -> array that every process holds whole;
        images are uint8 as loaded. Options are keywords, one program for each value.
      open_source: name -> a random-access sequence of examples.
      batches: (source, batch_size) -> global batches of `image` and `valid`, each example once, padded.
      tokenize: texts -> (ids [B,T], mask [B,T]); None without text.
      decode: the ids of a text -> the text; None without text.
      picture: example -> its image, uint8 [H,W,3], for people.
      devices: a batch is split among them.
      where: the evaluator's path in the recipe, for messages.
      classes: names of the classes that the objective was trained on; () without labels.
      multi_label: an example may be of several of them.
      to_pixels: normalised images, float [...,H,W,C] -> uint8, for people; None without such.
      on_devices: function (whole, *arrays) -> the same, jitted: every device holds `whole`, a tree, the leading axis of
        the arrays is split among the devices, and every process holds the result whole.
      mesh: of the devices, for what must say itself how it is split; None where there is but one.
      directory: the run's.
      shared: among the evaluators of a run.
    """

    predict: Mapping[str, Callable[..., jax.Array]]
    open_source: Callable[[str], Sequence[Mapping[str, Any]]]
    batches: Callable[[Sequence[Mapping[str, Any]], int], Iterator[Mapping[str, jax.Array]]]
    tokenize: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]] | None
    picture: Callable[[Mapping[str, Any]], np.ndarray]
    devices: int = 1
    where: str = "evals"
    classes: Sequence[str] = ()
    multi_label: bool = False
    to_pixels: Callable[[np.ndarray], np.ndarray] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    on_devices: Callable[[Callable[..., Any]], Callable[..., Any]] = jax.jit
    mesh: jax.sharding.Mesh | None = None
    directory: pathlib.Path = pathlib.Path()
    shared: Shared = dataclasses.field(default_factory=Shared)

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

    def feature(self, source: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
        """One feature of every example: text, a number, or a tuple of such.

        Raises:
          ConfigError: the examples have no such feature.
        """
        first = _first(source)
        if name not in first:
            raise config.ConfigError(
                f"config.{self.where} asks for the feature {name!r}: {config.nearest(name, sorted(first))}"
            )
        column = getattr(source, "column", None)  # Of a source that knows it without touching an image.
        return [plain(value) for value in (column(name) if column else (source[i][name] for i in range(len(source))))]

    def labels(self, feature: str, train: str, test: str) -> tuple[np.ndarray, np.ndarray, list[Any]]:
        """The classes of training and test images: numbers [N] and [M], and what they are called, sorted.

        Args:
          feature: the one with the class of an image, text or a whole number.
          train, test: names of the sources.

        Raises:
          ConfigError: no such feature, one that is no class, a test image of a class without training images, or fewer
            than two classes.
        """
        train_values, test_values = (self._column(source, feature) for source in (train, test))
        wrong = [value for value in (*train_values, *test_values) if not isinstance(value, str | int)]
        if wrong:
            raise config.ConfigError(
                f"config.{self.where}.label = {feature!r}: {wrong[0]!r} is no class, which is a text or a whole number."
            )
        names = sorted(set(train_values), key=lambda value: (isinstance(value, str), value))
        unknown = sorted(set(test_values) - set(names), key=str)
        if unknown:
            raise config.ConfigError(
                f"config.{self.where}: {len(unknown)} classes of {test!r}, such as {unknown[0]!r}, have no image in "
                f"{train!r}, so that no answer could be right. Give a `train` that has them, a `test` without them, or "
                "another `label`."
            )
        if len(names) < 2:
            raise config.ConfigError(f"config.{self.where}.label = {feature!r} is {names[0]!r} all over {train!r}.")
        index = {name: number for number, name in enumerate(names)}
        numbers = lambda values: np.array([index[value] for value in values])
        return numbers(train_values), numbers(test_values), names

    def spread(self, source: str, count: int) -> Chosen:
        """At most `count` examples of a source, spread evenly over it, for pictures.

        Raises:
          ConfigError: none is asked for.
        """
        if count < 1:
            raise config.ConfigError(f"config.{self.where}.count = {count} must be at least 1.")
        images = self.open_source(source)
        return Chosen(images, np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist())

    def captioned(self, source: Sequence[Mapping[str, Any]], feature: str) -> tuple[Chosen, list[str]]:
        """The examples that have a text there, and the texts; of several the first.

        Raises:
          ConfigError: there is no such feature, or no text in it.
        """
        values = self.feature(source, feature)
        texts = {i: next(iter(own), None) if isinstance(own, tuple) else own for i, own in enumerate(values)}
        found = {i: str(text) for i, text in texts.items() if text is not None and str(text).strip()}
        if not found:
            raise config.ConfigError(f"config.{self.where}: no example has a text in {feature!r}.")
        return Chosen(source, list(found)), list(found.values())

    def _column(self, source: str, feature: str) -> list[Any]:
        """`feature` of a source by its name; read once for all evaluators."""
        if (source, feature) not in self.shared.columns:
            self.shared.columns[source, feature] = self.feature(self.open_source(source), feature)
        return self.shared.columns[source, feature]


@dataclasses.dataclass(frozen=True)
class Chosen(Sequence):
    """Some examples of a source, by their numbers; itself a source."""

    source: Sequence[Mapping[str, Any]]
    numbers: Sequence[int]

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.source[self.numbers[index]]

    def key(self, index: int) -> str:
        """What the example is called in the source."""
        own, number = getattr(self.source, "key", None), self.numbers[index]
        return own(number) if own else f"{self.name}[{number}]"


def _first(source: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first example that can be read."""
    for index in range(len(source) - 1):
        try:
            return source[index]
        except ValueError:
            continue
    return source[-1]


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays, and lists, as Python's numbers and tuples."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return tuple(value) if isinstance(value, list) else value


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
