"""Tell which CUDA kernels run here, why, and what to do for better: python -m torch_utils.doctor.

Words: build=true compiles the kernels now, for the visible GPUs, and also if that failed before;
architectures=8.0,9.0+PTX for these GPUs instead. The exit code is 0 if what is used works, 1 if
not, 2 if the words or MATE3D_OPS cannot be understood.
"""

import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from torch_utils.kernel_build import cache, toolchain
from torch_utils.kernel_build.architectures import (
    architecture_names,
    parse_architectures,
    wanted_architectures,
)
from torch_utils.kernel_build.library import read_info
from torch_utils.kernel_build.toolchain import BuildError
from torch_utils.ops import _extension
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.triplane_sample import triplane_sample
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

_NAME_COLUMNS = 16
# Convolutions on GPUs round to ten bits of mantissa.
_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Options:
    """Words of the command line; no architectures means those of the visible GPUs."""

    build: bool = False
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What CUDA tensors get, and what to do.

    Attributes:
        summary: One sentence.
        advice: What to do for kernels; empty if nothing is missing.
        is_failure: Whether something that was asked for is not there.
        device: Where operations are tried; not "cuda" if that would start a compilation.
    """

    summary: str
    advice: str = ""
    is_failure: bool = False
    device: str = "cpu"


def main() -> None:
    """Print the report and exit."""
    try:
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(__doc__.strip())
            sys.exit(0)
        options = read_options(sys.argv[1:])
        _extension.choice()
    except (ValueError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if examine(options) else 1)


def read_options(words: Sequence[str]) -> Options:
    """Return what the words say.

    Raises:
        ValueError: If one is unknown or its value is not allowed.
        BuildError: If an architecture is none.
    """
    build, architectures = False, ()
    for word in words:
        name, _, value = word.partition("=")
        if name == "build" and value in ("true", "false"):
            build = value == "true"
        elif name == "architectures" and value:
            architectures = parse_architectures(value)
        else:
            raise ValueError(
                f"cannot read '{word}'; use build=true and architectures=8.0,9.0+PTX (see --help)"
            )
    if architectures and not build:
        raise ValueError("architectures=... says what to compile for; give build=true too")
    return Options(build, architectures)


def examine(options: Options) -> bool:
    """Print what is there, compile if that is asked for, and return whether all is well."""
    print("MaTe3D doctor: which implementation of the tensor operations runs here, and why\n")
    _print_system()
    _print_tools()
    _print_libraries()
    verdict = _build_now(options) if options.build else judge()
    works = _try_operations(verdict.device)
    print("\nRESULT")
    _print_paragraph(verdict.summary)
    if verdict.advice:
        print("\nWHAT TO DO")
        _print_paragraph(verdict.advice)
    return works and not verdict.is_failure


def _print_entry(name: str, value: str) -> None:
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    indent = " " * (_NAME_COLUMNS + 2)
    text = textwrap.fill(
        value,
        width,
        initial_indent=f"  {name:{_NAME_COLUMNS}}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    print(text)


def _print_paragraph(text: str) -> None:
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    options = {"break_long_words": False, "break_on_hyphens": False}
    print(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ", **options))


def _print_system() -> None:
    print("SYSTEM")
    _print_entry("Python", f"{platform.python_version()}  {sys.executable}")
    made_for = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    _print_entry("PyTorch", f"{torch.__version__} ({made_for})")
    driver = toolchain.driver_version()
    release = f"for CUDA {driver[0]}.{driver[1]} and older" if driver else "none"
    _print_entry("GPU driver", release)
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            name = torch.cuda.get_device_name(index)
            _print_entry(f"GPU {index}", f"{name} (compute capability {major}.{minor})")
    else:
        _print_entry("GPU", _why_no_gpu(driver))


def _why_no_gpu(driver: tuple[int, int] | None) -> str:
    """Return "none", or why PyTorch cannot use the GPU that is there."""
    if driver is None:
        return "none"
    if torch.version.cuda is None:
        return "there is a driver, but this PyTorch is made without CUDA; install one with it"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"there is a driver, but PyTorch finds no GPU: {' '.join(str(error).split())}"
    return "none is visible (CUDA_VISIBLE_DEVICES hides GPUs)"


def _print_tools() -> None:
    print("\nTOOLS THAT COMPILE THE KERNELS")
    home = toolchain.cuda_home()
    if home is not None and not (home[1] / "bin" / "nvcc").is_file():
        _print_entry(home[0], f"{home[1]} has no bin/nvcc, looking elsewhere")
    nvcc = _print_found("nvcc", toolchain.find_nvcc)
    if nvcc is None:
        _print_entry("C++ compiler", "not checked: nvcc says which it accepts")
    else:
        _print_found("C++ compiler", lambda: toolchain.find_host_compiler(nvcc))
    ninja = toolchain.find_ninja()
    _print_entry("ninja", str(ninja or "not found; files are compiled one after the other"))


def _print_found(name: str, find: Callable[[], object]):  # noqa: ANN202
    """Print and return what `find` finds, or print why it finds nothing and return None."""
    try:
        found = find()
    except BuildError as error:
        _print_entry(name, error.reason)
        return None
    _print_entry(name, f"{found.version}  {found.path}")
    return found


def _print_libraries() -> None:
    print("\nCOMPILED KERNELS")
    _print_entry("MATE3D_OPS", _extension.choice())
    capabilities = _extension.gpu_capabilities()
    try:
        prebuilt = _extension.find_prebuilt(capabilities)
        _print_entry("prebuilt", _describe(prebuilt) if prebuilt else "none came with the package")
    except BuildError as error:
        _print_entry("prebuilt", f"not used: {error.reason}")
    for name, folder in (
        ("cache", cache.chosen_folder()),
        ("spare cache", cache.spare_folder()),
    ):
        if folder is None:
            _print_entry(name, "none")
        else:
            state = "writable" if cache.is_writable(folder) else "NOT writable"
            _print_entry(name, f"{folder} ({state})")
    entry = cache.find_entry(capabilities)
    _print_entry("in the cache", _describe(entry) if entry else "nothing that fits")


def _describe(folder: Path) -> str:
    info = read_info(folder)
    return f"{folder.name}: {', '.join(info.codes)}, by nvcc {info.nvcc}"


def judge() -> Verdict:
    """Return what CUDA tensors get in a process that starts now; compiles and loads nothing."""
    capabilities = _extension.gpu_capabilities()
    if _extension.choice() == "pytorch":
        return Verdict("PyTorch's operations are used, since MATE3D_OPS=pytorch says so.")
    if not capabilities:
        return Verdict(
            "PyTorch's operations are used, since there is no CUDA GPU. On a CPU they are the "
            "right choice: nothing is missing."
        )
    problems = []
    for way in (_judge_prebuilt, _judge_compiled):
        try:
            _extension.check_pytorch()
            verdict = way(capabilities)
        except BuildError as error:
            problems.append(error)
        else:
            if verdict is not None:
                return verdict
    reasons = "; ".join(dict.fromkeys(error.reason for error in problems))
    return Verdict(
        f"PyTorch's operations are used, which are slower: {reasons}.",
        f"{problems[-1].remedy}. Then run this command with build=true.",
        is_failure=_extension.choice() == "kernels",
        device="cuda" if _extension.choice() == "auto" else "cpu",
    )


def _judge_prebuilt(capabilities: Sequence[tuple[int, int]]) -> Verdict | None:
    if _extension.find_prebuilt(capabilities) is None:
        return None
    return Verdict("The prebuilt CUDA kernels are used.", device="cuda")


def _judge_compiled(capabilities: Sequence[tuple[int, int]]) -> Verdict:
    try:
        tools = toolchain.find_toolchain()
        entry = cache.find_entry(capabilities, tools)
        if entry is None:
            cache.check_buildable(tools, architecture_names(capabilities))
    except BuildError:
        entry = cache.find_entry(capabilities)
        if entry is None:
            raise
    if entry is not None:
        return Verdict("CUDA kernels from the cache are used.", device="cuda")
    return Verdict(
        "CUDA kernels are used; the first CUDA tensor compiles them, which takes about a minute, "
        "once. To compile them now, run this command with build=true."
    )


def _build_now(options: Options) -> Verdict:
    """Compile for the architectures asked for, else the visible GPUs, else the usual ones."""
    capabilities = _extension.gpu_capabilities()
    architectures = options.architectures or architecture_names(capabilities)
    print("\nCOMPILING")
    try:
        folder = cache.find_or_build(
            toolchain.find_toolchain(), architectures or wanted_architectures(), retry=True
        )
        if not capabilities:
            _extension.load_library(folder)
    except BuildError as error:
        _print_entry("failed", error.reason)
        return Verdict("The kernels were not compiled.", f"{error.remedy}.", is_failure=True)
    _print_entry("done", f"{_describe(folder)}; in {folder.parent}")
    if not capabilities:
        return Verdict("The kernels are compiled and load; without a GPU they are not used.")
    return judge()


def _try_operations(device: str) -> bool:
    """Print whether each operation agrees with its formula, and return whether all do."""
    print(f"\nOPERATIONS AGAINST THEIR FORMULAS ({device})")
    generator = torch.Generator().manual_seed(0)
    image, planes, points = (
        torch.randn(shape, generator=generator).to(device)
        for shape in ((1, 4, 9, 8), (1, 3, 4, 8, 8), (1, 3, 7, 2))
    )
    taps = setup_filter([1, 3, 3, 1], device=device)
    calls = {
        "bias_act": lambda impl: bias_act(image, image[0, :, 0, 0], activation="lrelu", impl=impl),
        "upfirdn2d": lambda impl: upfirdn2d(image, taps, up=2, padding=(2, 1, 2, 1), impl=impl),
        "triplane_sample": lambda impl: triplane_sample(planes, points, impl=impl),
    }
    works = True
    for name, call in calls.items():
        try:
            error = (call("auto") - call("reference")).abs().max().item()
        except (RuntimeError, ValueError) as problem:
            _print_entry(name, f"FAILS: {' '.join(str(problem).split())[:300]}")
            works = False
            continue
        agrees = error < _TOLERANCE
        _print_entry(name, f"{'works' if agrees else 'WRONG'}, largest difference {error:.1e}")
        works = works and agrees
    return works


if __name__ == "__main__":
    main()
