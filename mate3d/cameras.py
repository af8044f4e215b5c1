"""Cameras: look-at poses, intrinsics, the 25 numbers of a label, and paths of views.

Camera axes are OpenCV's (x right, y down, z forward); world axes have y up and a frontal
portrait looking along +z. Intrinsics are divided by the image size.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.option_checks import as_text, check_count, check_number, check_numbers, is_list
from mate3d.options import Options, PositiveFloat

# Of a camera label: the pose, 4 x 4, and the intrinsics, 3 x 3.
CAMERA_DIM = 25
DEFAULT_FOCAL = 4.2647
DEFAULT_RADIUS = 2.7
PathName = Literal["front", "list", "grid", "orbit", "figure_eight"]
VIDEO_PATHS = ("orbit", "figure_eight")
_PATHS = ("front", "list", "grid", *VIDEO_PATHS)


def unpack_camera(
    camera: Tensor,  # [B, 25]
) -> tuple[Tensor, Tensor]:  # cam2world [B, 4, 4], intrinsics [B, 3, 3]
    """Split a camera label into its camera-to-world matrix and normalised intrinsics."""
    assert camera.shape[-1] == CAMERA_DIM, camera.shape
    return camera[..., :16].unflatten(-1, (4, 4)), camera[..., 16:].unflatten(-1, (3, 3))


def pack_camera(
    cam2world: Tensor,  # [B, 4, 4]
    intrinsics: Tensor,  # [B, 3, 3]
) -> Tensor:  # [B, 25]
    """Flatten a pose and intrinsics, row by row, to a camera label."""
    return torch.cat([cam2world.flatten(-2), intrinsics.flatten(-2)], dim=-1)


def make_intrinsics(focal: float = DEFAULT_FOCAL) -> Tensor:  # [3, 3]
    """Return intrinsics with the principal point at the image centre; focal over image size."""
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def focal_from_fov(fov_degrees: float) -> float:
    """Return the normalised focal length, with the rounded constants of the lineage (spec 2)."""
    return 1 / (math.tan(fov_degrees * 3.14159 / 360) * 1.414)


def look_at_pose(
    position: Tensor,  # [B, 3]
    target: Tensor,  # [B, 3] or [3]
) -> Tensor:  # [B, 4, 4]
    """Return the camera-to-world pose at `position` looking at `target`, world y up."""
    normalize = torch.nn.functional.normalize
    forward = normalize(target - position, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=position.dtype, device=position.device)
    right = -normalize(torch.linalg.cross(up.expand_as(forward), forward), dim=-1)
    second = normalize(torch.linalg.cross(forward, right), dim=-1)
    pose = torch.eye(4, dtype=position.dtype, device=position.device).repeat(len(position), 1, 1)
    pose[:, :3, :3] = torch.stack([right, second, forward], dim=-1)
    pose[:, :3, 3] = position
    return pose


def make_camera(
    yaw: float | Tensor,  # [B] or scalar, radians; positive moves the camera towards +x
    pitch: float | Tensor = 0.0,  # [B] or scalar, radians; positive moves the camera up
    *,
    radius: float = DEFAULT_RADIUS,
    target: Sequence[float] = (0.0, 0.0, 0.0),
    focal: float = DEFAULT_FOCAL,
) -> Tensor:  # [B, 25]
    """Return cameras on a sphere around the world origin that look at `target`.

    Args:
        yaw: 0 is frontal.
        pitch: 0 is level.
        radius: Distance from the world origin in world units.
        target: Point looked at, in world units.
        focal: Focal length over image size.
    """
    yaw = torch.as_tensor(yaw, dtype=torch.float32).reshape(-1)
    pitch = torch.as_tensor(pitch, dtype=torch.float32).reshape(-1)
    yaw, pitch = torch.broadcast_tensors(yaw, pitch)
    direction = torch.stack([pitch.cos() * yaw.sin(), pitch.sin(), pitch.cos() * yaw.cos()], dim=-1)
    pose = look_at_pose(
        radius * direction, torch.tensor(target, dtype=torch.float32).to(yaw.device)
    )
    return pack_camera(pose, make_intrinsics(focal).to(yaw.device).expand(len(pose), 3, 3))


@dataclass(frozen=True)
class CameraRig(Options):
    """The cameras that a generator's portraits are framed by; stored with every checkpoint.

    Args:
        radius: Distance of the cameras from the world origin, world units.
        target: Point that the cameras look at, world units. EG3D uses [0,0,0.2] for faces and
            [0,0,-0.06] for cats.
        focal: Focal length over image size.
    """

    radius: PositiveFloat = DEFAULT_RADIUS
    target: tuple[float, float, float] = (0.0, 0.0, 0.0)
    focal: PositiveFloat = DEFAULT_FOCAL

    def make_camera(
        self,
        yaw: float | Tensor = 0.0,  # [B] or scalar, radians
        pitch: float | Tensor = 0.0,  # [B] or scalar, radians
    ) -> Tensor:  # [B, 25]
        """Return cameras of this rig; see `make_camera` for the angles."""
        return make_camera(yaw, pitch, radius=self.radius, target=self.target, focal=self.focal)


def lineage_pose(
    horizontal: Tensor,  # [B], radians, frontal = pi/2
    vertical: Tensor,  # [B], radians, level = pi/2
    *,
    radius: float = DEFAULT_RADIUS,
    target: Sequence[float] = (0.0, 0.0, 0.0),
) -> Tensor:  # [B, 4, 4]
    """Return the look-at pose of the EG3D lineage, whose polar angle is area-uniform (spec 2)."""
    vertical = vertical.clamp(1e-5, math.pi - 1e-5)
    phi = torch.arccos(1 - 2 * vertical / math.pi)
    azimuth = math.pi - horizontal
    direction = torch.stack(
        [phi.sin() * azimuth.cos(), phi.cos(), phi.sin() * azimuth.sin()], dim=-1
    )
    return look_at_pose(
        radius * direction, torch.tensor(target, dtype=direction.dtype, device=direction.device)
    )


def mirror_camera(
    camera: Tensor,  # [B, 25]
) -> Tensor:  # [B, 25]
    """Return the camera that sees the mirrored scene as the flipped image (spec 8.8)."""
    signs = torch.ones(CAMERA_DIM, dtype=camera.dtype, device=camera.device)
    signs[[1, 2, 3, 4, 8]] = -1
    return camera * signs


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
