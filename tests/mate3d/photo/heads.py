"""Drawn label maps, and projections by the project's own cameras."""

from collections.abc import Mapping

import numpy as np
import torch
from skimage.draw import ellipse
from torch import Tensor

from mate3d.cameras import unpack_camera
from mate3d.labels import LabelSet
from mate3d.photo.landmarks import Landmarks, Point

# Middle row, middle column, half height, half width of parts of a frontal face at 100 px.
FACE_PARTS = (
    (("hair",), (45, 50, 42, 38)),
    (("skin",), (52, 50, 35, 28)),
    (("l_brow", "brows"), (34, 38, 2, 8)),
    (("r_brow", "brows"), (34, 62, 2, 8)),
    (("l_eye", "eyes"), (41, 38, 3.5, 6.5)),
    (("r_eye", "eyes"), (41, 62, 3.5, 6.5)),
    (("nose",), (52, 50, 10, 5.5)),
    (("u_lip", "mouth"), (70, 50, 3.5, 12.5)),
    (("l_lip", "mouth"), (74, 50, 3.5, 10.5)),
    (("mouth",), (72, 50, 1.5, 9.5)),
)


def draw_face(label_set: LabelSet) -> np.ndarray:  # [100, 100] uint8
    """Draw a frontal face with whichever of its parts' classes the label set has."""
    label_map = np.full((100, 100), label_set.class_id("background"), np.uint8)
    for names, shape in FACE_PARTS:
        name = next(name for name in names if name in label_set.class_names)
        label_map[ellipse(*shape)] = label_set.class_id(name)
    return label_map


def project(
    points: Mapping[str, tuple[float, float, float]],
    camera: Tensor,  # [1, 25]
    size: int,
) -> dict[str, tuple[float, float]]:
    """Return where a camera sees named world points, pixels of an image of that size."""
    cam2world, intrinsics = unpack_camera(camera.double())
    world = torch.tensor(np.array(list(points.values())), dtype=torch.float64)
    homogeneous = torch.cat([world, torch.ones(len(world), 1)], dim=1)
    seen = intrinsics[0] @ (torch.linalg.inv(cam2world[0]) @ homogeneous.T)[:3]
    return dict(zip(points, ((seen[:2] / seen[2]).T * size).tolist(), strict=True))


def mirror_landmarks(landmarks: Landmarks, width: float) -> dict[str, Point]:
    """Return the landmarks of the horizontally flipped picture, whose sides trade names.

    Args:
        width: Of the picture, pixels.
    """
    swap = {"left": "right", "right": "left"}
    mirrored = {}
    for name, (x, y) in landmarks.items():
        side, _, part = name.partition("_")
        mirrored[f"{swap[side]}_{part}" if side in swap else name] = (width - x, y)
    return mirrored
