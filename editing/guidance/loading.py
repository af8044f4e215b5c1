"""Load the prior of an edit as its options say."""

import torch

from editing.guidance.controlnet import ControlNetGuidance
from editing.options import PriorPrecision
from mate3d.diffusion.loading import PriorOptionNames, load_prior
from mate3d.label_colors import load_colors
from torch_utils.ops.execution import DTYPES

_NAMES = PriorOptionNames(
    prior="guidance.prior",
    controlnet="guidance.controlnet",
    subfolder="guidance.controlnet_subfolder",
    vae="guidance.vae",
    variant="guidance.variant",
)


def load_controlnet_guidance(
    prior: str,
    controlnet: str | None = None,
    *,
    controlnet_subfolder: str | None = None,
    vae: str | None = None,
    variant: str | None = None,
    palette: str | None = None,
    precision: PriorPrecision = "fp32",
    device: str | torch.device = "cpu",
) -> ControlNetGuidance:
    """Load and check the networks of the prior; `GuidanceOptions` describes the arguments.

    Raises:
        UserError: If a part is missing, damaged or incomplete, or the parts do not fit together.
    """
    colors = None if palette is None else load_colors(palette, "guidance.palette")
    if precision == "auto":
        precision = "fp16" if torch.device(device).type == "cuda" else "bf16"
    networks = load_prior(
        prior,
        controlnet,
        subfolder=controlnet_subfolder,
        vae=vae,
        variant=variant,
        dtype=DTYPES[precision],
        device=device,
        names=_NAMES,
    )
    guidance = ControlNetGuidance(networks)
    guidance.label_colors = colors
    return guidance
