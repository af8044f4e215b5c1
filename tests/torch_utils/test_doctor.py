"""The doctor tells newcomers what runs, why, and the next step; its exit code tells scripts."""

from collections.abc import Callable

import pytest
import torch

from torch_utils import doctor
from torch_utils.kernel_build import toolchain
from torch_utils.kernel_build.library import compile_library
from torch_utils.kernel_build.toolchain import find_toolchain
from torch_utils.ops import _extension


@pytest.fixture
def run(toolkit, monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Run the doctor with pretended compilers; returns its exit code and its words."""
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(_extension, "visible_gpus", list)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["doctor", *words])
        with pytest.raises(SystemExit) as caught:
            doctor.main()
        output = capsys.readouterr()
        return caught.value.code, " ".join((output.out + output.err).split())

    return run


@pytest.fixture
def gpu(run, monkeypatch) -> None:
    """Pretend a GPU of compute capability 8.0; operations are still tried on the CPU."""
    monkeypatch.setattr(_extension, "visible_gpus", lambda: ["8.0"])
    try_operations = doctor._try_operations
    monkeypatch.setattr(doctor, "_try_operations", lambda device: try_operations("cpu"))


def test_cpu_machine_is_well_even_without_nvcc_and_may_compile_for_others(
    run, monkeypatch, tmp_path
):
    code, text = run("build=true", "architectures=8.0,9.0+PTX")
    assert code == 0 and "sm_80, sm_90, compute_90" in text
    monkeypatch.setenv("MATE3D_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(toolchain, "nvcc_candidates", list)
    code, text = run()
    assert code == 0
    assert "the CUDA compiler nvcc was not found" in text
    assert "because there is no CUDA GPU" in text
    assert "WHAT TO DO" not in text
    for name in ("bias_act", "upfirdn2d", "triplane_sample"):
        assert f"{name} works" in text
    assert not (tmp_path / "other").exists()


def test_gpu_without_nvcc_gets_the_reason_and_the_remedy(run, gpu, monkeypatch):
    monkeypatch.setattr(toolchain, "nvcc_candidates", list)
    monkeypatch.setattr(toolchain, "_cuda_release", lambda folder: "13.2")
    code, text = run()
    assert code == 0
    assert "PyTorch's operations are used, which are slower: the CUDA compiler nvcc" in text
    assert "WHAT TO DO Run: " in text
    remedy = "pip install 'cuda-toolkit[nvcc]==13.2.*'. Then run this command with build=true."
    assert remedy in text
    monkeypatch.setenv("MATE3D_OPS", "kernels")
    assert run()[0] == 1


def test_first_tensor_or_the_doctor_compile_for_the_gpu(run, gpu, toolkit):
    code, text = run()
    assert code == 0
    assert "the first CUDA tensor compiles them" in text
    assert toolkit.calls == []
    for words in (["build=true"], []):
        code, text = run(*words)
        assert code == 0
        assert "sm_80, by nvcc 13.0.7" in text
        assert "CUDA kernels from the cache are used." in text
    assert len(toolkit.calls) == len(toolchain.library_sources())


def test_prebuilt_kernels_are_reported(run, gpu, tmp_path):
    compile_library(tmp_path / "prebuilt", find_toolchain(), ("sm_80",))
    assert "The prebuilt CUDA kernels are used." in run()[1]
    compile_library(tmp_path / "prebuilt", find_toolchain(), ("sm_90",))
    assert "not used: the library in" in run()[1]


def test_failed_build_is_an_error_with_its_log_and_is_tried_again(run, gpu, toolkit):
    toolkit.write_nvcc(compiling="echo 'x.cu(1): error: bad'; exit 1")
    code, text = run("build=true")
    assert code == 1
    assert "x.cu(1): error: bad" in text
    assert "The compiler's output is in" in text
    # Without build=true it is not tried again so soon, which the verdict must know.
    assert "are used, which are slower: the compiler failed" in run()[1]
    toolkit.write_nvcc()
    assert run("build=true")[0] == 0


def test_wrong_results_are_an_error(run, monkeypatch):
    right = doctor.bias_act
    monkeypatch.setattr(
        doctor, "bias_act", lambda *a, impl, **b: right(*a, impl=impl, **b) + (impl == "auto")
    )
    code, text = run()
    assert code == 1
    assert "bias_act WRONG" in text


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        (["bild=true"], "auto"),
        (["build=yes"], "auto"),
        (["architectures=8.0"], "auto"),
        (["build=true", "architectures=ampere"], "auto"),
        ([], "cuda"),
    ],
)
def test_words_that_cannot_be_read_give_one_line(run, monkeypatch, words, variable):
    monkeypatch.setenv("MATE3D_OPS", variable)
    code, text = run(*words)
    assert code == 2
    assert text.startswith("error: ") and (words or ["MATE3D_OPS=cuda"])[-1][-6:] in text


def test_rocm_builds_of_pytorch_are_explained(run, gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "are used, which are slower: this PyTorch is for ROCm" in run()[1]
    with pytest.warns(RuntimeWarning, match="this PyTorch is for ROCm"):
        assert _extension.load() is False
