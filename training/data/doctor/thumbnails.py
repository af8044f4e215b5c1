"""Thumbnails for the report: an image beside the same image under its coloured mask."""

import base64
import io
from functools import partial

import numpy as np
from PIL import Image

from mate3d.labels import LabelSet
from mate3d.photo.open_photo import to_rgb
from training.data.doctor.reading import read_image, read_mask, try_reading
from training.data.format import DatasetFiles

THUMBNAIL_SIDE = 136

_MASK_SHARE = 0.6
_UNKNOWN_COLOR = (255, 0, 255)
_MISSING_COLOR = (229, 231, 235)


def make_thumbnail(
    files: DatasetFiles, image: str | None, mask: str | None, label_set: LabelSet | None
) -> str:
    """Return a data URI of two squares: the image, and the mask's colours over it.

    Ids outside the label set are magenta, masks without a label set are grey, and missing or
    unreadable files are shown as a grey square.
    """
    picture, _ = try_reading(files, image, _make_picture)
    overlay, _ = try_reading(files, mask, partial(_make_colors, label_set=label_set))
    if picture is not None and overlay is not None:
        overlay = Image.blend(picture, overlay, _MASK_SHARE)
    strip = Image.new("RGB", (2 * THUMBNAIL_SIDE, THUMBNAIL_SIDE), _MISSING_COLOR)
    for part, left in ((picture, 0), (overlay, THUMBNAIL_SIDE)):
        if part is not None:
            strip.paste(part, (left, 0))
    file = io.BytesIO()
    strip.save(file, format="JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _make_picture(content: bytes) -> Image.Image:
    return _fit(to_rgb(read_image(content)), Image.Resampling.LANCZOS)


def _make_colors(content: bytes, label_set: LabelSet | None) -> Image.Image:
    values, _ = read_mask(content, label_set.palette if label_set else ())
    table = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 3))
    if label_set is not None:
        table[:] = _UNKNOWN_COLOR
        table[: label_set.num_classes] = label_set.palette
    return _fit(Image.fromarray(table[values]), Image.Resampling.NEAREST)


def _fit(image: Image.Image, filter_: Image.Resampling) -> Image.Image:
    """Fit an image into the square, keeping its aspect ratio on a grey background."""
    scale = THUMBNAIL_SIDE / max(image.size)
    size = tuple(max(round(scale * side), 1) for side in image.size)
    fitted = image.resize(size, filter_)
    square = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), _MISSING_COLOR)
    square.paste(fitted, tuple((THUMBNAIL_SIDE - side) // 2 for side in size))
    return square
