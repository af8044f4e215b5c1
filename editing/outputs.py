"""Render and write the images and the video of an edit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator
from editing.regions import PaintedView
from editing.views import view_source
from mate3d.cameras import orbit_angles
from mate3d.generator import RenderOutput
from mate3d.labels import LabelSet, save_label_map, segmentation_to_label_map
from mate3d.outputs.video import enlarge_for_video, open_videos
from mate3d.outputs.visualize import (
    colorize_normals,
    make_image_grid,
    resize_nearest,
    save_image,
    to_uint8,
)
from torch_utils.stages import stage

VIEW_YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)
# Half axes of the orbit's ellipse in radians; EG3D's videos use 0.35 and 0.25.
ORBIT_YAW, ORBIT_PITCH = 0.5, 0.2


@dataclass(frozen=True)
class ViewPair:
    """The same view of source and edited head."""

    source: RenderOutput
    edited: RenderOutput

    @property
    def label_maps(self) -> tuple[Tensor, Tensor]:  # [1, H, W]
        """Label maps rendered from the source and from the edited head."""
        views = self.source, self.edited
        return tuple(segmentation_to_label_map(view.segmentation) for view in views)

    @property
    def levels(self) -> tuple[Tensor, Tensor]:  # [1, 3, H, W], integers in 0..255
        """Edited and source image as in the 8-bit files."""
        pixels = to_uint8(self.edited.image), to_uint8(self.source.image)
        return tuple(torch.from_numpy(values).movedim(-1, 1).float() for values in pixels)


@torch.no_grad()
def render_views(
    edited: EditedGenerator,
    painted_cameras: Sequence[Tensor],  # each [1, 25]
    *,
    exact: bool,
) -> tuple[list[ViewPair], list[ViewPair]]:
    """Render source and edited head at the painted views, with normals, and at `VIEW_YAWS`."""
    field, rig = edited.fused_field(), edited.generator.config.camera_rig
    others = [rig.make_camera(yaw).to(edited.source_ws) for yaw in VIEW_YAWS]
    pairs, num_painted = [], len(painted_cameras)
    with stage("Rendering views", num_painted + len(others)) as bar:
        for camera in (*painted_cameras, *others):
            # Only the painted views' normals are shown.
            with_normals = len(pairs) < num_painted
            source = view_source(edited, camera, exact=exact, with_normals=with_normals)
            pairs.append(ViewPair(source=source.output, edited=source.fused(field)))
            bar.update()
    return pairs[:num_painted], pairs[num_painted:]


def write_pictures(
    folder: Path,
    painted_views: Sequence[tuple[PaintedView, ViewPair]],
    other_views: Sequence[ViewPair],
    label_set: LabelSet,
) -> None:
    """Write the still images of an edit.

    Args:
        folder: Existing folder.
        painted_views: Views in which masks were painted, and their renders with normals. The files
            of all but the first end in _2, _3 and so on.
        other_views: Columns of views.png.
    """
    for number, (view, pair) in enumerate(painted_views, start=1):
        suffix = picture_suffix(number)
        before, after = pair.label_maps
        masks = {"source_mask": before, "target_mask": view.label_map, "edited_mask": after}
        for name, label_map in masks.items():
            path = folder / f"{name}{suffix}"
            save_label_map(path, label_map[0].cpu().numpy(), label_set)
        resolution = pair.edited.image.shape[-1]
        pictures = {
            "source": pair.source.image,
            "edited": pair.edited.image,
            "normals": resize_nearest(colorize_normals(pair.edited.normals), resolution),
        }
        for name, picture in pictures.items():
            save_image(folder / f"{name}{suffix}", picture[0])
    rows = [view.source.image for view in other_views] + [view.edited.image for view in other_views]
    save_image(folder / "views.png", make_image_grid(torch.cat(rows), len(other_views)))


def picture_suffix(number: int) -> str:
    """Return the end of the file names of a painted view's pictures; views count from 1."""
    return ".png" if number == 1 else f"_{number}.png"


@torch.no_grad()
def write_orbit(
    path: Path, edited: EditedGenerator, *, num_frames: int, fps: int, exact: bool
) -> None:
    """Write a video of the edited head; the camera moves on a closed ellipse in front of it."""
    field, rig = edited.fused_field(), edited.generator.config.camera_rig
    angles = orbit_angles(num_frames, ORBIT_YAW, ORBIT_PITCH)
    with stage("Rendering the orbit video", num_frames) as bar, open_videos([path], fps) as append:
        for yaw, pitch in angles:
            camera = rig.make_camera(yaw, pitch).to(edited.source_ws)
            view = view_source(edited, camera, exact=exact).fused(field)
            append(to_uint8(enlarge_for_video(view.image)[0]))
            bar.update()
