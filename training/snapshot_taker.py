"""Snapshots of a run: images, histograms, metrics, checkpoint, state, summary."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from mate3d.checkpoint import save_generator
from torch_utils.batch_random import BatchRandom
from torch_utils.distributed import run_on_main
from training.data.dataset import PortraitDataset
from training.evaluation import TrainingEvaluator
from training.run_folder.geometry_histograms import geometry_histograms
from training.run_folder.grids import make_card, real_grids, render_grids
from training.run_folder.monitor import Monitor
from training.run_folder.retention import CHECKPOINT_FOLDER, keep_checkpoints
from training.run_folder.state_file import STATE_FILE
from training.settings import TrainingSettings
from training.state import TrainingState, save_state
from training.step_inputs import Latents, Occasion, RealBatch, draw_latents


class SnapshotTaker:
    """Takes the snapshots of a run; the main process writes them.

    Args:
        command: See `Trainer`.
        data: Describes the dataset on the card.
    """

    def __init__(
        self,
        state: TrainingState,
        dataset: PortraitDataset,
        settings: TrainingSettings,
        run_folder: Path,
        *,
        command: str,
        data: str,
    ):
        self._state, self._dataset, self._settings = state, dataset, settings
        self._run_folder, self._command, self._data = run_folder, command, data
        self._cameras = dataset.camera_labels.to(state.device)
        self._evaluator = TrainingEvaluator(
            settings.metrics, dataset, state.device, run_folder / "statistics"
        )
        # Means over the last tick, for the card.
        self.stats: dict[str, float] = {}

    def show_real(self, real: RealBatch, monitor: Monitor) -> None:
        """Show real portraits next to the samples."""
        columns = self._settings.loop.grid_columns
        monitor.add_grids(real_grids(self._state.average, real, columns=columns), 0)

    def take(self, monitor: Monitor, *, is_last: bool) -> None:
        """Show samples, measure if due, and save; all processes call this together."""
        state = self._state
        run_on_main(lambda: self._show(monitor))
        metrics = self._measure(is_last)
        monitor.add_values(metrics, state.images_seen)
        self.stats |= metrics
        self.save(monitor, metrics)

    def save(self, monitor: Monitor, metrics: Mapping[str, float]) -> None:
        """Save checkpoint, state and summary; all processes call this together."""
        run_on_main(lambda: self._save(monitor, metrics))

    def _show(self, monitor: Monitor) -> None:
        average, images_seen = self._state.average, self._state.images_seen
        loop = self._settings.loop
        grids = render_grids(average, self._grid_latents(), columns=loop.grid_columns)
        monitor.add_grids(grids, images_seen)
        monitor.add_histograms(geometry_histograms(average, self._grid_latents()), images_seen)

    def _grid_latents(self) -> Latents:
        loop = self._settings.loop
        places = range(loop.grid_rows * loop.grid_columns)
        random = BatchRandom((loop.seed, Occasion.GRID), places, self._state.device)
        return draw_latents(self._state.average.config.z_dim, self._cameras, random)

    def _measure(self, is_last: bool) -> dict[str, float]:
        loop = self._settings.loop
        snapshot = round(loop.tick_kimg * 1000) * loop.snapshot_ticks
        number = self._state.images_seen // snapshot
        if not self._settings.metrics.is_due(number, is_last=is_last):
            return {}
        return self._evaluator.measure(self._state.average, self._cameras, self._settings.loop.seed)

    def _save(self, monitor: Monitor, metrics: Mapping[str, float]) -> None:
        state, average = self._state, self._state.average
        origin = {
            "command": f"`{self._command}`",
            "data": self._data,
            "images seen": state.images_seen,
            "training time": f"{state.seconds / 3600:.2f} h",
            "hardware": _describe_device(state.device),
        }
        card = make_card(origin, self.stats)
        if average.config.geometry == "sdf":
            # What `schedule.beta_final` or `learn_beta` has made of it.
            beta = float(f"{average.decoder.beta.item():.7g}")
            average.config = replace(average.config, beta=beta)
        save_generator(self._run_folder / CHECKPOINT_FOLDER, average, card=card)
        keep_checkpoints(self._run_folder, state.images_seen, metrics, self._settings.safety)
        save_state(self._run_folder / STATE_FILE, state)
        monitor.write_summary(self._command)


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
