"""Find the tools that compile the CUDA kernels: nvcc, a host compiler, PyTorch's headers.

Nothing here imports PyTorch, because setup.py uses it in environments without PyTorch.
"""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

SOURCE_FOLDER = Path(__file__).parents[1] / "ops" / "csrc"
COMPILE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-DUSE_CUDA",
    "-Xcompiler=-fPIC",
)
# Older versions do not support compute capability 9.0 or cannot compile PyTorch's headers.
_MIN_NVCC = 12
# Error lines of gcc, nvcc, ptxas and ld; echoed commands hold paths with arbitrary words.
_ERROR = re.compile(r"\b(error|fatal)\b\s*(:|--)|\bld: ")


class BuildError(RuntimeError):
    """Why there are no compiled kernels, and what the user can do about it.

    Attributes:
        reason: A clause such as "nvcc was not found".
        remedy: An instruction such as "install the CUDA toolkit".
    """

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}. {remedy}.")
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True)
class Toolchain:
    """The tools that compile the kernels.

    Attributes:
        nvcc: The CUDA compiler.
        version: Version of nvcc, e.g. "13.0.88".
        architectures: GPUs that nvcc supports, e.g. 90 for compute capability 9.0.
        host: The C++ compiler.
        torch_folder: Folder of PyTorch with its headers.
    """

    nvcc: Path
    version: str
    architectures: frozenset[int]
    host: Path
    torch_folder: Path


def find_toolchain() -> Toolchain:
    """Find everything needed to compile the kernels.

    Raises:
        BuildError: If something is missing; the message explains how to get it.
    """
    if sys.platform != "linux":
        raise BuildError(
            f"the kernels can only be compiled on Linux, and this is {sys.platform}",
            "Use Linux or WSL 2, or set MATE3D_OPS=pytorch to silence this",
        )
    for site in _site_folders():
        torch_folder = site / "torch"
        if (torch_folder / "include" / "torch" / "csrc" / "stable").is_dir():
            nvcc, version, architectures = _find_nvcc(torch_folder)
            host = _find_host_compiler(nvcc, torch_folder)
            return Toolchain(nvcc, version, architectures, host, torch_folder)
    raise BuildError("PyTorch's headers were not found", "Install PyTorch 2.11 or newer first")


def _site_folders() -> list[Path]:
    """Return where PyTorch and pip's nvcc may be, even inside pip's isolated build."""
    spec = importlib.util.find_spec("torch")
    places = (spec.submodule_search_locations or ()) if spec else ()
    own = (sysconfig.get_path(name) for name in ("purelib", "platlib"))
    return [*(Path(place).parent for place in places), *map(Path, own)]


def nvcc_candidates() -> list[Path]:
    """Return the CUDA compilers to try: CUDA_HOME's, on PATH, pip's, the system's."""
    system = Path("/usr/local")
    homes = (os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))
    on_path = shutil.which("nvcc")
    places = [
        *(Path(home, "bin", "nvcc") for home in homes if home),
        *([Path(on_path)] if on_path else []),
        *(path for site in _site_folders() for path in site.glob("nvidia/cu*/bin/nvcc")),
        system / "cuda" / "bin" / "nvcc",
        *sorted(system.glob("cuda-*/bin/nvcc"), reverse=True),
    ]
    return [path for path in places if os.access(path, os.X_OK)]


def _find_nvcc(torch_folder: Path) -> tuple[Path, str, frozenset[int]]:
    home = os.environ.get("CUDA_HOME")
    where = f" (CUDA_HOME={home} has no bin/nvcc)" if home else ""
    problems = []
    for path in nvcc_candidates():
        _, output = _run(path, "--version")
        found = re.search(r"release \d+\.\d+, V([\d.]+)", output)
        # Codes may be real ("sm_90") or virtual ("compute_90"); both name the same GPUs.
        numbers = re.findall(r"\b(?:sm|compute)_(\d+)\b", _run(path, "--list-gpu-code")[1])
        if not found or not numbers:
            problems.append(f"{path} does not run ({first_error(output)})")
        elif int(found[1].partition(".")[0]) < _MIN_NVCC:
            problems.append(f"{path} is version {found[1]}, older than {_MIN_NVCC}.0")
        elif problem := driver_problem(found[1]):
            problems.append(f"{path} {problem}")
        else:
            return path, found[1], frozenset(map(int, numbers))
    problems.append(f"the CUDA compiler nvcc was not found{where}")
    release = _cuda_release(torch_folder)
    if release and int(release.partition(".")[0]) < 13:
        # The CUDA 12 packages on PyPI do not contain nvcc.
        remedy = f"Install the CUDA {release} toolkit and set CUDA_HOME to its folder"
    else:
        wanted = f"=={release}.*" if release else ">=13"
        remedy = f"Run: {sys.executable} -m pip install 'cuda-toolkit[nvcc]{wanted}'"
    raise BuildError(problems[0], remedy)


def _cuda_release(torch_folder: Path) -> str | None:
    """Return PyTorch's CUDA release, e.g. "13.2", without importing PyTorch."""
    text = (torch_folder / "version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=\n]*= *['\"](\d+\.\d+)", text, re.MULTILINE)
    return found[1] if found else None


def driver_version() -> tuple[int, int] | None:
    """Return the newest CUDA version that the GPU driver supports; None without a driver."""
    number = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except OSError:
        return None
    return (number.value // 1000, number.value % 1000 // 10) if number.value else None


def driver_problem(version: str) -> str | None:
    """Return why the GPU driver cannot run programs of a CUDA version; None if it can."""
    driver = driver_version()
    if driver is None or int(version.partition(".")[0]) <= driver[0]:
        return None
    return (
        f"(CUDA {version}) needs a newer GPU driver; this one supports CUDA {driver[0]}.{driver[1]}"
    )


def _find_host_compiler(nvcc: Path, torch_folder: Path) -> Path:
    """Return the first C++ compiler that nvcc accepts; only try the user's if there is one."""
    named = filter(None, map(os.environ.get, ("NVCC_CCBIN", "CUDAHOSTCXX", "CXX")))
    names = [name.split()[-1] for name in named][:1]
    names = names or ["g++", "c++", *(f"g++-{n}" for n in range(20, 8, -1)), "clang++"]
    # Headers check the compiler's version, so preprocessing is enough.
    reading = ["-E", library_sources()[0], "-isystem", torch_folder / "include", "-o", os.devnull]
    problems = []
    for path in filter(None, map(shutil.which, names)):
        code, output = _run(nvcc, "-ccbin", path, *COMPILE_FLAGS, *reading)
        if code == 0:
            return Path(path)
        problems.append(f"nvcc does not accept the C++ compiler {path}: {first_error(output)}")
    raise BuildError(
        [*problems, "no C++ compiler was found"][0],
        "Install a version of g++ that nvcc accepts (apt install g++, dnf install gcc-c++), or "
        "set CUDAHOSTCXX to a compiler",
    )


def library_sources() -> list[Path]:
    """Return the CUDA sources of the library, without headers."""
    return sorted(SOURCE_FOLDER.glob("*.cu"))


def first_error(output: str) -> str:
    """Return the line of a compiler's output that best describes the error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return ([line for line in lines if _ERROR.search(line)] or lines or ["no message"])[0][:300]


def _run(*command: str | Path) -> tuple[int, str]:
    """Return exit code and output of a command; 127 if it cannot start or hangs."""
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=60,
            env=os.environ | {"LC_ALL": "C"},  # so that `first_error` understands messages
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return result.returncode, result.stdout
