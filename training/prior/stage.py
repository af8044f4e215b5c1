"""One stage of a prior's training: optimizer, averaged weights, schedule, state to resume from."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.optimization.ema import make_average, update_average
from training.prior.options import StageOptions


def learning_rate_factor(step: int, progress: float, warmup_steps: int) -> float:
    """Return the share of the peak learning rate: linear warm-up, then half a cosine to 0.

    Args:
        step: Steps done.
        progress: Share of the stage that is over, 0..1.
        warmup_steps: Steps until the peak.
    """
    return min(1.0, (step + 1) / max(warmup_steps, 1)) * 0.5 * (1 + math.cos(math.pi * progress))


class Stage:
    """Networks that learn together, their averages, and where they stand.

    Args:
        name: Of the stage, for logs and the state.
        networks: Those to train, by name.
        options: Length and optimization.
        seed: Of the stage's random numbers.
    """

    def __init__(
        self, name: str, networks: Mapping[str, nn.Module], options: StageOptions, *, seed: int
    ):
        self.name = name
        self.options = options
        self.networks = nn.ModuleDict(networks)
        self.averages = make_average(self.networks)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.seconds = 0.0
        self._optimizer = torch.optim.AdamW(
            self.networks.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
        )

    @property
    def progress(self) -> float:
        """Share of the stage that is over, by steps or by time, whichever is more."""
        by_steps = self.step / max(self.options.steps, 1)
        limit = self.options.max_minutes
        by_time = 0.0 if limit is None else self.seconds / (60 * limit)
        return min(1.0, max(by_steps, by_time))

    @property
    def is_finished(self) -> bool:
        """Whether steps or time are used up."""
        return self.step >= self.options.steps or self.progress >= 1

    def advance(self, compute_losses: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Take one step; `compute_losses` gives the total under `loss`."""
        start = time.monotonic()
        options = self.options
        factor = learning_rate_factor(self.step, self.progress, options.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = options.learning_rate * factor
        losses = compute_losses()
        self._optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self._optimizer.step()
        decay = min(options.ema_decay, (1 + self.step) / (10 + self.step))
        update_average(self.averages, self.networks, decay)
        self.step += 1
        self.seconds += time.monotonic() - start
        return {name: value.detach() for name, value in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that an exact continuation needs."""
        return {
            "name": self.name,
            "step": self.step,
            "seconds": self.seconds,
            "networks": self.networks.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.networks.load_state_dict(state["networks"])
        self.averages.load_state_dict(state["averages"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
