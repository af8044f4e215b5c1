"""Camera conventions: look-at poses, intrinsics, and the 25 numbers of a camera label.

Camera axes are OpenCV's (x right, y down, z forward); world axes have y up and a frontal
portrait looking along +z. Intrinsics are divided by the image size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.options import Options, PositiveFloat

# Of a camera label: the pose, 4 x 4, and the intrinsics, 3 x 3.
CAMERA_DIM = 25
DEFAULT_FOCAL = 4.2647
DEFAULT_RADIUS = 2.7


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
