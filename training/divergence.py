"""Detect divergence, and roll back to an earlier state."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mate3d.errors import UserError
from training.run_folder.safety import SafetySettings
from training.run_folder.state_file import previous_path
from training.state import TrainingState, load_state, set_lr_factor

GUARDED_LOSSES = ("Loss/G/loss", "Loss/D/loss", "Loss/D/loss_semantic")
# Losses near zero multiply easily; a logistic loss of 1 is normal.
_MIN_MEDIAN = 1.0


class DivergenceGuard:
    """Checks the values of each iteration; the settings define a spike."""

    def __init__(self, settings: SafetySettings):
        self.num_rollbacks = 0
        """Rollbacks since the last snapshot."""
        self._settings = settings
        self._windows = {name: self._window() for name in GUARDED_LOSSES}

    def check(self, values: Mapping[str, float]) -> str | None:
        """Return why training has diverged by the values of an iteration, or None."""
        for name, value in values.items():
            if not math.isfinite(value):
                return f"{name} is {'NaN' if math.isnan(value) else 'infinite'}"
        guarded = {name: values[name] for name in self._windows if name in values}
        for name, value in guarded.items():
            reason = self._spike(name, value)
            if reason is not None:
                return reason
        for name, value in guarded.items():
            self._windows[name].append(value)
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs."""
        windows = {name: list(values) for name, values in self._windows.items()}
        return {"num_rollbacks": self.num_rollbacks, "windows": windows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.num_rollbacks = state["num_rollbacks"]
        self._windows = {
            name: self._window(state["windows"].get(name, ())) for name in GUARDED_LOSSES
        }

    def _window(self, values: tuple[float, ...] = ()) -> deque[float]:
        return deque(values, maxlen=self._settings.spike_window)

    def _spike(self, name: str, value: float) -> str | None:
        factor = self._settings.spike_factor
        if factor is None:
            return None
        window = self._windows[name]
        median = statistics.median(window) if window else _MIN_MEDIAN
        if value <= factor * max(median, _MIN_MEDIAN):
            return None
        return f"{name} is {value:.4g}, its running median {median:.4g}"


def roll_back(
    path: Path,
    state: TrainingState,
    guard: DivergenceGuard,
    settings: SafetySettings,
    reason: str,
) -> None:
    """Return to the last saved state with other random numbers and, if requested, lower rates.

    If that did not help, the next call returns to the state before it. Save the state afterwards
    (`with_previous=False`), so that a resumed run is aware of the rollback.

    Args:
        path: File of the newest state.
        state: Changed in place. Callers with their own generators must recreate them.
        guard: Counts the rollbacks; the caller resets the count at each snapshot.
        reason: Appears in the error.

    Raises:
        UserError: If training diverges repeatedly.
    """
    failed_at, num_rollbacks = state.images_seen, guard.num_rollbacks + 1
    if num_rollbacks > settings.max_rollbacks:
        raise UserError(
            f"training diverged {num_rollbacks} times in a row, last at {failed_at} images "
            f"({reason}); lower the optimizer's learning rates or raise loss.r1_gamma, then resume"
        )
    is_repeated = guard.num_rollbacks > 0 and previous_path(path).is_file()
    total, lr_factor = state.num_rollbacks + 1, state.lr_factor * settings.rollback_lr_factor
    load_state(previous_path(path) if is_repeated else path, state)
    # These counters are not reset to the file's values.
    guard.num_rollbacks, state.num_rollbacks = num_rollbacks, total
    set_lr_factor(state, lr_factor)
    # Stages draw from PyTorch's default generator; everything else counts the rollbacks itself.
    torch.manual_seed(torch.initial_seed() + total)
