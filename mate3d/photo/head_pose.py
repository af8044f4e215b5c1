"""Estimate a portrait's camera from head landmarks (perspective-n-point)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import OptimizeResult, least_squares

from mate3d.cameras import DEFAULT_FOCAL, DEFAULT_RADIUS
from mate3d.errors import UserError
from mate3d.photo.canonical_heads import CanonicalHead
from mate3d.photo.landmarks import Point

MIN_LANDMARKS = 4
_MAX_PITCH = 1.4
# Landmarks may be outside a crop, by up to this many sides.
_MAX_SIDES = 4
# Fits closer than this are rejected; the solver's own bound is a little closer.
_MIN_DISTANCE = 1.2
_DISTANCE_BOUND = 0.5
# Errors beyond this multiple of the expected one are down-weighted.
_OUTLIER = 3.0
_START_YAWS = (-0.8, 0.0, 0.8)


@dataclass(frozen=True)
class CameraEstimate:
    """A camera fitted to the landmarks of an average head.

    Args:
        camera: The 25 numbers of a camera label.
        residual: RMS distance between the landmarks and the projected average head, as a fraction
            of the image side.
        yaw: Radians, positive if the camera is towards +x, as in `make_camera`.
        pitch: Radians, positive if the camera is above the head.
        roll: Radians, positive if the head in the image is rotated counter-clockwise.
    """

    camera: tuple[float, ...]
    residual: float
    yaw: float
    pitch: float
    roll: float


def estimate_camera(
    landmarks: Mapping[str, Point],
    image_size: int,
    canonical: CanonicalHead,
    *,
    distance: float | None = DEFAULT_RADIUS,
    focal: float = DEFAULT_FOCAL,
    target_spread: float = 0.01,
) -> CameraEstimate:
    """Fit a camera on a sphere around the head to its landmarks.

    The camera looks at a point near the world origin and may roll. The fit minimises robust
    distances in the image from several initial guesses.

    Args:
        landmarks: Pixels of a square image, by name; names not in `canonical` are ignored.
        image_size: Side of the image, in pixels.
        distance: Distance of the camera from the world origin; None estimates it too.
        focal: Focal length divided by the image size.
        target_spread: Standard deviation of crop centres around the projected world origin, in
            world units. 0 makes the camera look at the origin; inf leaves the target free.

    Raises:
        UserError: If there are too few landmarks, one is far outside the image, or they do not
            determine a camera.
    """
    names = [name for name in canonical.points if name in landmarks]
    if len(names) < MIN_LANDMARKS:
        raise UserError(
            f"found landmarks {', '.join(names) or 'none'} of a {canonical.name}; estimating a "
            f"camera requires at least {MIN_LANDMARKS}"
        )
    for name in names:
        # Written so that NaN is rejected too.
        if not max(map(abs, landmarks[name])) <= _MAX_SIDES * image_size:
            raise UserError(f"landmark {name} at {landmarks[name]} is far outside the image")
    problem = _Problem(
        world=np.array([canonical.points[name] for name in names]),
        image=np.array([landmarks[name] for name in names], dtype=np.float64) / image_size,
        spread=np.array([canonical.spread[name] for name in names])[:, None],
        modes=np.array([[mode.get(name, (0, 0, 0)) for name in names] for mode in canonical.modes]),
        distance=distance,
        focal=focal,
        target_spread=target_spread,
    )
    best = min((problem.solve(start) for start in problem.starts()), key=lambda fit: fit.cost)
    yaw, pitch, roll = best.x[:3]
    errors = problem.project(best.x) - problem.image
    if not np.isfinite(errors).all() or abs(pitch) > _MAX_PITCH - 1e-3:
        raise UserError(f"the landmarks {', '.join(names)} do not determine a camera")
    if np.linalg.norm(problem.cam2world(best.x)[:3, 3]) < _MIN_DISTANCE:
        raise UserError(f"the landmarks {', '.join(names)} do not determine the camera's distance")
    intrinsics = (focal, 0.0, 0.5, 0.0, focal, 0.5, 0.0, 0.0, 1.0)
    return CameraEstimate(
        camera=(*problem.cam2world(best.x).ravel().tolist(), *intrinsics),
        residual=float(np.sqrt(np.square(errors).sum(axis=1).mean())),
        yaw=math.remainder(float(yaw), 2 * math.pi),
        pitch=float(pitch),
        roll=math.remainder(float(roll), 2 * math.pi),
    )


@dataclass(frozen=True)
class _Problem:
    """Least-squares problem over an array of unknowns.

    They are yaw, pitch, roll; the target's offset to the right and up; the strength of each mode
    of the head; the distance. Fixed offsets or distances are left out.
    """

    world: np.ndarray  # [N, 3]
    image: np.ndarray  # [N, 2] over the image side
    spread: np.ndarray  # [N, 1]
    modes: np.ndarray  # [M, N, 3], or [0]
    distance: float | None
    focal: float
    target_spread: float

    def starts(self) -> list[np.ndarray]:
        """Return initial guesses: upright views of the average head from several directions."""
        rest = [0.0] * (3 + 2 * self._has_offset() + len(self.modes) - 1)
        rest += [DEFAULT_RADIUS] if self.distance is None else []
        return [np.array([yaw, *rest]) for yaw in _START_YAWS]

    def solve(self, start: np.ndarray) -> OptimizeResult:
        lower, upper = np.full(len(start), -np.inf), np.full(len(start), np.inf)
        lower[1], upper[1] = -_MAX_PITCH, _MAX_PITCH
        if self.distance is None:
            lower[-1] = _DISTANCE_BOUND
        return least_squares(
            self.residuals, start, bounds=(lower, upper), loss="cauchy", f_scale=_OUTLIER
        )

    def residuals(self, unknowns: np.ndarray) -> np.ndarray:
        """Return errors, offset and mode strengths, each divided by its spread."""
        _, offset, strengths, distance = self._split(unknowns)
        errors = (self.project(unknowns) - self.image) * (distance / self.focal) / self.spread
        return np.concatenate([errors.ravel(), offset / (self.target_spread or 1), strengths])

    def project(self, unknowns: np.ndarray) -> np.ndarray:  # [N, 2] over the image side
        pose = self.cam2world(unknowns)
        strengths = self._split(unknowns)[2]
        world = self.world + sum(s * mode for s, mode in zip(strengths, self.modes, strict=True))
        points = (world - pose[:3, 3]) @ pose[:3, :3]
        return points[:, :2] / points[:, 2:] * self.focal + 0.5

    def cam2world(self, unknowns: np.ndarray) -> np.ndarray:  # [4, 4]
        """Return the pose; the target is in the plane through the origin facing the camera."""
        (yaw, pitch, roll), offset, _, distance = self._split(unknowns)
        outward = np.array(
            [math.cos(pitch) * math.sin(yaw), math.sin(pitch), math.cos(pitch) * math.cos(yaw)]
        )
        side = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
        position = distance * outward
        target = offset @ np.stack([side, np.cross(outward, side)])
        forward = (target - position) / np.linalg.norm(target - position)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        pose = np.eye(4)
        pose[:3, 0] = math.cos(roll) * right + math.sin(roll) * down
        pose[:3, 1] = math.cos(roll) * down - math.sin(roll) * right
        pose[:3, 2], pose[:3, 3] = forward, position
        return pose

    def _has_offset(self) -> bool:
        return self.target_spread > 0

    def _split(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Return angles, offset, mode strengths and distance."""
        angles, rest = unknowns[:3], unknowns[3:]
        offset, rest = (rest[:2], rest[2:]) if self._has_offset() else (np.zeros(2), rest)
        strengths, rest = rest[: len(self.modes)], rest[len(self.modes) :]
        return angles, offset, strengths, self.distance if self.distance is not None else rest[0]
