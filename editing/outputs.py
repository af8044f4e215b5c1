"""Pictures, video and files of an edit, written so that an old result is never half replaced."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.views import view_source
from mate3d.atomic import atomic_files
from mate3d.cameras import orbit_angles
from mate3d.generator import RenderOutput
from mate3d.labels import LabelSet, save_label_map, segmentation_to_label_map
from mate3d.outputs.video import enlarge_for_video, write_video
from mate3d.outputs.visualize import (
    colorize_normals,
    make_image_grid,
    resize_nearest,
    save_image,
    to_uint8,
)

VIEW_YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)
# Half the width of the orbit's ellipse; the lineage's video has 0.35 and 0.25.
ORBIT_YAW, ORBIT_PITCH = 0.5, 0.2


@dataclass(frozen=True)
class ViewPair:
    """The same view of source and edited head."""

    source: RenderOutput
    edited: RenderOutput

    @property
    def source_label_map(self) -> Tensor:  # [1, H, W]
        """Rendered mask of the source."""
        return segmentation_to_label_map(self.source.segmentation)

    @property
    def edited_label_map(self) -> Tensor:  # [1, H, W]
        """Rendered mask of the edited head."""
        return segmentation_to_label_map(self.edited.segmentation)


@torch.no_grad()
def render_views(
    edited: EditedGenerator,
    painted_camera: Tensor,  # [1, 25]
    *,
    exact: bool,
) -> tuple[ViewPair, list[ViewPair]]:
    """Render source and edited head from the painted view, with normals, and all around."""
    field = edited.fused_field()

    def render_pair(camera: Tensor, with_normals: bool) -> ViewPair:
        source = view_source(edited, camera, exact=exact, with_normals=with_normals)
        return ViewPair(source=source.output, edited=source.fused(field))

    rig = edited.generator.config.camera_rig
    cameras = [rig.make_camera(yaw).to(painted_camera) for yaw in VIEW_YAWS]
    return render_pair(painted_camera, True), [render_pair(camera, False) for camera in cameras]


def write_source(
    folder: str | Path,
    image: Tensor,  # [1, 3, H, W]
    label_map: Tensor,  # [1, H, W]
    label_set: LabelSet,
) -> None:
    """Write source.png and source_mask.png, the mask that a user repaints."""
    with atomic_files(folder) as temporary:
        save_image(temporary / "source.png", image[0])
        save_label_map(temporary / "source_mask.png", label_map[0].cpu().numpy(), label_set)


def write_pictures(
    folder: Path,
    painted_view: ViewPair,
    other_views: Sequence[ViewPair],
    painted_label_map: Tensor,  # [1, H, W]
    label_set: LabelSet,
) -> None:
    """Write the still pictures of an edit.

    Args:
        folder: Existing folder.
        painted_view: The view that the mask was painted in, with normals.
        other_views: Columns of views.png.
        painted_label_map: The user's mask.
        label_set: Colours of the masks.
    """
    save_image(folder / "source.png", painted_view.source.image[0])
    save_image(folder / "edited.png", painted_view.edited.image[0])
    for name, label_map in (
        ("source_mask", painted_view.source_label_map),
        ("target_mask", painted_label_map),
        ("edited_mask", painted_view.edited_label_map),
    ):
        save_label_map(folder / f"{name}.png", label_map[0].cpu().numpy(), label_set)
    resolution = painted_view.edited.image.shape[-1]
    normals = resize_nearest(colorize_normals(painted_view.edited.normals), resolution)
    save_image(folder / "normals.png", normals[0])
    rows = [view.source.image for view in other_views] + [view.edited.image for view in other_views]
    save_image(folder / "views.png", make_image_grid(torch.cat(rows), len(other_views)))


@torch.no_grad()
def write_orbit(
    path: Path, edited: EditedGenerator, *, num_frames: int, fps: int, exact: bool
) -> None:
    """Write a video of the edited head from cameras on a closed ellipse around the front."""
    field, rig = edited.fused_field(), edited.generator.config.camera_rig

    def frame(yaw: float, pitch: float) -> np.ndarray:
        camera = rig.make_camera(yaw, pitch).to(edited.source_ws)
        view = view_source(edited, camera, exact=exact).fused(field)
        return to_uint8(enlarge_for_video(view.image)[0])

    angles = orbit_angles(num_frames, ORBIT_YAW, ORBIT_PITCH)
    write_video(path, itertools.starmap(frame, angles), fps)
