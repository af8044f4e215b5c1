"""Training settings of the feature network."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mate3d.options import Above, NonNegativeFloat, Options, PositiveFloat, PositiveInt, Share


@dataclass(frozen=True)
class FeatureTrainingSettings(Options):
    """Training of the network.

    Args:
        steps: Number of optimizer steps.
        batch_size: Images per step.
        learning_rate: Peak learning rate of AdamW, after a linear warm-up over a twentieth of the
            steps; falls to 0 along half a cosine.
        max_minutes: End earlier, with the learning rate falling accordingly; the result then
            depends on the machine's speed. null sets no limit.
        weight_decay: Weight decay of AdamW.
        label_weight: Weight of the labels' cross entropy; attributes have weight 1.
        degraded_share: Share of images that receive each degradation (blur, noise, warp).
        max_blur: Maximum blur, in pixels.
        max_noise: Maximum noise, for images in [-1, 1].
        max_warp: Maximum warp, as a fraction of the side.
        held_out: Share of the portraits held out to measure the network.
        precision: Precision of the forward pass. bf16 is faster on GPUs and on CPUs with AVX-512
            BF16.
    """

    steps: PositiveInt = 4000
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 4e-3
    max_minutes: PositiveFloat | None = None
    weight_decay: NonNegativeFloat = 0.01
    label_weight: NonNegativeFloat = 1.0
    degraded_share: Share = 0.3
    max_blur: NonNegativeFloat = 2.5
    max_noise: NonNegativeFloat = 0.4
    max_warp: NonNegativeFloat = 0.06
    held_out: Annotated[float, Above(0, up_to=0.5)] = 0.05
    precision: Literal["fp32", "bf16"] = "bf16"
