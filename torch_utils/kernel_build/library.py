"""Compile the CUDA kernels into one library, and check a library that was compiled before.

The sources use PyTorch's stable ABI: one library serves every Python and every PyTorch from 2.11
on. The CUDA runtime is linked statically, so nvcc's version need not be that of PyTorch. Nothing
here imports PyTorch.
"""

import hashlib
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from torch_utils.kernel_build.architectures import codes_run_on
from torch_utils.kernel_build.toolchain import (
    BuildError,
    Toolchain,
    check_driver,
    english_environment,
)

SOURCE_FOLDER = Path(__file__).parents[1] / "ops" / "csrc"
LIBRARY_NAME = "mate3d_kernels.so"
LOG_NAME = "build.log"
_METADATA_NAME = "mate3d_kernels.json"

_COMPILE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-DUSE_CUDA",
    "-Xcompiler=-fPIC",
)
_LINK_FLAGS = ("-shared", "-cudart=static", "-ltorch_cpu", "-ltorch_cuda")

# A build takes about a minute; one that takes this long hangs.
_BUILD_SECONDS = 1200.0
_GRACE_SECONDS = 5.0

# As gcc, nvcc, ptxas and ld say it; the commands in the log hold paths with any words.
_ERROR = re.compile(r"\b(error|fatal)\b\s*(:|--)|\bld: ")


class CompileError(BuildError):
    """The compiler ran and failed; its output is in the file `log`."""

    def __init__(self, reason: str, log: Path):
        super().__init__(reason, f"The compiler's output is in {log}")
        self.log = log


@dataclass(frozen=True)
class LibraryInfo:
    """What is written beside a library.

    Attributes:
        digest: Identifies sources and flags, see `source_digest`.
        codes: nvcc's names of the GPU code inside, as in ("sm_80", "compute_90").
        cuda: Release of the CUDA runtime inside.
        nvcc: Version of the compiler.
        host: First line of the host compiler's --version.
        libc: The C library that it was linked with.
        sha256: Of the library's bytes.
    """

    digest: str
    codes: tuple[str, ...]
    cuda: tuple[int, int]
    nvcc: str
    host: str
    libc: str
    sha256: str

    def is_made_by(self, toolchain: Toolchain) -> bool:
        """Return whether these versions of the compilers made it."""
        return (self.nvcc, self.host) == (toolchain.nvcc.version, toolchain.host.version)


def library_sources() -> list[Path]:
    """Return the CUDA sources of the library; headers beside them are not listed."""
    return sorted(SOURCE_FOLDER.glob("*.cu"))


def source_digest() -> str:
    """Return a hash of everything that a library is made of, save the tools that make it."""
    digest = hashlib.sha256()
    for text in (*_COMPILE_FLAGS, *_LINK_FLAGS, platform.machine()):
        digest.update(text.encode() + b"\0")
    for path in sorted(SOURCE_FOLDER.iterdir()) if SOURCE_FOLDER.is_dir() else ():
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def system_libc() -> str:
    """Return name and version of the C library, as in "glibc-2.36"."""
    return "-".join(platform.libc_ver())


def compile_library(folder: Path, toolchain: Toolchain, codes: Sequence[str]) -> Path:
    """Compile the library into a folder and return its path; a library there is replaced.

    Args:
        folder: Made if missing. Beside the library it receives its description and the log.
        toolchain: The tools to compile with.
        codes: nvcc's names of the GPU code to generate, see `gpu_codes`.

    Raises:
        CompileError: If the compiler fails or does not end.
        BuildError: If there are no sources or the folder cannot be written.
    """
    sources = library_sources()
    if not sources:
        raise BuildError(f"there are no CUDA sources in {SOURCE_FOLDER}", "Install MaTe3D anew")
    digest = source_digest()
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="objects-") as work:
            commands = _commands(sources, toolchain, codes)
            _run_commands(commands, toolchain.ninja, Path(work), folder / LOG_NAME)
            if source_digest() != digest:
                raise BuildError("the CUDA sources changed while they were compiled", "Try again")
            library = Path(work) / LIBRARY_NAME
            info = LibraryInfo(
                digest,
                tuple(codes),
                toolchain.nvcc.release,
                toolchain.nvcc.version,
                toolchain.host.version,
                system_libc(),
                _sha256(library),
            )
            metadata = Path(work) / _METADATA_NAME
            metadata.write_text(json.dumps(asdict(info), indent=2) + "\n", encoding="utf-8")
            # The description goes last: until it is there the library does not count.
            (folder / _METADATA_NAME).unlink(missing_ok=True)
            os.replace(library, folder / LIBRARY_NAME)
            os.replace(metadata, folder / _METADATA_NAME)
    except OSError as error:
        raise BuildError(
            f"cannot write in {error.filename or folder}: {error.strerror}",
            "Free some space there, or name another folder by MATE3D_CACHE",
        ) from error
    return folder / LIBRARY_NAME


def _commands(
    sources: Sequence[Path], toolchain: Toolchain, codes: Sequence[str]
) -> dict[str, list[str]]:
    """Return the command that makes each file, by the file's name; the library is the last."""
    compiler = [str(toolchain.nvcc.path), "-ccbin", str(toolchain.host.path)]
    targets = []
    for code in codes:
        kind, _, digits = code.partition("_")
        targets += ["-gencode", f"arch=compute_{digits},code={kind}_{digits}"]
    include = ["-isystem", str(toolchain.torch_folder / "include")]
    compile_words = [*compiler, *_COMPILE_FLAGS, *include, *targets, "-c"]
    commands = {f"{path.stem}.o": [*compile_words, str(path)] for path in sources}
    # pip's toolkit keeps the CUDA runtime in lib, where its nvcc does not look.
    folders = [toolchain.torch_folder / "lib", toolchain.nvcc.path.parents[1] / "lib"]
    search = [f"-L{folder}" for folder in folders]
    commands[LIBRARY_NAME] = [*compiler, *commands, *search, *_LINK_FLAGS]
    return {name: [*words, "-o", name] for name, words in commands.items()}


def _run_commands(
    commands: dict[str, list[str]], ninja: Path | None, folder: Path, log: Path
) -> None:
    if ninja is None:
        runs = list(commands.values())
    else:
        (folder / "build.ninja").write_text(_ninja_file(commands), encoding="utf-8")
        jobs = os.environ.get("MAX_JOBS", "")
        runs = [[str(ninja), "-v", *(["-j", jobs] if jobs.isdecimal() else [])]]
    deadline = time.monotonic() + _BUILD_SECONDS
    with log.open("wb") as output:
        for words in runs:
            code = _run(words, folder, output, deadline)
            if code != 0:
                raise CompileError(_first_error(log, code), log)


def _ninja_file(commands: dict[str, list[str]]) -> str:
    lines = ["rule run", "  command = $words"]
    for name, words in commands.items():
        needed = [word for word in words[:-1] if word in commands]
        command = shlex.join(words).replace("$", "$$")
        lines += [f"build {name}: run {' '.join(needed)}", f"  words = {command}"]
    return "\n".join(lines) + "\n"


def _run(words: Sequence[str], folder: Path, output: BinaryIO, deadline: float) -> int | None:
    """Return a command's exit code, None if it did not end in time; nothing of it stays behind."""
    try:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=english_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        output.write(f"error: {words[0]}: {error.strerror}\n".encode())
        output.flush()
        return 127
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a command and what it started; ninja, asked politely, ends its compilers itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(_GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def _first_error(log: Path, code: int | None) -> str:
    if code is None:
        return f"the compiler did not end within {_BUILD_SECONDS / 60:.0f} minutes"
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n")]
    telling = [line for line in lines if _ERROR.search(line)]
    cause = (telling or [line for line in lines if line] or [f"exit code {code}"])[0]
    return f"the compiler failed: {cause[:300]}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_info(folder: Path) -> LibraryInfo | None:
    """Return what is written about the library in a folder, None if nothing readable is."""
    try:
        values = json.loads((folder / _METADATA_NAME).read_text(encoding="utf-8"))
        values["codes"], values["cuda"] = tuple(values["codes"]), tuple(values["cuda"])
        return LibraryInfo(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def check_library(folder: Path, capabilities: Sequence[tuple[int, int]]) -> LibraryInfo:
    """Check that the library in a folder is whole, of the present sources, and for these GPUs.

    Loading a damaged library can end the process, so its bytes are compared first.

    Args:
        folder: Where `compile_library` put it.
        capabilities: Compute capabilities of the GPUs that it is for.

    Returns:
        What is written about it.

    Raises:
        BuildError: If it cannot be used.
    """
    info = read_info(folder)
    remedy = "Delete the folder to have it compiled anew"
    try:
        if info is None or _sha256(folder / LIBRARY_NAME) != info.sha256:
            raise BuildError(f"the library in {folder} is damaged", remedy)
    except OSError as error:
        raise BuildError(f"the library in {folder} is not readable", remedy) from error
    if info.digest != source_digest():
        raise BuildError(f"the library in {folder} was compiled from other sources", remedy)
    for gpu in capabilities:
        if not codes_run_on(info.codes, gpu):
            raise BuildError(
                f"the library in {folder} holds {', '.join(info.codes)}: nothing for a GPU of "
                f"compute capability {gpu[0]}.{gpu[1]}",
                remedy,
            )
    check_driver(info.cuda, f"the library in {folder}")
    return info
