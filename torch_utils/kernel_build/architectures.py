"""GPU architectures: what the user asks for, what nvcc generates, what runs where."""

import os
import re
from collections.abc import Iterable

from torch_utils.kernel_build.toolchain import BuildError, Nvcc, parse_numbers

# Compiled into libraries that are not for the GPUs at hand; PTX serves all newer GPUs.
DEFAULT_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0+PTX")


def parse_architectures(text: str) -> tuple[str, ...]:
    """Return the compute capabilities in a list such as "8.0;9.0+PTX" (or with commas, spaces).

    Raises:
        BuildError: If something in the list is no capability.
    """
    words = tuple(re.split(r"[;,\s]+", text.strip()))
    for word in words:
        if not re.fullmatch(r"\d+\.\d(\+PTX)?", word):
            raise BuildError(
                f"'{word}' is no GPU architecture (in '{text}')",
                "Write numbers such as 8.0;9.0+PTX",
            )
    return words


def capability(architecture: str) -> tuple[int, int]:
    """Return an architecture's compute capability, as in (9, 0) for "9.0+PTX"."""
    major, minor, *_ = parse_numbers(architecture)
    return major, minor


def architecture_names(capabilities: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Return compute capabilities as architectures, as in ("9.0",) for [(9, 0)]."""
    return tuple(f"{major}.{minor}" for major, minor in capabilities)


def wanted_architectures() -> tuple[str, ...]:
    """Return TORCH_CUDA_ARCH_LIST, or what libraries are compiled for that serve many GPUs."""
    text = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    return parse_architectures(text) if text else DEFAULT_ARCHITECTURES


def gpu_codes(nvcc: Nvcc, architectures: Iterable[str]) -> tuple[str, ...]:
    """Return nvcc's names of the codes to generate, as in ("sm_80", "sm_90", "compute_90").

    A GPU that is newer than the compiler gets PTX of the newest generation that the compiler
    knows, which the driver translates.

    Raises:
        BuildError: If a GPU is too old for this compiler.
    """
    codes = set()
    for architecture in architectures:
        wanted = capability(architecture)
        if wanted in nvcc.architectures:
            codes.add(("sm", wanted))
            if architecture.endswith("+PTX"):
                codes.add(("compute", wanted))
            continue
        older = [known for known in nvcc.architectures if known < wanted]
        if not older:
            oldest = ".".join(map(str, min(nvcc.architectures)))
            raise BuildError(
                f"nvcc {nvcc.version} compiles for GPUs of compute capability {oldest} and above, "
                f"not for {architecture}",
                "Install an older CUDA toolkit that still does and set CUDA_HOME to its folder",
            )
        codes.add(("compute", max(older)))
    by_age = sorted(codes, key=lambda code: (code[1], code[0] == "compute"))
    return tuple(f"{kind}_{major}{minor}" for kind, (major, minor) in by_age)


def codes_run_on(codes: Iterable[str], gpu: tuple[int, int]) -> bool:
    """Return whether code of these names runs on a GPU of this compute capability."""
    for code in codes:
        kind, _, digits = code.partition("_")
        version = divmod(int(digits), 10)
        if version <= gpu and (kind == "compute" or version[0] == gpu[0]):
            return True
    return False
