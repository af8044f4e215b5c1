"""Draw a metric of a training run over its snapshots, with samples of the same heads below it.

python -m docs.plot_run outputs/train_small_cat outputs/train_small_cat/fid.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image, ImageDraw, ImageFont

from mate3d.errors import UserError
from training.run_folder.json_lines import STATS_FILE, read_lines

WIDTH, CHART_HEIGHT = 900, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 870, 34, 220
_BLUE, _GREY, _LIGHT = (37, 99, 235), (75, 85, 99), (229, 231, 235)


def read_metric(run_folder: Path, name: str) -> dict[int, float]:
    """Return the metric's values by images seen.

    Raises:
        UserError: If the run has not measured it.
    """
    records = read_lines(run_folder / STATS_FILE)
    values = {record["images_seen"]: record[name] for record in records if name in record}
    if not values:
        measured = sorted({key for record in records for key in record if "Metrics/" in key})
        found = f"it has {', '.join(measured)}" if measured else "it has no metrics"
        raise UserError(f"{run_folder / STATS_FILE} has no {name}; {found}")
    return values


def draw_chart(values: dict[int, float], title: str) -> Image.Image:
    """Draw labelled values, from zero, over thousands of images."""
    picture = Image.new("RGB", (WIDTH, CHART_HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    last, largest = max(values), max(*values.values(), 1e-6) * 1.15

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


def draw_samples(run_folder: Path, snapshots: list[int]) -> list[Image.Image]:
    """Return the first row of images and segmentations of each snapshot, with a title."""
    config = yaml.safe_load((run_folder / "config.yaml").read_text(encoding="utf-8"))
    rows, font, columns = [], ImageFont.load_default(14), config["train"]["grid_columns"]
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


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m docs.plot_run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run_folder", type=Path, help="folder of a training run")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("metric", nargs="?", default="Metrics/fid_procedural")
    words = parser.parse_args(argv)
    try:
        values = read_metric(words.run_folder, words.metric)
        title = f"{words.metric.removeprefix('Metrics/')} over images seen"
        parts = [draw_chart(values, f"{title} ({words.run_folder.name})")]
        parts += draw_samples(words.run_folder, sorted(values))
        picture = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
        top = 0
        for part in parts:
            picture.paste(part, (0, top))
            top += part.height
        picture.save(words.picture, optimize=True)
    except (UserError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
