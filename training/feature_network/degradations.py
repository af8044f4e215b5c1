"""Images degraded by known amounts, so that features also measure image quality."""

import torch
from torch import Tensor
from torch.nn import functional as F

DEGRADATIONS = ("degraded.blur", "degraded.noise", "degraded.warp")
_BLUR_RADIUS = 6


def degrade(
    images: Tensor,  # [B, 3, R, R] in [-1, 1]
    random: torch.Generator,
    *,
    share: float,
    max_blur: float,
    max_noise: float,
    max_warp: float,
) -> tuple[Tensor, Tensor]:  # images [B, 3, R, R], amounts [B, 3] in 0..1
    """Blur, add noise to, and warp some of the images.

    Args:
        share: Share of images that get each degradation.
        max_blur: Largest standard deviation of the blur, in pixels at 64 px.
        max_noise: Largest standard deviation of noise, which has grains of 1, 2 or 4 pixels.
        max_warp: Largest standard deviation of shifts of a 4 x 4 mesh, fraction of the side.
    """
    amounts = torch.rand(len(images), 3, generator=random)
    amounts = amounts * (torch.rand(len(images), 3, generator=random) < share)
    blur, noise, warp = amounts.to(images.device).unbind(dim=1)
    images = _warp(images, warp * max_warp, random)
    images = _blur(images, blur * max_blur * images.shape[-1] / 64)
    images = images + _noise(images, random) * (noise * max_noise)[:, None, None, None]
    return images.clamp(-1, 1), amounts


def _warp(images: Tensor, spread: Tensor, random: torch.Generator) -> Tensor:
    num, _, side, _ = images.shape
    mesh = torch.randn(num, 2, 4, 4, generator=random).to(images.device)
    # Coordinates span 2 from one side to the other.
    shifts = F.interpolate(mesh, (side, side), mode="bicubic", align_corners=False)
    shifts = shifts * 2 * spread[:, None, None, None]
    identity = torch.eye(2, 3, device=images.device).expand(num, 2, 3)
    grid = F.affine_grid(identity, list(images.shape), align_corners=False)
    grid = grid + shifts.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    num, channels, side, _ = images.shape
    offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device)
    kernel = (-0.5 * (offsets / sigma[:, None].clamp(min=1e-3)).square()).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    padding = (_BLUR_RADIUS,) * 4
    flat = F.pad(images, padding, mode="replicate").flatten(0, 1)[None]
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=num * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=num * channels)
    return flat.view(num, channels, side, side)


def _noise(images: Tensor, random: torch.Generator) -> Tensor:
    side = images.shape[-1]
    grain = 2 ** int(torch.randint(3, (), generator=random))
    shape = (len(images), 3, side // grain, side // grain)
    return F.interpolate(torch.randn(shape, generator=random).to(images.device), (side, side))
