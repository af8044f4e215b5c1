"""Compilers are found wherever they are; what is missing is named, with the way to get it."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.fake_toolkit import make_toolkit, write_script
from torch_utils.kernel_build import toolchain
from torch_utils.kernel_build.architectures import (
    codes_run_on,
    gpu_codes,
    parse_architectures,
    wanted_architectures,
)
from torch_utils.kernel_build.toolchain import BuildError, find_toolchain


@pytest.fixture(autouse=True)
def no_variables(toolkit, monkeypatch):
    for name in ("CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "CUDAHOSTCXX", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)


def _only(monkeypatch, *paths: Path) -> None:
    monkeypatch.setattr(toolchain, "nvcc_candidates", lambda: list(paths))


def test_cuda_home_comes_before_path_and_hides_nothing_if_it_is_wrong(
    toolkit, tmp_path, monkeypatch
):
    other = make_toolkit(tmp_path / "other")
    monkeypatch.setenv("PATH", str(other.nvcc.parent), prepend=":")
    assert find_toolchain().nvcc == other.nvcc
    monkeypatch.setenv("CUDA_HOME", "/nowhere/cuda")
    assert find_toolchain().nvcc == other.nvcc
    monkeypatch.setenv("CUDA_HOME", str(toolkit.home))
    assert find_toolchain().nvcc == toolkit.nvcc


def test_pytorch_and_nvcc_of_pip_beside_it_are_found_without_importing(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "torch"
    (folder / "include" / "torch" / "csrc" / "stable").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "version.py").touch()
    nvcc = make_toolkit(tmp_path / "site" / "nvidia" / "cu13").nvcc
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    assert nvcc in toolchain.nvcc_candidates()
    _only(monkeypatch, nvcc)
    assert find_toolchain().torch_folder == folder


def test_no_nvcc_is_explained_with_the_way_to_get_one(monkeypatch):
    _only(monkeypatch)
    monkeypatch.setenv("CUDA_HOME", "/nowhere/cuda")
    for release, remedy in (
        ("13.2", "-m pip install 'cuda-toolkit[nvcc]==13.2.*'"),
        ("12.8", "Install the CUDA 12.8 toolkit and set CUDA_HOME to its folder"),
    ):
        monkeypatch.setattr(toolchain, "_cuda_release", lambda folder, release=release: release)
        with pytest.raises(BuildError, match="nvcc was not found .CUDA_HOME=/nowhere") as caught:
            find_toolchain()
        assert remedy in caught.value.remedy


def test_nvcc_that_cannot_be_used_is_named_and_gives_way_to_another(toolkit, tmp_path, monkeypatch):
    old, new = make_toolkit(tmp_path / "old"), make_toolkit(tmp_path / "new")
    old.write_nvcc(release="11.5")
    new.write_nvcc(release="13.1")
    toolkit.write_nvcc(release="12.9")
    monkeypatch.setattr(toolchain, "driver_version", lambda: (12, 4))
    for path, message in (
        (old.nvcc, r"is version 11\.5\.7, older than 12\.0"),
        (new.nvcc, "needs a newer GPU driver; this one supports CUDA 12.4"),
        (write_script(tmp_path / "broken", "#!/bin/sh\nexit 3\n"), "does not run"),
        (write_script(tmp_path / "text", "no program at all"), "does not run"),
    ):
        _only(monkeypatch, path)
        with pytest.raises(BuildError, match=message):
            find_toolchain()
        _only(monkeypatch, path, toolkit.nvcc)
        assert find_toolchain().version == "12.9.7"


def test_gpu_newer_than_nvcc_gets_ptx_and_one_too_old_an_error(toolkit, monkeypatch):
    _only(monkeypatch, toolkit.nvcc)
    tools = find_toolchain()
    assert gpu_codes(tools, ["8.6", "9.0+PTX"]) == ("sm_86", "sm_90", "compute_90")
    assert gpu_codes(tools, ["8.0", "12.0"]) == ("sm_80", "compute_90")
    with pytest.raises(BuildError, match="compute capability 8.0 and above, not for 7.0"):
        gpu_codes(tools, ["7.0"])


def test_code_runs_on_its_generation_and_ptx_on_all_later_ones():
    for gpu, codes in {"8.0": "sm_80", "8.9": "sm_80", "12.0": "compute_80"}.items():
        assert codes_run_on(("sm_75", codes), gpu)
    for gpu, codes in {"8.0": "sm_86", "9.0": "sm_80", "8.9": "compute_90"}.items():
        assert not codes_run_on(("sm_75", codes), gpu)


def test_architectures_are_read_as_pytorch_writes_them(monkeypatch):
    assert parse_architectures(" 8.0, 8.6 12.0;9.0+PTX") == ("8.0", "8.6", "12.0", "9.0+PTX")
    assert wanted_architectures() == ("8.0", "8.6", "8.9", "9.0+PTX")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    assert wanted_architectures() == ("7.5",)
    with pytest.raises(BuildError, match="'Ampere'"):
        parse_architectures("8.0 Ampere")


def test_host_compiler_that_nvcc_refuses_gives_way_to_another_unless_it_is_named(
    toolkit, tmp_path, monkeypatch
):
    _only(monkeypatch, toolkit.nvcc)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "grep"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(BuildError, match="no C.. compiler was found. Install a version of g"):
        find_toolchain()
    refused = write_script(folder / "g++", "#!/bin/sh\n# TOO_NEW\n")
    with pytest.raises(BuildError, match="later than 15 are not supported") as caught:
        find_toolchain()
    assert "CUDAHOSTCXX" in caught.value.remedy
    other = write_script(folder / "g++-13", "#!/bin/sh\n")
    assert find_toolchain().host == other
    monkeypatch.setenv("CUDAHOSTCXX", str(refused))
    with pytest.raises(BuildError, match=f"does not accept the C.. compiler {folder}/g"):
        find_toolchain()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc: its own check did not run")
def test_real_nvcc_refuses_host_compilers_too_old_and_too_new(tmp_path, monkeypatch):
    real = find_toolchain().host
    for version in ("6", "99"):
        text = f'#!/bin/sh\nexec {real} -U__GNUC__ -D__GNUC__={version} "$@"\n'
        monkeypatch.setenv("CUDAHOSTCXX", str(write_script(tmp_path / "g++", text)))
        with pytest.raises(BuildError, match="gcc versions (earlier|later) than .* not supported"):
            find_toolchain()


def test_pytorch_without_headers_and_other_systems_are_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "_site_folders", lambda: [tmp_path])
    with pytest.raises(BuildError, match="PyTorch's headers were not found"):
        find_toolchain()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BuildError, match="only be compiled on Linux, and this is darwin"):
        find_toolchain()
