"""Options that protect a run from losing work."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mate3d.options import Above, NonNegativeInt, Options, PositiveFloat, PositiveInt

CHECKPOINTS_FOLDER = "checkpoints"
BestMetric = Literal[
    "fid",
    "kid",
    "fid_procedural",
    "kid_procedural",
    "fid_inception",
    "kid_inception",
    "miou",
    "eikonal_residual",
]


@dataclass(frozen=True)
class SafetySettings(Options):
    """Which checkpoints a run keeps, and when it rolls back; see docs/reliability.md.

    Args:
        keep_last: Number of newest checkpoints in checkpoints/; null keeps all. The newest is also
            in checkpoint/.
        keep_best: Number of best checkpoints to keep as well; needs metrics.names.
        best_metric: What "best" means. "fid" and "kid" are those of the feature network in use.
            Smaller is better, except for miou.
        state_minutes: Save the state this often between snapshots, so that a kill costs no more;
            null saves it only at snapshots.
        max_rollbacks: Maximum number of rollbacks between two snapshots; one more stops the run.
        spike_factor: A loss this many times its running median (or 1, if larger) counts as
            diverged; null checks only for NaN and infinity.
        spike_window: Iterations over which the running median is taken.
        rollback_lr_factor: Factor on all learning rates after each rollback.
    """

    keep_last: NonNegativeInt | None = 3
    keep_best: NonNegativeInt = 1
    best_metric: BestMetric = "fid"
    state_minutes: PositiveFloat | None = 20.0
    max_rollbacks: NonNegativeInt = 5
    spike_factor: Annotated[float, Above(1)] | None = 100.0
    spike_window: PositiveInt = 256
    rollback_lr_factor: Annotated[float, Above(0, up_to=1)] = 1.0
