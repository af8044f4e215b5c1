"""Latent and camera -> style vectors, truncation, running average of w."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mate3d.errors import UserError
from mate3d.network.layers import FullyConnected, normalize_second_moment


def latents_from_seeds(seeds: Sequence[int], z_dim: int) -> Tensor:  # [B, z_dim]
    """Return each seed's normal sample from NumPy's legacy generator, as in EG3D (spec 10.1).

    Raises:
        UserError: If a seed is not in 0..2**32 - 1.
    """
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise UserError(f"seed={seed}; use an integer in 0..{2**32 - 1}")
    draws = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.stack(draws)).float()


class MappingNetwork(nn.Module):
    """Map z and a conditioning camera to style vectors (spec 4).

    Args:
        z_dim: Latent width; 0 maps only the camera (discriminators).
        camera_dim: Length of a camera label.
        num_layers: Layers after the embedding.
        num_ws: Style rows that w is repeated to; None returns w itself and keeps no average.
        lr_multiplier: Learning-rate multiplier of the layers after the embedding.
    """

    def __init__(
        self,
        z_dim: int,
        camera_dim: int,
        w_dim: int,
        num_layers: int,
        *,
        num_ws: int | None = None,
        lr_multiplier: float = 0.01,
    ):
        super().__init__()
        self.z_dim, self.num_ws = z_dim, num_ws
        self.embed = FullyConnected(camera_dim, w_dim)
        widths = [z_dim + w_dim] + [w_dim] * num_layers
        self.layers = nn.ModuleList(
            FullyConnected(inputs, outputs, activation="lrelu", lr_multiplier=lr_multiplier)
            for inputs, outputs in zip(widths[:-1], widths[1:], strict=True)
        )
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor | None,  # [B, z_dim]
        camera: Tensor,  # [B, 25]
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:  # [B, num_ws, w_dim], or [B, w_dim] without rows
        """Return style vectors.

        Args:
            z: Standard normal latents; None when `z_dim` is 0.
            camera: Conditioning camera label, already scaled.
            truncation_psi: 1 disables truncation; 0 gives the average face.
            truncation_cutoff: Number of leading rows to truncate; None truncates all.
        """
        x = normalize_second_moment(self.embed(camera))
        if self.z_dim > 0:
            x = torch.cat([normalize_second_moment(z.to(torch.float32)), x], dim=1)
        for layer in self.layers:
            x = layer(x)
        if self.num_ws is None:
            return x
        ws = x.unsqueeze(1).repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            rows = slice(None, truncation_cutoff)
            ws[:, rows] = self.w_avg.lerp(ws[:, rows], truncation_psi)
        return ws

    @torch.no_grad()
    def update_average(
        self,
        ws: Tensor,  # [B, num_ws, w_dim]
        decay: float = 0.998,
    ) -> None:
        """Move `w_avg` towards the batch mean of the first row."""
        self.w_avg.copy_(ws[:, 0].mean(dim=0).lerp(self.w_avg, decay))
