"""Cameras: look-at poses, intrinsics, 25-number camera labels, and camera paths.

Camera axes are OpenCV's (x right, y down, z forward). The world's y axis points up, and a frontal
portrait looks along +z. Intrinsics are divided by the image size.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.options import OptionError, Options, PositiveFloat, Range

# A camera label holds the 4x4 pose and the 3x3 intrinsics.
CAMERA_DIM = 25
DEFAULT_FOCAL = 4.2647
DEFAULT_RADIUS = 2.7
PathName = Literal["front", "list", "grid", "orbit", "figure_eight"]
VIDEO_PATHS = ("orbit", "figure_eight")
# Seen straight from above or below, no direction of the image is up.
PitchDegrees = Annotated[float, Range(-89, 89)]


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
    """Flatten a pose and intrinsics, row-major, into a camera label."""
    return torch.cat([cam2world.flatten(-2), intrinsics.flatten(-2)], dim=-1)


def make_intrinsics(focal: float = DEFAULT_FOCAL) -> Tensor:  # [3, 3]
    """Return intrinsics with a centred principal point; `focal` is divided by the image size."""
    return torch.tensor([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


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
        radius: Distance from the world origin, in world units.
        target: Look-at point, in world units.
        focal: Focal length divided by the image size.
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
    """Camera distance, look-at point and focal length of a generator; stored in checkpoints.

    Args:
        radius: Distance of the cameras from the world origin, in world units.
        target: Point that the cameras look at, in world units. EG3D uses [0,0,0.2] for faces and
            [0,0,-0.06] for cats.
        focal: Focal length divided by the image size.
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


def mirror_camera(
    camera: Tensor,  # [B, 25]
) -> Tensor:  # [B, 25]
    """Return the camera that sees the mirrored scene as the flipped image (spec 8.8)."""
    signs = torch.ones(CAMERA_DIM, dtype=camera.dtype, device=camera.device)
    # Beyond the spec, the skew and the principal point, which need not be centred.
    signs[[1, 2, 3, 4, 8, 17, 18]] = -1
    shift = torch.zeros_like(signs)
    shift[18] = 1
    return camera * signs + shift


def view_normals(
    normals: Tensor,  # [B, 3, H, W], world axes
    camera: Tensor,  # [B, 25]
) -> Tensor:  # [B, 3, H, W]
    """Turn normals to the picture's axes: x right, y up, z towards the viewer.

    So a surface that faces the viewer has the same colour from every side. These axes are OpenGL's,
    and those of the world as a frontal camera sees it.
    """
    rotation = unpack_camera(camera)[0][:, :3, :3]
    turned = torch.einsum("bij,bihw->bjhw", rotation, normals)
    return turned * turned.new_tensor([1.0, -1.0, -1.0]).view(3, 1, 1)


def camera_turn(
    camera: Tensor,  # [1, 25]
) -> float:
    """Return the yaw of a camera as a share of half a turn, from 0 (front) to 1 (behind)."""
    x, _, z = unpack_camera(camera)[0][0, :3, 3].tolist()
    return abs(math.atan2(x, z)) / math.pi


@dataclass(frozen=True)
class View:
    """One viewing direction; (0, 0) is frontal.

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
            yaw moves the camera to the right of the image, positive pitch moves it up.
        yaws_degrees: For path=grid, the yaw of each column.
        pitches_degrees: For path=grid, the pitch of each row.
        num_frames: Frames per turn of an orbit or figure_eight.
        yaw_amplitude_degrees: Maximum yaw of an orbit or figure_eight.
        pitch_amplitude_degrees: Maximum pitch of an orbit or figure_eight.
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
    radius: PositiveFloat | None = None
    target: tuple[float, float, float] | None = None
    focal: PositiveFloat | None = None

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
    """Return (yaw, pitch) on EG3D's closed ellipse around the front (spec 10.2)."""
    turn = _one_turn(num_frames)
    return [(yaw_amplitude * math.sin(t), pitch_amplitude * math.cos(t)) for t in turn]


def figure_eight_angles(
    num_frames: int, yaw_amplitude: float, pitch_amplitude: float
) -> list[tuple[float, float]]:
    """Return (yaw, pitch) on a horizontal figure eight, which passes the front twice per turn."""
    turn = _one_turn(num_frames)
    return [(yaw_amplitude * math.sin(t), pitch_amplitude * math.sin(2 * t)) for t in turn]


def _one_turn(num_frames: int) -> list[float]:
    return [2 * math.pi * frame / num_frames for frame in range(num_frames)]


def make_views(options: ViewOptions) -> list[View]:
    """Return the requested views, in order.

    Raises:
        UserError: If a view is listed twice.
    """
    if options.is_video:
        curve = orbit_angles if options.path == "orbit" else figure_eight_angles
        amplitudes = options.yaw_amplitude_degrees, options.pitch_amplitude_degrees
        angles = curve(options.num_frames, *amplitudes)
        return [View(f"frame{index:04d}", *pair) for index, pair in enumerate(angles)]
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
            raise UserError(f"views: {name} is listed twice; use different angles")
    return views


def make_rig(options: ViewOptions, rig: CameraRig) -> CameraRig:
    """Return a checkpoint's cameras with the user's overrides."""
    names = ("radius", "target", "focal")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return dataclasses.replace(rig, **given)
