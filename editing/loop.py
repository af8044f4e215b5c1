"""The optimisation loop of an edit: render, compute the losses, take a step."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from editing import losses
from editing.edited_generator import EditedGenerator
from editing.fusion import FusedField
from editing.guidance.base import Guidance, PromptEmbeds
from editing.head_scale import HeadScale
from editing.objectives import ObjectiveView, make_objective
from editing.options import EditOptions
from editing.regions import PaintedView, added_labels, edit_mask
from editing.views import SourceView, find_softness, picture_normals, view_source
from mate3d.cameras import camera_turn
from mate3d.errors import UserError
from mate3d.generator import RenderOutput
from mate3d.label_colors import read_palette
from mate3d.labels import colorize_label_map, segmentation_to_label_map
from torch_utils.stages import stage

_logger = logging.getLogger(__name__)

# Steps in a row without finite gradients that end an edit.
_MAX_SKIPPED = 5
# A gradient is clipped to this many times the median norm of the steps before.
_CLIP_FACTOR = 10.0
# Steps of Roberts' R2 sequence, whose points cover the unit square evenly for any number of them.
_SPREAD = 0.7548776662466927, 0.5698402909980532


@dataclass(frozen=True)
class EditTarget:
    """The user's request, ready for the loop.

    Args:
        views: Views in which masks were painted, at least one.
        class_ids: Classes that may change.
        scale: Lengths of the source head.
        guidance: Frozen prior; None for an edit by mask alone.
        prompt_embeds: Encoded prompt; None without guidance.
    """

    views: tuple[PaintedView, ...]
    class_ids: tuple[int, ...]
    scale: HeadScale
    guidance: Guidance | None
    prompt_embeds: PromptEmbeds | None


class EditLoop:
    """Optimises an `EditedGenerator` towards a target.

    Args:
        seed: Of the random views, noise and timesteps.

    Attributes:
        planned_steps: Steps after which the edit is finished. Those beyond the number in the
            options keep its last learning rate and noise level.
        num_steps: Steps taken so far.
        num_skipped: Steps whose loss or gradient was not finite.
        history: Loss terms of each finite step.
    """

    def __init__(
        self, edited: EditedGenerator, target: EditTarget, options: EditOptions, *, seed: int
    ):
        self.edited, self.target, self.options = edited, target, options
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = self._make_optimizer()
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.schedule = torch.optim.lr_scheduler.LinearLR(
            self.optimizer, 1.0, options.final_lr_factor, total_iters=options.num_steps
        )
        self.objective = None
        if options.weights.distillation:
            palette, label_set = target.guidance.palette, edited.generator.label_set
            self.palette = read_palette(palette, label_set, "guidance.palette")
            self.objective = make_objective(
                options.objective,
                options.distillation,
                target.guidance,
                target.prompt_embeds,
                self.generator,
            )
        own_peak = edited.generator.decoder.density(torch.tensor(-torch.inf)).item()
        # None if the surfaces are soft enough already.
        self.softness = find_softness(options.soft_thickness, target.scale, own_peak)
        self.planned_steps = options.num_steps
        self.num_steps = self.num_skipped = self.num_skipped_in_a_row = 0
        self.history: list[dict[str, float]] = []
        self._start_painted_views()
        self.norms: list[float] = []
        self.added = added_labels(target.views)
        self.last_good = self._copy_parameters()
        # Shown to the user: total loss, mean IoU of the painted view, and PSNR outside the region.
        self.numbers = {"loss": ""}

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> list[dict[str, float]]:
        """Take the steps that are left, or stop after the current one; return the history.

        A step whose loss or gradient is not finite changes nothing. Several in a row end the edit
        with the last state that had a finite loss.

        Raises:
            UserError: If no step had a finite loss and gradient, or none had a gradient at all.
        """
        with stage("Optimising", self.planned_steps, self.num_steps) as bar:
            while self.num_steps < self.planned_steps:
                terms = self.step(min(self.num_steps / self.options.num_steps, 1.0))
                self.num_skipped_in_a_row = 0 if terms else self.num_skipped_in_a_row + 1
                if terms:
                    self.history.append(terms)
                    values = self.numbers | {name: f"{value:.3g}" for name, value in terms.items()}
                    numbers = ", ".join(map("=".join, values.items()))
                    _logger.debug("step %d: %s", self.num_steps, numbers)
                bar.set_postfix(self.numbers, refresh=False)
                bar.update()
                if self.num_skipped_in_a_row == _MAX_SKIPPED:
                    self._rewind()
                    break
                if should_stop():
                    break
        if not self.history:
            raise UserError(
                f"no loss or gradient was finite in {self.num_steps} steps; check the prior, and"
                " its precision (guidance.precision=fp32)"
            )
        if not self.norms:
            names = ",".join(self.options.learnable)
            raise UserError(
                f"nothing changed: no loss depends on edit.learnable=[{names}] in the parts that"
                " were repainted or are in edit_classes"
            )
        if self.num_skipped:
            _logger.warning("skipped %d steps without finite gradients", self.num_skipped)
        return self.history

    def step(self, progress: float) -> dict[str, float]:
        """Render, guide, and take one optimizer step.

        Args:
            progress: Completed fraction of the edit, 0..1.

        Returns:
            The unweighted loss terms; empty if one of them or a gradient was not finite.
        """
        if self.softness is not None and progress >= self.options.soft_share:
            self.softness = None
            self._start_painted_views()
        field = self.edited.fused_field()
        terms = self._painted_view_terms(field)
        for name, value in self._other_view_terms(field, progress).items():
            terms[name] = terms[name] + value if name in terms else value
        terms |= self._volume_terms(field)
        self.num_steps += 1
        weighted = {
            name: getattr(self.options.weights, name) * term for name, term in terms.items()
        }
        self.numbers["loss"] = f"{sum(term.item() for term in weighted.values()):.3g}"
        if not self._descend(weighted, progress):
            self.num_skipped += 1
            return {}
        return {name: value.item() for name, value in terms.items()}

    def _descend(self, terms: dict[str, Tensor], progress: float) -> bool:
        """Take an optimizer step if loss and gradients are finite; return whether they are."""
        if not all(torch.isfinite(term) for term in terms.values()):
            return False
        is_ws_stage = progress < self.options.ws_share and self.edited.ws.requires_grad
        inputs = [self.edited.ws] if is_ws_stage else self.parameters
        self.optimizer.zero_grad(set_to_none=True)
        terms = {name: term for name, term in terms.items() if term.requires_grad}
        if not self.options.prior_moves_shape and "distillation" in terms:
            shape = self.edited.offsets.get("shape")
            if others := [parameter for parameter in inputs if parameter is not shape]:
                terms["distillation"].backward(inputs=others, retain_graph=True)
            del terms["distillation"]
        if terms:
            sum(terms.values()).backward(inputs=inputs)
        limit = _CLIP_FACTOR * median(self.norms) if self.norms else math.inf
        norm = torch.nn.utils.clip_grad_norm_(inputs, limit).item()
        if not math.isfinite(norm):
            return False
        if norm > 0:
            self.norms.append(norm)
        self.last_good = self._copy_parameters()
        self.optimizer.step()
        self.schedule.step()
        return True

    @torch.no_grad()
    def _rewind(self) -> None:
        for parameter, good in zip(self.parameters, self.last_good, strict=True):
            parameter.copy_(good)
        self.num_skipped_in_a_row = 0
        text = "step %d: %d steps in a row without finite gradients; ending with the state before"
        _logger.warning(text, self.num_steps, _MAX_SKIPPED)

    def _copy_parameters(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    def _start_painted_views(self) -> None:
        """View the source at the painted cameras, and weigh the pixels of their masks."""
        self._fixed_views: dict[int, SourceView] = {}
        self.source_views = [self._view_source(view.camera) for view in self.target.views]
        options, num_classes = self.options, self.edited.generator.label_set.num_classes
        self.pixel_weights = [
            losses.pixel_weights(
                view.label_map,
                self._edit_mask(view.source_label_map, view.label_map),
                zone_weight=options.zone_weight,
                outside_weight=options.outside_weight,
                class_weights=losses.balanced_class_weights(view.label_map, num_classes),
            )
            for view in self.target.views
        ]
        self.raw_targets = [
            losses.raw_mask_target(source.output.segmentation_raw, view)
            for source, view in zip(self.source_views, self.target.views, strict=True)
        ]

    def _view_source(self, camera: Tensor, *, with_normals: bool = False) -> SourceView:
        return view_source(
            self.edited,
            camera,
            self.softness,
            exact=self.options.exact,
            with_normals=with_normals,
        )

    def _make_optimizer(self) -> torch.optim.Adam:
        options, edited = self.options, self.edited
        groups = [
            {"params": [edited.ws] if edited.ws.requires_grad else [], "lr": options.ws_lr},
            {"params": edited.weight_parameters(), "lr": options.weight_lr},
        ]
        rates = {"texture": options.texture_lr, "shape": options.shape_lr}
        for name, offset in edited.offsets.items():
            groups.append({"params": [offset], "lr": rates[name] * edited.plane_std(name)})
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def _painted_view_terms(self, field: FusedField) -> dict[str, Tensor]:
        weights = self.options.weights
        if not (weights.mask or weights.mask_raw or weights.preservation):
            return {}
        index = self.num_steps % len(self.source_views)
        source, painted = self.source_views[index], self.target.views[index].label_map
        is_compared = bool(weights.mask) and self.options.mask_loss == "classes"
        view = source.fused(field, with_segmentation_gradient=is_compared)
        terms = self._mask_terms(view, index)
        label_map = segmentation_to_label_map(view.segmentation)
        inside = self._edit_mask(source.label_map, label_map, painted)
        images = view.image, source.output.image
        if weights.preservation:
            terms["preservation"] = losses.preservation_loss(*images, inside)
        ious = [losses.mask_iou(label_map, painted, k) for k in self.target.class_ids]
        self.numbers["IoU"] = f"{fmean(1.0 if iou is None else iou for iou in ious):.3f}"
        self.numbers["PSNR"] = f"{losses.psnr_outside(*images, inside):.1f} dB"
        return terms

    def _mask_terms(self, view: RenderOutput, index: int) -> dict[str, Tensor]:
        weights, pixel_weights = self.options.weights, self.pixel_weights[index]
        painted = self.target.views[index].label_map
        if self.options.mask_loss == "silhouette":
            if not weights.mask:
                return {}
            term = losses.silhouette_cross_entropy(view.opacity, painted, pixel_weights)
            return {"mask": term}
        pairs = {
            "mask": (view.segmentation, painted),
            "mask_raw": (view.segmentation_raw, self.raw_targets[index]),
        }
        return {
            name: losses.mask_cross_entropy(*pair, pixel_weights)
            for name, pair in pairs.items()
            if getattr(weights, name)
        }

    def _other_view_terms(self, field: FusedField, progress: float) -> dict[str, Tensor]:
        options = self.options
        if not (options.weights.distillation or options.weights.other_labels):
            return {}
        index, source = self._next_view()
        view = source.fused(field, with_segmentation_gradient=False)
        label_map = segmentation_to_label_map(view.segmentation)
        terms = {}
        if options.weights.other_labels:
            terms["other_labels"] = losses.other_labels_loss(
                view.segmentation_raw, source.output.segmentation_raw, self.added
            )
        if options.weights.preservation:
            inside = self._edit_mask(source.label_map, label_map)
            terms["preservation"] = losses.preservation_loss(
                view.image, source.output.image, inside
            )
        if not options.weights.distillation:
            return terms
        is_painted = index is not None and index < len(self.target.views)
        condition = self.target.views[index].label_map if is_painted else label_map
        terms["distillation"] = self.objective.loss(
            ObjectiveView(
                image=view.image,
                normals=picture_normals(view, source.camera),
                control_image=self._control_image(condition, source),
                source_image=source.output.image,
                source_control_image=self._control_image(source.label_map, source),
                inside=edit_mask([source.label_map, condition], self.target.class_ids, 0),
                index=index,
                progress=progress,
                label_map=condition,
                turn=camera_turn(source.camera),
            )
        )
        return terms

    def _volume_terms(self, field: FusedField) -> dict[str, Tensor]:
        weights, target = self.options.weights, self.target
        if not (weights.feature_preservation or weights.eikonal or weights.sdf_consistency):
            return {}
        points = torch.rand((1, self.options.num_geometry_points, 3), generator=self.generator)
        points = (points - 0.5) * self.edited.generator.config.box_size
        points = points.to(self.edited.source_ws)
        shares = field.shares(points)
        terms = {}
        if weights.feature_preservation:
            terms["feature_preservation"] = losses.feature_preservation_loss(field, points, shares)
        inside = points[:, shares[1][0, :, 0] > 0]
        if (weights.eikonal or weights.sdf_consistency) and inside.numel():
            terms |= losses.geometry_losses(
                field.edited,
                inside,
                target.scale,
                with_eikonal=bool(weights.eikonal),
                with_consistency=bool(weights.sdf_consistency),
            )
        return terms

    def _edit_mask(self, *label_maps: Tensor) -> Tensor:  # [1, 1, H, W] bool
        pixels = round(self.options.zone_dilation * label_maps[0].shape[-1])
        return edit_mask(label_maps, self.target.class_ids, pixels)

    def _control_image(
        self, label_map: Tensor, source: SourceView
    ) -> Tensor | None:  # [1, 3, H, W] in 0..1
        if self.options.condition == "none":
            return None
        if self.options.condition == "fixed":
            label_map = source.label_map
        return (colorize_label_map(label_map, self.palette) + 1) / 2

    def _next_view(self) -> tuple[int | None, SourceView]:
        """Return the next fixed camera's index and view, or no index and a new random view."""
        with_normals, num_views = False, self.options.distillation.denoised.num_views
        if self.options.weights.distillation:
            with_normals, num_views = self.objective.with_normals, self.objective.num_views
        if num_views == 0:
            place = torch.rand(2, generator=self.generator).tolist()
            return None, self._view_source(self._camera_at(*place), with_normals=with_normals)
        num_painted = len(self.target.views)
        index = self.num_steps % max(num_views, num_painted)
        if index < num_painted and not with_normals:
            return index, self.source_views[index]
        if index not in self._fixed_views:
            if index < num_painted:
                camera = self.target.views[index].camera
            else:
                camera = self._camera_at(*((index * step) % 1 for step in _SPREAD))
            self._fixed_views[index] = self._view_source(camera, with_normals=with_normals)
        return index, self._fixed_views[index]

    def _camera_at(self, yaw_share: float, pitch_share: float) -> Tensor:  # [1, 25]
        """Return a camera at these shares of the ranges of yaw and pitch."""
        ranges = self.options.yaw_range_degrees, self.options.pitch_range_degrees
        shares = yaw_share, pitch_share
        angles = [
            math.radians(low + (high - low) * share)
            for (low, high), share in zip(ranges, shares, strict=True)
        ]
        camera = self.edited.generator.config.camera_rig.make_camera(*angles)
        return camera.to(self.edited.source_ws)
