"""Settings of the warm start on procedural portraits."""

from dataclasses import dataclass

from mate3d.options import NonNegativeFloat, NonNegativeInt, Options, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class WarmStartSettings(Options):
    """Lengths and sizes of the warm start.

    Args:
        num_field_steps: Steps on points and rays, for mapping, backbone and decoder.
        num_image_steps: Steps on whole pictures, for both super-resolutions.
        batch_size: Heads per field step.
        num_points: Points per head.
        num_rays: Rays per head; 0 learns from points alone.
        ray_interval: Field steps between tracings of rays, the most expensive part.
        image_batch_size: Pictures per image step.
        pool_size: Traced pictures to keep for image steps.
        lr: Peak learning rate of Adam; falls to a tenth along a cosine.
        color_weight: Weight of surface colours at points.
        label_weight: Weight of telling the classes apart at the surface.
        ray_weight: Weight of composited colours and opacity.
        attribute_weight: Weight of predicting a portrait's attributes from its style vector.
        attribute_batch_size: Additional latents per step that only the mapping sees. They cost
            almost nothing, so that the mapping learns from many more heads.
    """

    num_field_steps: NonNegativeInt = 4000
    num_image_steps: NonNegativeInt = 1000
    batch_size: PositiveInt = 4
    num_points: PositiveInt = 4096
    num_rays: NonNegativeInt = 512
    ray_interval: PositiveInt = 4
    image_batch_size: PositiveInt = 4
    pool_size: PositiveInt = 512
    lr: PositiveFloat = 1e-2
    color_weight: NonNegativeFloat = 1.0
    label_weight: NonNegativeFloat = 0.1
    ray_weight: NonNegativeFloat = 1.0
    attribute_weight: NonNegativeFloat = 1.0
    attribute_batch_size: PositiveInt = 256
