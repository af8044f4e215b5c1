"""The real library of CUDA kernels, for tests: compiled where nvcc is, loaded without a GPU."""

from pathlib import Path

import pytest
import torch

from torch_utils.kernel_build import cache
from torch_utils.kernel_build.toolchain import BuildError, find_toolchain
from torch_utils.ops import _extension

ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0+PTX")


@pytest.fixture(scope="session")
def compiled_kernels(request: pytest.FixtureRequest) -> Path:
    """Folder of the library for all `ARCHITECTURES`, loaded into this process.

    Compiling takes two minutes; the result is kept with pytest's cache until the sources change.
    """
    if torch.version.cuda is None:
        pytest.skip("this PyTorch has no CUDA: the kernels were neither compiled nor loaded")
    try:
        toolchain = find_toolchain()
    except BuildError as error:
        pytest.skip(f"the kernels were neither compiled nor loaded: {error.reason}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATE3D_CACHE", str(request.config.cache.mkdir("kernels")))
        folder = cache.find_or_build(toolchain, ARCHITECTURES)
    _extension.load_library(folder)
    return folder
