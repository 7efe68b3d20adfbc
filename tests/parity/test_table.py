"""What docs/parity.md says of objectives is what their tests say, and none is left out."""

from __future__ import annotations

from tests.parity import table


def test_the_page_has_a_line_for_every_objective():
    assert table.objectives() in (table.ROOT / "docs/parity.md").read_text()
