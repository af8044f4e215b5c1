"""Settings of the augmentation: how often, and which transforms how strongly."""

from dataclasses import dataclass
from typing import Literal, get_args

from mate3d.errors import UserError
from mate3d.option_checks import check_count, check_number, check_range

Mode = Literal["none", "fixed", "adaptive"]


@dataclass(frozen=True)
class AugmentSettings:
    """What discriminators see of images and masks (ADA paper, appendix B and section 3.1).

    Args:
        mode: "none", "fixed" keeps the probability, "adaptive" steers it.
        probability: Probability of each transform, the first one if adaptive.
        max_probability: Upper bound of an adaptive probability. The paper has none, and finds that
            above 0.8 generators may begin to show augmentations.
        target: Mean sign of the discriminator's logits of real images that the probability is
            steered to.
        interval: Iterations between two adjustments.
        ramp_kimg: Thousands of images in which the probability can go from 0 to 1.
        with_blit: Shift by whole pixels.
        with_flip: Mirror left and right.
        with_quarter_turns: Turn by multiples of 90 degrees.
        with_geometry: Scale, rotate, stretch and shift by any amount.
        with_color: Change brightness, contrast, lightness, hue and saturation.
        shift: Largest shift by whole pixels, as a share of the image's side.
        scale_octaves: Standard deviation of the binary logarithm of scales, of stretches too.
        rotation_degrees: Largest angle of rotations.
        translation: Standard deviation of shifts by any amount, as a share of the side.
        brightness: Standard deviation of what is added to colours in [-1, 1].
        contrast_octaves: Standard deviation of the binary logarithm of the contrast.
        hue_degrees: Largest angle of hue rotations.
        saturation_octaves: Standard deviation of the binary logarithm of the saturation.
    """

    mode: Mode = "none"
    probability: float = 0.0
    max_probability: float = 1.0
    target: float = 0.6
    interval: int = 4
    ramp_kimg: float = 500.0
    with_blit: bool = True
    with_flip: bool = False
    with_quarter_turns: bool = False
    with_geometry: bool = True
    with_color: bool = True
    shift: float = 0.125
    scale_octaves: float = 0.2
    rotation_degrees: float = 180.0
    translation: float = 0.125
    brightness: float = 0.2
    contrast_octaves: float = 0.5
    hue_degrees: float = 180.0
    saturation_octaves: float = 1.0

    def __post_init__(self):
        if self.mode not in get_args(Mode):
            raise UserError(f"augment.mode={self.mode}; use one of {', '.join(get_args(Mode))}")
        for names, limit in (
            (("probability", "max_probability", "target", "shift"), 1),
            (("rotation_degrees", "hue_degrees"), 180),
            (("scale_octaves", "contrast_octaves", "saturation_octaves"), 4),
            (("translation", "brightness"), 2),
        ):
            for name in names:
                check_range(f"augment.{name}", getattr(self, name), 0, limit)
        check_count("augment.interval", self.interval, 1, 1_000_000)
        check_number("augment.ramp_kimg", self.ramp_kimg, above=0)
        self._check_effects()

    @property
    def moves(self) -> bool:
        """Whether any transform moves pixels."""
        return self.with_blit or self.with_flip or self.with_quarter_turns or self.with_geometry

    def _check_effects(self) -> None:
        if self.mode == "none" and self.probability > 0:
            raise UserError(
                f"augment.probability={self.probability} has no effect with augment.mode=none; "
                "use augment.mode=fixed or adaptive"
            )
        if self.mode == "adaptive" and self.probability > self.max_probability:
            raise UserError(
                f"augment.probability={self.probability}; use at most "
                f"augment.max_probability={self.max_probability}"
            )
        if self.mode != "none" and not (self.moves or self.with_color):
            raise UserError(
                f"augment.mode={self.mode} with all transforms off; switch some on, or use "
                "augment.mode=none"
            )
