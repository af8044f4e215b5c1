"""Sample grids of a snapshot, and the card of its checkpoint."""

import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mate3d.atomic import atomic_file
from mate3d.generator import Generator
from mate3d.outputs.visualize import (
    colorize_depth,
    colorize_normals,
    colorize_segmentation,
    make_image_grid,
    overlay_colors,
    resize_nearest,
    save_image,
)
from training.run_folder.sdf_slices import draw_sdf_slices
from training.step_inputs import Latents, RealBatch

_RENDER_BATCH = 4
_SLICE_RESOLUTION = 96


@torch.no_grad()
def render_grids(
    generator: Generator,
    latents: Latents,
    *,
    columns: int,
) -> dict[str, Tensor]:  # name -> [3, rows * H, columns * W] in [-1, 1]
    """Render one tile per latent: the same heads from the same cameras at every snapshot.

    Returns:
        Grids named image, depth and normals; with labels also segmentation and overlay; and
        sdf_slices of the first head, see `draw_sdf_slices`.
    """
    tiles: dict[str, list[Tensor]] = {}
    for z, camera in zip(
        latents.z.split(_RENDER_BATCH), latents.camera.split(_RENDER_BATCH), strict=True
    ):
        for name, pictures in _render_pictures(generator, z, camera).items():
            tiles.setdefault(name, []).append(pictures.detach().cpu())
    grids = {name: make_image_grid(torch.cat(parts), columns) for name, parts in tiles.items()}
    return grids | {"sdf_slices": _draw_slices(generator, latents)}


def _draw_slices(generator: Generator, latents: Latents) -> Tensor:  # [3, H, W] in [-1, 1]
    config = generator.config
    ws = generator.map(latents.z[:1], latents.camera[:1])
    return draw_sdf_slices(
        generator.make_field(ws),
        generator.label_set,
        box_size=config.box_size,
        # The planes have no finer detail.
        resolution=min(4 * config.plane_resolution, _SLICE_RESOLUTION),
        scale=config.box_size / 4 if config.geometry == "sdf" else config.density_level,
    )


def _render_pictures(
    generator: Generator,
    z: Tensor,  # [B, z_dim]
    camera: Tensor,  # [B, 25]
) -> dict[str, Tensor]:  # name -> [B, 3, H, W]
    config = generator.config
    output = generator.synthesize(generator.map(z, camera), camera, with_normals=True, exact=False)
    depth = colorize_depth(
        output.depth,
        near=config.rendering.near,
        far=config.rendering.far,
        opacity=output.opacity,
    )
    pictures = {
        "image": output.image.clamp(-1, 1),
        "depth": resize_nearest(depth, config.resolution),
        "normals": resize_nearest(colorize_normals(output.normals), config.resolution),
    }
    if output.segmentation is not None:
        colors = colorize_segmentation(output.segmentation, generator.label_set)
        pictures["segmentation"] = colors
        pictures["overlay"] = overlay_colors(pictures["image"], colors)
    return pictures


def real_grids(
    generator: Generator,
    real: RealBatch,
    *,
    columns: int,
) -> dict[str, Tensor]:  # name -> [3, rows * H, columns * W] in [-1, 1]
    """Show real images and masks for comparison with the samples."""
    pictures = {"real_image": real.image}
    if generator.label_set.num_classes > 0:
        colors = colorize_segmentation(real.one_hot_mask, generator.label_set)
        pictures["real_segmentation"] = colors
        pictures["real_overlay"] = overlay_colors(real.image, colors)
    return {name: make_image_grid(tiles, columns).cpu() for name, tiles in pictures.items()}


def save_grids(folder: Path, grids: Mapping[str, Tensor], images_seen: int) -> None:
    """Write each grid as `<images_seen>_<name>.png`, complete or not at all.

    Raises:
        UserError: If the folder cannot be written.
    """
    for name, picture in grids.items():
        with atomic_file(folder / f"{images_seen:09d}_{name}.png") as path:
            save_image(path, picture)


def make_card(origin: Mapping[str, object], stats: Mapping[str, float]) -> str:
    """Return the card of a checkpoint in Markdown: its origin and means over the last tick."""
    software = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    lines = [f"- {name}: {value}" for name, value in {**origin, "software": software}.items()]
    table = [f"| {name} | {value:.4g} |" for name, value in stats.items()]
    text = "The weights are the moving average of training. Means over the last tick:"
    parts = [
        "# MaTe3D generator",
        "",
        *lines,
        "",
        text,
        "",
        "| value | mean |",
        "|---|---|",
        *table,
    ]
    return "\n".join([*parts, ""])
