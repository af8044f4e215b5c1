"""The training loop: data, steps, moving average, ticks, snapshots and rollbacks."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.labels import one_hot_mask
from torch_utils.distributed import (
    all_reduce_sum,
    any_process,
    barrier,
    broadcast_weights,
    find_difference,
    is_main,
    run_on_main,
    world,
)
from torch_utils.interruption import stop_on_signal
from training.augmentation import AdaptiveProbability, Augmenter
from training.data.dataset import PortraitDataset, Unreadable, require_few
from training.data.loader import BatchStream, make_loader
from training.divergence import DivergenceGuard, roll_back
from training.iteration import IterationInputs, adversarial_iteration
from training.optimization.ema import update_average
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import ScheduleValues, ema_decay, schedule_values
from training.run_folder.careful_loop import report_stop, run_carefully
from training.run_folder.events import log_event
from training.run_folder.monitor import Monitor
from training.run_folder.observers import Stopwatch, profiling
from training.run_folder.state_file import STATE_FILE
from training.settings import TrainingSettings
from training.snapshot_taker import SnapshotTaker
from training.stages import InitialStage, Overfit
from training.state import TrainingState, find_damage, save_state
from training.step_inputs import BatchParts, Occasion, RealBatch

_TENSORS = ("image", "label_map", "camera")

_logger = logging.getLogger(__name__)


class Trainer:
    """One training run in a run folder; each process of the run has its own.

    Args:
        state: A new state, or one that `load_state` filled.
        dataset: Real portraits at the generator's resolution.
        run_folder: Receives logs, sample grids, checkpoints and the training state.
        command: Starts this run; appears on the checkpoint's card and in the resume line.
        data_description: Describes the dataset on the card.
        options: All options by dotted names, for TensorBoard's table of hyper-parameters.

    Raises:
        UserError: If the batch cannot be divided among the processes.
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
        options: Mapping[str, object] | None = None,
    ):
        self._state, self._dataset, self._settings = state, dataset, settings
        self._run_folder, self._command, self._options = run_folder, command, options or {}
        self._device = state.device
        self._cameras = dataset.camera_labels.to(self._device)
        loop = settings.loop
        self._parts = BatchParts(loop.batch_size, loop.accumulation, world())
        self._augmenter = Augmenter(settings.augment)
        self._probability = AdaptiveProbability(settings.augment)
        state.extra["augment"] = self._probability
        self._guard = DivergenceGuard(settings.safety)
        state.extra["divergence"] = self._guard
        self._snapshots = SnapshotTaker(
            state, dataset, settings, run_folder, command=command, data=data_description
        )
        self._stopwatch, self._saved_at = Stopwatch(self._device), time.monotonic()
        self._shown = list(range(min(loop.grid_rows * loop.grid_columns, len(dataset))))
        if loop.overfit_steps > 0:
            overfit = Overfit(
                *(state.networks, loop.overfit_steps, self._cameras, settings, self._parts),
                read=lambda positions: self._make_real(dataset.read_batch(positions)),
            )
            state.stages += (InitialStage("overfit", loop.batch_size, overfit),)
            self._shown = overfit.positions(loop.grid_rows * loop.grid_columns)
        self._is_stopping = False
        self._batches: BatchStream | None = None
        self._unreadable: list[Unreadable] = []
        for module in state.modules().values():
            module.requires_grad_(False)

    def run(self) -> bool:
        """Train to the end, or until any process receives a signal to stop.

        Returns:
            Whether the run is complete; if not, its state is saved and the user is told how to
            resume.

        Raises:
            UserError: If training diverges repeatedly, processes have different weights,
                overfitting fails, or a file cannot be written.
        """
        state = self._state
        is_new = state.images_seen == 0
        self._monitor = Monitor(
            self._run_folder,
            images_seen=state.images_seen,
            total_images=state.images_seen + self._images_left(),
            with_progress_bar=self._settings.loop.with_progress_bar,
            is_main=is_main(),
        )
        self._monitor.add_hparams(self._options)
        self._log_event("start" if is_new else "resume", "")
        try:
            with (
                stop_on_signal() as should_stop,
                profiling(self._run_folder, self._settings.loop.profile) as self._profile,
            ):
                if is_new:
                    self._start()
                is_complete = run_carefully(
                    partial(self._iterate_and_report, should_stop),
                    lambda: self._snapshots.save(self._monitor, {}),
                    lambda: self._images_left() == 0,
                    lambda: self._is_stopping,
                )
            if is_complete:
                self._log_event("finish", "")
        except Exception as error:
            # The cause may be a full disk; show the error that ended the run.
            with suppress(UserError):
                self._log_event("failure", str(error))
            raise
        finally:
            self._monitor.close()
        if not is_complete:
            report_stop(f"{self._position()}, {state.images_seen} images", self._command)
        return is_complete

    def _position(self) -> str:
        """Return the step of the current stage, or the iteration of the adversarial training."""
        for stage in self._state.stages:
            if stage.images_left > 0:
                return f"{stage.name} step {stage.runner.steps_done} of {stage.runner.num_steps}"
        return f"iteration {self._state.iteration}"

    def _images_left(self) -> int:
        adversarial = round(self._settings.loop.total_kimg * 1000) - self._state.adversarial_images
        return max(adversarial, 0) + sum(stage.images_left for stage in self._state.stages)

    def _start(self) -> None:
        def show_and_save() -> None:
            limit = self._settings.loop.max_unreadable
            read = [self._dataset.read_or_replace(index, limit) for index in self._shown]
            items = [item for item, _ in read]
            self._note({entry.name: entry for _, skipped in read for entry in skipped})
            real = self._make_real(
                {name: torch.stack([item[name] for item in items]) for name in _TENSORS}
            )
            self._snapshots.show_real(real, self._monitor)
            # A run that diverges before the first snapshot returns to this state.
            save_state(self._run_folder / STATE_FILE, self._state)

        run_on_main(show_and_save)

    def _note(self, skipped: Mapping[str, Unreadable]) -> None:
        for entry in skipped.values():
            _logger.warning("skipped a sample: %s", entry.reason)
        self._unreadable = list(skipped.values())
        require_few(self._unreadable, self._settings.loop.max_unreadable)

    def _iterate_and_report(self, should_stop: Callable[[], bool]) -> bool:
        """Train one iteration; return whether the state was saved."""
        state, loop = self._state, self._settings.loop
        start_time, images_before = time.monotonic(), state.images_seen
        metrics = self._iterate()
        limit = self._settings.safety.state_minutes
        # By the clock of the main process.
        is_old = limit is not None and time.monotonic() - self._saved_at > 60 * limit
        means, (self._is_stopping, is_old) = _agree(metrics, should_stop(), is_old and is_main())
        if self._profile is not None and state.adversarial_images > 0:
            self._profile.step()
        if self._is_stopping and self._images_left() > 0:
            self._log_event("stop", "signal")
        reason = self._guard.check(means)
        if reason is not None:
            self._roll_back(reason)
            return True
        # Adapt the augmentation to the image discriminator's scores of real images.
        if "Loss/signs/real" in means:
            self._probability.update(means["Loss/signs/real"], loop.batch_size)
        state.seconds += time.monotonic() - start_time
        self._monitor.record(metrics)
        self._monitor.advance(state.images_seen)
        is_last = self._images_left() == 0
        tick = round(loop.tick_kimg * 1000)

        def is_due(interval: int) -> bool:
            return is_last or state.images_seen // interval > images_before // interval

        # During the stages, results may differ by rounding.
        if (is_due(tick) or is_old) and state.adversarial_images > 0:
            difference = find_difference(state.modules())
            if difference is not None:
                raise UserError(
                    f"weights of {difference} differ from the main process's at "
                    f"{state.images_seen} images; check its machine, then resume"
                )
        if is_due(tick):
            seconds = self._stopwatch.read()
            self._monitor.record({f"Timing/tick/{part}": seconds[part] for part in seconds})
            self._snapshots.stats = self._monitor.tick(state.images_seen)
        self._stopwatch.lap("other")
        is_snapshot = is_due(tick * loop.snapshot_ticks)
        if not is_snapshot and not is_old:
            return False
        damage = find_damage(state)
        if any_process(damage is not None):
            self._roll_back(f"{damage or 'a weight of another process'} is not finite")
            return True
        if is_snapshot:
            self._guard.num_rollbacks = 0
            self._snapshots.take(self._monitor, is_last=is_last)
        else:
            run_on_main(lambda: save_state(self._run_folder / STATE_FILE, state))
        self._saved_at = time.monotonic()
        self._stopwatch.lap("snapshot")
        return is_snapshot

    def _iterate(self) -> dict[str, Tensor | float]:
        state, settings = self._state, self._settings
        stage = next((stage for stage in state.stages if stage.images_left > 0), None)
        if stage is not None:
            batch_size = stage.batch_size
            metrics = _stage_step(stage, state)
            self._stopwatch.lap(stage.name)
            state.stage_images += batch_size
        else:
            batch_size = settings.loop.batch_size
            metrics = self._adversarial_iteration()
            state.iteration += 1
        decay = ema_decay(settings.schedule, state.images_seen, batch_size)
        update_average(state.average, state.networks.generator, decay)
        self._stopwatch.lap("average")
        state.images_seen += batch_size
        return metrics

    def _adversarial_iteration(self) -> dict[str, Tensor | float]:
        state, settings = self._state, self._settings
        _seed_defaults(settings.loop.seed, state)
        schedule = schedule_values(settings.schedule, state.adversarial_images)
        if schedule.beta is not None:
            state.networks.generator.decoder.beta.fill_(schedule.beta)
        # Samples, metrics and checkpoints render as training does.
        config = state.average.config
        state.average.config = replace(config, neural_rendering_resolution=schedule.resolution)
        probability = self._probability.probability
        inputs = IterationInputs(
            real=self._next_real(),
            cameras=self._cameras,
            schedule=schedule,
            precision=TrainingPrecision(settings.loop.precision, self._device),
            parts=self._parts,
            augment=partial(self._augmenter, probability=probability) if probability > 0 else None,
            lap=self._stopwatch.lap,
        )
        metrics = adversarial_iteration(state, inputs, settings)
        num_unreadable = self._batches.num_unreadable * self._parts.world.size
        return (
            metrics
            | _schedule_metrics(schedule)
            | {
                "Augment/probability": probability,
                "Augment/sign": self._probability.sign,
                "Progress/unreadable_samples": float(num_unreadable),
                "Progress/lr_factor": state.lr_factor,
            }
        )

    def _next_real(self) -> RealBatch:
        if self._batches is None:
            loop, place = self._settings.loop, self._parts.world
            # Making a loader draws one of PyTorch's random numbers; a resumed run must not.
            with torch.random.fork_rng(devices=[]):
                self._batches = make_loader(
                    self._dataset,
                    batch_size=self._parts.process_batch_size,
                    seed=loop.seed,
                    state=self._state.data or None,
                    num_workers=loop.num_workers,
                    rank=place.rank,
                    num_replicas=place.size,
                    streaming=loop.streaming,
                    max_unreadable=loop.max_unreadable,
                    unreadable=self._unreadable,
                )
        batch = next(self._batches)
        self._state.data = self._batches.state_dict()
        real = self._make_real(batch)
        self._stopwatch.lap("data")
        return real

    def _make_real(self, batch: Mapping[str, Tensor]) -> RealBatch:
        num_classes = self._dataset.label_set.num_classes
        image, label_map, camera = (
            batch[name].to(self._device, non_blocking=True) for name in _TENSORS
        )
        return RealBatch(image.float() / 127.5 - 1, one_hot_mask(label_map, num_classes), camera)

    def _roll_back(self, reason: str) -> None:
        """Return to a saved state and use other random numbers from there."""
        state, failed_at = self._state, self._state.images_seen
        path = self._run_folder / STATE_FILE
        roll_back(path, state, self._guard, self._settings.safety, reason)
        if is_main():
            more = {"back_to": state.images_seen, "lr_factor": state.lr_factor}
            log_event(self._run_folder, "rollback", failed_at, reason, **more)
        self._batches = None
        # Wait until all processes have read the file that the main one now replaces.
        barrier()
        run_on_main(lambda: save_state(path, state, with_previous=False))
        self._saved_at = time.monotonic()
        self._monitor.rewind(state.images_seen)
        _logger.warning(
            "%s at %d images; rolled back to %d images, learning rates multiplied by %g",
            reason,
            failed_at,
            state.images_seen,
            state.lr_factor,
        )

    def _log_event(self, kind: str, reason: str) -> None:
        if is_main():
            log_event(self._run_folder, kind, self._state.images_seen, reason)


def _stage_step(stage: InitialStage, state: TrainingState) -> dict[str, Tensor | float]:
    generator = state.networks.generator.requires_grad_(True)
    values = stage.runner.step()
    generator.requires_grad_(False)
    if stage.images_left == 0:
        # Results of the processes may differ by rounding.
        broadcast_weights([generator, state.average])
    return {f"Loss/{stage.name}/{name}": value for name, value in values.items()}


def _agree(
    metrics: Mapping[str, Tensor | float], *flags: bool
) -> tuple[dict[str, float], list[bool]]:
    """Return means over all processes, and which flags are set on any of them."""
    means = {
        name: value.detach().double().mean()
        for name, value in metrics.items()
        if isinstance(value, Tensor)
    }
    # Read together, because each read waits for the GPU.
    numbers = torch.stack(list(means.values())).tolist() if means else []
    read = dict(zip(means, numbers, strict=True))
    own = [float(read.get(name, value)) for name, value in metrics.items()]
    total = all_reduce_sum(torch.tensor([*own, *flags], dtype=torch.float64)).tolist()
    sums, counts, size = total[: len(own)], total[len(own) :], world().size
    agreed = dict(zip(metrics, (value / size for value in sums), strict=True))
    return agreed, [count > 0 for count in counts]


def _seed_defaults(seed: int, state: TrainingState) -> None:
    """Seed PyTorch's default generator, which only the super-resolutions' noise reads."""
    key = (seed, state.num_rollbacks, state.iteration, Occasion.OTHER, world().rank)
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0]))


def _schedule_metrics(schedule: ScheduleValues) -> dict[str, float]:
    return {
        "Progress/resolution": float(schedule.resolution),
        "Progress/blur_sigma": schedule.blur_sigma,
        "Progress/pose_swap_probability": schedule.pose_swap_probability or 0.0,
    }
