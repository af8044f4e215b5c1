"""Crop photos, with their label maps and landmarks, as in the FFHQ and EG3D datasets.

A crop is a 2D similarity transform, applied to image, label map and landmarks alike. Points are
pixels (x, y), y down, with pixel centres at +0.5.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from mate3d.errors import UserError
from mate3d.photo.landmarks import Point

# Five points of an average adult face (ordered as FIVE_POINTS) in decimetres, relative to a point
# inside the head: x right in a frontal portrait, y up, z towards the viewer.
FACE_DECIMETRES = np.array(
    [
        [-0.31, 0.29, 0.13],
        [0.31, 0.29, 0.13],
        [0.0, -0.05, 0.55],
        [-0.25, -0.38, 0.22],
        [0.25, -0.38, 0.22],
    ]
)
# In decimetres: EG3D scales photos to 300 pixels per decimetre and keeps the central 700.
EG3D_SIDE = 700 / 300
# Minimum fraction of a crop that must be inside the photo.
_MIN_INSIDE = 0.25
# Blur of the padding, and distance from the photo at which it is fully blurred; in crop sides.
_BLUR = 0.02
_BLUR_RAMP = 0.08


@dataclass(frozen=True)
class Crop:
    """A square of a photo, possibly rotated, that is resampled to `size` pixels.

    Args:
        center: Centre of the square, in photo pixels.
        side: Side of the square, in photo pixels.
        turn: Clockwise rotation of the square relative to the photo, in radians.
        size: Side of the result, in pixels.
    """

    center: Point
    side: float
    turn: float
    size: int

    @property
    def enlargement(self) -> float:
        """Linear scale factor from the photo to the result."""
        return self.size / self.side

    @property
    def photo_from_crop(self) -> np.ndarray:  # [2, 3]
        """Matrix that maps (x, y, 1) in the crop to the photo."""
        scale = self.side / self.size
        cos, sin = scale * math.cos(self.turn), scale * math.sin(self.turn)
        linear = np.array([[cos, -sin], [sin, cos]])
        shift = np.array(self.center) - linear @ np.full(2, self.size / 2)
        return np.column_stack([linear, shift])

    def move_points(self, points: np.ndarray) -> np.ndarray:  # [N, 2] -> [N, 2]
        """Map points of the photo to the crop."""
        matrix = self.photo_from_crop
        return np.linalg.solve(matrix[:, :2], (np.asarray(points) - matrix[:, 2]).T).T

    def move_landmarks(self, landmarks: Mapping[str, Point]) -> dict[str, Point]:
        """Map named points of the photo to the crop."""
        if not landmarks:
            return {}
        moved = self.move_points(np.array(list(landmarks.values())))
        return dict(zip(landmarks, map(tuple, moved.tolist()), strict=True))

    def cut_image(self, photo: Image.Image) -> Image.Image:
        """Return the antialiased crop of an RGB photo, padded with its mirrored, blurred image."""
        shrink = int(self.side / self.size)
        if shrink > 1:
            center = (self.center[0] / shrink, self.center[1] / shrink)
            smaller = Crop(center, self.side / shrink, self.turn, self.size)
            return smaller.cut_image(photo.convert("RGB").reduce(shrink))
        padded, offset = _pad(np.asarray(photo.convert("RGB")), self._outside(*photo.size))
        if any(offset) or padded.shape[:2] != photo.size[::-1]:
            padded = _blur_outside(padded, offset, photo.size, self.side)
        # Sample at least as finely as the photo's pixels, then average.
        factor = max(1, math.ceil(self.side / self.size))
        fine = self._warp(Image.fromarray(padded), offset, factor, Image.Resampling.BICUBIC)
        return fine.reduce(factor) if factor > 1 else fine

    def cut_label_map(self, label_map: np.ndarray) -> np.ndarray:  # [H, W] -> [size, size] uint8
        """Return the nearest-neighbour crop of a label map, mirrored outside it."""
        height, width = label_map.shape
        padded, offset = _pad(label_map.astype(np.uint8), self._outside(width, height))
        return np.array(self._warp(Image.fromarray(padded), offset, 1, Image.Resampling.NEAREST))

    def _corners(self) -> np.ndarray:  # [4, 2] pixels of the photo
        corners = np.array([[0, 0, 1], [self.size, 0, 1], [0, self.size, 1], [self.size] * 2 + [1]])
        return corners @ self.photo_from_crop.T

    def _outside(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return how far the crop extends beyond a photo: left, top, right, bottom."""
        low, high = self._corners().min(axis=0), self._corners().max(axis=0)
        inside = np.clip(np.minimum(high, (width, height)) - np.maximum(low, 0), 0, None)
        if inside.prod() < _MIN_INSIDE * (high - low).prod():
            raise UserError("the crop around the landmarks is mostly outside the photo")
        # Two extra pixels for interpolation at the border.
        reach = [-low[0], -low[1], high[0] - width, high[1] - height]
        return tuple(max(0, math.ceil(value) + 2) for value in reach)

    def _warp(
        self,
        image: Image.Image,
        offset: tuple[int, int],
        factor: int,
        resampling: Image.Resampling,
    ) -> Image.Image:
        matrix = self.photo_from_crop
        matrix[:, :2] /= factor
        matrix[:, 2] += offset
        size = (self.size * factor,) * 2
        return image.transform(size, Image.Transform.AFFINE, matrix.ravel().tolist(), resampling)


def middle_box(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest central square of a photo: left, top, right, bottom.

    It is aligned to pixels, so that it can be cut without resampling.
    """
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def ffhq_crop(
    five: np.ndarray,  # [5, 2]
    size: int = 1024,
) -> Crop:
    """Return the oriented square of Karras et al. 2018 (Progressive GAN), appendix C.

    Args:
        five: Points of a face, ordered as FIVE_POINTS.

    Raises:
        UserError: If the points coincide or belong to a mirrored face.
    """
    left_eye, right_eye, left_mouth, right_mouth = _checked(five)[[0, 1, 3, 4]]
    along = right_eye - left_eye
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    up = eyes - mouth
    center = eyes - 0.1 * up
    side = max(4.0 * np.linalg.norm(along), 3.6 * np.linalg.norm(up))
    # With y down, the formula's quarter turn maps (x, y) to (y, -x): right to up.
    horizontal = along - (up[1], -up[0])
    turn = math.atan2(horizontal[1], horizontal[0])
    return Crop(center=tuple(center.tolist()), side=float(side), turn=turn, size=size)


def eg3d_crop(
    five: np.ndarray,  # [5, 2]
    size: int = 512,
) -> Crop:
    """Return EG3D's upright square crop (Chan et al. 2022, after Deng et al. 2019).

    A least-squares fit of a weak-perspective camera to an average face gives the scale and the
    projected centre of the head; the square is centred there and 2.33 decimetres wide.

    Args:
        five: Points of a face, ordered as FIVE_POINTS.

    Raises:
        UserError: If the points coincide or belong to a mirrored face.
    """
    face = np.column_stack([FACE_DECIMETRES * (1, -1, -1), np.ones(5)])
    camera = np.linalg.lstsq(face, _checked(five), rcond=None)[0]
    scale = np.linalg.norm(camera[:3], axis=0).mean()
    return Crop(
        center=tuple(camera[3].tolist()), side=float(EG3D_SIDE * scale), turn=0.0, size=size
    )


def _checked(five: np.ndarray) -> np.ndarray:  # [5, 2] float64
    five = np.asarray(five, dtype=np.float64)
    assert five.shape == (5, 2), five.shape
    along = five[1] - five[0]
    up = (five[0] + five[1] - five[3] - five[4]) / 2
    if not np.isfinite(five).all() or min(np.linalg.norm(along), np.linalg.norm(up)) < 1:
        raise UserError("cannot align: eyes or mouth corners of the five landmarks coincide")
    # In profile the eyes may swap slightly; only a clear swap is an error.
    if along @ (-up[1], up[0]) < -0.3 * (up @ up):
        raise UserError(
            "the five landmarks belong to a mirrored face; list the eye and mouth corner on the"
            " left of the image first"
        )
    return five


def _pad(
    array: np.ndarray,  # [H, W] or [H, W, C]
    reach: tuple[int, int, int, int],
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pad an image with its mirror images; return it with the (x, y) of its original corner."""
    left, top, right, bottom = reach
    padding = [(top, bottom), (left, right)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, padding, mode="symmetric"), (left, top)


def _blur_outside(
    padded: np.ndarray,  # [H, W, 3] uint8
    offset: tuple[int, int],
    size: tuple[int, int],
    side: float,
) -> np.ndarray:  # [H, W, 3] uint8
    """Blur the padding of a photo, increasingly with distance from it."""
    beyond = [
        np.maximum(start - np.arange(length), np.arange(length) - (start + extent - 1)).clip(0)
        for start, extent, length in zip(offset, size, padded.shape[1::-1], strict=True)
    ]
    ramp = (np.hypot(beyond[0][None, :], beyond[1][:, None]) / (_BLUR_RAMP * side)).clip(0, 1)
    weight = (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)[..., None]
    picture = padded.astype(np.float32)
    blurred = _blur(Image.fromarray(padded), _BLUR * side)
    return np.rint(picture + weight * (blurred - picture)).astype(np.uint8)


def _blur(image: Image.Image, sigma: float) -> np.ndarray:  # [H, W, 3] float32
    """Apply a Gaussian blur; wide ones at a lower resolution, to save time."""
    shrink = max(1, int(sigma / 2))
    small = np.asarray(image.reduce(shrink), dtype=np.float32)
    small = gaussian_filter(small, (sigma / shrink, sigma / shrink, 0), mode="nearest", truncate=3)
    rounded = Image.fromarray(np.rint(small).astype(np.uint8))
    box = (0, 0, image.width / shrink, image.height / shrink)
    return np.asarray(rounded.resize(image.size, Image.Resampling.BILINEAR, box), dtype=np.float32)
