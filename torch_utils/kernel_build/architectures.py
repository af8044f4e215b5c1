"""GPU architectures: what the user asks for, what nvcc generates, what runs where."""

import os
import re
from collections.abc import Iterable

from torch_utils.kernel_build.toolchain import BuildError, Toolchain

# Compiled into libraries that are not for the GPUs at hand; PTX serves all newer GPUs.
DEFAULT_ARCHITECTURES = "8.0;8.6;8.9;9.0+PTX"


def parse_architectures(text: str) -> tuple[str, ...]:
    """Return the compute capabilities in a list such as "8.0;9.0+PTX" (or with commas, spaces).

    Raises:
        BuildError: If something in the list is no capability.
    """
    words = tuple(re.split(r"[;,\s]+", text.strip()))
    for word in words:
        if not re.fullmatch(r"\d+\.\d(\+PTX)?", word):
            remedy = "Write numbers such as 8.0;9.0+PTX"
            raise BuildError(f"'{word}' is no GPU architecture (in '{text}')", remedy)
    return words


def wanted_architectures() -> tuple[str, ...]:
    """Return TORCH_CUDA_ARCH_LIST, or what libraries are compiled for that serve many GPUs."""
    text = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    return parse_architectures(text or DEFAULT_ARCHITECTURES)


def _number(architecture: str) -> int:
    """Return an architecture as nvcc writes it, as in 90 for "9.0+PTX"."""
    return int(architecture.removesuffix("+PTX").replace(".", ""))


def gpu_codes(toolchain: Toolchain, architectures: Iterable[str]) -> tuple[str, ...]:
    """Return nvcc's names of the codes to generate, as in ("sm_80", "sm_90", "compute_90").

    A GPU that is newer than the compiler gets PTX of the newest generation that the compiler
    knows, which the driver translates.

    Raises:
        BuildError: If a GPU is too old for this compiler.
    """
    codes = []
    for architecture in architectures:
        wanted = _number(architecture)
        known = [number for number in toolchain.architectures if number <= wanted]
        if not known:
            raise BuildError(
                f"nvcc {toolchain.version} compiles for GPUs of compute capability "
                f"{min(toolchain.architectures) / 10} and above, not for {architecture}",
                "Install an older CUDA toolkit that still does and set CUDA_HOME to its folder",
            )
        if wanted in known:
            codes.append(f"sm_{wanted}")
        if wanted not in known or architecture.endswith("+PTX"):
            codes.append(f"compute_{max(known)}")
    return tuple(dict.fromkeys(codes))


def codes_run_on(codes: Iterable[str], gpu: str) -> bool:
    """Return whether code of these names runs on a GPU of this compute capability ("9.0")."""
    number = _number(gpu)
    for kind, _, digits in (code.partition("_") for code in codes):
        is_generation = int(digits) // 10 == number // 10
        if int(digits) <= number and (kind == "compute" or is_generation):
            return True
    return False
