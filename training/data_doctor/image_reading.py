"""Decoding of image files of any kind."""

import io

import numpy as np
from PIL import Image


def read_image(content: bytes) -> Image.Image:
    """Decode an image completely.

    Raises:
        OSError, SyntaxError, ValueError: If it is not a complete image (`DECODING_ERRORS`).
    """
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an image as 8-bit RGB, transparent pixels over white."""
    if image.mode.startswith(("I", "F")):
        values = np.array(image).astype(np.float64)
        is_wide = image.mode.startswith("I;16") or values.max(initial=0) > 255
        values = values / 257 if is_wide else values
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
