"""Decoding of image files of any kind."""

import io

from PIL import Image

from mate3d.image_errors import DECODING_ERRORS

__all__ = ["DECODING_ERRORS", "read_image"]


def read_image(content: bytes) -> Image.Image:
    """Decode an image completely.

    Raises:
        OSError, SyntaxError, ValueError: If it is not a complete image (`DECODING_ERRORS`).
    """
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return image
