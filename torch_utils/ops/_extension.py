"""Make the CUDA kernels available: shipped with the package, compiled before, or compiled now.

Nothing happens on import. `load` is called when the first CUDA tensor arrives; what it finds out
holds for the rest of the process. docs/ops.md says how users steer it.
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

# setup.py puts a library here when it finds nvcc.
PREBUILT_FOLDER = Path(__file__).with_name("prebuilt")

CHOICES = ("auto", "kernels", "pytorch")

_lock = threading.Lock()
# What `load` came to: the library's folder, why there is none, or False if none was looked for.
_outcome: Path | BuildError | bool | None = None


class KernelsUnavailableError(RuntimeError):
    """MATE3D_OPS=kernels asks for the kernels, and they cannot be had."""


def choice() -> str:
    """Return MATE3D_OPS: auto (the default), kernels (an error without them) or pytorch.

    Raises:
        ValueError: If it is something else.
    """
    name = os.environ.get("MATE3D_OPS") or "auto"
    if name not in CHOICES:
        raise ValueError(f"MATE3D_OPS={name}; allowed are {', '.join(CHOICES)}")
    return name


def load() -> bool:
    """Make the CUDA kernels available and return whether they are; the work is done once.

    Takes the library that setup.py shipped, else one compiled before for GPUs like those of this
    process, else compiles one, which takes about a minute and is kept. If nothing helps, warns
    once and returns False: PyTorch's operations take over.

    Raises:
        KernelsUnavailableError: If MATE3D_OPS=kernels and there are none.
        ValueError: If MATE3D_OPS has another value than those allowed.
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
    # Without a GPU nothing is missing: tensors without data may claim to be on one.
    gpus = [] if choice() == "pytorch" else visible_gpus()
    if not gpus:
        return False
    try:
        return find_kernels(gpus) or False
    except BuildError as error:
        if choice() == "auto":
            warnings.warn(
                f"no compiled CUDA kernels, PyTorch's slower operations are used: {error} "
                "More: python -m torch_utils.doctor. MATE3D_OPS=pytorch silences this.",
                RuntimeWarning,
                stacklevel=3,
            )
        return error


def visible_gpus() -> list[str]:
    """Return the compute capabilities of the visible GPUs, each once, as in ["8.0", "9.0"]."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = {torch.cuda.get_device_capability(index) for index in range(count)}
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def find_kernels(gpus: Sequence[str], *, look_only: bool = False) -> Path | None:
    """Load the library for these GPUs and return its folder: prebuilt, kept, or compiled now.

    Args:
        gpus: Their compute capabilities.
        look_only: Load and compile nothing; the result is None where compiling is the way.

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
        # Where the tools are missing, any library compiled before for such GPUs will do.
        if entry := cache.find_entry(gpus):
            return entry
        raise


def load_library(folder: Path) -> None:
    """Load the library in a folder into this process.

    Raises:
        BuildError: If the system refuses it.
    """
    library = folder / LIBRARY_NAME
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        # PyTorch's own message does not say why; the system's, from which it comes, does.
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        remedy = f"Delete {folder} to have it compiled again"
        raise BuildError(f"{library} does not load: {cause}", remedy) from error
