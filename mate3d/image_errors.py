"""The exceptions that decoding a damaged image can raise."""

import struct
import zlib

from PIL import Image

# Pillow's decoders raise any of these; the last is for headers that claim a huge size.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
