"""Everything about an edit that a config file sets; the configs are under configs/edit/."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from editing.distillation import DistillationOptions
from editing.regions import RegionOptions
from mate3d.errors import UserError
from mate3d.option_checks import check_choice

Condition = Literal["updated", "fixed", "none"]
MaskLoss = Literal["classes", "silhouette"]


@dataclass(frozen=True)
class LossWeights:
    """Factor of each loss term; a term of weight 0 is not computed.

    Args:
        mask: Cross entropy of the final segmentation at the painted view.
        mask_raw: The same of the segmentation before super-resolution.
        distillation: Score distillation at random views.
        preservation: Image difference outside the region, at painted and random views.
        feature_preservation: Plane feature difference at points outside the region.
        eikonal: Unit gradient of the global SDF.
        sdf_consistency: Global SDF against the union of the parts.
    """

    mask: float = 1.0
    mask_raw: float = 1.0
    distillation: float = 1.0
    preservation: float = 1.0
    feature_preservation: float = 1.0
    eikonal: float = 0.1
    sdf_consistency: float = 1.0


@dataclass(frozen=True)
class EditOptions:
    """How an edit is optimised.

    Args:
        exact: Render every view as a whole instead of what the edit can reach; the same numbers
            up to rounding, several times slower.
        num_steps: Optimiser steps; each renders the painted and one random view.
        learnable: "ws", "planes" and names of backbone modules; see `EditedGenerator`.
        ws_lr: Adam's learning rate of the style vectors.
        weight_lr: Adam's learning rate of the backbone weights.
        plane_lr: Adam's learning rate of the offset on the planes.
        final_lr_factor: Factor that all rates fall to, linearly, by the last step.
        soft_beta: Least sharpness length of the surfaces during the first steps, world units; None
            is the generator's own throughout. A sharp surface hardly moves towards a far outline.
        soft_share: Share of the steps with `soft_beta`.
        region: Which points may change.
        condition: Mask that conditions the prior at random views: "updated" is the fused head's
            own, rendered at each step; "fixed" is the source's; "none" leaves text only.
        mask_loss: "classes" compares all labels; "silhouette" only head and background.
        zone_weight: Weight of the pixels near the edited classes in the mask loss.
        outside_weight: Weight of all other pixels.
        zone_dilation_pixels: Width by which that zone exceeds the edited classes.
        yaw_range: Random views, radians.
        pitch_range: Random views, radians.
        num_geometry_points: Points in the box for the terms on distances and features.
        weights: Factor of each loss term.
        distillation: How the prior is asked.
    """

    exact: bool = False
    num_steps: int = 100
    learnable: tuple[str, ...] = ("ws", "backbone.blocks.*.to_image", "planes")
    ws_lr: float = 0.002
    weight_lr: float = 0.002
    plane_lr: float = 0.02
    final_lr_factor: float = 0.1
    soft_beta: float | None = 0.004
    soft_share: float = 0.6
    region: RegionOptions = field(default_factory=RegionOptions)
    condition: Condition = "updated"
    mask_loss: MaskLoss = "classes"
    zone_weight: float = 1.0
    outside_weight: float = 0.2
    zone_dilation_pixels: int = 6
    yaw_range: tuple[float, float] = (-0.6, 0.6)
    pitch_range: tuple[float, float] = (-0.25, 0.25)
    num_geometry_points: int = 4096
    weights: LossWeights = field(default_factory=LossWeights)
    distillation: DistillationOptions = field(default_factory=DistillationOptions)

    def __post_init__(self):
        if self.num_steps < 1:
            raise UserError(f"edit.num_steps={self.num_steps}; use at least 1")
        if len(self.learnable) == 0:
            raise UserError("edit.learnable=[] leaves nothing to optimise; use e.g. [ws]")
        if self.soft_beta is not None and self.soft_beta <= 0:
            raise UserError(f"edit.soft_beta={self.soft_beta}; use a length above 0, or null")
        if not 0 <= self.soft_share <= 1:
            raise UserError(f"edit.soft_share={self.soft_share}; use a share from 0 to 1")
        check_choice("edit.condition", self.condition, get_args(Condition))
        check_choice("edit.mask_loss", self.mask_loss, get_args(MaskLoss))
        for name, value in (("yaw_range", self.yaw_range), ("pitch_range", self.pitch_range)):
            if len(value) != 2 or value[0] > value[1]:
                raise UserError(f"edit.{name}={list(value)}; use [smallest, largest] in radians")
