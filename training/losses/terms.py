"""Named weights and switches of all losses, and their weighted sum."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.option_checks import check_range

Metrics = dict[str, Tensor]

# Weights of terms that use class distances, which not every generator has.
CLASS_DISTANCE_TERMS = (
    "sdf_consistency",
    "density_consistency",
    "class_color_consistency",
    "color_consistency",
)
# All other weights.
_OTHER_TERMS = (
    "adversarial",
    "semantic_adversarial",
    "density_smoothness",
    "r1_gamma",
    "semantic_r1_gamma",
)
# Weights of terms that use any distances, which density generators do not have.
DISTANCE_TERMS = ("eikonal", "minimal_surface", *CLASS_DISTANCE_TERMS)


@dataclass(frozen=True)
class LossSettings:
    """Weights and switches; the defaults are the released ones but for its defects (spec 8.3-8.5).

    A term of weight 0 is never computed.

    Args:
        adversarial: Weight of the image discriminator in the generator's loss.
        semantic_adversarial: Weight of the image-and-mask discriminator in it.
        eikonal: Weight of (|grad d| - 1)^2.
        minimal_surface: Weight of exp(-sharpness |d|).
        sdf_consistency: Weight of max(d, 0) against min_k max(d_k, 0).
        density_consistency: Weight of the whole's density against the sum of the parts'.
        class_color_consistency: Weight of each part rendered alone against its cut-out.
        color_consistency: Weight of the image against the sum of parts rendered alone.
        density_smoothness: Weight of density differences between neighbouring points; lazy.
        r1_gamma: Weight of R1 on the image discriminator, times 2; lazy.
        semantic_r1_gamma: The same for the image-and-mask discriminator. The release takes ten
            times `r1_gamma`.
        minimal_surface_sharpness: Inverse width of the shell charged, per world unit.
        eikonal_points: Random samples an image that the eikonal term looks at; null takes all.
        consistency_points: The same for `sdf_consistency` and `density_consistency`. It saves time
            where nothing else asks for the parts at all samples: without `semantic_adversarial`.
        density_points: Points an image of the smoothness term.
        density_distance: Standard deviation of their displacement, world units.
        density_extent: Half side of the cube they come from, world units; null is the planes' box.
            The release takes 1, so that seven eighths of its points lie outside.
        sphere_radius: Radius of the sphere initialisation, world units.
        camera_noise: Noise on the cameras that condition the discriminators, as a share of the data
            set's standard deviation of each entry (`disc_c_noise`, spec 7).
        with_detached_whole: Consistency terms and the marched segmentation train parts only, as
            released (`semantic_density_detach`).
        with_detached_semantic_features: Keep the segmentation's super-resolution from training
            the feature image, as released (`semantic_feat_detach`).
        with_detached_semantic_image: Show the image-and-mask discriminator a detached image, so
            that it trains the generator through the mask only, as released.
        with_double_blur: In the generator's step blur the image shown to the image-and-mask
            discriminator twice. A defect of the release.
    """

    adversarial: float = 1.0
    semantic_adversarial: float = 0.1
    eikonal: float = 0.1
    minimal_surface: float = 0.05
    sdf_consistency: float = 0.1
    density_consistency: float = 0.0
    class_color_consistency: float = 0.0
    color_consistency: float = 0.0
    density_smoothness: float = 0.25
    r1_gamma: float = 1.0
    semantic_r1_gamma: float = 10.0
    minimal_surface_sharpness: float = 100.0
    eikonal_points: int | None = None
    consistency_points: int | None = None
    density_points: int = 1000
    density_distance: float = 0.004
    density_extent: float | None = None
    sphere_radius: float = 0.2625
    camera_noise: float = 0.0
    with_detached_whole: bool = True
    with_detached_semantic_features: bool = True
    with_detached_semantic_image: bool = True
    with_double_blur: bool = False

    def __post_init__(self):
        for name in (*DISTANCE_TERMS, *_OTHER_TERMS, "camera_noise"):
            check_range(f"loss.{name}", getattr(self, name), 0)
        for name in ("eikonal_points", "consistency_points", "density_points"):
            value = getattr(self, name)
            if value is not None and value < 1:
                or_null = "" if name == "density_points" else ", or null"
                raise UserError(f"loss.{name}={value} must be at least 1{or_null}")

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

    def add(self, name: str, weight: float, compute: Callable[[], Tensor]) -> None:
        """Add `weight` times the mean of a term; a term of weight 0 is not computed.

        Args:
            name: Logged as `Loss/<name>/loss` (raw) and `Loss/<name>/weighted`.
            weight: Factor in the sum.
            compute: Returns the term, a scalar or one value per sample.
        """
        if weight == 0:
            return
        value = compute()
        self.total = self.total + weight * value.mean()
        self.metrics[f"Loss/{name}/loss"] = value.detach()
        self.metrics[f"Loss/{name}/weighted"] = weight * value.detach()


def score_metrics(name: str, logits: Tensor) -> Metrics:
    """Return a discriminator's logits and their signs under the spec's names."""
    logits = logits.detach()
    return {f"Loss/scores/{name}": logits, f"Loss/signs/{name}": torch.sign(logits)}
