"""Lengths of a head that the options of an edit are relative to, measured from its renders."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mate3d.cameras import unpack_camera
from mate3d.generator import GeneratorConfig
from mate3d.rendering.field import Field, field_gradient
from mate3d.rendering.rays import interval_weights, sample_rays

_SIDE, _NUM_SAMPLES = 24, 512
# Transmittances at which a surface begins, is, and ends.
_LEVELS = 0.9, 0.5, 0.1
_EXIT = _LEVELS[-1]


@dataclass(frozen=True)
class HeadScale:
    """Lengths of a head, in world units unless stated otherwise.

    Args:
        size: Side of the square with the area of the head's silhouette.
        thickness: Median length along rays over which transmittance falls from 0.9 to 0.1.
        slope: Median length of the distance's gradient at the surface: 1 if distances are metric,
            20 if they are 20 times too large.
    """

    size: float
    thickness: float
    slope: float

    def distance(self, share: float | None) -> float | None:
        """Turn a share of the head's size into a difference of the field's distances."""
        return None if share is None else share * self.size * self.slope


@torch.no_grad()
def measure_head(
    field: Field,
    camera: Tensor,  # [1, 25]
    config: GeneratorConfig,
) -> HeadScale:
    """Measure a head from one view."""
    rendering = config.rendering
    origins, directions = sample_rays(camera, _SIDE)
    steps = torch.linspace(rendering.near, rendering.far, _NUM_SAMPLES, device=field.device)
    depths = steps.view(1, 1, -1, 1).expand(1, _SIDE**2, -1, 1)
    points = origins.unsqueeze(2) + depths * directions.unsqueeze(2)
    density = field.density(field.sdf(points.flatten(1, 2))).view(depths.shape)
    weights = interval_weights(density, depths, rendering.density_activation)
    light = 1 - F.pad(weights.cumsum(dim=2), (0, 0, 1, 0))[0, ..., 0]
    entry, place, leaving = (_depth_of(level, light, steps) for level in _LEVELS)
    surface = origins + place[:, None] * directions
    # Some generators put an opaque background into the box.
    labels = field.sample(surface).class_sdf.argmin(dim=-1)[0]
    # Hardly trained heads let light through: then the darkest rays count, and surfaces are thick.
    darkness = light[:, -1].quantile(0.1).clamp(min=_EXIT)
    is_dark = light[:, -1] <= darkness
    is_head = is_dark & (labels != 0)
    is_head = is_head if is_head.any() else is_dark
    surface = surface[:, is_head]
    cam2world, intrinsics = unpack_camera(camera)
    in_camera = (surface - cam2world[:, None, :3, 3]) @ cam2world[:, :3, :3]
    side = (in_camera[..., 2].median() / intrinsics[0, 0, 0]).item()
    return HeadScale(
        size=side * is_head.float().mean().sqrt().item(),
        thickness=(leaving - entry)[is_head].median().item(),
        slope=field_gradient(field, surface).norm(dim=-1).median().item(),
    )


def _depth_of(
    level: float,
    light: Tensor,  # [R, S], descending
    depths: Tensor,  # [S]
) -> Tensor:  # [R]
    """Return where transmittance falls to a level, between the samples that enclose it."""
    after = (light > level).sum(dim=1, keepdim=True).clamp(1, len(depths) - 1)
    above, below = light.gather(1, after - 1), light.gather(1, after)
    share = (above - level) / (above - below).clamp(min=1e-6)
    return torch.lerp(depths[after - 1], depths[after], share.clamp(0, 1)).squeeze(1)
