"""Draw a metric of a training run over its snapshots, with the same heads at each of them.

    python -m docs.plot_run outputs/small_cat docs/images/small_cat.png

Words: the run folder, the picture to write, and optionally the metric (Metrics/fid_procedural) and
the columns of the sample grids to show (6).
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, CHART_HEIGHT = 900, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 870, 34, 220
_BLUE, _GREY, _LIGHT = (37, 99, 235), (75, 85, 99), (229, 231, 235)


def read_metric(run_folder: Path, name: str) -> dict[int, float]:
    """Return the metric's values by images seen."""
    records = map(json.loads, (run_folder / "stats.jsonl").read_text().splitlines())
    return {record["images_seen"]: record[name] for record in records if name in record}


def draw_chart(values: dict[int, float], title: str) -> Image.Image:
    """Draw values, from zero, over thousands of images; each has its number beside it."""
    picture = Image.new("RGB", (WIDTH, CHART_HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    last, largest = max(values), max(values.values()) * 1.15

    def place(images: int, value: float) -> tuple[float, float]:
        x = _LEFT + (_RIGHT - _LEFT) * images / last
        return x, _BOTTOM - (_BOTTOM - _TOP) * value / largest

    draw.text((_LEFT, 6), title, _GREY, font)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, y = place(0, share * largest)
        draw.line((_LEFT, y, _RIGHT, y), _LIGHT)
        draw.text((_LEFT - 8, y), f"{share * largest:.1f}", _GREY, font, anchor="rm")
    points = [place(images, value) for images, value in sorted(values.items())]
    draw.line(points, _BLUE, 2, joint="curve")
    for (images, value), (x, y) in zip(sorted(values.items()), points, strict=True):
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), _BLUE)
        draw.text((x, y - 8), f"{value:.2f}", _GREY, font, anchor="mb")
        draw.text((x, _BOTTOM + 8), f"{images / 1000:g}k", _GREY, font, anchor="mt")
    return picture


def draw_samples(run_folder: Path, snapshots: list[int], columns: int) -> list[Image.Image]:
    """Return the first row of each snapshot's grids of images and segmentations, titled."""
    rows, font = [], ImageFont.load_default(14)
    tile = (WIDTH - _LEFT) // (2 * columns)
    for images in snapshots:
        row = Image.new("RGB", (WIDTH, tile), "white")
        ImageDraw.Draw(row).text((_LEFT - 8, tile / 2), f"{images / 1000:g}k", _GREY, font, "rm")
        for place, name in enumerate(("image", "segmentation")):
            grid = Image.open(run_folder / "samples" / f"{images:09d}_{name}.png").convert("RGB")
            side = grid.width // columns
            strip = grid.crop((0, 0, grid.width, side)).resize((columns * tile, tile), 0)
            row.paste(strip, (_LEFT + place * columns * tile, 0))
        rows.append(row)
    return rows


def main(words: list[str]) -> None:
    """Read the words of the command line and write the picture."""
    run_folder, target = map(Path, words[:2])
    name = words[2] if len(words) > 2 else "Metrics/fid_procedural"
    columns = int(words[3]) if len(words) > 3 else 6
    values = read_metric(run_folder, name)
    title = f"{name.removeprefix('Metrics/')} over images seen ({run_folder.name})"
    parts = [draw_chart(values, title), *draw_samples(run_folder, sorted(values), columns)]
    picture = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height
    picture.save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
