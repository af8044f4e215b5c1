"""Load the prior of an edit as its options say."""

import torch

from editing.guidance.controlnet import ControlNetGuidance
from editing.options import PriorPrecision
from mate3d.diffusion.loading import load_prior
from torch_utils.ops.execution import DTYPES


def load_controlnet_guidance(
    prior: str,
    controlnet: str | None = None,
    *,
    controlnet_subfolder: str | None = None,
    palette: str | None = None,
    precision: PriorPrecision = "fp32",
    checkpointing: bool = False,
    compile: bool = False,
    device: str | torch.device = "cpu",
    **options: str | None,
) -> ControlNetGuidance:
    """Load and check the networks of a prior.

    Args:
        options: The other ones of `GuidanceOptions`, which describes all.

    Raises:
        UserError: If a part is missing, damaged or incomplete, or the parts do not fit together.
    """
    if precision == "auto":
        precision = "fp16" if torch.device(device).type == "cuda" else "bf16"
    options |= {"subfolder": controlnet_subfolder, "dtype": DTYPES[precision], "device": device}
    networks = load_prior(prior, controlnet, **options)
    return ControlNetGuidance(
        networks, palette=palette, checkpointing=checkpointing, compile=compile
    )
