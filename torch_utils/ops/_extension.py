"""Load the CUDA kernels: prebuilt with the package, cached, or compiled now.

Nothing happens on import. `load` runs when the first CUDA tensor arrives, and its result is kept
for the life of the process. docs/ops.md describes the user's settings.
"""

import os
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from torch_utils.kernel_build import cache
from torch_utils.kernel_build.library import LIBRARY_NAME, check_library
from torch_utils.kernel_build.toolchain import BuildError, find_toolchain

# setup.py puts a library here if it finds nvcc.
PREBUILT_FOLDER = Path(__file__).with_name("prebuilt")

CHOICES = ("auto", "kernels", "pytorch")

_lock = threading.Lock()
# Result of `load`: the library's folder, the reason for failure, or False if none is needed.
_outcome: Path | BuildError | bool | None = None


class KernelsUnavailableError(RuntimeError):
    """MATE3D_OPS=kernels is set, but the kernels are not available."""


def choice() -> str:
    """Return MATE3D_OPS: auto (default), kernels (fail without them) or pytorch.

    Raises:
        ValueError: If it has another value.
    """
    name = os.environ.get("MATE3D_OPS") or "auto"
    if name not in CHOICES:
        raise ValueError(f"MATE3D_OPS={name}; use one of: {', '.join(CHOICES)}")
    return name


def load() -> bool:
    """Load the CUDA kernels, once per process, and return whether they are available.

    Uses the prebuilt library, else a cached one for the same kind of GPU, else compiles one, which
    takes about a minute and is cached. If all of them fail, warns once and returns False; PyTorch
    operations are then used.

    Raises:
        KernelsUnavailableError: If MATE3D_OPS=kernels and they are not available.
        ValueError: If MATE3D_OPS has an invalid value.
    """
    global _outcome
    if _outcome is None:
        with _lock:
            if _outcome is None:
                _outcome = _decide()
    if isinstance(_outcome, BuildError) and choice() == "kernels":
        raise KernelsUnavailableError(f"MATE3D_OPS=kernels, but {_outcome}")
    return isinstance(_outcome, Path)


def _decide() -> Path | BuildError | bool:
    # No warning without a GPU: tensors without data can claim to be on one.
    gpus = [] if choice() == "pytorch" else visible_gpus()
    if not gpus:
        return False
    try:
        return find_kernels(gpus) or False
    except BuildError as error:
        if choice() == "auto":
            warnings.warn(
                f"no compiled CUDA kernels, using slower PyTorch operations: {error} "
                "For details run python -m torch_utils.doctor; MATE3D_OPS=pytorch silences this.",
                RuntimeWarning,
                stacklevel=3,
            )
        return error


def visible_gpus() -> list[str]:
    """Return the distinct compute capabilities of the visible GPUs, such as ["8.0", "9.0"]."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = {torch.cuda.get_device_capability(index) for index in range(count)}
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def find_kernels(gpus: Sequence[str], *, look_only: bool = False) -> Path | None:
    """Load the library for these GPUs and return its folder: prebuilt, cached, or compiled now.

    Args:
        gpus: Compute capabilities of the GPUs.
        look_only: Do not load or compile; return None if it would have to be compiled.

    Raises:
        BuildError: If there is none and it cannot be compiled.
    """
    if torch.version.hip is not None:
        raise BuildError("this PyTorch is for ROCm", "Install a PyTorch for CUDA")
    problems: list[BuildError] = []
    for find in (_find_prebuilt, _find_compiled):
        try:
            folder = find(gpus, look_only)
            if folder is not None and not look_only:
                load_library(folder)
            if folder is not None or find is _find_compiled:
                return folder
        except BuildError as error:
            problems.append(error)
    raise BuildError("; ".join(error.reason for error in problems), problems[-1].remedy)


def _find_prebuilt(gpus: Sequence[str], look_only: bool) -> Path | None:
    if not PREBUILT_FOLDER.is_dir():
        return None
    check_library(PREBUILT_FOLDER, gpus)
    return PREBUILT_FOLDER


def _find_compiled(gpus: Sequence[str], look_only: bool) -> Path | None:
    try:
        toolchain = find_toolchain()
        if not look_only:
            return cache.find_or_build(toolchain, gpus)
        entry = cache.find_entry(gpus, toolchain)
        if entry is None:
            cache.check_buildable(toolchain, gpus)
        return entry
    except BuildError:
        # Without the tools, any cached library for these GPUs is used.
        if entry := cache.find_entry(gpus):
            return entry
        raise


def load_library(folder: Path) -> None:
    """Load the library in a folder into this process.

    Raises:
        BuildError: If it does not load.
    """
    library = folder / LIBRARY_NAME
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        # The underlying system error gives the reason; PyTorch's message does not.
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        remedy = f"Delete {folder} to compile it again"
        raise BuildError(f"cannot load {library}: {cause}", remedy) from error
