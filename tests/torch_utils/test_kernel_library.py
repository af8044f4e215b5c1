"""The kernels compile for all architectures, load without a GPU and serve every operation."""

import shutil
import subprocess

import pytest
import torch

from tests.compiled_kernels import ARCHITECTURES
from torch_utils.kernel_build.library import LIBRARY_NAME, check_library

pytestmark = pytest.mark.slow


def test_library_holds_code_for_every_architecture_and_every_operation(compiled_kernels):
    gpus = [name.removesuffix("+PTX") for name in ARCHITECTURES]
    info = check_library(compiled_kernels, gpus)
    assert set(info.codes) == {"sm_80", "sm_86", "sm_89", "sm_90", "compute_90"}
    names = [name for name in torch._C._dispatch_get_all_op_names() if name[:8] == "mate3d::"]
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    found = {name[8:] for name in names if has_kernel(name, "CUDA")}
    assert found == {
        "bias_act",
        "bias_act_grad",
        "upfirdn2d",
        "triplane_sample",
        "triplane_sample_points_grad",
        "triplane_sample_table_grad_atomic",
    }


@pytest.mark.skipif(not shutil.which("nm"), reason="no nm: the library's symbols were not seen")
def test_library_depends_on_neither_python_nor_unstable_parts_of_pytorch(compiled_kernels):
    command = ["nm", "--dynamic", "--undefined-only", str(compiled_kernels / LIBRARY_NAME)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-1] for line in output.splitlines()]
    assert any(symbol.startswith(("aoti_torch_", "torch_")) for symbol in symbols)
    # Mangled names of C++ functions in at::, c10:: and torch::, which change between versions.
    unstable = ("_ZN2at", "_ZNK2at", "_ZN3c10", "_ZNK3c10", "_ZN5torch", "_ZNK5torch")
    assert not [symbol for symbol in symbols if symbol.startswith((*unstable, "Py", "_Py"))]
    # The CUDA runtime is inside: its version need not be PyTorch's.
    assert not [symbol for symbol in symbols if symbol.startswith("cuda")]
