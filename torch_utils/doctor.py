"""Report which CUDA kernels run here, why, and how to fix problems: python -m torch_utils.doctor.

Options: build=true compiles the kernels now for the visible GPUs, even if that failed before;
architectures=8.0,9.0+PTX compiles for these GPUs instead. The exit code is 0 if the operations
work, 1 if they do not, 2 if the options or MATE3D_OPS are invalid.
"""

import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from torch_utils.kernel_build import cache, toolchain
from torch_utils.kernel_build.architectures import parse_architectures, wanted_architectures
from torch_utils.kernel_build.library import check_library
from torch_utils.kernel_build.toolchain import BuildError
from torch_utils.ops import _extension
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.resample import setup_filter, upfirdn2d
from torch_utils.ops.triplane_sample import triplane_sample
from torch_utils.pipes import quiet_pipes

# Convolutions on GPUs round to a mantissa of ten bits.
_TOLERANCE = 1e-2


@quiet_pipes()
def main() -> None:
    """Print the report and exit."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__.strip())
        sys.exit(0)
    try:
        options = dict(word.partition("=")[::2] for word in words)
        architectures = options.pop("architectures", "")
        architectures = parse_architectures(architectures) if architectures else ()
        build = options.pop("build", "false")
        if options or build not in ("true", "false") or (architectures and build == "false"):
            raise ValueError(
                f"cannot read '{' '.join(words)}'; use build=true, or build=true with "
                "architectures=8.0,9.0+PTX (see --help)"
            )
        _extension.choice()
    except (ValueError, BuildError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if _examine(build == "true", architectures) else 1)


def _examine(build: bool, architectures: Sequence[str]) -> bool:
    """Print the report, compile if requested, and return whether everything works."""
    gpus = _extension.visible_gpus()
    print("MaTe3D doctor: which implementation of the tensor operations runs here, and why")
    _print_system()
    _print_compiled(gpus)
    built = not build or _build(architectures or gpus or wanted_architectures())
    summary, advice, device = _judge(gpus)
    works = _try_operations(device)
    print("\nRESULT")
    _print("", summary)
    if advice:
        print("\nWHAT TO DO")
        _print("", advice)
    return works and built and not (advice and _extension.choice() == "kernels")


def _print(name: str, value: object) -> None:
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    indent = f"  {name:16}" if name else "  "
    options = {"break_long_words": False, "break_on_hyphens": False}  # so that paths can be copied
    rest = " " * len(indent)
    print(
        textwrap.fill(str(value), width, initial_indent=indent, subsequent_indent=rest, **options)
    )


def _print_system() -> None:
    print("\nSYSTEM")
    _print("Python", f"{platform.python_version()}  {sys.executable}")
    made_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    _print("PyTorch", f"{torch.__version__} ({made_for})")
    driver = toolchain.driver_version()
    _print("GPU driver", f"supports CUDA {driver[0]}.{driver[1]} and older" if driver else "none")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            name = torch.cuda.get_device_name(index)
            _print(f"GPU {index}", f"{name} (compute capability {major}.{minor})")
    else:
        _print("GPU", _why_no_gpu() if driver else "none")


def _why_no_gpu() -> str:
    """Return why PyTorch cannot use the GPU."""
    if torch.version.cuda is None:
        return "there is a driver, but this PyTorch was built without CUDA; install one with CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"there is a driver, but PyTorch does not find a GPU: {' '.join(str(error).split())}"
    return "none is visible (CUDA_VISIBLE_DEVICES hides GPUs)"


def _print_compiled(gpus: Sequence[str]) -> None:
    """Print the compilers and the compiled kernels."""
    print("\nCOMPILED KERNELS")
    _print("MATE3D_OPS", _extension.choice())
    try:
        tools = toolchain.find_toolchain()
        _print("compilers", f"nvcc {tools.version}  {tools.nvcc}, C++ compiler {tools.host}")
    except BuildError as error:
        _print("compilers", error.reason)
    try:
        folder = _extension.PREBUILT_FOLDER
        _print("prebuilt", _describe(folder, gpus) if folder.is_dir() else "the package has none")
    except BuildError as error:
        _print("prebuilt", f"not used: {error.reason}")
    try:
        folder = cache.cache_folder()
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        state = "writable" if os.access(existing, os.W_OK) else "NOT writable"
        _print("cache", f"{folder} ({state})")
        entry = cache.find_entry(gpus)
        _print("in the cache", _describe(entry, gpus) if entry else "nothing suitable")
    except BuildError as error:
        _print("cache", error.reason)


def _describe(folder: Path, gpus: Sequence[str]) -> str:
    info = check_library(folder, gpus)
    return f"{folder.name}: {', '.join(info.codes)}, by nvcc {info.nvcc}"


def _build(architectures: Sequence[str]) -> bool:
    """Compile, print the result and return whether it succeeded."""
    print("\nCOMPILING")
    try:
        folder = cache.find_or_build(toolchain.find_toolchain(), architectures, retry=True)
        _extension.load_library(folder)
    except BuildError as error:
        _print("failed", error)
        return False
    _print("done", f"{_describe(folder, ())}; in {folder.parent}")
    return True


def _judge(gpus: Sequence[str]) -> tuple[str, str, str]:
    """Predict what CUDA tensors use in a new process, without compiling or loading anything.

    Returns:
        A summary, advice (empty if nothing is missing), and the device to try operations on: not
        "cuda" if that would start a compilation.
    """
    if _extension.choice() == "pytorch":
        return "PyTorch's operations are used because MATE3D_OPS=pytorch is set.", "", "cpu"
    if not gpus:
        reason = "there is no CUDA GPU. On a CPU they are the right choice: nothing is missing."
        return f"PyTorch's operations are used because {reason}", "", "cpu"
    try:
        folder = _extension.find_kernels(gpus, look_only=True)
    except BuildError as error:
        return (
            f"PyTorch's operations are used, which are slower: {error.reason}.",
            f"{error.remedy}. Then run this command with build=true.",
            "cuda" if _extension.choice() == "auto" else "cpu",
        )
    if folder is None:
        summary = (
            "CUDA kernels are used; the first CUDA tensor compiles them, which takes about a "
            "minute, only once. To compile them now, run this command with build=true."
        )
        return summary, "", "cpu"
    is_prebuilt = folder == _extension.PREBUILT_FOLDER
    kind = "The prebuilt CUDA kernels" if is_prebuilt else "CUDA kernels from the cache"
    return f"{kind} are used.", "", "cuda"


def _try_operations(device: str) -> bool:
    """Print whether each operation matches PyTorch in float64, and return whether all do."""
    print(f"\nOPERATIONS ({device}) AGAINST PYTORCH IN FLOAT64")
    generator = torch.Generator().manual_seed(0)
    image, planes, points = (
        torch.randn(shape, generator=generator)
        for shape in ((1, 4, 9, 8), (1, 3, 4, 8, 8), (1, 3, 7, 2))
    )
    calls = {
        "bias_act": (partial(bias_act, activation="lrelu"), image, image[0, :, 0, 0]),
        "upfirdn2d": (partial(upfirdn2d, up=2, padding=(2, 1)), image, setup_filter([1, 3, 3, 1])),
        "triplane_sample": (triplane_sample, planes, points),
    }
    works = True
    for name, (call, *inputs) in calls.items():
        try:
            actual = call(*(x.to(device) for x in inputs), impl="auto").cpu()
            error = (actual - call(*map(Tensor.double, inputs), impl="pytorch")).abs().max().item()
        except (RuntimeError, ValueError) as problem:
            _print(name, f"FAILS: {' '.join(str(problem).split())[:300]}")
            works = False
            continue
        agrees = error < _TOLERANCE
        _print(name, f"{'works' if agrees else 'WRONG'}, maximum difference {error:.1e}")
        works = works and agrees
    return works


if __name__ == "__main__":
    main()
