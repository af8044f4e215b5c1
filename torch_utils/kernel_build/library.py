"""Compile the CUDA kernels into one library, and check compiled libraries.

The sources use PyTorch's stable ABI, so one library works with every Python and with PyTorch 2.11
and later. The CUDA runtime is linked statically, so nvcc's version may differ from PyTorch's CUDA
version. Nothing here imports PyTorch.
"""

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch_utils.kernel_build.architectures import codes_run_on
from torch_utils.kernel_build.toolchain import (
    COMPILE_FLAGS,
    SOURCE_FOLDER,
    BuildError,
    Toolchain,
    driver_problem,
    first_error,
    library_sources,
)

LIBRARY_NAME = "mate3d_kernels.so"
LOG_NAME = "build.log"
_METADATA_NAME = "mate3d_kernels.json"
_LINK_FLAGS = ("-shared", "-cudart=static", "-ltorch_cpu", "-ltorch_cuda")

# A build takes about a minute; after this long it must be stuck.
_BUILD_SECONDS = 1200.0


@dataclass(frozen=True)
class LibraryInfo:
    """Description stored beside a library.

    Attributes:
        digest: Identifies sources and flags, see `source_digest`.
        codes: nvcc's names of the GPU code inside, e.g. ("sm_80", "compute_90").
        nvcc: Version of the compiler and of the CUDA runtime inside.
        sha256: Checksum of the library.
    """

    digest: str
    codes: Sequence[str]
    nvcc: str
    sha256: str


def source_digest() -> str:
    """Return a hash of sources, flags and machine type."""
    digest = hashlib.sha256(repr((COMPILE_FLAGS, _LINK_FLAGS, platform.machine())).encode())
    for path in sorted(SOURCE_FOLDER.glob("*.cu*")):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def compile_library(folder: Path, toolchain: Toolchain, codes: Sequence[str]) -> Path:
    """Compile the library into a folder, replacing any library there, and return its path.

    Args:
        folder: Created if missing. Receives the library and its description, or the log of a
            failure.
        codes: nvcc's names of the GPU code to generate, see `gpu_codes`.

    Raises:
        BuildError: If the compiler fails or hangs, or the folder cannot be written.
    """
    digest = source_digest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="mate3d-") as name:
            work = Path(name)
            _run_compilers(work, toolchain, codes, folder / LOG_NAME)
            if source_digest() != digest:
                raise BuildError("the CUDA sources changed while they were compiled", "Try again")
            sha256 = hashlib.sha256((work / LIBRARY_NAME).read_bytes()).hexdigest()
            info = LibraryInfo(digest, codes, toolchain.version, sha256)
            (work / _METADATA_NAME).write_text(json.dumps(asdict(info), indent=2) + "\n")
            # The description goes last: a library that does not match it is ignored.
            for name in (LIBRARY_NAME, _METADATA_NAME):
                _move(work / name, folder / name)
            (folder / LOG_NAME).unlink(missing_ok=True)
    except OSError as error:
        raise BuildError(
            f"the kernels cannot be compiled into {folder}: {error}",
            "Free some space there, or set MATE3D_CACHE to another folder",
        ) from error
    return folder / LIBRARY_NAME


def _move(source: Path, target: Path) -> None:
    """Move a file, possibly to another file system, atomically."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _run_compilers(work: Path, toolchain: Toolchain, codes: Iterable[str], failure: Path) -> None:
    """Build the library in a folder; on failure write the log to the file `failure`."""
    compiler = [str(toolchain.nvcc), "-ccbin", str(toolchain.host)]
    include = ["-isystem", str(toolchain.torch_folder / "include")]
    targets = [f"-gencode=arch=compute_{code.partition('_')[2]},code={code}" for code in codes]
    compiling = [
        [*compiler, *COMPILE_FLAGS, *include, *targets, "-c", str(path), "-o", f"{path.stem}.o"]
        for path in library_sources()
    ]
    objects = [words[-1] for words in compiling]
    # pip's toolkit has the CUDA runtime in lib, which its nvcc does not search.
    search = [f"-L{path / 'lib'}" for path in (toolchain.torch_folder, toolchain.nvcc.parents[1])]
    jobs = os.environ.get("MAX_JOBS", "")
    jobs = max(int(jobs), 1) if jobs.isdecimal() else len(compiling)
    steps = [compiling[start : start + jobs] for start in range(0, len(compiling), jobs)]
    steps.append([[*compiler, *objects, *search, *_LINK_FLAGS, "-o", LIBRARY_NAME]])
    log = work / LOG_NAME
    deadline = time.monotonic() + _BUILD_SECONDS
    try:
        for commands in steps:
            _run_at_once(commands, log, deadline)
    except subprocess.SubprocessError as error:
        reason = f"the compiler did not finish within {_BUILD_SECONDS / 60:.0f} minutes"
        if isinstance(error, subprocess.CalledProcessError):
            reason = f"the compiler failed: {first_error(log.read_text(errors='replace'))}"
        failure.write_bytes(f"{reason}\n\n".encode() + log.read_bytes())
        raise BuildError(reason, f"The compiler's output is in {failure}") from None


def _run_at_once(commands: Sequence[Sequence[str]], log: Path, deadline: float) -> None:
    """Run commands in parallel; kill whatever still runs at the end."""
    processes = []
    try:
        with log.open("ab") as output:
            for words in commands:
                process = subprocess.Popen(
                    words,
                    cwd=log.parent,
                    env=os.environ | {"LC_ALL": "C", "TMPDIR": str(log.parent)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                processes.append(process)
        for process in processes:
            code = process.wait(max(0.0, deadline - time.monotonic()))
            if code != 0:
                raise subprocess.CalledProcessError(code, process.args)
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def check_library(folder: Path, gpus: Iterable[str]) -> LibraryInfo:
    """Check that the library in a folder is intact, current, and made for these GPUs.

    Loading a damaged library can crash the process, so its checksum is verified first.

    Args:
        folder: The folder given to `compile_library`.
        gpus: Compute capabilities of the GPUs to run on.

    Returns:
        Its description.

    Raises:
        BuildError: If it cannot be used.
    """
    problem = None
    try:
        info = LibraryInfo(**json.loads((folder / _METADATA_NAME).read_text(encoding="utf-8")))
        digest = hashlib.sha256((folder / LIBRARY_NAME).read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError) as error:
        problem = f"cannot be read ({error})"
    else:
        missing = [gpu for gpu in gpus if not codes_run_on(info.codes, gpu)]
        if digest != info.sha256:
            problem = "is damaged"
        elif info.digest != source_digest():
            problem = "was compiled from different sources"
        elif missing:
            held = ", ".join(info.codes)
            problem = f"holds {held}, which does not include compute capability {missing[0]}"
    if problem := problem or driver_problem(info.nvcc):
        remedy = "Delete the folder so that it is compiled again"
        raise BuildError(f"the library in {folder} {problem}", remedy)
    return info
