"""Checks of the cameras on their own, and their repairs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mate3d.camera_checks import (
    angle_off_origin,
    are_inverted,
    has_plausible_intrinsics,
    has_y_up,
    is_in_pixels,
    is_rigid,
    looks_away,
    split_camera,
)
from mate3d.cameras import DEFAULT_FOCAL, DEFAULT_RADIUS
from training.data.doctor.findings import Notes
from training.data.format.index import NUM_CAMERA_VALUES

Cameras = dict[str, np.ndarray]  # of [25] float64

_DISTANCE_RANGE = (0.4, 2.5)
_MAX_OFF_TARGET = np.radians(20)
# The world's orientation takes several cameras, since a single one may be far from frontal.
_MIN_FOR_WORLD = 5
# Changes of camera axes, multiplied to a pose from the right.
_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


def check_cameras(
    cameras: Mapping[str, tuple[float, ...]], sizes: Mapping[str, tuple[int, int]], notes: Notes
) -> Cameras:
    """Check each camera individually, and all of them for common mistakes.

    Each mistake is corrected before the next is looked for, as the repair does.

    Args:
        cameras: Cameras as stored, possibly malformed.
        sizes: Width and height of the images.

    Returns:
        The usable cameras with all repairs applied.
    """
    names = [name for name in sorted(cameras) if _is_valid(name, cameras[name], notes)]
    values = np.array([cameras[name] for name in names]).reshape(-1, NUM_CAMERA_VALUES)
    chain = _Chain(np.array(names, dtype=object), *split_camera(values), notes)
    chain.read_columns()
    chain.divide_pixels(sizes)
    chain.drop("intrinsics {}", ~has_plausible_intrinsics(chain.intrinsics), chain.intrinsics)
    chain.drop("not a rotation: {}", ~is_rigid(chain.poses), chain.poses[:, :3, :3])
    if chain.names.size == 0:
        return {}
    is_inverted = np.full(len(chain.names), are_inverted(chain.poses))
    chain.convert("from world to camera", is_inverted, np.linalg.inv(chain.poses))
    chain.convert("OpenGL axes", looks_away(chain.poses), chain.poses @ _FROM_OPENGL)
    chain.turn_world()
    chain.convert("upside down", has_y_up(chain.poses), chain.poses @ _HALF_TURN)
    chain.check_distances()
    chain.check_together()
    good = dict(zip(chain.names, chain.join(), strict=True))
    for name in good.keys() & notes.all["camera_convention"].details.keys():
        notes.add("camera_convention", name, detail=good[name])
    return good


def _is_valid(name: str, camera: tuple[float, ...], notes: Notes) -> bool:
    num_finite = int(np.isfinite(camera).sum())
    is_valid = num_finite == len(camera) == NUM_CAMERA_VALUES
    if not is_valid:
        notes.add("camera_invalid", name, f"{num_finite} finite of {len(camera)} numbers")
    return is_valid


@dataclass
class _Chain:
    """Cameras that are repaired after each check."""

    names: np.ndarray  # [N] str
    poses: np.ndarray  # [N, 4, 4]
    intrinsics: np.ndarray  # [N, 3, 3]
    notes: Notes

    def convert(
        self,
        remark: str,
        is_wrong: np.ndarray,  # [N] bool
        poses: np.ndarray | None = None,  # [N, 4, 4]
        intrinsics: np.ndarray | None = None,  # [N, 3, 3]
    ) -> None:
        """Replace the matrices of wrong cameras."""
        for name in self.names[is_wrong]:
            self.notes.add("camera_convention", name, remark)
        if poses is not None:
            self.poses = np.where(is_wrong[:, None, None], poses, self.poses)
        if intrinsics is not None:
            self.intrinsics = np.where(is_wrong[:, None, None], intrinsics, self.intrinsics)

    def drop(self, remark: str, is_wrong: np.ndarray, values: np.ndarray) -> None:
        """Drop cameras; the remark shows their values."""
        for name, value in zip(self.names[is_wrong], values[is_wrong].round(3), strict=True):
            self.notes.add("camera_invalid", name, remark.format(value.tolist()))
        self.names, self.poses = self.names[~is_wrong], self.poses[~is_wrong]
        self.intrinsics = self.intrinsics[~is_wrong]

    def read_columns(self) -> None:
        """Transpose matrices whose last row contains the values of the last column."""
        for key in ("poses", "intrinsics"):
            matrices = getattr(self, key)
            in_row = np.abs(matrices[:, -1, :-1]).max(axis=1) > 1e-3
            is_wrong = in_row & (np.abs(matrices[:, :-1, -1]).max(axis=1) < 1e-6)
            columns = {key: matrices.swapaxes(1, 2)}
            self.convert(f"{key} stored column by column", is_wrong, **columns)

    def divide_pixels(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Convert intrinsics in pixels to fractions of the image.

        If the principal point is near the image centre, they are pixels of this image; otherwise
        of an image of another size, centred at the principal point.
        """
        if not sizes:
            return
        # An image that cannot be read most likely has the size of the others.
        (usual, _), *_ = Counter(sizes.values()).most_common(1)
        scale = np.array([sizes.get(name, usual) for name in self.names]).reshape(-1, 2)
        center = self.intrinsics[:, :2, 2]
        is_divided = (center <= 1).all(axis=1, keepdims=True)
        is_other = (center > 1).all(axis=1) & (abs(center / scale - 0.5) > 0.2).any(axis=1)
        scale = np.where(is_other[:, None], 2 * center, scale)
        divided = self.intrinsics.copy()
        divided[:, :2] /= scale[:, :, None]
        divided[:, :2, 2] = np.where(is_divided, center, divided[:, :2, 2])
        is_wrong = is_in_pixels(self.intrinsics)
        self.convert("intrinsics in pixels", is_wrong, intrinsics=divided)

    def turn_world(self) -> None:
        """Rotate the world so that the mean view is frontal, if there is a clear one."""
        if len(self.names) < _MIN_FOR_WORLD:
            return
        places = self.poses[:, :3, 3]
        places = places / np.linalg.norm(places, axis=1, keepdims=True).clip(1e-9)
        means = places.mean(axis=0), -self.poses[:, :3, 1].mean(axis=0)
        front, up = map(_nearest_axis, means)
        # Views from all sides have no clear front.
        is_clear = min(map(np.linalg.norm, means)) >= 0.6 and front @ up == 0
        rotation = np.eye(4)
        rotation[:3, :3] = np.stack([np.cross(up, front), up, front])
        is_wrong = np.full(len(self.names), is_clear and front[2] != 1)
        remark = f"frontal is {front.astype(int).tolist()}, up is {up.astype(int).tolist()}"
        self.convert(remark, is_wrong, rotation @ self.poses)

    def check_distances(self) -> None:
        """Compare distances with those for heads of usual size at this focal length."""
        distances = np.linalg.norm(self.poses[:, :3, 3], axis=1)
        ratios = distances * DEFAULT_FOCAL / (DEFAULT_RADIUS * self.intrinsics[:, 0, 0])
        low, high = _DISTANCE_RANGE
        is_wrong = (ratios < low) | (ratios > high)
        usual = np.median(ratios[is_wrong]) if is_wrong.mean() > 0.5 else 0.0
        if usual > 0:
            scaled = self.poses.copy()
            scaled[:, :3, 3] /= usual
            self.convert("another unit of length", is_wrong, scaled)
            ratios = np.where(is_wrong, ratios / usual, ratios)
        self.drop("{} units away", (ratios < low) | (ratios > high), distances)

    def check_together(self) -> None:
        """Find cameras that look elsewhere, or are all the same."""
        off = angle_off_origin(self.poses)
        for i in np.argsort(-off)[: (off > _MAX_OFF_TARGET).sum()]:
            past = f"looks {np.degrees(off[i]):.0f} degrees past the head"
            self.notes.add("camera_outlier", self.names[i], past)
        if len(self.names) > 1 and np.ptp(self.join(), axis=0).max() < 1e-6:
            self.notes.say("camera_unrelated", "all are the same")

    def join(self) -> np.ndarray:  # [N, 25]
        """Return the 25 numbers of each camera."""
        return np.concatenate([self.poses.reshape(-1, 16), self.intrinsics.reshape(-1, 9)], axis=1)


def _nearest_axis(direction: np.ndarray) -> np.ndarray:  # [3] -> [3]
    largest = int(np.abs(direction).argmax())
    return np.eye(3)[largest] * np.sign(direction[largest])


def camera_angles(cameras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # [..., 25]
    """Return yaw and pitch of the cameras' positions, in radians."""
    x, y, z = np.moveaxis(split_camera(cameras)[0][..., :3, 3], -1, 0)
    return np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))
