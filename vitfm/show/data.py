"""Looks at the data of a recipe, and writes what it finds as a page."""

from __future__ import annotations

import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vitfm import config as config_lib
from vitfm import program, recipe, teachers
from vitfm.data import bad, sources, summary, tokenizer
from vitfm.data.sources import base
from vitfm.metrics import gallery
from vitfm.show import batches, cards, findings, page, terminal
from vitfm.show.findings import Finding

_LONGEST = 4096  # Tokens of a text that are counted; what is longer is cut all the same.


def write(
    config: Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    title: str,
    workdir: str,
    steps: Sequence[int],
    rows: int,
    sample: int,
    decode: bool,
) -> tuple[pathlib.Path, list[Finding]]:
    """Writes the page about the data of a recipe.

    Args:
      config: the recipe.
      out: the page.
      title: of the page.
      workdir: of a run of it, which may know more of its teacher.
      steps: whose batches are shown.
      rows: of each.
      sample: the most examples that the summary reads.
      decode: these are decoded, too.

    Returns:
      Its path, and what the reader should know first.

    Raises:
      ConfigError: the recipe makes no sense, or too many examples in a row can't be read.
    """
    p = program.build(recipe.parse(teachers.described(config, workdir)))
    data, source = p.data, sources.make(p.data.source)
    long = None
    if data.tokenizer is not None:
        options = {**p.recipe.data.get("tokenizer", {}), "length": _LONGEST}
        long = config_lib.call(tokenizer.make, options, where="data.tokenizer")
    viewer = batches.Viewer(p, source)
    shown = [cards.batch(viewer.batch(step, rows), data, long) for step in steps]
    with terminal.progress("summary", min(len(source), sample)) as seen:
        summed = summary.make(
            source,
            image=data.image_key,
            label=data.load_train.label,
            caption=data.load_train.caption,
            tokenizer=long,
            limit=data.facts.text_length,
            spec=data.spec,
            decode=decode,
            sample=sample,
            seen=seen,
        )
    command = f"python -m vitfm.data duplicates {shlex.join(_named(p.recipe.data['source']))}"
    passed = sum(len(example["passed"]) for batch in shown for example in batch["examples"])
    found = findings.of(summed, data.facts.image_size, passed, command)
    values = page.values(
        title=title,
        config=config,
        batches=shown,
        summary=summed,
        image_size=data.facts.image_size,
        found=found,
        thumbnail=viewer.thumbnail,
        key=lambda index: bad.printable(base.key(source, index)),
    )
    return gallery.write(out, "data.html.jinja", **values), found


def _named(source: str | Mapping[str, Any]) -> list[str]:
    """The sources of a recipe: one, or those that it mixes."""
    if isinstance(source, str):
        return [source]
    return [name for part in source["parts"] for name in _named(part["source"])]
