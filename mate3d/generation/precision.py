"""Low precision where it saves time and does no harm: inside the networks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mate3d.rendering.field import FieldProbe, FieldSamples, WrappedField, open_probe


@dataclass(frozen=True)
class Precision:
    """Where networks run and how precisely.

    Rays, depths, look-ups, the decoder's heads and compositing always stay in float32: half
    precision moves pixels and bands depth.

    Args:
        device: Of generator, cameras and results.
        dtype: Of backbone and super-resolution: torch.float32, torch.bfloat16 or torch.float16.
        exact: Take the slower path that evaluates everything, see `Generator.render`.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    exact: bool = False

    def autocast(self) -> torch.autocast:
        """Return the context in which networks run."""
        is_low = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if is_low else None, enabled=is_low)


@dataclass(frozen=True)
class LowPrecisionField(WrappedField):
    """A field whose networks run in low precision, with results in float32.

    Args:
        field: Any field.
        precision: Of its networks.
    """

    precision: Precision

    def sample(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> FieldSamples:
        """See `Field`."""
        with self.precision.autocast():
            values = self.field.sample(points)
        return FieldSamples(values.features.float(), values.sdf.float(), values.class_sdf.float())

    def sdf(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> Tensor:  # [B, N, 1]
        """See `Field`."""
        with self.precision.autocast():
            return self.field.sdf(points).float()


@dataclass(frozen=True)
class LowPrecisionProbe(FieldProbe):
    """A probe whose networks run in low precision, with results in float32."""

    field: LowPrecisionField
    probe: FieldProbe

    def begin(
        self,
        points: Tensor,  # [B, N, 3]
    ) -> tuple[Tensor, Any]:
        """See `FieldProbe`."""
        with self.field.precision.autocast():
            sdf, state = self.probe.begin(points)
        return sdf.float(), state

    def finish(
        self,
        state: Any,
        points: Tensor,  # [B, N, 3]
        chosen: Tensor,  # [M]
        *,
        with_classes: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `FieldProbe`."""
        with self.field.precision.autocast():
            features, class_sdf = self.probe.finish(
                state, points, chosen, with_classes=with_classes
            )
        return features.float(), class_sdf.float()


@open_probe.register
def _(field: LowPrecisionField) -> FieldProbe:
    return LowPrecisionProbe(field, open_probe(field.field))


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Run a block with the algorithms that give the same bits each time.

    On a CPU they always do. On a GPU some convolutions and sums do not, and matrix products only
    with a fixed workspace, which must be chosen before the first one of the process.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warned)
