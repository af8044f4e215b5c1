"""Camera files of other projects, their axes recognised by geometry."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mate3d.camera_checks import (
    are_inverted,
    exchange_axes,
    has_plausible_intrinsics,
    has_y_up,
    is_in_pixels,
    is_rigid,
    looks_away,
    split_camera,
)
from mate3d.errors import UserError
from training.data.format.index import NUM_CAMERA_VALUES
from training.data.format.json_reading import parse_json

Convention = Literal["opencv", "opengl"]
# Part of a file's cameras that must agree on the axes.
_MIN_AGREEMENT = 0.98


@dataclass(frozen=True)
class CameraFile:
    """The cameras of a file.

    Args:
        cameras: 25 numbers by name, OpenCV axes.
        convention: Axes that the file has; those of "opengl" are converted here.
        problems: Why other names of the file have no usable camera.
    """

    cameras: dict[str, tuple[float, ...]]
    convention: Convention
    problems: dict[str, str]


def read_camera_file(path: str | Path) -> CameraFile:
    """Read cameras: {"labels": [[name, [25 numbers]], ...]} as EG3D, or {name: [25 numbers]}.

    Raises:
        UserError: If the file is missing or malformed, if it has no usable camera, or if its
            cameras are world-to-camera, in pixels, or of axes that are neither OpenCV's nor
            OpenGL's.
    """
    values: dict[str, np.ndarray] = {}
    problems: dict[str, str] = {}
    for name, numbers in _read_entries(Path(path)):
        try:
            array = np.array(numbers, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            array = np.zeros(0)
        if array.shape != (NUM_CAMERA_VALUES,) or not np.isfinite(array).all():
            problems[name] = f"a camera is {NUM_CAMERA_VALUES} finite numbers"
        else:
            values[name] = array
    cameras = np.array(list(values.values())).reshape(-1, NUM_CAMERA_VALUES)
    names, cameras, others = _split(list(values), cameras, is_rigid(split_camera(cameras)[0]))
    problems |= dict.fromkeys(others, "its first 16 numbers are no camera-to-world matrix")
    if names:
        intrinsics = split_camera(cameras)[1]
        _check_pixels(intrinsics, path)
        names, cameras, others = _split(names, cameras, has_plausible_intrinsics(intrinsics))
        problems |= dict.fromkeys(others, "its last 9 numbers are no plausible intrinsics")
    if not names:
        first = next(iter(problems.items()), ("the file", "it is empty"))
        raise UserError(f"camera file {path} has no usable camera: {first[0]}: {first[1]}")
    convention = _require_convention(cameras, path)
    names, cameras, others = _split(names, cameras, camera_conventions(cameras) == convention)
    problems |= dict.fromkeys(others, "it looks away from the head, or is upside down")
    if convention == "opengl":
        cameras = exchange_axes(cameras)
    return CameraFile(
        dict(zip(names, map(tuple, cameras.tolist()), strict=True)), convention, problems
    )


def camera_conventions(
    cameras: np.ndarray,  # [N, 25]
) -> np.ndarray:  # [N] str: "opencv", "opengl" or ""
    """Tell the camera axes by geometry: cameras look at the head, at the origin, and up is up.

    OpenCV's z axis points to what is seen and its y axis down; OpenGL's point the other ways.
    "" is neither.
    """
    poses, _ = split_camera(cameras)
    is_opengl = looks_away(poses)
    return np.where(is_opengl != has_y_up(poses), "", np.where(is_opengl, "opengl", "opencv"))


def _read_entries(path: Path) -> Iterable[tuple[str, Any]]:
    content = read_json(path, "camera file")
    labels = content.get("labels", content) if isinstance(content, dict) else None
    if isinstance(labels, dict):
        return labels.items()
    is_list = isinstance(labels, list) and all(
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
        for entry in labels
    )
    if not is_list:
        raise UserError(
            f'camera file {path} must be {{"labels": [[name, [25 numbers]], ...]}} or '
            "{name: [25 numbers]}"
        )
    return [(name, numbers) for name, numbers in labels]


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: If it is missing or no JSON; `what` names it in the message.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{what} not found: {path}") from None
    except OSError as error:
        raise UserError(f"{what} {path} cannot be read: {error.strerror}") from None
    return parse_json(content, f"{what} {path}")


def _split(
    names: list[str],
    cameras: np.ndarray,  # [N, 25]
    keep: np.ndarray,  # [N] bool
) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the kept names with their cameras, and the other names."""
    kept = [name for name, is_kept in zip(names, keep, strict=True) if is_kept]
    others = [name for name, is_kept in zip(names, keep, strict=True) if not is_kept]
    return kept, cameras[keep], others


def _check_pixels(intrinsics: np.ndarray, path: str | Path) -> None:
    if is_in_pixels(intrinsics).mean() > 0.5:
        focal, center = np.median(intrinsics[:, 0, [0, 2]], axis=0)
        raise UserError(
            f"camera file {path} has intrinsics in pixels (focal length {focal:g}, principal point "
            f"{center:g}); divide their first two rows by the side of the images"
        )


def _require_convention(cameras: np.ndarray, path: str | Path) -> Convention:
    if are_inverted(split_camera(cameras)[0]):
        raise UserError(
            f"camera file {path} holds world-to-camera matrices: all positions are the same, the "
            "directions are not; invert them"
        )
    conventions = camera_conventions(cameras)
    counts: dict[Convention, int] = {
        name: int((conventions == name).sum()) for name in ("opencv", "opengl")
    }
    best = max(counts, key=counts.__getitem__)
    if counts[best] < _MIN_AGREEMENT * len(cameras):
        raise UserError(
            f"camera file {path}: of {len(cameras)} cameras {counts['opencv']} look at the origin "
            f"with OpenCV's axes and {counts['opengl']} with OpenGL's; all must have the same axes"
        )
    return best
