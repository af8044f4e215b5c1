"""Simple drawn faces with the 19 labels of CelebAMask-HQ, seen by real cameras."""

import numpy as np

from mate3d.cameras import make_camera
from mate3d.labels import CELEBAMASK_HQ

# Class, centre in world units, radii in world units; painted in this order.
_ELLIPSES = (
    ("cloth", (0.0, -0.36, -0.05), (0.30, 0.10)),
    ("hair", (0.0, 0.06, -0.04), (0.205, 0.215)),
    ("neck", (0.0, -0.25, -0.05), (0.075, 0.09)),
    ("l_ear", (-0.165, -0.02, -0.01), (0.028, 0.045)),
    ("r_ear", (0.165, -0.02, -0.01), (0.028, 0.045)),
    ("skin", (0.0, -0.04, 0.02), (0.155, 0.205)),
    ("l_brow", (-0.07, 0.075, 0.085), (0.040, 0.013)),
    ("r_brow", (0.07, 0.075, 0.085), (0.040, 0.013)),
    ("l_eye", (-0.07, 0.02, 0.085), (0.030, 0.017)),
    ("r_eye", (0.07, 0.02, 0.085), (0.030, 0.017)),
    ("nose", (0.0, -0.055, 0.14), (0.025, 0.034)),
    ("u_lip", (0.0, -0.122, 0.100), (0.052, 0.016)),
    ("l_lip", (0.0, -0.152, 0.098), (0.044, 0.016)),
    ("mouth", (0.0, -0.137, 0.098), (0.036, 0.009)),
)
_COLORS = {
    "background": (200, 205, 215),
    "cloth": (60, 80, 150),
    "hair": (60, 40, 30),
    "neck": (190, 140, 115),
    "skin": (220, 170, 140),
    "eye": (245, 245, 250),
    "brow": (80, 55, 45),
    "ear": (205, 150, 125),
    "nose": (235, 190, 165),
    "lip": (190, 80, 85),
    "mouth": (90, 25, 30),
}


def draw_face(
    seed: int, side: int
) -> tuple[np.ndarray, np.ndarray, list[float]]:  # [H, W, 3] uint8, [H, W] uint8, 25 numbers
    """Return image, label map and camera of one person."""
    rng = np.random.default_rng(seed)
    yaw, pitch = rng.uniform(-0.6, 0.6), rng.uniform(-0.3, 0.3)
    camera = make_camera(yaw, pitch)[0].double().numpy()
    pose, intrinsics = camera[:16].reshape(4, 4), camera[16:].reshape(3, 3)
    tint = rng.uniform(0.75, 1.1, 3)
    proportions = rng.uniform(0.94, 1.06, (len(_ELLIPSES), 2))
    label_map = np.zeros((side, side), dtype=np.uint8)
    image = np.empty((side, side, 3))
    image[:] = np.array(_COLORS["background"]) * rng.uniform(0.85, 1.1, 3)
    y, x = (np.indices((side, side)) + 0.5) / side
    for (name, center, radii), factor in zip(_ELLIPSES, proportions, strict=True):
        seen = np.linalg.inv(pose) @ np.array([*center, 1.0])
        u, v = (intrinsics @ seen[:3])[:2] / seen[2]
        radius_x, radius_y = np.array(radii) * factor * intrinsics[0, 0] / seen[2]
        inside = ((x - u) / radius_x) ** 2 + ((y - v) / radius_y) ** 2 <= 1
        label_map[inside] = CELEBAMASK_HQ.class_id(name)
        image[inside] = np.array(_COLORS[name.split("_")[-1]]) * tint
    image += rng.normal(0, 3, image.shape)
    return image.clip(0, 255).astype(np.uint8), label_map, camera.tolist()
