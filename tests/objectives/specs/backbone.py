"""An encoder alone has no loss; tests/objectives/test_backbone.py shows that it says so."""

from tests.objectives.specs import Spec

CASES: dict[str, Spec] = {}
