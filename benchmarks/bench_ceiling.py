"""Measure how good a picture can become with given samples, softness and raw resolution.

    python benchmarks/bench_ceiling.py experiment=ffhq_mask_512 betas=[0.1,0.01,0.003,0.001]
    python benchmarks/bench_ceiling.py experiment=small_cat rendering.num_fine_samples=16
    python benchmarks/bench_ceiling.py generator=outputs/train_ffhq heads=16

Procedural people and cats have exact distances, colours and parts. They are rendered with the
samples of an experiment and each beta, as a perfectly trained generator would be, and compared with
the sphere-traced picture at the raw resolution. No training can do better with this rendering.
Super-resolution is left out. Behind heads is the portrait's own background, whether the generator
learns one or is transparent. Words it takes:

    experiment= ...          and any other words of scripts.train: rendering.*, model.*
    betas=[0.1,0.03,...]     softness of the surface; its own if generator= is set
    resolution=              side of the raw render instead of the experiment's
    heads=8                  portraits, each from one random view
    generator=               a run, checkpoint or name of a generator, instead of an experiment:
                             there is no exact picture of its heads, so only opacities are measured;
                             empty is where rays meet no surface, whatever its masks say
    truncation_psi=1         for generator=
    device=cpu               cpu or cuda
    output=                  also write the JSON here, e.g. benchmarks/results/ceiling.json

Columns: PSNR, the mean over heads; mIoU of all classes that occur; mean opacity of pixels without
and with a head at their centre; `samples in layer`, how many samples of a head's ray lie where the
density changes, within 2 beta of the surface, with the random depths of training: a surface gets
no gradient without one. The last line is one JSON object. Its lengths are in world units: `pixel`,
the side of a pixel at the head's centre; `least_beta`, a quarter of the computed distance between
samples at a thin surface.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import describe_machine, report
from torch import Tensor

from mate3d.checkpoint import load_generator
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.generator_config import GeneratorConfig
from mate3d.labels import get_label_set
from mate3d.metrics.segmentation import confusion_matrix, mean_iou
from mate3d.network.sdf_decoder import sdf_to_density
from mate3d.procedural.portraits import PortraitKind, kind_of_labels, sample_cameras
from mate3d.procedural.tracer import render_analytic
from mate3d.rendering.fast_rendering import render_field_fast
from mate3d.rendering.field import Field, WrappedField
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import FieldRender, RenderingConfig, least_beta, sample_depths
from scripts._compose import read_options
from training.run_folder.retention import CHECKPOINT_FOLDER

LATENT_DIM = 64
MAX_LAYER_RAYS = 2048
# A surface thinner than this many steps could be missed.
STEPS_PER_UNIT = 200
COLUMNS = ("psnr_db", "miou", "opacity_empty", "opacity_head", "samples_in_layer")
BETAS = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
DEFAULTS = {
    "betas": "",
    "resolution": "",
    "heads": "8",
    "generator": "",
    "truncation_psi": "1",
    "device": "cpu",
    "output": "",
}


@dataclass(frozen=True)
class SoftField(WrappedField):
    """A field with another softness."""

    beta: float

    def density(self, sdf: Tensor) -> Tensor:
        """See `Field`."""
        return sdf_to_density(sdf, self.beta)


@dataclass(frozen=True)
class View:
    """A field seen by one camera, with the truth about it.

    Args:
        label_map: Class of each pixel, [1, h, w]; 0 is background.
        image: Exact picture in -1..1, [1, 3, h, w]; None if nobody knows it.
    """

    field: Field
    camera: Tensor
    label_map: Tensor
    image: Tensor | None


def procedural_views(
    kind: PortraitKind, count: int, side: int, device: torch.device
) -> Iterator[View]:
    """Yield sphere-traced portraits."""
    for seed in range(count):
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(1, LATENT_DIM, generator=random).to(device)
        field = kind.field(kind.parameters_from_direction(z))
        camera = sample_cameras(1, random).to(device)
        truth = render_analytic(field, camera, side)
        yield View(field, camera, truth.label_map, truth.image)


def trained_views(
    generator: Generator, count: int, side: int, truncation_psi: float
) -> Iterator[View]:
    """Yield heads of a generator, with class 1 where a ray meets their surface."""
    config, device = generator.config, next(generator.parameters()).device
    for seed in range(count):
        random = torch.Generator().manual_seed(seed)
        z = torch.randn(1, config.z_dim, generator=random).to(device)
        camera = sample_cameras(1, random).to(device)
        ws = generator.map(z, camera, truncation_psi=truncation_psi)
        field = generator.make_field(ws, exact=False)
        yield View(field, camera, meets_surface(field, camera, side, config.rendering), None)


def meets_surface(
    field: Field, camera: Tensor, side: int, rendering: RenderingConfig
) -> Tensor:  # [1, h, w]
    """Return 1 where a distance along a pixel's ray is negative, else 0."""
    origins, directions = sample_rays(camera, side)
    steps = math.ceil((rendering.far - rendering.near) * STEPS_PER_UNIT)
    depths = torch.linspace(rendering.near, rendering.far, steps, device=camera.device)
    is_inside = torch.zeros(origins.shape[:2], dtype=torch.bool, device=camera.device)
    for depth in depths:
        is_inside |= field.sdf(origins + depth * directions)[..., 0] < 0
    return is_inside.long().unflatten(1, (side, side))


class Scores:
    """Adds up the scores of renders.

    Args:
        num_classes: Size of the label set.
    """

    def __init__(self, num_classes: int):
        self._counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self._columns: dict[str, list[float]] = {}

    def add(self, view: View, render: FieldRender, samples_in_layer: float) -> None:
        """Compare a render with the truth."""
        is_head = view.label_map[:, None] > 0
        values = {
            "opacity_empty": render.opacity[~is_head].mean().item(),
            "opacity_head": render.opacity[is_head].mean().item(),
            "samples_in_layer": samples_in_layer,
        }
        if view.image is not None:
            error = (render.feature_image[:, :3] - view.image).square().mean().item()
            values["psnr_db"] = 10 * math.log10(4 / error)
            labels = render.segmentation_raw.argmax(dim=1)
            self._counts += confusion_matrix(labels, view.label_map, len(self._counts)).cpu()
        for name, value in values.items():
            self._columns.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Return the mean of each column; a view without empty pixels or head does not count."""
        columns = {
            name: torch.tensor(values).nanmean().item() for name, values in self._columns.items()
        }
        if self._counts.any():
            columns["miou"] = mean_iou(self._counts)
        return {name: round(columns[name], 3) for name in COLUMNS if name in columns}


def samples_in_layer(
    field: Field, view: View, rays: tuple[Tensor, Tensor], beta: float, config: RenderingConfig
) -> float:
    """Return the mean number of samples of the head's rays within 2 beta of the surface.

    There, density is between 12 and 88 % of its maximum.
    """
    chosen = (view.label_map.flatten() > 0).nonzero()[:, 0]
    chosen = chosen[:: math.ceil(len(chosen) / MAX_LAYER_RAYS) or 1]
    if len(chosen) == 0:
        return math.nan
    origins, directions = (part[:, chosen] for part in rays)
    random = torch.Generator(origins.device).manual_seed(0)
    draws = DepthDraws(mode="random", generator=random)
    depths = sample_depths(field, origins, directions, config, draws)
    points = (origins.unsqueeze(2) + depths * directions.unsqueeze(2)).flatten(1, 2)
    is_inside = field.sdf(points).view(depths.shape).abs() < 2 * beta
    return is_inside.float().sum(dim=2).mean().item()


@torch.no_grad()
def measure(
    views: Iterator[View], betas: list[float], side: int, config: GeneratorConfig
) -> list[dict[str, float]]:
    """Render all views with each beta and return a row of the table for each."""
    rendering = config.rendering
    scores = [Scores(get_label_set(config.label_set).num_classes) for _ in betas]
    for view in views:
        rays = sample_rays(view.camera, side)
        for beta, score in zip(betas, scores, strict=True):
            field = SoftField(view.field, beta)
            render = render_field_fast(field, *rays, rendering)
            score.add(view, render, samples_in_layer(field, view, rays, beta, rendering))
    return [{"beta": beta, **score.means()} for beta, score in zip(betas, scores, strict=True)]


def print_table(rows: list[dict[str, float]]) -> None:
    """Print rows as a table for the docs."""
    print("| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(f"{value:g}" for value in row.values()) + " |")


def read_experiment(words: list[str]) -> GeneratorConfig:
    """Return the generator of an experiment of scripts.train."""
    options = read_options("train", [*words, "data=-"])
    return GeneratorConfig(**vars(options.model.generator), rendering=options.rendering)


def main() -> None:
    """Measure with the options of the command line."""
    own = [word for word in sys.argv[1:] if word.partition("=")[0] in DEFAULTS]
    experiment = [word for word in sys.argv[1:] if word not in own]
    options = DEFAULTS | dict(word.split("=", 1) for word in own)
    try:
        report(run(options, experiment), options["output"])
    except UserError as error:
        sys.exit(f"error: {error}")


def run(options: Mapping[str, str], experiment: list[str]) -> dict[str, Any]:
    """Return the document to report."""
    device, heads = torch.device(options["device"]), int(options["heads"])
    generator = None
    if options["generator"]:
        if experiment:
            raise UserError(f"generator= brings its own options; leave out {experiment[0]}")
        generator = load_generator(newest_checkpoint(options["generator"]), device)
    config = read_experiment(experiment) if generator is None else generator.config
    if config.geometry == "density":
        raise UserError("geometry=density has no beta")
    side = int(options["resolution"] or config.neural_rendering_resolution)
    betas = [float(word) for word in options["betas"].strip("[]").split(",") if word]
    if generator is None:
        views = procedural_views(kind_of_labels(config.label_set), heads, side, device)
    else:
        views = trained_views(generator, heads, side, float(options["truncation_psi"]))
        betas = betas or [generator.decoder.beta.item()]
    rows = measure(views, betas or list(BETAS), side, config)
    print_table(rows)
    rig, rendering = config.camera_rig, config.rendering
    return {
        "command": " ".join(["python", "benchmarks/bench_ceiling.py", *sys.argv[1:]]),
        "heads": heads,
        "neural_resolution": side,
        "rendering": vars(rendering),
        "pixel": round(rig.radius / rig.focal / side, 5),
        "least_beta": round(least_beta(rendering), 5),
        "rows": rows,
        **describe_machine(device),
    }


def newest_checkpoint(path: str) -> str:
    """Return the checkpoint inside a run folder, or the path itself."""
    inside = Path(path) / CHECKPOINT_FOLDER
    return str(inside) if inside.is_dir() else path


if __name__ == "__main__":
    main()
