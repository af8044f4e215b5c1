"""Settings of a run: its length, rhythm and division into parts."""

from dataclasses import dataclass

from mate3d.errors import UserError
from training.augmentation.settings import AugmentSettings
from training.data.loader import MAX_UNREADABLE
from training.evaluation.settings import MetricSettings
from training.losses.terms import LossSettings
from training.optimization.adam import OptimizerSettings
from training.optimization.precision import TrainingPrecision
from training.optimization.schedules import ScheduleSettings
from training.run_folder.safety import SafetySettings


@dataclass(frozen=True)
class LoopSettings:
    """Length, rhythm and output of a run.

    Args:
        batch_size: Images an iteration, over all processes.
        accumulation: Parts, one after the other, in which each process trains its share of the
            batch; more parts take less memory and give the same gradients.
        total_kimg: Length of the adversarial training, which the stages precede.
        tick_kimg: Distance of status lines and log records.
        snapshot_ticks: Ticks between snapshots (grids, checkpoint, training state).
        seed: Seed of weights, latents, noise and data order.
        num_workers: Processes that read the data set; 0 reads in the main one.
        streaming: Read tar shards from start to end, in an order that depends on `num_workers`.
        max_unreadable: Damaged samples that may be skipped; one more stops the run.
        grid_rows: Rows of sample grids.
        grid_columns: Their columns.
        with_progress_bar: Show a bar on stderr.
        precision: "fp32", "bf16" or "fp16"; see `TrainingPrecision`.
        compile: Run the networks through `torch.compile`.
    """

    batch_size: int = 32
    accumulation: int = 1
    total_kimg: float = 25000.0
    tick_kimg: float = 4.0
    snapshot_ticks: int = 50
    seed: int = 0
    num_workers: int = 0
    streaming: bool = False
    max_unreadable: int = MAX_UNREADABLE
    grid_rows: int = 3
    grid_columns: int = 6
    with_progress_bar: bool = True
    precision: str = "fp32"
    compile: bool = False

    def __post_init__(self):
        limits = {
            "batch_size": 1,
            "accumulation": 1,
            "total_kimg": 0,
            "tick_kimg": 0.001,
            "snapshot_ticks": 1,
            "seed": 0,
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
    loss: LossSettings = LossSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    augment: AugmentSettings = AugmentSettings()
    metrics: MetricSettings = MetricSettings(procedural_network="", names=())
    safety: SafetySettings = SafetySettings()
