"""The kernels compile for all architectures, load without a GPU and serve every operation."""

from pathlib import Path

import pytest

from tests.compiled_kernels import ARCHITECTURES
from torch_utils.kernel_build.architectures import capability
from torch_utils.kernel_build.library import check_library

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_library_holds_code_for_every_architecture(compiled_kernels):
    info = check_library(compiled_kernels, [capability(name) for name in ARCHITECTURES])
    assert set(info.codes) == {"sm_80", "sm_86", "sm_89", "sm_90", "compute_90"}
