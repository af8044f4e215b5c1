"""Make the CUDA kernels available: shipped with the package, compiled before, or compiled now.

Nothing happens on import. `load` is called when the first CUDA tensor arrives; what it finds out
holds for the rest of the process. docs/ops.md says how users steer it.
"""

import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from torch_utils.kernel_build import cache
from torch_utils.kernel_build.architectures import (
    architecture_names,
    gpu_codes,
    parse_architectures,
    wanted_architectures,
)
from torch_utils.kernel_build.library import (
    LIBRARY_NAME,
    check_library,
    compile_library,
    library_sources,
)
from torch_utils.kernel_build.toolchain import BuildError, find_toolchain

__all__ = ["KernelsUnavailableError", "build", "library_sources", "load"]

# setup.py puts a library here when it finds nvcc.
PREBUILT_FOLDER = Path(__file__).with_name("prebuilt")

CHOICES = ("auto", "kernels", "pytorch")


class KernelsUnavailableError(RuntimeError):
    """MATE3D_OPS=kernels asks for the kernels, and they cannot be had."""


@dataclass(frozen=True)
class Outcome:
    """What `load` came to.

    Attributes:
        library: The library that was loaded, None if PyTorch's operations are used.
        error: Why there is none; None also where PyTorch's operations were asked for.
    """

    library: Path | None = None
    error: BuildError | None = None


_lock = threading.Lock()
_outcome: Outcome | None = None


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
    if _outcome.error is not None and choice() == "kernels":
        raise KernelsUnavailableError(f"MATE3D_OPS=kernels, but {_outcome.error}")
    return _outcome.library is not None


def build(folder: str | Path, *, arch_list: Sequence[str] | str | None = None) -> Path:
    """Compile the library into a folder, without cache or lock, and return its path.

    Args:
        folder: Made if missing.
        arch_list: Compute capabilities, as in ("8.0", "9.0+PTX") or "8.0;9.0+PTX"; None takes
            TORCH_CUDA_ARCH_LIST, else the usual ones.

    Raises:
        BuildError: Saying why it cannot be compiled and what to do.
    """
    if arch_list is None:
        arch_list = wanted_architectures()
    elif isinstance(arch_list, str):
        arch_list = parse_architectures(arch_list)
    toolchain = find_toolchain()
    return compile_library(Path(folder), toolchain, gpu_codes(toolchain.nvcc, arch_list))


def gpu_capabilities() -> list[tuple[int, int]]:
    """Return the compute capabilities of the visible GPUs, each once, as in [(8, 0), (9, 0)]."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return sorted({torch.cuda.get_device_capability(index) for index in range(count)})


def check_pytorch() -> None:
    """Check that this PyTorch runs CUDA kernels on what it calls CUDA tensors.

    Raises:
        BuildError: If it does not.
    """
    if torch.version.hip is not None:
        raise BuildError("this PyTorch is for ROCm", "Install a PyTorch for CUDA")


def find_prebuilt(capabilities: Sequence[tuple[int, int]]) -> Path | None:
    """Return the folder of the library that setup.py shipped, None if it shipped none.

    Raises:
        BuildError: If it shipped one that cannot be used on these GPUs.
    """
    if not PREBUILT_FOLDER.is_dir():
        return None
    try:
        check_library(PREBUILT_FOLDER, capabilities)
    except BuildError as error:
        remedy = "Run pip install . again, with nvcc and TORCH_CUDA_ARCH_LIST for your GPUs"
        raise BuildError(error.reason, remedy) from error
    return PREBUILT_FOLDER


def compile_for(capabilities: Sequence[tuple[int, int]]) -> Path:
    """Return the folder of a library for these GPUs, from the cache or compiled now.

    Where the tools are missing, any library compiled before for such GPUs will do.

    Raises:
        BuildError: If there is none and it cannot be compiled.
    """
    try:
        toolchain = find_toolchain()
        return cache.find_or_build(toolchain, architecture_names(capabilities))
    except BuildError:
        entry = cache.find_entry(capabilities)
        if entry is None:
            raise
        return entry


def load_library(folder: Path) -> Path:
    """Load the library in a folder into this process and return its path.

    Raises:
        BuildError: If the system refuses it.
    """
    library = folder / LIBRARY_NAME
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        # PyTorch's own message does not say why; the system's, from which it comes, does.
        cause = " ".join(str(error.__cause__ or error).split())[:300]
        remedy = f"Delete {folder} to have it compiled anew"
        raise BuildError(f"{library} does not load: {cause}", remedy) from error
    return library


def _decide() -> Outcome:
    capabilities = [] if choice() == "pytorch" else gpu_capabilities()
    if not capabilities:
        # Without a GPU nothing is missing: tensors without data may claim to be on one.
        return Outcome()
    try:
        return Outcome(library=_load_best(capabilities))
    except BuildError as error:
        if choice() == "auto":
            warnings.warn(
                f"no compiled CUDA kernels, PyTorch's slower operations are used: {error} "
                "More: python -m torch_utils.doctor. MATE3D_OPS=pytorch silences this.",
                RuntimeWarning,
                stacklevel=3,
            )
        return Outcome(error=error)


def _load_best(capabilities: Sequence[tuple[int, int]]) -> Path:
    check_pytorch()
    problems = []
    for find in (find_prebuilt, compile_for):
        try:
            folder = find(capabilities)
            if folder is not None:
                return load_library(folder)
        except BuildError as error:
            problems.append(error)
    raise BuildError("; ".join(error.reason for error in problems), problems[-1].remedy)
