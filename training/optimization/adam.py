"""Optimizers, and weight updates from gradients."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from mate3d.options import NonNegativeFloat, Options, PositiveFloat, PositiveInt, Range
from torch_utils.distributed import average_gradients

_Decay = Annotated[float, Range(0, 1, with_high=False)]


@dataclass(frozen=True)
class OptimizerSettings(Options):
    """Adam for all networks; the defaults are the released values.

    Args:
        generator_lr: Learning rate of the generator.
        discriminator_lr: Learning rate of both discriminators.
        beta_lr: Learning rate of log beta with model.generator.learn_beta=true: about the largest
            relative change of beta in an iteration.
        beta1: Adam's beta1: decay rate of the gradient mean.
        beta2: Adam's beta2: decay rate of the mean squared gradient.
        eps: Adam's epsilon, added to the root of the mean squared gradient.
        generator_reg_interval: Iterations between density smoothness steps.
        discriminator_reg_interval: Iterations between R1 steps.
        max_gradient_norm: Maximum gradient norm per network; larger gradients are scaled down. null
            disables clipping.
    """

    generator_lr: NonNegativeFloat = 0.0025
    discriminator_lr: NonNegativeFloat = 0.002
    beta_lr: NonNegativeFloat = 0.005
    beta1: _Decay = 0.0
    beta2: _Decay = 0.99
    eps: PositiveFloat = 1e-8
    generator_reg_interval: PositiveInt = 4
    discriminator_reg_interval: PositiveInt = 16
    max_gradient_norm: PositiveFloat | None = None


def parameter_groups(network: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return a network's parameters for `make_adam`; a learned beta has its own rate."""
    groups = {False: {"params": []}, True: {"params": [], "lr": settings.beta_lr}}
    for name, parameter in network.named_parameters():
        groups[".parametrizations.beta." in name]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def make_adam(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    lr: float,
    settings: OptimizerSettings,
    *,
    reg_interval: int | None = None,
) -> torch.optim.Adam:
    """Return an Adam optimizer, corrected for lazy regularisation steps.

    Args:
        lr: Learning rate before the correction.
        reg_interval: Main steps k per lazy step; learning rate and decay rates are corrected by
            k / (k + 1) (StyleGAN2, appendix B). None if there is no lazy step.
    """
    ratio = 1.0 if reg_interval is None else reg_interval / (reg_interval + 1)
    return torch.optim.Adam(
        parameters,
        lr=lr * ratio,
        betas=(settings.beta1**ratio, settings.beta2**ratio),
        eps=settings.eps,
    )


@contextmanager
def optimizing(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    *,
    max_gradient_norm: float | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Enable a network's gradients for the block, then update its weights.

    Gradients are averaged over all processes, cleaned of NaN and infinities, then clipped. The
    block gets an empty dictionary, which `measure_gradients` fills in between.

    Args:
        scaler: Loss scaler of the block. If gradients overflow float16, the update is skipped and
            the scale is lowered.
        max_gradient_norm: Maximum norm of the whole gradient; None does not clip.
    """
    optimizer.zero_grad(set_to_none=True)
    network.requires_grad_(True)
    measured: dict[str, Tensor] = {}
    try:
        yield measured
        average_gradients(network.parameters())
    finally:
        network.requires_grad_(False)
    if scaler is not None:
        scaler.unscale_(optimizer)
    measured |= measure_gradients(network)
    sanitize_gradients(network.parameters())
    if max_gradient_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), max_gradient_norm)
    if scaler is None:
        optimizer.step()
        return
    scaler.step(optimizer)
    scaler.update()


@torch.no_grad()
def measure_gradients(network: nn.Module) -> dict[str, Tensor]:  # scalars
    """Return norms of a network's gradient, without waiting for the GPU.

    Returns:
        `norm` of the finite gradients, `norm/<part>` of each direct part, and `non_finite`, the
        number of weight tensors whose gradient has a NaN or an infinity.
    """
    named = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    if not named:
        return {}
    norms = torch.stack(torch._foreach_norm(list(named.values())))
    finite = norms.where(norms.isfinite(), 0)
    measured = {"norm": finite.norm(), "non_finite": (~norms.isfinite()).sum()}
    parts = Counter(name.partition(".")[0] for name in named)
    for part, share in zip(parts, finite.split(list(parts.values())), strict=True):
        measured[f"norm/{part}"] = share.norm()
    return measured


@torch.no_grad()
def sanitize_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace NaN with 0 and infinities with +-1e5, to limit the damage of a bad sample."""
    for parameter in parameters:
        if parameter.grad is not None:
            torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)
