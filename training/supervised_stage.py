"""Training with a single loss: optimizer, schedule, averaged weights, and the loop of steps."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
from torch import Tensor, nn

from mate3d.errors import UserError
from torch_utils.distributed import all_reduce_sum, any_process, is_main, run_on_main
from training.optimization.ema import make_average, update_average
from training.run_folder.careful_loop import run_carefully
from training.run_folder.monitor import Monitor
from training.run_folder.state_file import find_non_finite
from training.step_inputs import join_metrics

# Of the loss in float16, which starts at 2^16 and is halved by each step that overflows.
_MIN_LOSS_SCALE = 1.0


class StageOptions(Protocol):
    """Length and optimization; `learning_rate` is the peak, `max_minutes` may be None."""

    steps: int
    batch_size: int
    learning_rate: float
    max_minutes: float | None
    weight_decay: float


class _Losses(nn.Module):
    """Computes losses in a forward pass, which accelerate casts and distributes."""

    def __init__(self, networks: nn.ModuleDict):
        super().__init__()
        self.networks = networks

    def forward(
        self, compute_losses: Callable[[int], dict[str, Tensor]], part: int
    ) -> dict[str, Tensor]:
        return compute_losses(part)


class Stage:
    """Networks that learn together, their averages, and their progress.

    Processes that form a group average their gradients; each is given its parts of the batch.

    Args:
        name: Appears in logs and in the state.
        networks: On their device, the same in all processes.
        options: Length and optimization.
        warmup: Returns the completed fraction of the warm-up, from the steps done and `progress`.
        max_norm: Gradients are scaled down to this norm.
        ema_decay: Share of the averaged weights that a step keeps, less in the first steps.
        precision: "fp32", "bf16" or "fp16", of the losses' forward pass.
        accumulation: Parts of a batch whose gradients are added up.
        uses_all: Whether each part of a batch uses all weights.
        optimizer: AdamW, or another class with its arguments.
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
        precision: str = "fp32",
        accumulation: int = 1,
        uses_all: bool = True,
        optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW,
    ):
        self.name, self.options = name, options
        self.networks = nn.ModuleDict(networks)
        self.averages = make_average(self.networks)
        self.step, self.seconds = 0, 0.0
        self._warmup, self._max_norm, self._ema_decay = warmup, max_norm, ema_decay
        # accelerate keeps one precision and device per process, even after a run.
        AcceleratorState._reset_state(reset_partial_state=True)
        distributed = DistributedDataParallelKwargs(
            find_unused_parameters=not uses_all, gradient_as_bucket_view=True
        )
        self._accelerator = Accelerator(
            cpu=next(self.networks.parameters()).device.type == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            # Unlike a number, environment variables cannot change it.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulation),
            kwargs_handlers=[distributed],
        )
        self._model, self._optimizer = self._accelerator.prepare(
            _Losses(self.networks),
            optimizer(
                self.networks.parameters(),
                lr=options.learning_rate,
                weight_decay=options.weight_decay,
            ),
        )

    @property
    def progress(self) -> float:
        """Completed fraction of the stage, by steps or by time, whichever is larger."""
        limit = self.options.max_minutes
        by_time = 0.0 if limit is None else self.seconds / (60 * limit)
        return min(1.0, max(self.step / self.options.steps, by_time))

    @property
    def position(self) -> str:
        """The progress of the stage, for messages."""
        return f"{self.name} step {self.step} of {self.options.steps}"

    @property
    def is_finished(self) -> bool:
        """Whether steps or time are used up."""
        return self.progress >= 1

    def advance(self, compute_losses: Callable[[int], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Take one step.

        Args:
            compute_losses: Receives the number of a part of the batch and returns its losses, the
                total under `loss`.

        Returns:
            The losses of all parts of this process.
        """
        start, progress = time.monotonic(), self.progress
        # Linear warm-up, then half a cosine down to 0.
        factor = (
            min(1.0, self._warmup(self.step, progress)) * (1 + math.cos(math.pi * progress)) / 2
        )
        self._optimizer.param_groups[0]["lr"] = self.options.learning_rate * factor
        accelerator, logged = self._accelerator, []
        for part in range(accelerator.gradient_accumulation_steps):
            with accelerator.accumulate(self._model):
                losses = self._model(compute_losses, part)
                accelerator.backward(losses["loss"])
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.networks.parameters(), self._max_norm)
                # accelerate skips these until the last part.
                self._optimizer.step()
                self._optimizer.zero_grad()
            logged.append({name: value.detach() for name, value in losses.items()})
        decay = min(self._ema_decay, (1 + self.step) / (10 + self.step))
        update_average(self.averages, self.networks, decay)
        self.step += 1
        # The clock of the main process, because all must end together.
        seconds = time.monotonic() - start if is_main() else 0.0
        self.seconds += float(all_reduce_sum(torch.tensor(seconds, dtype=torch.float64)))
        return join_metrics(logged)

    def run(
        self,
        compute_losses: Callable[[int], dict[str, Tensor]],
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
            save: Called on the main process at each snapshot and at the end.
            should_stop: Returns whether this process was asked to stop.
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
            run_on_main(save)

        def take_step() -> bool:
            losses = self.advance(compute_losses)
            loss, scaler = float(losses["loss"].mean()), self._accelerator.scaler
            if not math.isfinite(loss):
                raise self._diverged(f"loss is {loss}")
            if scaler is not None and scaler.get_scale() < _MIN_LOSS_SCALE:
                raise self._diverged("all gradients overflow in fp16")
            images_seen = images_before + self.step * self.options.batch_size
            monitor.record({f"Loss/{self.name}/{name}": loss for name, loss in losses.items()})
            monitor.advance(images_seen)
            if self.is_finished or self.step % tick_steps == 0:
                monitor.tick(images_seen, f"{self.name} step {self.step}")
            is_due = self.is_finished or self.step % snapshot_steps == 0
            if is_due:
                save_if_finite()
            return is_due

        run_carefully(
            take_step,
            save_if_finite,
            lambda: self.is_finished,
            lambda: any_process(should_stop()),
        )

    def _diverged(self, reason: str) -> UserError:
        is_fp16 = self._accelerator.mixed_precision == "fp16"
        return UserError(
            f"{self.name} diverged at step {self.step} ({reason}); lower learning_rate"
            f"{' or use precision=bf16' if is_fp16 else ''}, then resume from the last snapshot or"
            " start again"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to continue exactly."""
        scaler = self._accelerator.scaler
        return {
            "name": self.name,
            "step": self.step,
            "seconds": self.seconds,
            "networks": self.networks.state_dict(),
            "averages": self.averages.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "loss_scale": {} if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.networks.load_state_dict(state["networks"])
        self.averages.load_state_dict(state["averages"])
        self._optimizer.load_state_dict(state["optimizer"])
        if state.get("loss_scale"):
            self._accelerator.scaler.load_state_dict(state["loss_scale"])
