"""Accuracy after equal training time: vitfm's supervised recipe against timm's ViT, cross-entropy and AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import equal_time

MATCH = equal_time.Match(
    "supervised_vs_timm",
    peer="timm",
    config="configs/supervised.py",
    metric="test_style/classification",
    description=f"{__doc__}\n\n{equal_time.__doc__}",
)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what `--out` holds."""
    return equal_time.run(MATCH, argv)


if __name__ == "__main__":
    main()
