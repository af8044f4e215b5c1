"""The optimisation loop of an edit: render, compute the losses, take a step."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from editing import losses
from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField
from editing.guidance.base import Guidance, PromptEmbeds
from editing.objectives import ObjectiveView, make_objective
from editing.options import EditOptions
from editing.regions import edit_mask
from editing.views import SourceView, view_source
from mate3d.generator import RenderOutput
from mate3d.labels import colorize_label_map, segmentation_to_label_map
from torch_utils.stages import stage

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EditTarget:
    """The user's request, ready for the loop.

    Args:
        camera: View in which the mask was painted, [1, 25].
        painted_label_map: The repainted mask, [1, H, W] int64.
        class_ids: Classes that may change.
        guidance: Frozen prior; None for an edit by mask alone.
        prompt_embeds: Encoded prompt; None without guidance.
    """

    camera: Tensor
    painted_label_map: Tensor
    class_ids: tuple[int, ...]
    guidance: Guidance | None
    prompt_embeds: PromptEmbeds | None


class EditLoop:
    """Optimises an `EditedGenerator` towards a target.

    Args:
        seed: Seed of the random views, noise and timesteps.
    """

    def __init__(
        self, edited: EditedGenerator, target: EditTarget, options: EditOptions, *, seed: int
    ):
        self.edited, self.target, self.options = edited, target, options
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters = [p for p in edited.parameters() if p.requires_grad]
        self.optimizer = self._make_optimizer()
        self.schedule = torch.optim.lr_scheduler.LinearLR(
            self.optimizer, 1.0, options.final_lr_factor, total_iters=options.num_steps
        )
        # None if the surfaces are soft enough already.
        soft_beta, own_beta = options.soft_beta, edited.generator.decoder.beta.item()
        self.beta = soft_beta if soft_beta is not None and soft_beta > own_beta else None
        self.source_view = self._view_source(target.camera)
        painted = target.painted_label_map
        self.pixel_weights = losses.pixel_weights(
            painted,
            self._edit_mask(self.source_view.label_map, painted),
            zone_weight=options.zone_weight,
            outside_weight=options.outside_weight,
            class_weights=losses.balanced_class_weights(
                painted, edited.generator.label_set.num_classes
            ),
        )
        self.num_visits = 0
        if options.weights.distillation:
            self.objective = make_objective(
                options.objective,
                options.distillation,
                target.guidance,
                target.prompt_embeds,
                self.generator,
            )
            self.cameras = [target.camera]
            self.cameras += [self._draw_camera() for _ in range(self.objective.num_views - 1)]
        # Shown to the user: total loss, and how well the painted view fits.
        self.numbers = {"loss": ""}

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> list[dict[str, float]]:
        """Take all steps, or stop after the current one; return the loss terms of each step."""
        history, num_steps = [], self.options.num_steps
        with stage("Optimising", num_steps) as bar:
            for step in range(1, num_steps + 1):
                terms = self.step((step - 1) / num_steps)
                if not all(math.isfinite(value) for value in terms.values()):
                    _logger.warning(
                        "step %d: the loss is not finite; stopping before this step", step
                    )
                    break
                history.append(terms)
                values = self.numbers | {name: f"{value:.3g}" for name, value in terms.items()}
                _logger.debug("step %d: %s", step, ", ".join(map("=".join, values.items())))
                bar.set_postfix(self.numbers, refresh=False)
                bar.update()
                if should_stop():
                    break
        return history

    def step(self, progress: float) -> dict[str, float]:
        """Render, guide, and take one optimizer step unless the loss is not finite.

        Args:
            progress: Completed fraction of the edit, 0..1.

        Returns:
            The unweighted loss terms.
        """
        if self.beta is not None and progress >= self.options.soft_share:
            self.beta = None
            self.source_view = self._view_source(self.target.camera)
        field = self.edited.fused_field()
        terms = self._painted_view_terms(field)
        for name, value in self._random_view_terms(field, progress).items():
            terms[name] = terms[name] + value if name in terms else value
        terms |= self._volume_terms(field)
        weights = self.options.weights
        total = sum(getattr(weights, name) * value for name, value in terms.items())
        # An edit with an empty region has no gradient.
        if isinstance(total, Tensor) and total.requires_grad and torch.isfinite(total):
            self.optimizer.zero_grad(set_to_none=True)
            total.backward(inputs=self.parameters)
            self.optimizer.step()
            self.schedule.step()
        self.numbers["loss"] = f"{torch.as_tensor(total).item():.3g}"
        return {name: value.item() for name, value in terms.items()}

    def _view_source(self, camera: Tensor, *, with_normals: bool = False) -> SourceView:
        exact = self.options.exact
        return view_source(self.edited, camera, self.beta, exact=exact, with_normals=with_normals)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        edited, options = self.edited, self.options
        groups = [{"params": edited.weight_parameters(), "lr": options.weight_lr}]
        if edited.ws.requires_grad:
            groups.append({"params": [edited.ws], "lr": options.ws_lr})
        if edited.plane_offset is not None:
            groups.append({"params": [edited.plane_offset], "lr": options.plane_lr})
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def _painted_view_terms(self, field: FusedField) -> dict[str, Tensor]:
        weights, target = self.options.weights, self.target
        if not (weights.mask or weights.mask_raw or weights.preservation):
            return {}
        source = self.source_view
        is_compared = bool(weights.mask) and self.options.mask_loss == "classes"
        view = source.fused(field, with_segmentation_gradient=is_compared)
        terms = self._mask_terms(view)
        label_map = segmentation_to_label_map(view.segmentation)
        inside = self._edit_mask(source.label_map, label_map, target.painted_label_map)
        images = view.image, source.output.image
        if weights.preservation:
            terms["preservation"] = losses.preservation_loss(*images, inside)
        ious = [losses.mask_iou(label_map, target.painted_label_map, k) for k in target.class_ids]
        self.numbers["mean IoU"] = f"{fmean(1.0 if iou is None else iou for iou in ious):.3f}"
        self.numbers["PSNR outside"] = f"{losses.psnr_outside(*images, inside):.1f} dB"
        return terms

    def _mask_terms(self, view: RenderOutput) -> dict[str, Tensor]:
        weights, painted = self.options.weights, self.target.painted_label_map
        if self.options.mask_loss == "silhouette":
            if not weights.mask:
                return {}
            term = losses.silhouette_cross_entropy(view.opacity, painted, self.pixel_weights)
            return {"mask": term}
        segmentations = {"mask": view.segmentation, "mask_raw": view.segmentation_raw}
        return {
            name: losses.mask_cross_entropy(segmentation, painted, self.pixel_weights)
            for name, segmentation in segmentations.items()
            if getattr(weights, name)
        }

    def _random_view_terms(self, field: FusedField, progress: float) -> dict[str, Tensor]:
        options = self.options
        if not options.weights.distillation:
            return {}
        objective, index = self.objective, None
        if objective.num_views:
            index = self.num_visits % objective.num_views
            self.num_visits += 1
        camera = self._draw_camera() if index is None else self.cameras[index]
        source = self._view_source(camera, with_normals=objective.with_normals)
        view = source.fused(field, with_segmentation_gradient=False)
        label_map, terms = segmentation_to_label_map(view.segmentation), {}
        inside = self._edit_mask(source.label_map, label_map)
        if options.weights.preservation:
            terms["preservation"] = losses.preservation_loss(
                view.image, source.output.image, inside
            )
        is_fixed = options.condition == "fixed"
        wanted = source.label_map if is_fixed else label_map
        if index == 0:
            wanted = self.target.painted_label_map
        terms["distillation"] = objective.loss(
            ObjectiveView(
                image=view.image,
                normals=view.normals,
                control_image=self._control_image(wanted),
                source_image=source.output.image,
                source_control_image=self._control_image(source.label_map),
                inside=edit_mask((label_map, wanted), self.target.class_ids, 0),
                index=index,
                progress=progress,
            )
        )
        return terms

    def _volume_terms(self, field: FusedField) -> dict[str, Tensor]:
        weights = self.options.weights
        if not (weights.feature_preservation or weights.eikonal or weights.sdf_consistency):
            return {}
        points = torch.rand((self.options.num_geometry_points, 3), generator=self.generator) - 0.5
        points = (points * self.edited.generator.config.box_size).to(self.edited.source_ws)
        is_inside = field.share(points[None])[0, :, 0] > 0
        inside, outside = points[None, is_inside], points[None, ~is_inside]
        terms = {}
        if weights.feature_preservation and outside.numel():
            terms["feature_preservation"] = losses.feature_preservation_loss(
                field.source, field.edited, outside
            )
        if (weights.eikonal or weights.sdf_consistency) and inside.numel():
            terms |= losses.geometry_losses(
                field.edited,
                inside,
                with_eikonal=bool(weights.eikonal),
                with_consistency=bool(weights.sdf_consistency),
            )
        return terms

    def _edit_mask(self, *label_maps: Tensor) -> Tensor:  # [1, 1, H, W] bool
        return edit_mask(label_maps, self.target.class_ids, self.options.zone_dilation_pixels)

    def _control_image(
        self,
        label_map: Tensor,  # [1, H, W]
    ) -> Tensor | None:  # [1, 3, H, W] in 0..1
        if self.options.condition == "none":
            return None
        return (colorize_label_map(label_map, self.edited.generator.label_set) + 1) / 2

    def _draw_camera(self) -> Tensor:  # [1, 25]
        low_yaw, high_yaw = map(math.radians, self.options.yaw_range_degrees)
        low_pitch, high_pitch = map(math.radians, self.options.pitch_range_degrees)
        draws = torch.rand(2, generator=self.generator)
        camera = self.edited.generator.config.camera_rig.make_camera(
            low_yaw + (high_yaw - low_yaw) * draws[0],
            low_pitch + (high_pitch - low_pitch) * draws[1],
        )
        return camera.to(self.edited.source_ws)
