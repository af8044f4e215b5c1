"""Kernels for tests: pretended compilers that take no time, and the real library."""

from pathlib import Path

import pytest
import torch

from tests.fake_toolkit import FakeToolkit, make_toolkit
from torch_utils.kernel_build import cache
from torch_utils.kernel_build.toolchain import BuildError, find_toolchain
from torch_utils.ops import _extension


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeToolkit:
    """Compilers that this process uses, with a cache of its own and nothing prebuilt."""
    toolkit = make_toolkit(tmp_path / "toolkit")
    toolkit.use(tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(_extension, "PREBUILT_FOLDER", tmp_path / "prebuilt")
    monkeypatch.setattr(_extension, "_outcome", None)
    return toolkit


@pytest.fixture(scope="session")
def compiled_kernels(request: pytest.FixtureRequest) -> Path:
    """Folder of the library for all generations of GPUs, loaded into this process.

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
        folder = cache.find_or_build(toolchain, ("8.0", "8.6", "8.9", "9.0+PTX"))
    _extension.load_library(folder)
    return folder
