"""Settings of the augmentation: how often, and which transforms how strongly."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mate3d.errors import UserError
from mate3d.options import Options, PositiveFloat, PositiveInt, Range, Share

Mode = Literal["none", "fixed", "adaptive"]
_Degrees = Annotated[float, Range(0, 180)]
_Octaves = Annotated[float, Range(0, 4)]
_Deviation = Annotated[float, Range(0, 2)]


@dataclass(frozen=True)
class AugmentSettings(Options):
    """Augmentation of the discriminators' inputs (ADA); see docs/augmentation.md.

    Args:
        mode: fixed keeps the probability, adaptive adjusts it to the discriminator's overfitting.
        probability: Probability of each transform; the initial one if adaptive.
        max_probability: Upper bound of an adaptive probability. The paper has none; above 0.8,
            augmentations may leak into generated images.
        target: Adaptive: target for the mean sign of the discriminator's logits on real images.
        interval: Adaptive: iterations between adjustments.
        ramp_kimg: Adaptive: fastest rise of the probability from 0 to 1, in thousands of images.
        with_blit: Shift by whole pixels.
        with_flip: Mirror left and right. Off by default: mirroring changes a head's camera and
            swaps its left and right labels.
        with_quarter_turns: Rotate by multiples of 90 degrees. Off by default: no camera is rotated
            that way.
        with_geometry: Scale, rotate, stretch and shift by any amount.
        with_color: Change brightness, contrast, lightness, hue and saturation.
        shift: Maximum shift by whole pixels, as a share of the image's side.
        scale_octaves: Standard deviation of log2 of scales and stretches.
        rotation_degrees: Maximum rotation angle.
        translation: Standard deviation of shifts by any amount, as a share of the image's side.
        brightness: Standard deviation of the change of colours, which are in [-1, 1].
        contrast_octaves: Standard deviation of log2 of the contrast.
        hue_degrees: Maximum angle of hue rotations.
        saturation_octaves: Standard deviation of log2 of the saturation.
    """

    mode: Mode = "none"
    probability: Share = 0.0
    max_probability: Share = 1.0
    target: Share = 0.6
    interval: PositiveInt = 4
    ramp_kimg: PositiveFloat = 500.0
    with_blit: bool = True
    with_flip: bool = False
    with_quarter_turns: bool = False
    with_geometry: bool = True
    with_color: bool = True
    shift: Share = 0.125
    scale_octaves: _Octaves = 0.2
    rotation_degrees: _Degrees = 180.0
    translation: _Deviation = 0.125
    brightness: _Deviation = 0.2
    contrast_octaves: _Octaves = 0.5
    hue_degrees: _Degrees = 180.0
    saturation_octaves: _Octaves = 1.0

    def __post_init__(self):
        super().__post_init__()
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
