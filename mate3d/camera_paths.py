"""Which views a head is shown from: single ones, lists, grids, and closed paths of video frames."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.option_checks import as_text, check_count, check_number, check_numbers, is_list

PathName = Literal["front", "list", "grid", "orbit", "figure_eight"]
VIDEO_PATHS = ("orbit", "figure_eight")
_PATHS = ("front", "list", "grid", *VIDEO_PATHS)


@dataclass(frozen=True)
class View:
    """One direction that a head is seen from; 0, 0 is frontal.

    Args:
        name: Part of file names.
        yaw_degrees: Positive sees the head from +x.
        pitch_degrees: Positive sees the head from above.
    """

    name: str
    yaw_degrees: float
    pitch_degrees: float

    def camera(self, rig: CameraRig) -> Tensor:  # [1, 25]
        """Return this view's camera."""
        return rig.make_camera(math.radians(self.yaw_degrees), math.radians(self.pitch_degrees))


@dataclass(frozen=True)
class ViewOptions:
    """What to look from.

    Args:
        path: "front", "list" and "grid" are stills, "orbit" and "figure_eight" are videos.
        angles_degrees: (yaw, pitch) of each view of a list.
        yaws_degrees: Columns of a grid.
        pitches_degrees: Rows of a grid.
        num_frames: Frames of one turn of a closed path.
        yaw_amplitude_degrees: Largest yaw of a closed path.
        pitch_amplitude_degrees: Its largest pitch.
        radius: Distance of the cameras from the world origin; None is the checkpoint's.
        target: Point looked at, in world units; None is the checkpoint's.
        focal: Focal length over image size; None is the checkpoint's.
    """

    path: PathName = "front"
    angles_degrees: tuple[tuple[float, float], ...] = ()
    yaws_degrees: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    pitches_degrees: tuple[float, ...] = (0.0,)
    num_frames: int = 60
    yaw_amplitude_degrees: float = 20.0
    pitch_amplitude_degrees: float = 14.0
    radius: float | None = None
    target: tuple[float, float, float] | None = None
    focal: float | None = None

    @property
    def is_video(self) -> bool:
        """Whether the views are the frames of a closed path."""
        return self.path in VIDEO_PATHS


def orbit_angles(
    num_frames: int, yaw_amplitude: float, pitch_amplitude: float
) -> list[tuple[float, float]]:
    """Return (yaw, pitch) on a closed ellipse around the front, as the lineage's (spec 10.2)."""
    return _closed_path(
        num_frames, lambda t: (yaw_amplitude * math.sin(t), pitch_amplitude * math.cos(t))
    )


def figure_eight_angles(
    num_frames: int, yaw_amplitude: float, pitch_amplitude: float
) -> list[tuple[float, float]]:
    """Return (yaw, pitch) on a lying eight, which crosses the frontal view twice a turn."""
    return _closed_path(
        num_frames, lambda t: (yaw_amplitude * math.sin(t), pitch_amplitude * math.sin(2 * t))
    )


def _closed_path(
    num_frames: int, curve: Callable[[float], tuple[float, float]]
) -> list[tuple[float, float]]:
    return [curve(2 * math.pi * frame / num_frames) for frame in range(num_frames)]


def make_views(options: ViewOptions) -> list[View]:
    """Return the views that a user asked for, in order.

    Raises:
        UserError: If a value is out of range or a view is given twice.
    """
    if options.path not in _PATHS:
        raise UserError(f"views.path={options.path}; use one of: {', '.join(_PATHS)}")
    check_count("views.num_frames", options.num_frames, 2, 100_000)
    if options.is_video:
        return _video_views(options)
    if options.path == "front":
        angles = [(0.0, 0.0)]
    elif options.path == "list":
        angles = _listed_angles(options.angles_degrees)
    else:
        yaws = check_numbers("views.yaws_degrees", options.yaws_degrees)
        pitches = check_numbers("views.pitches_degrees", options.pitches_degrees)
        angles = [(yaw, pitch) for pitch in pitches for yaw in yaws]
    views = [_still_view(yaw, pitch) for yaw, pitch in angles]
    names = [view.name for view in views]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"views: {name} is given twice; views need different angles")
    return views


def make_rig(options: ViewOptions, rig: CameraRig) -> CameraRig:
    """Return a checkpoint's cameras with what the user overrides.

    Raises:
        UserError: If a value is out of range.
    """
    changes: dict[str, float | tuple[float, ...]] = {}
    for name in ("radius", "focal"):
        value = getattr(options, name)
        if value is not None:
            changes[name] = check_number(f"views.{name}", value, above=0)
    if options.target is not None:
        target = check_numbers("views.target", options.target)
        if len(target) != 3:
            raise UserError(f"views.target={as_text(target)}; use three numbers [x,y,z]")
        changes["target"] = target
    return dataclasses.replace(rig, **changes)


def _listed_angles(pairs: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    name, example = "views.angles_degrees", "[[-20,0],[0,10]]"
    if not is_list(pairs) or not pairs:
        raise UserError(
            f"{name}={as_text(pairs)}; views.path=list needs [yaw,pitch] pairs such as {example}"
        )
    for pair in pairs:
        if not is_list(pair) or len(pair) != 2:
            raise UserError(
                f"{name} holds {as_text(pair)}; use [yaw,pitch] pairs such as {example}"
            )
    return [(check_number(name, yaw), check_number(name, pitch)) for yaw, pitch in pairs]


def _still_view(yaw: float, pitch: float) -> View:
    _check_pitch("views: a pitch of", pitch)
    # Adding zero turns -0.0 into 0.0, whose name has a plus.
    name = f"yaw{yaw + 0.0:+g}_pitch{pitch + 0.0:+g}"
    return View(name, yaw, pitch)


def _check_pitch(name: str, pitch: float) -> None:
    if abs(pitch) >= 90:
        raise UserError(f"{name} {pitch:g} degrees cannot be looked from; stay below 90")


def _video_views(options: ViewOptions) -> list[View]:
    yaw = check_number("views.yaw_amplitude_degrees", options.yaw_amplitude_degrees)
    pitch = check_number("views.pitch_amplitude_degrees", options.pitch_amplitude_degrees)
    _check_pitch("views.pitch_amplitude_degrees:", pitch)
    curve = orbit_angles if options.path == "orbit" else figure_eight_angles
    angles = curve(options.num_frames, yaw, pitch)
    return [View(f"frame{index:04d}", *pair) for index, pair in enumerate(angles)]
