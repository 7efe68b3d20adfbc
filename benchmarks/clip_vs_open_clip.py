"""Zero-shot accuracy after equal training time: vitfm's CLIP recipe against open_clip's model class, loss and AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks import equal_time

MATCH = equal_time.Match(
    "clip_vs_open_clip",
    peer="open_clip",
    config="configs/clip.py",
    metric="test_style/zeroshot",
    description=f"{__doc__}\n\n{equal_time.__doc__}",
)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what `--out` holds."""
    return equal_time.run(MATCH, argv)


if __name__ == "__main__":
    main()
