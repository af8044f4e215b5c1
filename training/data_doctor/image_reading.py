"""Decoding of image files of any kind."""

import io

from PIL import Image

# Decoders raise any of these on damaged files.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    EOFError,
    Image.DecompressionBombError,
)


def read_image(content: bytes) -> Image.Image:
    """Decode an image completely.

    Raises:
        OSError, SyntaxError, ValueError: If it is not a complete image (`DECODING_ERRORS`).
    """
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return image
