"""Find what compiles the CUDA kernels: nvcc, a host compiler it accepts, ninja, PyTorch's headers.

Nothing here imports PyTorch: setup.py uses it in environments that have none.
"""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Older ones do not know compute capability 9.0 or do not compile PyTorch's headers.
MIN_NVCC = (12, 0)
MIN_GCC = 9

_HOST_PROBE = f"""
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < {MIN_GCC}
#error -- unsupported GNU version! gcc versions earlier than {MIN_GCC} are not supported!
#endif
#include <charconv>
"""


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
class Nvcc:
    """A CUDA compiler that runs.

    Attributes:
        release: Major and minor version, as in (13, 0).
        version: The full version, as in "13.0.88".
        architectures: Compute capabilities it compiles for, as in (9, 0).
    """

    path: Path
    release: tuple[int, int]
    version: str
    architectures: frozenset[tuple[int, int]]


@dataclass(frozen=True)
class HostCompiler:
    """A C++ compiler that nvcc accepts; `version` is the first line of its --version."""

    path: Path
    version: str


@dataclass(frozen=True)
class Toolchain:
    """Everything that compiles the kernels; without ninja the commands run one by one."""

    nvcc: Nvcc
    host: HostCompiler
    ninja: Path | None
    torch_folder: Path


def run_tool(command: Sequence[str | Path], seconds: float = 60.0) -> tuple[int, str]:
    """Return exit code and output (both streams) of a command that needs no input.

    A command that cannot start or does not end in time has code 127 and says so in the output.
    """
    try:
        result = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            env=english_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return result.returncode, result.stdout


def english_environment() -> dict[str, str]:
    """Return this process's environment, with compilers' messages in English."""
    return os.environ | {"LC_ALL": "C"}


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _site_folders() -> list[Path]:
    """Return where the interpreter's packages are, also inside pip's isolated build."""
    return [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]


def find_torch_folder() -> Path:
    """Return the folder of the PyTorch whose headers the kernels are compiled with.

    Raises:
        BuildError: If there is none.
    """
    spec = importlib.util.find_spec("torch")
    found = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for folder in (*found, *(site / "torch" for site in _site_folders())):
        if (folder / "include" / "torch" / "csrc" / "stable").is_dir():
            return folder
    raise BuildError("PyTorch's headers were not found", "Install PyTorch 2.11 or newer first")


def driver_version() -> tuple[int, int] | None:
    """Return the newest CUDA version that the GPU driver supports, None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0 or number.value == 0:
        return None
    return number.value // 1000, number.value % 1000 // 10


def cuda_home() -> tuple[str, Path] | None:
    """Return name and value of the variable that says where the CUDA toolkit is, if one does."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            return name, Path(os.environ[name])
    return None


def nvcc_candidates() -> list[Path]:
    """Return the CUDA compilers to try: the user's, on PATH, pip's beside PyTorch, the system's."""
    home = cuda_home()
    sites = [*_site_folders()]
    spec = importlib.util.find_spec("torch")
    if spec and spec.submodule_search_locations:
        sites.insert(0, Path(spec.submodule_search_locations[0]).parent)
    system = Path("/usr/local")
    newest_first = sorted(
        system.glob("cuda-*"), key=lambda path: parse_numbers(path.name), reverse=True
    )
    places = [
        home[1] / "bin" / "nvcc" if home else None,
        _on_path("nvcc"),
        *(found for site in sites for found in sorted(site.glob("nvidia/cu*/bin/nvcc"))),
        *(folder / "bin" / "nvcc" for folder in (system / "cuda", *newest_first)),
    ]
    found = [path for path in places if path is not None and os.access(path, os.X_OK)]
    # One toolkit has many names, often links; each is tried once.
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in a text, as in (12, 8) for "cuda-12.8"."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def inspect_nvcc(path: Path) -> Nvcc:
    """Return what a CUDA compiler can do.

    Raises:
        BuildError: If it does not run, is too old or needs a newer GPU driver.
    """
    code, output = run_tool([path, "--version"])
    found = re.search(r"release (\d+)\.(\d+), V([\d.]+)", output)
    if code != 0 or found is None:
        last = (output.strip().splitlines() or ["no output"])[-1]
        raise BuildError(f"{path} does not run ({last})", _install_nvcc())
    release = int(found[1]), int(found[2])
    if release < MIN_NVCC:
        wanted = ".".join(map(str, MIN_NVCC))
        raise BuildError(f"{path} is version {found[3]}, older than {wanted}", _install_nvcc())
    check_driver(release, f"{path} (CUDA {release[0]}.{release[1]})")
    # Versions may be real ("sm_90") or virtual ("compute_90"); both name the same capabilities.
    _, listing = run_tool([path, "--list-gpu-code"])
    numbers = {int(number) for number in re.findall(r"\b(?:sm|compute)_(\d+)\b", listing)}
    if not numbers:
        raise BuildError(f"{path} names no GPU that it compiles for", _install_nvcc())
    return Nvcc(path, release, found[3], frozenset(divmod(number, 10) for number in numbers))


def check_driver(release: tuple[int, int], what: str) -> None:
    """Check that the GPU driver runs programs of a CUDA release; without a driver all is well.

    Raises:
        BuildError: If the driver is for an older major version.
    """
    driver = driver_version()
    if driver is not None and release[0] > driver[0]:
        raise BuildError(
            f"{what} needs a newer GPU driver than this one for CUDA {driver[0]}.{driver[1]}",
            f"Update the driver, or install nvcc of CUDA {driver[0]}",
        )


def find_nvcc() -> Nvcc:
    """Return the first CUDA compiler that can be used.

    Raises:
        BuildError: If there is none; the reason is that of the first candidate.
    """
    problems = []
    for path in nvcc_candidates():
        try:
            return inspect_nvcc(path)
        except BuildError as error:
            problems.append(error)
    if problems:
        raise problems[0]
    home = cuda_home()
    where = f" ({home[0]}={home[1]} has no bin/nvcc)" if home else ""
    raise BuildError(f"the CUDA compiler nvcc was not found{where}", _install_nvcc())


def _install_nvcc() -> str:
    release = _torch_cuda_release()
    if release and parse_numbers(release) < (13,):
        # The packages of CUDA 12 on PyPI hold no nvcc.
        return f"Install the CUDA {release} toolkit and set CUDA_HOME to its folder"
    version = f"=={release}.*" if release else ">=13"
    return f"Run: {python_command()} -m pip install 'cuda-toolkit[nvcc]{version}'"


def _torch_cuda_release() -> str | None:
    """Return the CUDA release of PyTorch ("13.2"), read from its version.py without importing."""
    try:
        text = (find_torch_folder() / "version.py").read_text(encoding="utf-8")
    except (BuildError, OSError):
        return None
    found = re.search(r"^cuda\b[^=\n]*= *['\"](\d+\.\d+)", text, re.MULTILINE)
    return found[1] if found else None


def python_command() -> str:
    """Return what to type for this interpreter: its name if that is found first, else its path."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        if found and Path(found).absolute() == Path(sys.executable).absolute():
            return name
    return sys.executable


def _host_candidates() -> Iterator[Path]:
    """Yield the host compilers to try; if the user names one, only that."""
    for name in ("NVCC_CCBIN", "CUDAHOSTCXX", "CXX"):
        if os.environ.get(name):
            words = os.environ[name].split()
            yield _on_path(words[-1]) or Path(words[-1])
            return
    names = ["g++", "c++", *(f"g++-{version}" for version in range(20, MIN_GCC - 1, -1)), "clang++"]
    yield from (path for path in map(_on_path, names) if path is not None)


def check_host_compiler(nvcc: Nvcc, path: Path) -> str | None:
    """Return why nvcc does not work with a host compiler, None if it does.

    The compiler is asked to preprocess a file: the bounds are in headers of the toolkit.
    """
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.cu"
        probe.write_text(_HOST_PROBE, encoding="utf-8")
        code, output = run_tool(
            [nvcc.path, "-ccbin", path, "-std=c++17", "-E", probe, "-o", os.devnull]
        )
    if code == 0:
        return None
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "unsupported" in line.lower() or "error" in line.lower()]
    cause = (telling or lines or ["no message"])[0]
    found = re.search(r"unsupported GNU version! ([^!]+)", cause)
    return found[1].strip() if found else cause[:200]


def find_host_compiler(nvcc: Nvcc) -> HostCompiler:
    """Return the first C++ compiler that nvcc accepts.

    Raises:
        BuildError: If there is none; the reason is that of the first candidate.
    """
    problems = []
    for path in _host_candidates():
        problem = check_host_compiler(nvcc, path)
        if problem is None:
            _, output = run_tool([path, "--version"])
            return HostCompiler(path, (output.strip().splitlines() or [str(path)])[0])
        problems.append(f"nvcc {nvcc.version} does not accept the C++ compiler {path}: {problem}")
    install = "Install g++ (apt install g++, dnf install gcc-c++)"
    if problems:
        raise BuildError(
            problems[0], f"{install} of a version that it accepts, or name one by CUDAHOSTCXX"
        )
    raise BuildError("no C++ compiler was found", install)


def find_ninja() -> Path | None:
    """Return the build tool ninja, also from this interpreter's packages."""
    return _on_path("ninja") or _on_path(str(Path(sysconfig.get_path("scripts")) / "ninja"))


def find_toolchain() -> Toolchain:
    """Return everything needed to compile the kernels.

    Raises:
        BuildError: Saying what is missing and how to get it.
    """
    if sys.platform != "linux":
        raise BuildError(
            f"the kernels are compiled on Linux only, and this is {sys.platform}",
            "Use Linux or WSL 2, or set MATE3D_OPS=pytorch to silence this",
        )
    folder = find_torch_folder()
    nvcc = find_nvcc()
    return Toolchain(nvcc, find_host_compiler(nvcc), find_ninja(), folder)
