"""Three ways to the kernels in their order, one warning where none is open, and no work before."""

import threading

import pytest
import torch

from torch_utils.kernel_build import library, toolchain
from torch_utils.kernel_build.library import compile_library
from torch_utils.kernel_build.toolchain import find_toolchain
from torch_utils.ops import _extension
from torch_utils.ops.bias_act import bias_act


@pytest.fixture(autouse=True)
def gpu(toolkit, monkeypatch) -> None:
    """Pretend a GPU of compute capability 8.0."""
    monkeypatch.setattr(_extension, "visible_gpus", lambda: ["8.0"])


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """Libraries that PyTorch was asked to load; a pretended one cannot really be."""
    paths: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", paths.append)
    return paths


def test_first_call_compiles_and_loads_once_and_nvcc_is_not_needed_again(
    toolkit, loaded, tmp_path, monkeypatch
):
    toolkit.write_nvcc(compiling="sleep 0.1")
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(_extension.load())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
    assert _extension.load() is True
    assert len(loaded) == 1 and loaded[0].startswith(str(tmp_path / "cache"))
    assert len(toolkit.calls) == len(toolchain.library_sources())
    monkeypatch.setattr(_extension, "_outcome", None)
    monkeypatch.setattr(toolchain, "nvcc_candidates", list)
    assert _extension.load() is True
    assert loaded[0] == loaded[1]


@pytest.mark.parametrize("fault", [None, "other GPU", "other sources", "truncated"])
def test_prebuilt_library_comes_first_unless_it_does_not_fit(
    toolkit, loaded, tmp_path, monkeypatch, fault
):
    codes = ("sm_90",) if fault == "other GPU" else ("sm_80",)
    path = compile_library(tmp_path / "prebuilt", find_toolchain(), codes)
    if fault == "other sources":
        monkeypatch.setattr(library, "source_digest", lambda: "changed")
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:10])
    assert _extension.load() is True
    assert loaded[0].startswith(str(tmp_path / ("cache" if fault else "prebuilt")))


def test_one_warning_tells_the_reasons_of_all_ways_and_what_to_do(toolkit, tmp_path, monkeypatch):
    prebuilt = compile_library(tmp_path / "prebuilt", find_toolchain(), ("sm_80",))
    monkeypatch.setattr(toolchain, "nvcc_candidates", list)
    with pytest.warns(RuntimeWarning) as caught:
        assert _extension.load() is False
        assert _extension.load() is False
    (text,) = (str(warning.message) for warning in caught)
    assert str(prebuilt) in text
    assert "nvcc was not found" in text
    assert "pip install" in text or "Install the CUDA" in text
    assert "python -m torch_utils.doctor" in text


@pytest.mark.filterwarnings("error")
def test_variable_makes_missing_kernels_an_error_or_leaves_them_out(toolkit, loaded, monkeypatch):
    monkeypatch.setenv("MATE3D_OPS", "pytorch")
    assert _extension.load() is False
    monkeypatch.setattr(_extension, "_outcome", None)
    monkeypatch.setenv("MATE3D_OPS", "fast")
    with pytest.raises(ValueError, match="MATE3D_OPS=fast.*auto, kernels, pytorch"):
        _extension.load()
    monkeypatch.setenv("MATE3D_OPS", "kernels")
    monkeypatch.setattr(toolchain, "nvcc_candidates", list)
    for _ in range(2):
        with pytest.raises(_extension.KernelsUnavailableError, match="nvcc was not found"):
            _extension.load()
    assert (loaded, toolkit.calls) == ([], [])


@pytest.mark.filterwarnings("error")
def test_without_gpu_nothing_is_compiled_and_nobody_warned(toolkit, loaded, monkeypatch):
    monkeypatch.setattr(_extension, "visible_gpus", list)
    assert _extension.load() is False
    assert (loaded, toolkit.calls) == ([], [])


def test_computing_on_a_cpu_builds_and_loads_nothing(toolkit, loaded):
    bias_act(torch.zeros(1, 2, 3, 4), torch.ones(2))
    assert _extension._outcome is None
    assert (loaded, toolkit.calls) == ([], [])
