"""Mixed precision of the trained networks; precision-critical parts stay in float32."""

from dataclasses import dataclass

import torch

from mate3d.options import Precision
from torch_utils.ops.execution import DTYPES


@dataclass(frozen=True)
class TrainingPrecision:
    """Precision of backbone, super-resolutions and discriminators.

    Mapping, rays, depths, distances and their gradients, densities, compositing, losses, R1 and the
    optimizer always use float32.
    """

    name: Precision = "fp32"
    device: torch.device = torch.device("cpu")

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the networks."""
        is_low = self.name != "fp32"
        dtype = DTYPES[self.name] if is_low else None
        return torch.autocast(self.device.type, dtype, enabled=is_low)

    def make_scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler for float16; it is disabled for other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")
