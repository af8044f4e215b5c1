"""Small pictures for the report: an image beside the same image under its coloured mask."""

import base64
import io
import warnings

import numpy as np
from PIL import Image, ImageDraw

from mate3d.errors import UserError
from mate3d.image_errors import DECODING_ERRORS
from mate3d.labels import LabelSet
from mate3d.photo.open_photo import to_rgb
from training.data.doctor.mask_reading import read_image, read_mask
from training.data.format import DatasetFiles

THUMBNAIL_SIDE = 136

_MASK_SHARE = 0.6
_UNKNOWN_COLOR = (255, 0, 255)
_MISSING_COLOR = (229, 231, 235)
_CROSS_COLOR = (156, 163, 175)


def make_thumbnail(
    files: DatasetFiles, image: str | None, mask: str | None, label_set: LabelSet | None
) -> str:
    """Return a data URI of two squares: the image, and the mask's colours over it.

    Ids that the label set does not have are magenta, without a label set masks are grey, and what
    is missing or cannot be read is a crossed square.

    Args:
        files: The data set.
        image: File of the image, None if there is none.
        mask: File of the mask, None if there is none.
        label_set: Colours of the classes.
    """
    picture = _read_picture(files, image)
    colors = _read_colors(files, mask, label_set)
    empty = _draw_missing()
    overlay = colors
    if picture is not None and colors is not None:
        overlay = Image.blend(picture, colors, _MASK_SHARE)
    strip = Image.new("RGB", (2 * THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    strip.paste(picture or empty, (0, 0))
    strip.paste(overlay or empty, (THUMBNAIL_SIDE, 0))
    file = io.BytesIO()
    strip.save(file, format="JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _draw_missing() -> Image.Image:
    square = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), _MISSING_COLOR)
    last = THUMBNAIL_SIDE - 1
    draw = ImageDraw.Draw(square)
    draw.line((0, 0, last, last), fill=_CROSS_COLOR, width=2)
    draw.line((0, last, last, 0), fill=_CROSS_COLOR, width=2)
    return square


def _read_picture(files: DatasetFiles, file: str | None) -> Image.Image | None:
    if file is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _fit(to_rgb(read_image(files.read(file))), Image.Resampling.LANCZOS)
    except (UserError, *DECODING_ERRORS):
        return None


def _read_colors(
    files: DatasetFiles, file: str | None, label_set: LabelSet | None
) -> Image.Image | None:
    if file is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = read_mask(files.read(file), label_set.palette if label_set else ()).values
    except (UserError, *DECODING_ERRORS):
        return None
    table = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 3))
    if label_set is not None:
        table[:] = _UNKNOWN_COLOR
        table[: label_set.num_classes] = label_set.palette
    return _fit(Image.fromarray(table[values]), Image.Resampling.NEAREST)


def _fit(image: Image.Image, filter_: Image.Resampling) -> Image.Image:
    """Bring a picture into the square; what is not square keeps its shape, with a grey rest."""
    scale = THUMBNAIL_SIDE / max(image.size)
    size = tuple(max(round(scale * side), 1) for side in image.size)
    # Tiny pictures are enlarged as they are, so that single pixels can be seen.
    is_tiny = max(image.size) < THUMBNAIL_SIDE
    fitted = image.resize(size, Image.Resampling.NEAREST if is_tiny else filter_)
    square = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), _MISSING_COLOR)
    square.paste(fitted, tuple((THUMBNAIL_SIDE - side) // 2 for side in size))
    return square
