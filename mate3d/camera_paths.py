"""Which views a head is shown from: single ones, lists, grids, and closed paths of video frames."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from mate3d.cameras import CameraRig
from mate3d.errors import UserError
from mate3d.options import Above, OptionError, Options, Range

PathName = Literal["front", "list", "grid", "orbit", "figure_eight"]
VIDEO_PATHS = ("orbit", "figure_eight")

# Straight from above or below, a camera's horizontal axis is not defined.
PitchDegrees = Annotated[float, Range(-90, 90, with_low=False, with_high=False)]


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
class ViewOptions(Options):
    """Views of a head; at yaw 0 and pitch 0 the camera is in front of it.

    Args:
        path: front, list and grid are stills; orbit and figure_eight are videos that loop.
        angles_degrees: For path=list, [yaw,pitch] of each view, such as [[-20,0],[0,10]]. Positive
            yaw moves the camera to the right of the picture, positive pitch moves it up.
        yaws_degrees: For path=grid, the yaw of each column.
        pitches_degrees: For path=grid, the pitch of each row.
        num_frames: Frames per turn of an orbit or figure_eight.
        yaw_amplitude_degrees: Largest yaw of an orbit or figure_eight.
        pitch_amplitude_degrees: Largest pitch of an orbit or figure_eight.
        radius: Distance of the cameras from the world origin, in world units; null uses the
            checkpoint's.
        target: Point [x,y,z] that the cameras look at, in world units; null uses the checkpoint's.
        focal: Focal length divided by image size; null uses the checkpoint's.
    """

    path: PathName = "front"
    angles_degrees: tuple[tuple[float, PitchDegrees], ...] = ()
    yaws_degrees: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    pitches_degrees: tuple[PitchDegrees, ...] = (0.0,)
    num_frames: Annotated[int, Range(2, 100_000)] = 60
    yaw_amplitude_degrees: float = 20.0
    pitch_amplitude_degrees: PitchDegrees = 14.0
    radius: Annotated[float, Above(0)] | None = None
    target: tuple[float, float, float] | None = None
    focal: Annotated[float, Above(0)] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.path == "list" and not self.angles_degrees:
            advice = "path=list needs [yaw,pitch] pairs such as [[-20,0],[0,10]]"
            raise OptionError("angles_degrees", self.angles_degrees, advice)
        if self.angles_degrees and self.path != "list":
            advice = f"has no effect with path={self.path} (only with path=list)"
            raise OptionError("angles_degrees", self.angles_degrees, advice)
        for name in ("yaws_degrees", "pitches_degrees"):
            if self.path == "grid" and not getattr(self, name):
                raise OptionError(name, (), "use a list of angles such as [-30,0,30]")

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
        UserError: If a view is given twice.
    """
    if options.is_video:
        return _video_views(options)
    if options.path == "front":
        angles = ((0.0, 0.0),)
    elif options.path == "list":
        angles = options.angles_degrees
    else:
        yaws, pitches = options.yaws_degrees, options.pitches_degrees
        angles = [(yaw, pitch) for pitch in pitches for yaw in yaws]
    # Adding zero turns -0.0 into 0.0, whose name has a plus.
    views = [View(f"yaw{y + 0.0:+g}_pitch{p + 0.0:+g}", y, p) for y, p in angles]
    names = [view.name for view in views]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"views: {name} is given twice; views need different angles")
    return views


def make_rig(options: ViewOptions, rig: CameraRig) -> CameraRig:
    """Return a checkpoint's cameras with what the user overrides."""
    names = ("radius", "target", "focal")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return dataclasses.replace(rig, **given)


def _video_views(options: ViewOptions) -> list[View]:
    curve = orbit_angles if options.path == "orbit" else figure_eight_angles
    amplitudes = options.yaw_amplitude_degrees, options.pitch_amplitude_degrees
    angles = curve(options.num_frames, *amplitudes)
    return [View(f"frame{index:04d}", *pair) for index, pair in enumerate(angles)]
