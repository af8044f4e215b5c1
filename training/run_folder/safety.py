"""Options that keep a run from losing work."""

from dataclasses import dataclass

from mate3d.errors import UserError
from mate3d.option_checks import check_count, check_number

CHECKPOINTS_FOLDER = "checkpoints"
BEST_METRICS = (
    "fid",
    "kid",
    "fid_procedural",
    "kid_procedural",
    "fid_inception",
    "kid_inception",
    "miou",
    "eikonal_residual",
)
_MOST = 10**6


@dataclass(frozen=True)
class SafetySettings:
    """What is kept, and when and how a run goes back (node `safety`).

    Args:
        keep_last: Newest checkpoints kept in `checkpoints/`; None keeps all.
        keep_best: Best checkpoints kept beside them.
        best_metric: What "best" means: one of `BEST_METRICS`, "fid" and "kid" being those of
            whichever feature network measures. Only `miou` is better when larger.
        max_rollbacks: Returns to a saved state without a snapshot between them; one more stops
            the run.
        spike_factor: A loss this many times its running median, or 1 if that is larger, counts
            as diverged; above 1. None looks for numbers that are not finite only.
        spike_window: Iterations of the running median.
        rollback_lr_factor: Each return multiplies the learning rates by this, in (0, 1].

    Raises:
        UserError: Naming the option and what is allowed.
    """

    keep_last: int | None = 3
    keep_best: int = 1
    best_metric: str = "fid"
    max_rollbacks: int = 5
    spike_factor: float | None = 100.0
    spike_window: int = 256
    rollback_lr_factor: float = 1.0

    def __post_init__(self):
        check_count("safety.keep_last", self.keep_last, 0, _MOST, or_null=True)
        check_count("safety.keep_best", self.keep_best, 0, _MOST)
        check_count("safety.max_rollbacks", self.max_rollbacks, 0, _MOST)
        check_count("safety.spike_window", self.spike_window, 1, _MOST)
        if self.best_metric not in BEST_METRICS:
            allowed = ", ".join(BEST_METRICS)
            raise UserError(f"safety.best_metric={self.best_metric}; use one of {allowed}")
        if self.spike_factor is not None:
            check_number("safety.spike_factor", self.spike_factor, above=1)
        check_number("safety.rollback_lr_factor", self.rollback_lr_factor, above=0)
        if self.rollback_lr_factor > 1:
            raise UserError(
                f"safety.rollback_lr_factor={self.rollback_lr_factor}; use a number in (0, 1]"
            )
