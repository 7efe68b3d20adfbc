"""How numbers, durations and metric names read in a terminal and in a report."""

from __future__ import annotations

import re

# Names whose values are parts of one, shown as percentages.
_FRACTION = re.compile(
    r"(^|[_/])(top_?\d+|accuracy|m?ap\d*|m?iou|f1|auroc|share|data_wait|(recall|precision)(_at)?_?\d*|[rp]\d+)([_/]|$)"
)


def is_fraction(name: str) -> bool:
    """Whether a metric of this name is a part of one, best read as a percentage ("test/knn/top1", "accuracy")."""
    # Of `split/evaluator/metric` only the metric speaks: an evaluator called "accuracy" may also give a loss.
    telling = name.rsplit("/", 1)[-1] if name.count("/") >= 2 else name
    return bool(_FRACTION.search(telling.lower()))


def number(value: float | str | None) -> str:
    """Four significant digits; whole numbers in full, with separators; a dash for None."""
    if value is None or isinstance(value, str):
        return value or "–"
    if float(value).is_integer() and abs(value) < 1e12:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.2e}"


def metric(name: str, value: float | str | None) -> str:
    """The value of metric `name`: a percentage where it is a fraction, else a number."""
    if isinstance(value, int | float) and is_fraction(name) and 0 <= value <= 1:
        return f"{100 * value:.1f}%"
    return number(value)


def duration(seconds: float | None) -> str:
    """The two leading units: "2 d 3 h", "4 min 10 s"; "3.2 s" below a minute."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next(i for i, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def words(name: str) -> str:
    """A name as words: "text_to_image_recall1" -> "text to image recall 1", the number on the line of its word."""
    return re.sub(r"(?<=[a-z])(?=\d)", "\N{NO-BREAK SPACE}", name.replace("_", " "))
