"""Layers that make or read masks, started from those of another label set."""

import math

from torch import Tensor

from mate3d.labels import LabelSet

_IMAGE_CHANNELS = 3


def common_classes(source: LabelSet, model: LabelSet) -> list[tuple[int, int]]:
    """Return (id in the source, id in the model) of the classes that both name alike."""
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
    """Return the weights or biases of a layer that makes one channel a class.

    Args:
        initial: What classes that the source lacks start from, and all of them if sizes differ.
        tensor: The same of the source.
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
    """Return the weights of a discriminator's first layer: it reads images and masks, full and raw.

    Colours and common classes act as in the source; masks of the other classes are ignored until
    training finds a use for them. Equalised weights are divided by the root of their number of
    inputs (spec 3), which is undone here.

    Args:
        weight: Of a layer that reads J classes; J = 0 is an image discriminator's.
        num_classes: Classes K that the new layer reads.
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
