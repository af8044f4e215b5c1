"""Settings of a published generator's layers that may differ from ours."""

import math
import re
from collections.abc import Iterator
from typing import Any

from mate3d.published.networks import PublishedNetwork
from mate3d.published.plain_values import is_number, shown

_MAPPING_LAYER = re.compile(r"backbone\.mapping\.fc\d+")
_ACTIVATION = re.compile(r"decoder\.\w+\.1")
_CONVOLUTION = re.compile(r".*\.conv[01]")
# Smaller differences between gains are rounding errors.
_GAIN_TOLERANCE = 1e-6


def layer_problems(network: PublishedNetwork) -> list[str]:
    """List the settings of layers that differ from ours, with where they occur."""
    places: dict[str, list[str]] = {}
    for name, value in network.attributes.items():
        head, _, last = name.rpartition(".")
        known = _known_values(head, last)
        if known and not any(_is_same(value, allowed) for allowed in known):
            text = f"{last} is {shown(value)} (expected {known[0]})"
            places.setdefault(text, []).append(head)
    for head, name in network.classes.items():
        if _ACTIVATION.fullmatch(head) and name != "Softplus":
            places.setdefault(f"the activation is {name} (expected Softplus)", []).append(head)
    return [f"{text} (in {' and '.join(heads[:4])})" for text, heads in places.items()]


def _known_values(head: str, last: str) -> tuple[Any, ...]:
    """Return the supported values of a layer's attribute; empty if all are."""
    if last == "activation" and not _ACTIVATION.fullmatch(head):
        is_rectified = _CONVOLUTION.fullmatch(head) or _MAPPING_LAYER.fullmatch(head)
        return ("lrelu",) if is_rectified else ("linear",)
    if last == "act_gain":
        return (math.sqrt(2),)
    if _ACTIVATION.fullmatch(head):
        return {"beta": (1,), "threshold": (20,)}.get(last, ())
    return {"architecture": ("skip",), "use_noise": (True,), "padding": (1,)}.get(last, ())


def _is_same(value: Any, known: Any) -> bool:
    if is_number(value) and is_number(known):
        return math.isclose(value, known, rel_tol=_GAIN_TOLERANCE)
    return type(value) is type(known) and value == known


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
