"""Freed memory is used again, as page faults of a process tell."""

import resource
import sys

import pytest
import torch

from tests.processes import run_launched
from torch_utils.heap import keep_freed_memory


def _page_faults() -> int:
    torch.ones(2**25)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (62, 60, 58, 56):
        torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of the GNU C library")
def test_freed_memory_is_used_again():
    def work() -> None:
        usual = _page_faults()
        assert keep_freed_memory()
        faults = _page_faults()
        # Four tensors of about 60 MiB are 60000 pages.
        assert faults < 2000 and usual > 4 * faults + 1000, (faults, usual)

    run_launched(work, 1)
