"""Initialise layers that write or read masks from those of another label set."""

import math

from torch import Tensor

from mate3d.labels import LabelSet

_IMAGE_CHANNELS = 3


def common_classes(source: LabelSet, model: LabelSet) -> list[tuple[int, int]]:
    """Return (source id, model id) of the classes with the same name."""
    return [
        (source.class_names.index(name), index)
        for index, name in enumerate(model.class_names)
        if name in source.class_names
    ]


def picture_layer(
    initial: Tensor,  # [K, ...]
    tensor: Tensor,  # [J, ...] of the source
    pairs: list[tuple[int, int]],
) -> Tensor:  # [K, ...]
    """Return the weights or biases of a layer with one output channel per class.

    Args:
        initial: Values for classes missing in the source, or for all if sizes differ.
        pairs: See `common_classes`.
    """
    result = initial.clone()
    if tensor.shape[1:] == initial.shape[1:]:
        for theirs, ours in pairs:
            result[ours] = tensor[theirs]
    return result


def reading_layer(
    weight: Tensor,  # [O, 2 * (3 + J), 1, 1] of the source
    num_classes: int,
    pairs: list[tuple[int, int]],
) -> Tensor:  # [O, 2 * (3 + K), 1, 1]
    """Return the weights of a discriminator's first layer, for full-size and raw images and masks.

    Colours and common classes act as in the source; the weights of other classes start at zero.
    Equalized weights are divided by the root of the number of inputs (spec 3), which is
    compensated here.

    Args:
        weight: Weight of a layer for J classes; J = 0 for an image discriminator.
        pairs: See `common_classes`.
    """
    num_theirs, num_ours = weight.shape[1] // 2, _IMAGE_CHANNELS + num_classes
    channels = [(channel, channel) for channel in range(_IMAGE_CHANNELS)]
    channels += [(_IMAGE_CHANNELS + theirs, _IMAGE_CHANNELS + ours) for theirs, ours in pairs]
    result = weight.new_zeros(weight.shape[0], 2 * num_ours, *weight.shape[2:])
    gain = math.sqrt(num_ours / num_theirs)
    for half in range(2):
        for theirs, ours in channels:
            result[:, half * num_ours + ours] = gain * weight[:, half * num_theirs + theirs]
    return result
