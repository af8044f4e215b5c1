"""Gains of a published generator's layers that may differ from ours."""

import math
import re
from collections.abc import Iterator

from mate3d.published.networks import PublishedNetwork
from mate3d.published.plain_values import is_number

_MAPPING_LAYER = re.compile(r"backbone\.mapping\.fc\d+")
# Smaller differences between gains are rounding errors.
_GAIN_TOLERANCE = 1e-6


def stored_gains(
    network: PublishedNetwork, mapping_multiplier: float, decoder_multiplier: float
) -> Iterator[tuple[str, float]]:
    """Yield the tensors that are stored for a different gain than our layers have, and the ratio.

    Fully connected layers store weights divided by their learning-rate multiplier; 1x1 convolutions
    to images also have a gain. Our layers have one multiplier for the mapping and 1 everywhere
    else, so any other ratio must be multiplied into the tensor.

    Args:
        mapping_multiplier: Multiplier of our mapping layers.
        decoder_multiplier: Multiplier of decoder layers that store none.
    """
    for name, weight in network.state.items():
        head, _, last = name.rpartition(".")
        if last != "weight" or weight.ndim < 2:
            continue
        ours = mapping_multiplier if _MAPPING_LAYER.fullmatch(head) else 1.0
        assumed = decoder_multiplier if head.startswith("decoder.") else ours
        gain, bias_gain = (
            network.attributes.get(f"{head}.{kind}_gain") for kind in ("weight", "bias")
        )
        fan_in = weight.shape[1:].numel()
        multipliers = {"weight": gain * math.sqrt(fan_in) if is_number(gain) else assumed}
        # Layers to images store a gain for weights only.
        assumed_bias = ours if is_number(gain) else assumed
        multipliers["bias"] = bias_gain if is_number(bias_gain) else assumed_bias
        for kind, multiplier in multipliers.items():
            is_there = f"{head}.{kind}" in network.state
            if is_there and abs(multiplier / ours - 1) > _GAIN_TOLERANCE:
                yield f"{head}.{kind}", multiplier / ours
