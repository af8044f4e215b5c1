"""Load the prior of an edit as its options say."""

import torch

from editing.guidance.controlnet import ControlNetGuidance
from editing.options import GuidanceOptions
from mate3d.diffusion.loading import load_prior
from torch_utils.ops.execution import DTYPES


def load_controlnet_guidance(
    options: GuidanceOptions, device: str | torch.device = "cpu"
) -> ControlNetGuidance:
    """Load and check the networks of a prior.

    Raises:
        UserError: If a part is missing, damaged or incomplete, or the parts do not fit together.
    """
    precision = options.precision
    if precision == "auto":
        precision = "fp16" if torch.device(device).type == "cuda" else "bf16"
    networks = load_prior(
        options.prior,
        options.controlnet,
        subfolder=options.controlnet_subfolder,
        vae=options.vae,
        variant=options.variant,
        dtype=DTYPES[precision],
        device=device,
    )
    return ControlNetGuidance(
        networks,
        palette=options.palette,
        checkpointing=options.checkpointing,
        compile=options.compile,
    )
