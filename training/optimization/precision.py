"""Mixed precision of the trained networks; precision-critical parts stay in float32."""

from dataclasses import dataclass
from typing import Literal

import torch

from mate3d.errors import UserError
from mate3d.generator_config import GeneratorConfig
from torch_utils.ops.execution import DTYPES

# "mixed" is bf16 for super-resolutions and discriminators, and fp32 for the backbone.
PrecisionName = Literal["fp32", "mixed", "bf16", "fp16"]


def computes_bfloat16(device: torch.device) -> bool:
    """Return whether "mixed" uses bf16: it does on a GPU that computes in it.

    Few CPUs do, and what a run computes must not depend on which one it is.
    """
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def check_precision(name: PrecisionName, config: GeneratorConfig) -> None:
    """Check that activations cannot overflow.

    Raises:
        UserError: If they can.
    """
    if name == "fp16" and config.backbone_clamp is None:
        raise UserError(
            "train.precision=fp16 needs model.generator.backbone_clamp=256, because numbers above "
            "65504 overflow; set it, or use mixed or bf16"
        )


@dataclass(frozen=True)
class TrainingPrecision:
    """Precision of backbone, super-resolutions and discriminators.

    Mapping, rays, depths, distances and their gradients, densities, compositing, losses, R1 and the
    optimizer always use float32.
    """

    name: PrecisionName = "fp32"
    device: torch.device = torch.device("cpu")

    def backbone(self) -> torch.autocast:
        """Return the autocast context of the backbone."""
        return self._autocast("fp32" if self.name == "mixed" else self.name)

    def image_networks(self) -> torch.autocast:
        """Return the autocast context of super-resolutions and discriminators."""
        mixed = "bf16" if computes_bfloat16(self.device) else "fp32"
        return self._autocast(mixed if self.name == "mixed" else self.name)

    def _autocast(self, name: str) -> torch.autocast:
        is_low = name != "fp32"
        return torch.autocast(self.device.type, DTYPES[name] if is_low else None, enabled=is_low)

    def make_scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler for float16; it is disabled for other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")
