"""Compilers are found wherever they are; what is missing is named, with the way to get it."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.fake_toolkit import FakeToolkit, make_toolkit, write_script
from torch_utils.kernel_build import toolchain
from torch_utils.kernel_build.architectures import (
    DEFAULT_ARCHITECTURES,
    codes_run_on,
    gpu_codes,
    parse_architectures,
    wanted_architectures,
)
from torch_utils.kernel_build.toolchain import (
    BuildError,
    HostCompiler,
    find_host_compiler,
    find_ninja,
    find_nvcc,
    find_toolchain,
    find_torch_folder,
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("CUDA_HOME", "CUDA_PATH", "NVCC_CCBIN", "CUDAHOSTCXX", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(toolchain, "driver_version", lambda: None)


@pytest.fixture
def toolkit(tmp_path) -> FakeToolkit:
    return make_toolkit(tmp_path / "toolkit")


def _only(monkeypatch, *paths: Path) -> None:
    monkeypatch.setattr(toolchain, "nvcc_candidates", lambda: list(paths))


def _only_on_path(monkeypatch, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name in ("sh", "grep"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))


def test_cuda_home_comes_before_path(toolkit, tmp_path, monkeypatch):
    other = make_toolkit(tmp_path / "other")
    monkeypatch.setenv("PATH", str(other.nvcc.parent), prepend=":")
    assert find_nvcc().path == other.nvcc
    monkeypatch.setenv("CUDA_HOME", str(toolkit.home))
    assert find_nvcc().path == toolkit.nvcc


def test_wrong_cuda_home_does_not_hide_nvcc_on_path(toolkit, monkeypatch):
    monkeypatch.setenv("CUDA_HOME", "/nowhere/cuda")
    monkeypatch.setenv("PATH", str(toolkit.nvcc.parent), prepend=":")
    assert find_nvcc().path == toolkit.nvcc


def test_nvcc_of_pip_beside_pytorch_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "site" / "torch"
    (folder / "include" / "torch" / "csrc" / "stable").mkdir(parents=True)
    (folder / "__init__.py").touch()
    toolkit = make_toolkit(tmp_path / "site" / "nvidia" / "cu13")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    assert find_torch_folder() == folder
    assert toolkit.nvcc in toolchain.nvcc_candidates()


def test_no_nvcc_is_explained_with_a_command_that_installs_it(monkeypatch):
    _only(monkeypatch)
    monkeypatch.setattr(toolchain, "_torch_cuda_release", lambda: "13.2")
    with pytest.raises(BuildError, match="nvcc was not found") as caught:
        find_nvcc()
    assert "-m pip install 'cuda-toolkit[nvcc]==13.2.*'" in caught.value.remedy
    monkeypatch.setattr(toolchain, "_torch_cuda_release", lambda: "12.8")
    with pytest.raises(BuildError, match="Install the CUDA 12.8 toolkit"):
        find_nvcc()


def test_no_nvcc_with_cuda_home_set_names_it(monkeypatch):
    _only(monkeypatch)
    monkeypatch.setenv("CUDA_HOME", "/nowhere/cuda")
    with pytest.raises(BuildError, match="CUDA_HOME=/nowhere/cuda has no bin/nvcc"):
        find_nvcc()


def test_too_old_nvcc_gives_way_to_a_newer_one(toolkit, tmp_path, monkeypatch):
    old = make_toolkit(tmp_path / "old")
    old.write_nvcc(release="11.5")
    _only(monkeypatch, old.nvcc)
    with pytest.raises(BuildError, match=r"is version 11\.5\.7, older than 12\.0"):
        find_nvcc()
    _only(monkeypatch, old.nvcc, toolkit.nvcc)
    assert find_nvcc().path == toolkit.nvcc


@pytest.mark.parametrize("text", ["#!/bin/sh\necho broken; exit 3\n", "no program at all"])
def test_nvcc_that_does_not_run_is_named(tmp_path, monkeypatch, text):
    path = write_script(tmp_path / "nvcc", text)
    _only(monkeypatch, path)
    with pytest.raises(BuildError, match=f"{path} does not run"):
        find_nvcc()


def test_nvcc_of_a_newer_major_release_than_the_driver_is_refused(toolkit, monkeypatch):
    _only(monkeypatch, toolkit.nvcc)
    monkeypatch.setattr(toolchain, "driver_version", lambda: (12, 4))
    with pytest.raises(BuildError, match="needs a newer GPU driver than this one for CUDA 12.4"):
        find_nvcc()
    toolkit.write_nvcc(release="12.9")
    assert find_nvcc().release == (12, 9)


def test_gpu_newer_than_nvcc_gets_ptx_and_one_too_old_an_error(toolkit, monkeypatch):
    _only(monkeypatch, toolkit.nvcc)
    nvcc = find_nvcc()
    assert gpu_codes(nvcc, ["8.6", "9.0+PTX"]) == ("sm_86", "sm_90", "compute_90")
    assert gpu_codes(nvcc, ["8.0", "12.0"]) == ("sm_80", "compute_90")
    with pytest.raises(BuildError, match="compute capability 8.0 and above, not for 7.0"):
        gpu_codes(nvcc, ["7.0"])


@pytest.mark.parametrize(
    ("codes", "gpu", "runs"),
    [
        (("sm_80",), (8, 0), True),
        (("sm_80",), (8, 9), True),
        (("sm_86",), (8, 0), False),
        (("sm_80",), (9, 0), False),
        (("sm_80", "compute_80"), (12, 0), True),
        (("compute_90",), (8, 9), False),
        (("sm_103",), (10, 3), True),
    ],
)
def test_code_runs_on_its_generation_and_ptx_on_all_later_ones(codes, gpu, runs):
    assert codes_run_on(codes, gpu) is runs


def test_architectures_are_read_as_pytorch_writes_them(monkeypatch):
    assert parse_architectures("8.0;9.0+PTX") == ("8.0", "9.0+PTX")
    assert parse_architectures(" 8.0, 8.6 12.0") == ("8.0", "8.6", "12.0")
    assert wanted_architectures() == DEFAULT_ARCHITECTURES
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    assert wanted_architectures() == ("7.5",)
    with pytest.raises(BuildError, match="'Ampere' is no GPU architecture"):
        parse_architectures("8.0 Ampere")


def test_host_compiler_that_nvcc_refuses_gives_way_to_another(toolkit, tmp_path, monkeypatch):
    _only(monkeypatch, toolkit.nvcc)
    folder = tmp_path / "bin"
    _only_on_path(monkeypatch, folder)
    nvcc = find_nvcc()
    with pytest.raises(BuildError, match="no C.. compiler was found. Install g"):
        find_host_compiler(nvcc)
    write_script(folder / "g++", "#!/bin/sh\n# TOO_NEW\necho g++ 99\n")
    with pytest.raises(BuildError, match="later than 15 are not supported") as caught:
        find_host_compiler(nvcc)
    assert "CUDAHOSTCXX" in caught.value.remedy
    other = write_script(folder / "g++-13", "#!/bin/sh\necho 'g++-13 (fake) 13.2'\n")
    assert find_host_compiler(nvcc) == HostCompiler(other, "g++-13 (fake) 13.2")


def test_host_compiler_that_the_user_names_is_the_only_one_tried(toolkit, tmp_path, monkeypatch):
    _only(monkeypatch, toolkit.nvcc)
    named = write_script(tmp_path / "mine", "#!/bin/sh\n# TOO_NEW\n")
    monkeypatch.setenv("CUDAHOSTCXX", str(named))
    with pytest.raises(BuildError, match=f"does not accept the C.. compiler {named}"):
        find_host_compiler(find_nvcc())


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc: its own check did not run")
@pytest.mark.parametrize("version", ["6", "99"])
def test_real_nvcc_refuses_host_compilers_too_old_and_too_new(tmp_path, monkeypatch, version):
    nvcc = find_nvcc()
    real = find_host_compiler(nvcc).path
    text = f'#!/bin/sh\nexec {real} -U__GNUC__ -D__GNUC__={version} "$@"\n'
    monkeypatch.setenv("CUDAHOSTCXX", str(write_script(tmp_path / "g++", text)))
    with pytest.raises(BuildError, match="gcc versions (earlier|later) than .* not supported"):
        find_host_compiler(nvcc)


def test_ninja_is_found_beside_the_interpreter_too(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name: str(tmp_path / "scripts"))
    assert find_ninja() is None
    path = write_script(tmp_path / "scripts" / "ninja", "#!/bin/sh\n")
    assert find_ninja() == path


def test_pytorch_without_headers_and_other_systems_are_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BuildError, match="on Linux only, and this is darwin"):
        find_toolchain()
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(toolchain, "_site_folders", lambda: [tmp_path])
    with pytest.raises(BuildError, match="PyTorch's headers were not found"):
        find_torch_folder()
