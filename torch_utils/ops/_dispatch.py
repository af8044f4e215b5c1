"""The one place that decides which implementation of an operation runs."""

from typing import Literal

Implementation = Literal["auto", "reference"]


def wants_reference(impl: Implementation) -> bool:
    """Return whether the plain formula was asked for instead of the fastest implementation.

    Compiled kernels plug in here: once `_extension.py` finds them, this function becomes the
    choice among kernel (CUDA tensors), fast PyTorch and reference.

    Args:
        impl: "auto" takes the fastest implementation for the tensors at hand, "reference" the
            plain formula that the others are tested against.
    """
    if impl not in ("auto", "reference"):
        raise ValueError(f"impl is {impl!r}; allowed are 'auto' and 'reference'")
    return impl == "reference"
