"""The training loop: fetch, steps, moving average, tick, snapshot, resume; nothing else."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mate3d.checkpoint import save_generator
from mate3d.errors import UserError
from mate3d.labels import one_hot_mask
from torch_utils.interruption import stop_on_signal
from training.data import PortraitDataset, Unreadable, require_few
from training.ema import update_average
from training.loader import MAX_UNREADABLE, BatchStream, make_loader
from training.losses.terms import LossSettings, Metrics
from training.monitor import Monitor
from training.optimization import OptimizerSettings, optimizing
from training.passes import Latents, RealBatch, StepContext, draw_latents
from training.precision import TrainingPrecision
from training.schedules import ScheduleSettings, ema_decay, schedule_values
from training.snapshot import make_card, real_grids, render_grids, save_grids
from training.stages import Stage
from training.state import STATE_FILE, TrainingState, load_state, save_state
from training.steps import (
    density_step,
    discriminator_step,
    generator_step,
    r1_step,
    sample_density_points,
    semantic_discriminator_step,
    semantic_r1_step,
)

CHECKPOINT_FOLDER = "checkpoint"
MAX_ROLLBACKS = 5
_TENSORS = ("image", "label_map", "camera")
_EXPLODED = 1e4  # No sane logit comes near; losses are about 1.
_GUARDED_LOSSES = ("Loss/G/loss", "Loss/D/loss", "Loss/D/loss_semantic")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSettings:
    """Length, rhythm and output of a run.

    Args:
        batch_size: Images an iteration.
        total_kimg: Length of the adversarial training, which the stages precede.
        tick_kimg: Distance of status lines and log records.
        snapshot_ticks: Ticks between snapshots (grids, checkpoint, training state).
        seed: Seed of latents, noise and data order.
        num_workers: Processes that read the data set; 0 reads in the main one.
        streaming: Read tar shards from start to end, in an order that depends on `num_workers`.
        max_unreadable: Damaged samples that may be skipped; one more stops the run.
        grid_rows: Rows of sample grids.
        grid_columns: Their columns.
        keep_checkpoints: Keep every snapshot's checkpoint under `checkpoints/`, not only the last.
        with_progress_bar: Show a bar on stderr.
        precision: "fp32", "bf16" or "fp16"; see `TrainingPrecision`.
        compile: Run the networks through `torch.compile`.
    """

    batch_size: int = 32
    total_kimg: float = 25000.0
    tick_kimg: float = 4.0
    snapshot_ticks: int = 50
    seed: int = 0
    num_workers: int = 0
    streaming: bool = False
    max_unreadable: int = MAX_UNREADABLE
    grid_rows: int = 3
    grid_columns: int = 6
    keep_checkpoints: bool = False
    with_progress_bar: bool = True
    precision: str = "fp32"
    compile: bool = False

    def __post_init__(self):
        limits = {
            "batch_size": 1,
            "tick_kimg": 0.001,
            "snapshot_ticks": 1,
            "num_workers": 0,
            "max_unreadable": 0,
            "grid_rows": 1,
            "grid_columns": 1,
        }
        for name, least in limits.items():
            if getattr(self, name) < least:
                raise UserError(f"train.{name}={getattr(self, name)} must be at least {least}")
        TrainingPrecision(self.precision)


@dataclass(frozen=True)
class TrainingSettings:
    """All settings that the loop and its steps read."""

    loop: LoopSettings
    loss: LossSettings
    schedule: ScheduleSettings
    optimizer: OptimizerSettings


def adversarial_iteration(
    state: TrainingState,
    real: RealBatch,
    draw_latents: Callable[[], Latents],
    settings: TrainingSettings,
    context: StepContext,
) -> Metrics:
    """Train all networks once: main steps always, lazy regularisers at their intervals (spec 8.1).

    Args:
        state: Networks, optimisers and the iteration's number.
        real: Shared by all steps.
        draw_latents: Called anew for each step.
        settings: Weights and intervals.
        context: Schedules and random numbers.
    """
    networks, loss = state.networks, settings.loss
    generator_interval = settings.optimizer.generator_reg_interval
    discriminator_interval = settings.optimizer.discriminator_reg_interval
    is_r1_due = state.iteration % discriminator_interval == 0

    def training(name: str) -> AbstractContextManager[None]:
        return optimizing(getattr(networks, name), state.optimizers[name], context.scaler)

    with training("generator"):
        metrics = generator_step(networks, draw_latents(), loss, context)
    if loss.density_smoothness > 0 and state.iteration % generator_interval == 0:
        box_size, num = networks.generator.config.box_size, len(real.image)
        points = sample_density_points(num, box_size, loss, state.random)
        with training("generator"):
            metrics |= density_step(
                networks, draw_latents(), points, loss, context, interval=generator_interval
            )
    with training("discriminator"):
        metrics |= discriminator_step(networks, draw_latents(), real, loss, context)
    if loss.r1_gamma > 0 and is_r1_due:
        with training("discriminator"):
            metrics |= r1_step(networks, real, loss, context, interval=discriminator_interval)
    if not loss.has_semantic_discriminator:
        return metrics
    with training("semantic_discriminator"):
        metrics |= semantic_discriminator_step(networks, draw_latents(), real, loss, context)
    if loss.semantic_r1_gamma > 0 and is_r1_due:
        with training("semantic_discriminator"):
            metrics |= semantic_r1_step(
                networks, real, loss, context, interval=discriminator_interval
            )
    return metrics


class Trainer:
    """One training run in a run folder.

    Args:
        state: A new state, or one that `load_state` filled.
        dataset: Real portraits at the generator's resolution.
        settings: All settings.
        run_folder: Receives logs, sample grids, checkpoints and the training state.
        command: What a user types for this run; goes on the checkpoint's card.
        data_description: The data set in words, for the card.
    """

    def __init__(
        self,
        state: TrainingState,
        dataset: PortraitDataset,
        settings: TrainingSettings,
        run_folder: Path,
        *,
        command: str = "",
        data_description: str = "",
    ):
        self._state, self._dataset, self._settings = state, dataset, settings
        self._run_folder = run_folder
        self._command, self._data_description = command, data_description
        self._device = state.random.device
        self._cameras = dataset.camera_labels.to(self._device)
        self._batches: BatchStream | None = None
        self._unreadable: list[Unreadable] = []
        self._num_rollbacks = 0
        self._stats: dict[str, float] = {}
        for module in state.modules().values():
            module.requires_grad_(False)

    def run(self) -> bool:
        """Train to the end, or until SIGTERM or SIGINT asks to stop.

        Returns:
            Whether the run is complete; if not, its state is saved and can be resumed.

        Raises:
            UserError: If training diverges again and again.
        """
        state = self._state
        self._monitor = Monitor(
            self._run_folder,
            images_seen=state.images_seen,
            total_images=state.images_seen + self._images_left(),
            with_progress_bar=self._settings.loop.with_progress_bar,
        )
        try:
            with stop_on_signal() as should_stop:
                if state.images_seen == 0:
                    self._start()
                while self._images_left() > 0 and not should_stop():
                    self._iterate_and_report()
                if should_stop():
                    self._save()
        finally:
            self._monitor.close()
        return self._images_left() == 0

    def _images_left(self) -> int:
        adversarial = round(self._settings.loop.total_kimg * 1000) - self._state.adversarial_images
        return max(adversarial, 0) + sum(stage.images_left for stage in self._state.stages)

    def _start(self) -> None:
        loop = self._settings.loop
        tiles = range(min(loop.grid_rows * loop.grid_columns, len(self._dataset)))
        read = [self._dataset.read_or_replace(index, loop.max_unreadable) for index in tiles]
        items = [item for item, _ in read]
        self._note({entry.name: entry for _, skipped in read for entry in skipped})
        real = self._make_real(
            {name: torch.stack([item[name] for item in items]) for name in _TENSORS}
        )
        self._show(real_grids(self._state.average, real, columns=loop.grid_columns))
        # Divergence before the first snapshot has something to go back to as well.
        save_state(self._run_folder / STATE_FILE, self._state)

    def _note(self, skipped: Mapping[str, Unreadable]) -> None:
        for entry in skipped.values():
            _logger.warning("skipped a sample: %s", entry.reason)
        self._unreadable = list(skipped.values())
        require_few(self._unreadable, self._settings.loop.max_unreadable)

    def _iterate_and_report(self) -> None:
        state, loop = self._state, self._settings.loop
        start_time, images_before = time.monotonic(), state.images_seen
        metrics = self._iterate()
        if has_diverged(metrics):
            self._roll_back()
            return
        state.seconds += time.monotonic() - start_time
        self._monitor.record(metrics)
        self._monitor.advance(state.images_seen)
        is_last = self._images_left() == 0
        tick = round(loop.tick_kimg * 1000)
        if is_last or state.images_seen // tick > images_before // tick:
            self._stats = self._monitor.tick(state.images_seen)
        snapshot = tick * loop.snapshot_ticks
        if is_last or state.images_seen // snapshot > images_before // snapshot:
            self._show(render_grids(state.average, self._grid_latents(), columns=loop.grid_columns))
            self._save()
            self._num_rollbacks = 0

    def _iterate(self) -> Mapping[str, Tensor | float]:
        state, settings = self._state, self._settings
        stage = next((stage for stage in state.stages if stage.images_left > 0), None)
        if stage is not None:
            batch_size = stage.batch_size
            metrics = self._make_stage_step(stage)
            state.stage_images += batch_size
        else:
            batch_size = settings.loop.batch_size
            schedule = schedule_values(settings.schedule, state.adversarial_images)
            context = StepContext(
                schedule,
                random=state.random,
                precision=TrainingPrecision(settings.loop.precision, self._device),
                scaler=state.scaler,
            )
            real = self._next_real()
            metrics = adversarial_iteration(
                state, real, lambda: self._draw_latents(batch_size), settings, context
            )
            metrics |= _schedule_metrics(context)
            metrics["Progress/unreadable_samples"] = float(self._batches.num_unreadable)
            state.iteration += 1
        decay = ema_decay(settings.schedule, state.images_seen, batch_size)
        update_average(state.average, state.networks.generator, decay)
        state.images_seen += batch_size
        return metrics

    def _make_stage_step(self, stage: Stage) -> dict[str, Tensor | float]:
        generator = self._state.networks.generator.requires_grad_(True)
        values = stage.runner.step()
        generator.requires_grad_(False)
        return {f"Loss/{stage.name}/{name}": value for name, value in values.items()}

    def _draw_latents(self, batch_size: int) -> Latents:
        z_dim = self._state.networks.generator.config.z_dim
        return draw_latents(batch_size, z_dim, self._cameras, self._state.random)

    def _grid_latents(self) -> Latents:
        loop = self._settings.loop
        random = torch.Generator(self._device).manual_seed(loop.seed)
        z_dim = self._state.networks.generator.config.z_dim
        return draw_latents(loop.grid_rows * loop.grid_columns, z_dim, self._cameras, random)

    def _next_real(self) -> RealBatch:
        if self._batches is None:
            loop = self._settings.loop
            # Making a loader draws one of PyTorch's random numbers, which a resumed run must not.
            with torch.random.fork_rng(devices=[]):
                self._batches = make_loader(
                    self._dataset,
                    batch_size=loop.batch_size,
                    seed=loop.seed,
                    state=self._state.data or None,
                    num_workers=loop.num_workers,
                    streaming=loop.streaming,
                    max_unreadable=loop.max_unreadable,
                    unreadable=self._unreadable,
                )
        batch = next(self._batches)
        self._state.data = self._batches.state_dict()
        return self._make_real(batch)

    def _make_real(self, batch: Mapping[str, Tensor]) -> RealBatch:
        num_classes = self._dataset.label_set.num_classes
        return RealBatch(
            image=batch["image"].to(self._device).float() / 127.5 - 1,
            one_hot_mask=one_hot_mask(batch["label_map"].to(self._device), num_classes),
            camera=batch["camera"].to(self._device),
        )

    def _show(self, grids: dict[str, Tensor]) -> None:
        save_grids(self._run_folder / "samples", grids, self._state.images_seen)
        for name, picture in grids.items():
            self._monitor.add_picture(f"samples/{name}", picture, self._state.images_seen)

    def _save(self) -> None:
        state = self._state
        card = make_card(
            command=self._command,
            data=self._data_description,
            images_seen=state.images_seen,
            seconds=state.seconds,
            device=_describe_device(self._device),
            stats=self._stats,
        )
        save_generator(self._run_folder / CHECKPOINT_FOLDER, state.average, card=card)
        if self._settings.loop.keep_checkpoints:
            kept = self._run_folder / "checkpoints" / f"{state.images_seen:09d}"
            save_generator(kept, state.average, card=card)
        save_state(self._run_folder / STATE_FILE, state)

    def _roll_back(self) -> None:
        """Return to the last saved state, with other random numbers than led astray."""
        state, failed_at = self._state, self._state.images_seen
        self._num_rollbacks += 1
        if self._num_rollbacks > MAX_ROLLBACKS:
            raise UserError(
                f"training diverged {self._num_rollbacks} times near {failed_at} images; lower the "
                "optimizer's learning rates or raise loss.r1_gamma, then resume"
            )
        load_state(self._run_folder / STATE_FILE, state)
        self._batches = None
        seed = self._settings.loop.seed + failed_at + self._num_rollbacks
        state.random.manual_seed(seed)
        torch.manual_seed(seed)
        _logger.warning(
            "loss not finite or exploding at %d images; back to %d images",
            failed_at,
            state.images_seen,
        )


def has_diverged(metrics: Mapping[str, Tensor | float]) -> bool:
    """Tell whether any value is not finite or an adversarial loss has exploded."""
    magnitudes = {name: float(torch.as_tensor(v).abs().max()) for name, v in metrics.items()}
    return not all(map(math.isfinite, magnitudes.values())) or any(
        magnitudes.get(name, 0.0) > _EXPLODED for name in _GUARDED_LOSSES
    )


def _schedule_metrics(context: StepContext) -> dict[str, float]:
    schedule = context.schedule
    return {
        "Progress/resolution": float(schedule.resolution),
        "Progress/blur_sigma": schedule.blur_sigma,
        "Progress/pose_swap_probability": schedule.pose_swap_probability or 0.0,
    }


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
