"""Metrics: which, on which data, and how often."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from mate3d.options import AtLeast, FilePath, NonNegativeInt, Options, PositiveInt

Metric = Literal["fid", "kid", "miou", "eikonal"]
_SetSize = Annotated[int, AtLeast(2)]


@dataclass(frozen=True)
class MetricSettings(Options):
    """Metrics of a generator, and how often to measure them during training.

    Args:
        procedural_network: Name of an included network, or the folder of one trained with
            train_features.
        names: Metrics: FID, KID, miou (masks against a network's labels), eikonal (how far
            predicted distances are from true ones); [] measures nothing.
        features: Network for FID and KID. auto uses procedural for procedural data, and inception,
            whose weights must be available, for other data.
        num_samples: Number of generated images.
        num_real: Number of real images, evenly spaced; null uses all.
        interval: Measure at every n-th snapshot and at the last; 0 never measures.
        batch_size: Batch size of each process.
        eikonal_heads: Number of heads whose distances are measured.
        inception_weights: File with Inception's weights; null looks in the torch hub's cache.
        parsing_model: A transformers segmentation network with the dataset's classes (folder or hub
            id) that judges masks; null uses the procedural network if it supports the data and
            labels.
    """

    procedural_network: FilePath = "procedural_features"
    names: tuple[Metric, ...] = get_args(Metric)
    features: Literal["auto", "procedural", "inception"] = "auto"
    num_samples: _SetSize = 1000
    num_real: _SetSize | None = None
    interval: NonNegativeInt = 1
    batch_size: PositiveInt = 8
    eikonal_heads: PositiveInt = 32
    inception_weights: FilePath | None = None
    parsing_model: FilePath | None = None

    def is_due(self, snapshot: int, *, is_last: bool = False) -> bool:
        """Return whether to measure at snapshot 1, 2, ...; always true for the last."""
        if not self.names or self.interval == 0:
            return False
        return is_last or snapshot % self.interval == 0
