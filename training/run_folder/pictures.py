"""Sample grids of a run as pictures inside the page."""

import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from mate3d.image_errors import DECODING_ERRORS
from mate3d.outputs.page import data_uri

_MAX_WIDTH = 1600
_MAX_PNG_BYTES = 300_000
_NAME = re.compile(r"(\d{9,})_(\w+)\.png")
# What a reader looks at first.
_ORDER = ("image", "overlay", "segmentation", "normals", "depth", "sdf_slices")


def find_grids(folder: Path) -> dict[int, dict[str, Path]]:
    """Return the files of `save_grids`: images seen -> name -> path, both in order."""
    grids: dict[int, dict[str, Path]] = {}
    for path in folder.glob("*.png"):
        match = _NAME.fullmatch(path.name)
        if match:
            grids.setdefault(int(match[1]), {})[match[2]] = path
    return {
        images: dict(sorted(grids[images].items(), key=lambda item: _place(item[0])))
        for images in sorted(grids)
    }


def _place(name: str) -> tuple[int, str]:
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER)), name


def embed_grids(paths: Iterable[tuple[str, Path]]) -> list[dict[str, Any]]:
    """Return name, data URI and width of each picture; what cannot be read is left out."""
    pictures = []
    for name, path in paths:
        try:
            with Image.open(path) as image:
                uri, width = _embed(image.convert("RGB"), path)
        except DECODING_ERRORS:
            continue
        pictures.append({"name": name.replace("_", " "), "uri": uri, "width": width})
    return pictures


def _embed(image: Image.Image, path: Path) -> tuple[str, int]:
    """Keep small pictures as they are; shrink large ones."""
    if image.width <= _MAX_WIDTH and path.stat().st_size <= _MAX_PNG_BYTES:
        data, kind = path.read_bytes(), "png"
    else:
        image.thumbnail((_MAX_WIDTH, 4 * _MAX_WIDTH), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=88, subsampling=0)
        data, kind = file.getvalue(), "jpeg"
    return data_uri(data, kind), image.width
