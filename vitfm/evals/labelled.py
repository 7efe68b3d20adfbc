"""Labels as evaluators will find them: what they would refuse is told before a run begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vitfm.evals import base


class Labels(NamedTuple):
    """Labels of what is trained on and of what is evaluated.

    Attributes:
      name: of the feature.
      train, test: its values: texts, numbers, tuples of either, None.
      classes: names of those that are told apart, of which integers are indices; () where it can't be a label.
    """

    name: str
    train: Sequence[Any]
    test: Sequence[Any]
    classes: tuple[str, ...]

    @property
    def texts(self) -> bool:
        """Whether they are words, which a text tower can read."""
        return isinstance(next((value for value in self.train if value is not None), None), str)

    def flaw(self, evaluator: Mapping[str, Any]) -> str:
        """Why an evaluator would refuse these labels, or could find no answer right; "" for no reason."""
        probe, zeroshot = "train" in evaluator, "tasks" in evaluator
        trained, tested = (_each(values) for values in (self.train, self.test))
        if len(trained) < 2:
            return f"{self.name!r} is {next(iter(trained), None)!r} all over"
        read = [*self.test, *(self.train if probe or zeroshot else ())]
        if None in read:
            return f"{read.count(None):,} of {len(read):,} images have no {self.name!r}"
        kinds = (str, int) if probe or zeroshot else (str, int, tuple)
        if unlike := [value for value in read if not isinstance(value, kinds)]:
            return f"{self.name!r} is no class, but such as {unlike[0]!r}"
        candidates = trained if probe else {*self.classes, *range(len(self.classes))}
        unseen = tested - candidates or (tested if not zeroshot and tested.isdisjoint(trained) else ())
        return f"no training image has {self.name!r} = {min(unseen, key=str)!r}" if unseen else ""


def make(name: str, train: Sequence[Any], test: Sequence[Any], classes: Sequence[str]) -> Labels:
    """Labels of these values, in which NumPy's become Python's."""
    return Labels(name, *(list(map(base.plain, values)) for values in (train, test)), tuple(classes))


def _each(values: Sequence[Any]) -> set[Any]:
    """The classes among labels."""
    return {one for value in values for one in (value if isinstance(value, tuple) else (value,))} - {None}
