"""Named weights and settings of all losses, and their weighted sum."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mate3d.options import NonNegativeFloat, Options, PositiveFloat, PositiveInt

Metrics = dict[str, Tensor]

# Weights of terms that use class distances, which not every generator has.
CLASS_DISTANCE_TERMS = (
    "sdf_consistency",
    "density_consistency",
    "class_color_consistency",
    "color_consistency",
)
# Weights of terms that use any distances, which density generators do not have.
DISTANCE_TERMS = ("eikonal", "minimal_surface", *CLASS_DISTANCE_TERMS)


@dataclass(frozen=True)
class LossSettings(Options):
    """Weights and settings of the losses: the released values without the release's defects.

    A term of weight 0 is never computed.

    Args:
        adversarial: Weight of the image discriminator in the generator's loss.
        semantic_adversarial: Weight of the image-and-mask discriminator; 0 switches it off.
        eikonal: Weight of (|grad d| - 1)^2: the gradient of the head's distance d has length 1.
        minimal_surface: Weight of exp(-sharpness |d|): removes surfaces that no view shows.
        sdf_consistency: Weight of max(d, 0) against min_k max(d_k, 0): outside the head, the union
            of the parts must match it.
        density_consistency: Weight of the difference between the head's density and the sum of the
            parts' densities, at beta 0.1; multiplied by (beta / 0.1)^2, because densities reach
            1 / beta.
        class_color_consistency: Weight of the difference between each part rendered alone and its
            cut-out of the image.
        color_consistency: Weight of the difference between the image and the sum of its parts
            rendered alone.
        density_smoothness: Weight of density differences between neighbouring points, at beta 0.1;
            multiplied by beta / 0.1. Computed every optimizer.generator_reg_interval iterations.
        r1_gamma: R1 gamma (twice the weight) of the image discriminator, computed every
            optimizer.discriminator_reg_interval iterations.
        semantic_r1_gamma: R1 gamma of the image-and-mask discriminator. The release
            uses ten times r1_gamma.
        minimal_surface_sharpness: Inverse width of the shell that minimal_surface penalises, per
            world unit.
        eikonal_points: Random samples per image for the eikonal term; null uses all.
        consistency_points: Random samples per image for sdf_consistency and density_consistency;
            null uses all. Saves time only with semantic_adversarial=0.
        density_points: Points per image for density_smoothness.
        density_distance: Standard deviation of the distance between neighbouring points, in world
            units.
        density_extent: Half side of the cube that the points come from, in world units; null is the
            planes' box. The release uses 1, so that seven eighths of its points lie outside.
        sphere_radius: Radius of the sphere of train.sphere_init_steps, in world units. The default
            is the release's, a quarter of the depth range of rendering=portrait. Such a sphere
            fills 83 % of the picture's width at the default camera distance and focal length.
        camera_noise: Noise on the cameras that condition the discriminators, as a share of the
            standard deviation over the dataset (disc_c_noise of the release).
        with_detached_whole: Let consistency terms and the marched segmentation train the parts
            only, not the head (semantic_density_detach of the release).
        with_detached_semantic_features: Keep the segmentation's super-resolution from training the
            feature image (semantic_feat_detach of the release).
        with_detached_semantic_image: Let the image-and-mask discriminator train the generator
            through the mask only.
        with_double_blur: In the generator's step, blur the image shown to the image-and-mask
            discriminator twice; a defect of the release.
    """

    adversarial: NonNegativeFloat = 1.0
    semantic_adversarial: NonNegativeFloat = 0.1
    eikonal: NonNegativeFloat = 0.1
    minimal_surface: NonNegativeFloat = 0.05
    sdf_consistency: NonNegativeFloat = 0.1
    density_consistency: NonNegativeFloat = 0.0
    class_color_consistency: NonNegativeFloat = 0.0
    color_consistency: NonNegativeFloat = 0.0
    density_smoothness: NonNegativeFloat = 0.25
    r1_gamma: NonNegativeFloat = 1.0
    semantic_r1_gamma: NonNegativeFloat = 10.0
    minimal_surface_sharpness: PositiveFloat = 100.0
    eikonal_points: PositiveInt | None = 16384
    consistency_points: PositiveInt | None = None
    density_points: PositiveInt = 1000
    density_distance: PositiveFloat = 0.004
    density_extent: PositiveFloat | None = None
    sphere_radius: PositiveFloat = 0.2625
    camera_noise: NonNegativeFloat = 0.0
    with_detached_whole: bool = True
    with_detached_semantic_features: bool = True
    with_detached_semantic_image: bool = True
    with_double_blur: bool = False

    @property
    def has_class_renders(self) -> bool:
        """Whether any term needs parts rendered alone, which is the most expensive computation."""
        return self.class_color_consistency > 0 or self.color_consistency > 0

    @property
    def has_consistency(self) -> bool:
        """Whether global distances are compared with class distances."""
        return self.sdf_consistency > 0 or self.density_consistency > 0

    @property
    def needs_classes_everywhere(self) -> bool:
        """Whether class distances are needed at all samples of an image."""
        return self.has_semantic_discriminator or self.has_class_renders

    @property
    def needs_samples(self) -> bool:
        """Whether any term uses per-sample values."""
        has_terms = self.eikonal > 0 or self.minimal_surface > 0 or self.has_consistency
        return has_terms or self.has_class_renders

    @property
    def has_semantic_discriminator(self) -> bool:
        """Whether the image-and-mask discriminator is trained."""
        return self.semantic_adversarial > 0


@dataclass
class LossSum:
    """A weighted sum of terms that records the raw and weighted value of each."""

    total: Tensor | float = 0.0
    metrics: Metrics = field(default_factory=dict)

    def add(
        self,
        name: str,
        weight: float,
        compute: Callable[[], Tensor],
        *,
        scale: Tensor | float = 1.0,
    ) -> None:
        """Add `weight` times `scale` times the mean of a term; one of weight 0 is not computed.

        Args:
            name: Logged as `Loss/<name>/loss` (raw) and `Loss/<name>/weighted`.
            compute: Returns the term, a scalar or one value per sample.
        """
        if weight == 0:
            return
        value, weight = compute(), weight * scale
        self.total = self.total + weight * value.mean()
        self.metrics[f"Loss/{name}/loss"] = value.detach()
        self.metrics[f"Loss/{name}/weighted"] = weight * value.detach()


def score_metrics(name: str, logits: Tensor) -> Metrics:
    """Return a discriminator's logits and their signs under the spec's names."""
    logits = logits.detach()
    return {f"Loss/scores/{name}": logits, f"Loss/signs/{name}": torch.sign(logits)}
