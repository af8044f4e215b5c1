"""Fit what colour words mean for each part: the file of the asset `procedural_colors`.

Renders exact procedural portraits with their captions, and takes the mean colour of every part
whose colour the caption names. An edit is judged by these colours, which did not guide it.

    python benchmarks/fit_part_colors.py output=mate3d/assets/procedural_colors/colors.yaml
"""

import sys
from dataclasses import asdict
from pathlib import Path

import yaml
from common import read_words

from mate3d.metrics.named_colors import fit_colors, named_colors
from mate3d.procedural.portraits import CAT, PERSON, make_portraits

DEFAULTS = {"portraits": "800", "resolution": "64", "batch": "8", "seed": "5000", "output": ""}


def main() -> None:
    """Render, fit and write."""
    options = read_words(DEFAULTS)
    count, batch, first = (int(options[name]) for name in ("portraits", "batch", "seed"))
    fitted = {}
    for kind in (CAT, PERSON):
        named = []
        for start in range(first, first + count, batch):
            seeds = range(start, min(start + batch, first + count))
            made = make_portraits(kind, seeds, int(options["resolution"]))
            named += named_colors(
                made.render.image, made.render.label_map, made.captions, kind.label_set
            )
        parts = fit_colors(named)
        fitted[kind.label_set.name] = {part: asdict(parts[part]) for part in sorted(parts)}
    text = yaml.safe_dump(fitted, sort_keys=False, default_flow_style=None)
    if options["output"]:
        Path(options["output"]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
