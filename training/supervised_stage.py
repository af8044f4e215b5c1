"""Training with a single loss: optimizer, schedule, averaged weights, and the loop of steps."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mate3d.errors import UserError
from training.optimization.ema import make_average, update_average
from training.run_folder.careful_loop import run_carefully
from training.run_folder.monitor import Monitor
from training.run_folder.state_file import find_non_finite


class StageOptions(Protocol):
    """Length and optimization; `learning_rate` is the peak, `max_minutes` may be None."""

    steps: int
    batch_size: int
    learning_rate: float
    max_minutes: float | None
    weight_decay: float


class Stage:
    """Networks that learn together, their averages, and their progress.

    Args:
        name: Appears in logs and in the state.
        options: Length and optimization.
        warmup: Returns the completed fraction of the warm-up, from the steps done and `progress`.
        max_norm: Gradients are scaled down to this norm.
        ema_decay: Share of the averaged weights that a step keeps, less in the first steps.
        seed: Seed of the stage's random numbers.
    """

    def __init__(
        self,
        name: str,
        networks: Mapping[str, nn.Module],
        options: StageOptions,
        *,
        warmup: Callable[[int, float], float],
        max_norm: float = 1.0,
        ema_decay: float = 0.0,
        seed: int,
    ):
        self.name, self.options = name, options
        self.networks = nn.ModuleDict(networks)
        self.averages = make_average(self.networks)
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.seconds = 0, 0.0
        self._warmup, self._max_norm, self._ema_decay = warmup, max_norm, ema_decay
        self._optimizer = torch.optim.AdamW(
            self.networks.parameters(), options.learning_rate, weight_decay=options.weight_decay
        )

    @property
    def progress(self) -> float:
        """Completed fraction of the stage, by steps or by time, whichever is larger."""
        by_steps = self.step / max(self.options.steps, 1)
        limit = self.options.max_minutes
        by_time = 0.0 if limit is None else self.seconds / (60 * limit)
        return min(1.0, max(by_steps, by_time))

    @property
    def position(self) -> str:
        """The progress of the stage, for messages."""
        return f"{self.name} step {self.step} of {self.options.steps}"

    @property
    def is_finished(self) -> bool:
        """Whether steps or time are used up."""
        return self.step >= self.options.steps or self.progress >= 1

    def advance(self, compute_losses: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Take one step; `compute_losses` returns the total under `loss`."""
        start, progress = time.monotonic(), self.progress
        # Linear warm-up, then half a cosine down to 0.
        factor = (
            min(1.0, self._warmup(self.step, progress)) * (1 + math.cos(math.pi * progress)) / 2
        )
        self._optimizer.param_groups[0]["lr"] = self.options.learning_rate * factor
        losses = compute_losses()
        self._optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.networks.parameters(), self._max_norm)
        self._optimizer.step()
        decay = min(self._ema_decay, (1 + self.step) / (10 + self.step))
        update_average(self.averages, self.networks, decay)
        self.step += 1
        self.seconds += time.monotonic() - start
        return {name: value.detach() for name, value in losses.items()}

    def run(
        self,
        compute_losses: Callable[[], dict[str, Tensor]],
        save: Callable[[], None],
        monitor: Monitor,
        *,
        should_stop: Callable[[], bool],
        tick_steps: int,
        snapshot_steps: int,
        images_before: int = 0,
    ) -> None:
        """Take steps until the stage is finished or asked to stop; see `advance`, `run_carefully`.

        Args:
            save: Called at each snapshot and at the end.
            tick_steps: Steps per status line.
            snapshot_steps: Steps per snapshot.
            images_before: Images used by earlier stages.

        Raises:
            UserError: If the loss or a weight is not finite; nothing is saved then.
        """

        def save_if_finite() -> None:
            damage = find_non_finite(self.state_dict())
            if damage is not None:
                raise self._diverged(f"{damage} is not finite")
            save()

        def take_step() -> bool:
            losses = self.advance(compute_losses)
            loss = float(losses["loss"])
            if not math.isfinite(loss):
                raise self._diverged(f"loss is {loss}")
            images_seen = images_before + self.step * self.options.batch_size
            monitor.record({f"Loss/{self.name}/{name}": loss for name, loss in losses.items()})
            monitor.advance(images_seen)
            if self.is_finished or self.step % tick_steps == 0:
                monitor.tick(images_seen, f"{self.name} step {self.step}")
            is_due = self.is_finished or self.step % snapshot_steps == 0
            if is_due:
                save_if_finite()
            return is_due

        run_carefully(take_step, save_if_finite, lambda: self.is_finished, should_stop)

    def _diverged(self, reason: str) -> UserError:
        return UserError(
            f"{self.name} diverged at step {self.step} ({reason}); lower learning_rate, then "
            "resume from the last snapshot or start again"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to continue exactly."""
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
        """Continue from `state_dict`."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.networks.load_state_dict(state["networks"])
        self.averages.load_state_dict(state["averages"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
