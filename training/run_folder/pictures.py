"""Sample grids of a run, embedded in its page."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mate3d.image_errors import DECODING_ERRORS
from mate3d.outputs.page import data_uri

_MAX_WIDTH = 1600
_MAX_PNG_BYTES = 300_000
_NAME = re.compile(r"(\d{9,})_(\w+)\.png")
# The most important first.
_ORDER = ("image", "overlay", "segmentation", "normals", "depth", "sdf_slices")


def find_grids(folder: Path) -> dict[int, dict[str, Path]]:
    """Return the files of `save_grids` in order: images seen -> name -> path."""
    found = [
        (match, path) for path in folder.glob("*.png") if (match := _NAME.fullmatch(path.name))
    ]
    place = {name: index for index, name in enumerate(_ORDER)}
    found.sort(key=lambda one: (int(one[0][1]), place.get(one[0][2], len(place)), one[0][2]))
    grids: dict[int, dict[str, Path]] = {}
    for match, path in found:
        grids.setdefault(int(match[1]), {})[match[2]] = path
    return grids


def embed_grids(paths: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return name, data URI and width of each readable image."""
    pictures = []
    for name, path in paths.items():
        try:
            with Image.open(path) as image:
                uri, width = _embed(image.convert("RGB"), path)
        except DECODING_ERRORS:
            continue
        pictures.append({"name": name.replace("_", " "), "uri": uri, "width": width})
    return pictures


def _embed(image: Image.Image, path: Path) -> tuple[str, int]:
    """Keep small images unchanged; shrink large ones."""
    if image.width <= _MAX_WIDTH and path.stat().st_size <= _MAX_PNG_BYTES:
        data, kind = path.read_bytes(), "png"
    else:
        image.thumbnail((_MAX_WIDTH, 4 * _MAX_WIDTH), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=88, subsampling=0)
        data, kind = file.getvalue(), "jpeg"
    return data_uri(data, kind), image.width
