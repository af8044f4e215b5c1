"""Camera of a portrait from the landmarks of the head in it (perspective-n-point)."""

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
# A landmark may lie outside a crop, but not by more sides of it than this.
_MAX_SIDES = 4
# A fit that comes nearer has found no distance; the solver stops it somewhat nearer still.
_MIN_DISTANCE = 1.2
_DISTANCE_BOUND = 0.5
# Errors beyond this multiple of what is expected count ever less.
_OUTLIER = 3.0
_START_YAWS = (-0.8, 0.0, 0.8)


@dataclass(frozen=True)
class CameraEstimate:
    """A camera that sees an average head's landmarks about where they lie in a picture.

    Args:
        camera: The 25 numbers of a camera label.
        residual: Root of the mean squared distance between the landmarks and where the camera
            sees the average head's, as a fraction of the image side.
        yaw: Radians, positive if the camera is towards +x, as for `make_camera`.
        pitch: Radians, positive if the camera is above the head.
        roll: Radians, positive if the camera is turned about its axis so that the head in the
            picture turns counter-clockwise.
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
    """Find the camera on a sphere around the head that sees the landmarks where they are.

    The camera looks at a point near the world origin, has the head's upright turned by a roll, and
    minimises robustly weighted distances in the image from several first guesses.

    Args:
        landmarks: Pixels of a square picture, by name; names that `canonical` lacks are ignored.
        image_size: Side of the picture in pixels.
        canonical: The average head.
        distance: Of the camera from the world origin; None estimates it too.
        focal: Focal length over image size.
        target_spread: Standard deviation, in world units, of where crops have their middle about
            the projected world origin. 0 makes the camera look at the origin, inf leaves it free.

    Raises:
        UserError: If there are too few landmarks, one is far outside, or they do not determine a
            camera.
    """
    names = [name for name in canonical.points if name in landmarks]
    if len(names) < MIN_LANDMARKS:
        raise UserError(
            f"a camera needs at least {MIN_LANDMARKS} landmarks of a {canonical.name}; found "
            f"{', '.join(names) or 'none'}"
        )
    for name in names:
        # Not "beyond the limit", which is false for NaN.
        if not max(map(abs, landmarks[name])) <= _MAX_SIDES * image_size:
            raise UserError(f"landmark {name} at {landmarks[name]} is far outside the picture")
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
    """Least squares over an array of unknowns.

    They are yaw, pitch, roll; the target's offset to the right and up; the strength of each mode
    of the head; the distance. A rig that fixes offset or distance has no unknowns for them.
    """

    world: np.ndarray  # [N, 3]
    image: np.ndarray  # [N, 2] over the image side
    spread: np.ndarray  # [N, 1]
    modes: np.ndarray  # [M, N, 3], or [0]
    distance: float | None
    focal: float
    target_spread: float

    def starts(self) -> list[np.ndarray]:
        """Return first guesses: several directions of view of the average head, upright."""
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
        """Return errors, offset and modes of the head, each as a multiple of its spread."""
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
        """Return angles, offset, strengths of the modes, distance."""
        angles, rest = unknowns[:3], unknowns[3:]
        offset, rest = (rest[:2], rest[2:]) if self._has_offset() else (np.zeros(2), rest)
        strengths, rest = rest[: len(self.modes)], rest[len(self.modes) :]
        return angles, offset, strengths, self.distance if self.distance is not None else rest[0]
