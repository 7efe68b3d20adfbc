"""An example of a source as a record of TFDS, or why it is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError, UserError
from vitfm.data import bad
from vitfm.data.bad import BadExample
from vitfm.data.prepare import images, values
from vitfm.data.prepare.kinds import Kind
from vitfm.data.prepare.plan import Plan
from vitfm.data.sources import base


class Records:
    """index -> the serialized tf.train.Example of an example, with the same bytes each time.

    Attributes:
      plan: says how.
    """

    def __init__(self, source: base.Source, plan: Plan):
        from tensorflow_datasets.core.example_serializer import ExampleSerializer

        self._source, self.plan = source, plan
        self._images = [name for name, kind in plan.kinds.items() if isinstance(kind, Kind) and kind.type == "image"]
        self._features = plan.features()
        self._serializer = ExampleSerializer(self._features.get_serialized_info())

    def __call__(self, index: int) -> bytes | bad.Found:
        """The record, or why the example can't be used.

        Raises:
          ConfigError: not this example is wrong, but what is asked of all.
          UserError: the machine is to blame.
        """
        try:
            return self._record(self.plan.request.example(self._source, index))
        except ConfigError:
            raise
        except ValueError as error:
            return bad.found(index, base.key(self._source, index), error)
        except OSError as error:
            raise UserError(f"{base.key(self._source, index)} of {self._source.name}: {error}.") from error

    def _record(self, example: Mapping[str, Any]) -> bytes:
        values.check_known(example, self.plan.kinds)
        stored = {name: self._stored(name, example.get(name)) for name in self.plan.kinds}
        for name in self._images:
            stored[name] = images.stored(stored[name], self.plan.request.check, self.plan.request.resize)
        encoded = self._features.encode_example(stored)
        return self._serializer.get_tf_example(encoded).SerializeToString(deterministic=True)

    def _stored(self, name: str, value: Any) -> Any:
        try:
            return values.stored(value, self.plan.kinds[name], self.plan.classes.get(name))
        except BadExample as error:
            raise BadExample(error.reason, f"{name}: {error}") from None
