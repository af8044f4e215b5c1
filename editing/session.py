"""One edit from start to finish: run the loop, measure, write the files."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from editing.edited_generator import EditedGenerator, check_editable
from editing.guidance.base import Guidance
from editing.head_scale import measure_head
from editing.loop import EditLoop, EditTarget
from editing.measures import measure
from editing.options import EditOptions, ReportOptions
from editing.outputs import ViewPair, render_views, write_orbit, write_pictures
from editing.prompts import log_prompts_without_effect
from editing.receipt import Receipt, peak_memory_mib
from editing.recipe import Recipe, save_edit
from editing.regions import PaintedView, make_regions
from editing.report import write_report
from mate3d.atomic import atomic_files
from mate3d.generation.rendering import HeadMaker, Precision
from mate3d.generator import Generator
from mate3d.labels import segmentation_to_label_map
from torch_utils.stages import stage


@dataclass(frozen=True)
class Portrait:
    """The head to edit, and the view in which its mask is painted.

    Args:
        generator: Frozen source generator.
        ws: Style vectors, [1, L, w_dim].
        camera: Painted view, [1, 25].
        image: Source image, [1, 3, H, W].
        label_map: Rendered source mask, [1, H, W].
    """

    generator: Generator
    ws: Tensor
    camera: Tensor
    image: Tensor
    label_map: Tensor


@dataclass(frozen=True)
class EditRequest:
    """The user's request.

    Args:
        painted_label_map: Repainted mask, [1, H, W] int64.
        class_ids: Classes that may change.
        prompt: Text prompt; empty for an edit by mask alone.
        negative_prompt: Negative prompt, often empty.
        seed: Seed of the random views, noise and timesteps.
        config_hash: Hash of the resolved configuration.
        label_prompts: Prompts of single labels by class id.
    """

    painted_label_map: Tensor
    class_ids: tuple[int, ...]
    prompt: str
    negative_prompt: str
    seed: int
    config_hash: str
    label_prompts: Mapping[int, str] = field(default_factory=dict)


@torch.no_grad()
def sample_portrait(
    generator: Generator,
    *,
    seed: int,
    truncation_psi: float,
    yaw: float,
    pitch: float,
) -> Portrait:
    """Return the head of a seed, seen from an angle in radians.

    The latent is drawn with NumPy's legacy normal generator, as in EG3D, and is conditioned on the
    frontal camera.

    Raises:
        UserError: If the seed is not in 0..2**32 - 1, or the generator cannot be edited.
    """
    check_editable(generator)
    device, rig = next(generator.parameters()).device, generator.config.camera_rig
    ws = HeadMaker(generator, Precision(device), truncation_psi).style(seed)
    camera = rig.make_camera(yaw, pitch).to(device)
    view = generator.synthesize(ws, camera)
    label_map = segmentation_to_label_map(view.segmentation)
    return Portrait(generator, ws, camera, view.image, label_map)


class EditSession:
    """A portrait being edited.

    Args:
        guidance: Frozen prior; None for an edit by mask alone.
    """

    def __init__(
        self,
        portrait: Portrait,
        request: EditRequest,
        options: EditOptions,
        guidance: Guidance | None,
    ):
        self.portrait, self.request, self.options = portrait, request, options
        self.guidance = guidance
        generator = portrait.generator
        self.views = (PaintedView(portrait.camera, portrait.label_map, request.painted_label_map),)
        field = generator.make_field(portrait.ws)
        self.scale = measure_head(field, portrait.camera, generator.config)
        regions = make_regions(options.region, request.class_ids, self.views, self.scale)
        self.edited = EditedGenerator(generator, portrait.ws, *regions, learnable=options.learnable)
        self.prompt_embeds = None
        if guidance is not None:
            label_set, by_label = generator.label_set, request.label_prompts
            log_prompts_without_effect(request.prompt, by_label, request.class_ids, label_set)
            texts = request.prompt, request.negative_prompt, by_label
            self.prompt_embeds = guidance.encode_prompt(*texts)
        self.history: list[dict[str, float]] = []
        self.optimization_seconds = 0.0

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Optimise to the last step, or stop earlier if `should_stop` returns true."""
        started = time.perf_counter()
        target = EditTarget(
            views=self.views,
            class_ids=self.request.class_ids,
            scale=self.scale,
            guidance=self.guidance,
            prompt_embeds=self.prompt_embeds,
        )
        loop = EditLoop(self.edited, target, self.options, seed=self.request.seed)
        self.history = loop.run(should_stop)
        self.optimization_seconds = time.perf_counter() - started

    def write(self, folder: str | Path, options: ReportOptions, *, started: float) -> Receipt:
        """Render, measure and write all results.

        Args:
            folder: Receives the files; none is replaced before all are complete.
            started: `time.perf_counter()` at the start of the command.
        """
        label_set = self.portrait.generator.label_set
        exact = self.options.exact
        cameras = [view.camera for view in self.views]
        painted_pairs, other_views = render_views(self.edited, cameras, exact=exact)
        recipe = Recipe(
            prompt=self.request.prompt,
            class_names=self._class_names(),
            region=self.options.region,
            scale=self.scale,
            config_hash=self.request.config_hash,
        )
        with atomic_files(folder) as temporary:
            write_orbit(
                temporary / "orbit.mp4",
                self.edited,
                num_frames=options.num_orbit_frames,
                fps=options.orbit_fps,
                exact=exact,
            )
            with stage("Writing the report"):
                views = list(zip(self.views, painted_pairs, strict=True))
                write_pictures(temporary, views, other_views, label_set)
                save_edit(
                    temporary / "edit.safetensors",
                    self.edited,
                    recipe,
                    views=self.views,
                )
                receipt = self._make_receipt(views, other_views, options, started)
                (temporary / "receipt.json").write_text(receipt.to_json())
                write_report(temporary / "report.html", receipt, self.history)
        return receipt

    def _make_receipt(
        self,
        views: list[tuple[PaintedView, ViewPair]],
        other_views: list[ViewPair],
        options: ReportOptions,
        started: float,
    ) -> Receipt:
        label_set = self.portrait.generator.label_set
        by_label = [
            f"{text} {label_set.class_names[class_id]}"
            for class_id, text in self.request.label_prompts.items()
        ]
        measures = measure(
            views,
            other_views,
            label_set=label_set,
            class_ids=self.request.class_ids,
            prompt=", ".join([*by_label, self.request.prompt]),
            options=options,
        )
        return Receipt(
            **vars(measures),
            prompt=self.request.prompt,
            edit_classes=self._class_names(),
            num_steps=len(self.history),
            num_steps_planned=self.options.num_steps,
            seconds={
                "optimization": round(self.optimization_seconds, 1),
                "total": round(time.perf_counter() - started, 1),
            },
            peak_memory_mib=peak_memory_mib(self.portrait.ws.device),
            config_hash=self.request.config_hash,
        )

    def _class_names(self) -> tuple[str, ...]:
        label_set = self.portrait.generator.label_set
        return tuple(label_set.class_names[class_id] for class_id in self.request.class_ids)
