"""What decoding a damaged image raises."""

import struct
import zlib

from PIL import Image

# Pillow's decoders raise any of these; the last one is for headers that claim to be huge.
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
