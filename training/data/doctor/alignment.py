"""Whether the borders of a mask lie on edges of its image."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, sobel

from training.data.doctor.reading import find_boundaries

# Small enough to be fast, large enough to see a shift of three percent.
_SIDE = 64
_MAX_SHIFT = 12


@dataclass(frozen=True)
class Alignment:
    """Correlation of a mask's borders with its image's edges, -1..1."""

    own: float  # as they lie
    best: float  # at the best shift
    shift: tuple[float, float]  # that one, of the side; right and down positive
    mirrored: float  # with the mask mirrored


def measure_alignment(
    image: np.ndarray,  # [H, W] float32, grey
    values: np.ndarray,  # [H, W] uint8, of any size
) -> Alignment:
    """Compare edges and borders on a small grid."""
    size = (_SIDE, _SIDE)
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    edges = np.hypot(sobel(picture, axis=0), sobel(picture, axis=1))
    # The root keeps a few strong edges, such as a bright background's, from drowning the others.
    edges = _standardize(gaussian_filter(np.sqrt(edges), 0.7))
    small = np.asarray(Image.fromarray(values).resize(size, Image.Resampling.NEAREST))
    borders = _standardize(gaussian_filter(find_boundaries(small).astype(np.float32), 0.7))
    correlation = _correlate(edges, borders)
    around = slice(_SIDE // 2 - _MAX_SHIFT, _SIDE // 2 + _MAX_SHIFT + 1)
    near = correlation[around, around]
    down, right = np.unravel_index(near.argmax(), near.shape)
    return Alignment(
        own=float((edges * borders).mean()),
        best=float(near.max()),
        shift=(float(right - _MAX_SHIFT) / _SIDE, float(down - _MAX_SHIFT) / _SIDE),
        mirrored=float((edges * borders[:, ::-1]).mean()),
    )


def _standardize(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / spread if spread > 1e-6 else np.zeros_like(values)


def _correlate(edges: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Return the circular correlation at each shift of the borders; no shift is at the centre."""
    product = np.fft.rfft2(edges) * np.conj(np.fft.rfft2(borders))
    return np.fft.fftshift(np.fft.irfft2(product, s=edges.shape)) / edges.size
