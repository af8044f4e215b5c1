"""A whole training iteration of an experiment without values, as a GPU runs it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from bench_memory import fill_optimizers
from count_memory import fake_tensors, gpu_pieces
from gpu_work import GPU, GPUS, Operation, WorkLog, seconds_by_part
from parts import digits
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.labels import get_label_set, one_hot_mask
from mate3d.network import sdf_decoder
from mate3d.network import synthesis as network_synthesis
from scripts._compose import read_options
from torch_utils.distributed import World
from torch_utils.ops import bias_act, resample, triplane_sample
from training import iteration, synthesis
from training.augmentation import Augmenter
from training.build_state import build_state
from training.optimization import adam, precision
from training.optimization.ema import update_average
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import raw_resolution, schedule_values
from training.state import TrainingState
from training.step_inputs import BatchParts, RealBatch

GIB = 2**30
UPDATE = "update"
# Of augmentation, for experiments that have it.
PROBABILITY = 0.5


@dataclass(frozen=True)
class Iteration:
    """What an iteration takes with one part of its batch.

    Args:
        entries: All operations, by step; "update" are those of optimizers and average.
        intervals: Iterations between steps, by name; 1 if it is not there.
        held: Bytes before the iteration: weights, average, moments, gradients.
        peak: Bytes at most.
    """

    entries: list[Operation]
    intervals: dict[str, int]
    held: int
    peak: int

    def seconds(self, gpu: GPU, num_parts: int) -> float:
        """Return the seconds of an iteration, on average over lazy steps."""
        return sum(
            seconds if step == UPDATE else num_parts * seconds / self.intervals[step]
            for step, seconds in seconds_by_part(self.entries, gpu).items()
        )

    def per_image(self, name: str, part_size: int) -> float:
        """Return operations ("flop") or bytes ("moved") per image, on average over lazy steps."""
        totals = (getattr(each, name) / self.intervals.get(each.part, 1) for each in self.entries)
        return sum(totals) / part_size


def count_run(
    words: Sequence[str], part_size: int, num_gpus: int, gpus: Sequence[str]
) -> dict[str, Any]:
    """Return the memory, speed and length of a run, computed for several kinds of GPUs.

    Args:
        words: Options of train.
        part_size: Images that a GPU trains at once; 0 is the experiment's own part.
        num_gpus: GPUs of the run. Exchanging gradients is not counted.
        gpus: Keys of `gpu_work.GPUS`.
    """
    settings = read_options("train", [*words, "data=none", "output=none"]).settings
    batch_size, schedule = settings.loop.batch_size, settings.schedule
    part_size = part_size or BatchParts(batch_size, settings.loop.accumulation).part_size
    parts = BatchParts(batch_size, batch_size // part_size // num_gpus, World(0, num_gpus))
    total = round(settings.loop.total_kimg * 1000)
    # Renders grow linearly, and the time of an iteration is taken to grow with them.
    sides = [raw_resolution(schedule, total * step // 1000) for step in range(1001)]
    first = last = count_iteration(words, parts.part_size, total)
    if sides[0] != sides[-1]:
        first = count_iteration([*words, "schedule.blur_fade_kimg=0"], parts.part_size, 0)
    grown = [(side - sides[0]) / max(sides[-1] - sides[0], 1) for side in sides]
    mean_growth = sum(grown) / len(grown)
    row: dict[str, Any] = {
        "words": list(words),
        "part_size": parts.part_size,
        "parts": parts.accumulation,
        "num_gpus": num_gpus,
        "precision": settings.loop.precision,
        "total_kimg": settings.loop.total_kimg,
        "neural_resolutions": [sides[0], sides[-1]],
        "held_gib": digits(last.held / GIB),
        "peak_gib": digits(max(last.peak, first.peak) / GIB),
        "tflop_per_image": digits(last.per_image("flop", parts.part_size) / 1e12),
        "moved_gb_per_image": digits(last.per_image("moved", parts.part_size) / 1e9),
        "gpus": {},
    }
    for name in gpus:
        start, end = (each.seconds(GPUS[name], parts.accumulation) for each in (first, last))
        seconds = start + (end - start) * mean_growth
        row["gpus"][name] = {
            "images_per_second": [digits(batch_size / each) for each in (start, end)],
            "hours": digits(total / batch_size * seconds / 3600),
        }
    return row


def count_iteration(words: Sequence[str], part_size: int, images_seen: int) -> Iteration:
    """Count an iteration with all steps.

    Args:
        words: Options of train.
        images_seen: Where schedules are evaluated.
    """
    options = read_options("train", [*words, "data=none", "output=none"])
    config, settings = options.generator_config, options.settings
    # Stages before are not counted, and procedural heads need values.
    part = {"batch_size": part_size, "accumulation": 1, "warm_start": "none"}
    settings = replace(settings, loop=replace(settings.loop, **part))
    running = [UPDATE]
    log = WorkLog(lambda: running[-1])
    cameras = torch.cat([make_camera(0.3 - 0.1 * index, 0.1) for index in range(8)])
    num_classes = get_label_set(config.label_set).num_classes
    augmenter = None
    if settings.augment.mode != "none":
        augmenter = partial(Augmenter(settings.augment), probability=PROBABILITY)
    with fake_tensors(), on_gpu(), naming_steps(running):
        state = build_state(
            config, options.model.discriminator, settings, cameras, torch.device("cpu")
        )
        fill_optimizers(state)
        with log:
            log.add(_held_tensors(state), "state")
            held = log.live()
            image = torch.rand(part_size, 3, config.resolution, config.resolution)
            ids = torch.zeros(part_size, config.resolution, config.resolution, dtype=torch.long)
            inputs = iteration.IterationInputs(
                real=RealBatch(
                    image,
                    one_hot_mask(ids, num_classes),
                    cameras[torch.arange(part_size) % len(cameras)],
                ),
                cameras=cameras,
                schedule=schedule_values(settings.schedule, images_seen),
                precision=TrainingPrecision(settings.loop.precision, torch.device("cpu")),
                parts=BatchParts(part_size),
                augment=augmenter,
            )
            iteration.adversarial_iteration(state, inputs, settings)
            update_average(state.average, state.networks.generator, 0.99)
    intervals = {step.function.__name__: step.interval_in(settings) for step in iteration.STEPS}
    return Iteration(log.entries, intervals, held, log.peak)


def _held_tensors(state: TrainingState) -> Iterator[Tensor]:
    for network in (*vars(state.networks).values(), state.average):
        yield from network.parameters()
        yield from (weight.grad for weight in network.parameters() if weight.grad is not None)
    for optimizer in state.optimizers.values():
        for moments in optimizer.state.values():
            yield from (value for value in moments.values() if isinstance(value, Tensor))


@contextmanager
def naming_steps(running: list[str]) -> Iterator[None]:
    """Let the last name of a list be that of the training step that runs."""

    def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            running.append(name)
            try:
                return function(*args)
            finally:
                running.pop()

        return run

    named_steps = [
        replace(step, function=named(step.function, step.function.__name__))
        for step in iteration.STEPS
    ]
    with mock.patch.object(iteration, "STEPS", named_steps):
        yield


@contextmanager
def on_gpu() -> Iterator[None]:
    """Work as on a GPU with the kernels; fakes are rendered with all their samples."""
    no = property(lambda _: False, lambda *_: None)
    answers = (
        (bias_act, "wants_kernels", True),
        (resample, "wants_library", True),
        (triplane_sample, "wants_library", True),
        (network_synthesis, "works_in_bands", False),
        # How many samples count depends on values.
        (synthesis, "marches_sparsely", False),
        (precision, "computes_bfloat16", True),
    )
    patches = (
        gpu_pieces(),
        mock.patch.object(sdf_decoder._HiddenLayers, "in_base_2", no, create=True),
        mock.patch.object(adam.torch.optim, "Adam", partial(torch.optim.Adam, foreach=True)),
        *(mock.patch.object(module, name, lambda *_, a=a: a) for module, name, a in answers),
    )
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield
