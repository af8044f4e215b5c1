"""Open photos of any format and mode."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mate3d.errors import UserError
from mate3d.image_errors import DECODING_ERRORS


def open_photo(path: str | Path) -> Image.Image:
    """Read a photo as upright 8-bit RGB: EXIF orientation applied, transparency over white.

    Raises:
        UserError: If the file is missing, damaged, or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise UserError(f"photo not found: {path}") from None
    except UnidentifiedImageError:
        raise UserError(f"photo {path} is not an image in a supported format") from None
    except DECODING_ERRORS as error:
        raise UserError(f"photo {path} is damaged or truncated: {error}") from None
    return to_rgb(upright)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as 8-bit RGB, transparent pixels over white.

    16-bit grey values (and 32-bit ones, if any exceeds 255) are scaled; Pillow would clip them.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image).astype(np.float64)
        is_wide = image.mode.startswith("I;16") or values.max(initial=0) > 255
        values = values / 257 if is_wide else values
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
