"""What is measured, on what, and how often."""

from dataclasses import dataclass

from mate3d.errors import UserError
from mate3d.option_checks import check_count

METRICS = ("fid", "kid", "miou", "eikonal")
FEATURES = ("auto", "procedural", "inception")
_MANY = 10_000_000


@dataclass(frozen=True)
class MetricSettings:
    """The node `metrics`.

    Args:
        procedural_network: Name of an included network, or folder of one that
            `train_features` made.
        names: Of `METRICS`; none measures nothing.
        features: Network of FID and KID. auto: procedural for procedural data; for other data
            inception where its weights are, else procedural with a warning.
        num_samples: Generated images.
        num_real: Real images, evenly spaced; None takes all.
        interval: Measure at every n-th snapshot and at the last; 0 never.
        batch_size: Images at a time on each process.
        eikonal_heads: Heads whose distances are examined.
        inception_weights: File of weights; None looks in the torch hub's cache.
        parsing_model: Folder or hub id of a `transformers` segmentation network with the data
            set's classes, which judges masks; None judges by the procedural network, where it
            knows data and labels.
    """

    procedural_network: str
    names: tuple[str, ...] = METRICS
    features: str = "auto"
    num_samples: int = 1000
    num_real: int | None = None
    interval: int = 1
    batch_size: int = 8
    eikonal_heads: int = 32
    inception_weights: str | None = None
    parsing_model: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "names", tuple(self.names))
        unknown = [name for name in self.names if name not in METRICS]
        if unknown:
            raise UserError(
                f"metrics.names: unknown '{unknown[0]}'; use any of {', '.join(METRICS)}"
            )
        if self.features not in FEATURES:
            raise UserError(f"metrics.features={self.features}; use {', '.join(FEATURES)}")
        check_count("metrics.num_samples", self.num_samples, 2, _MANY)
        check_count("metrics.num_real", self.num_real, 2, _MANY, or_null=True)
        check_count("metrics.interval", self.interval, 0, _MANY)
        check_count("metrics.batch_size", self.batch_size, 1, 4096)
        check_count("metrics.eikonal_heads", self.eikonal_heads, 1, _MANY)

    def is_due(self, snapshot: int, *, is_last: bool = False) -> bool:
        """Tell whether to measure at snapshot number 1, 2, ..., of which the last always is."""
        if not self.names or self.interval == 0:
            return False
        return is_last or snapshot % self.interval == 0
