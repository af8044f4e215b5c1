"""Freed memory is used again, as page faults of a fresh process tell."""

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, torch
from torch_utils.heap import keep_freed_memory
took = keep_freed_memory() if {wanted} else False
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**25)
before = faults()
for megabytes in (62, 60, 58, 56):
    torch.ones(megabytes * 2**18)
print(took, faults() - before)
"""


def _run(wanted: bool) -> tuple[str, int]:
    words = [sys.executable, "-c", _PROGRAM.format(wanted=wanted)]
    took, faults = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return took, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of the GNU C library")
def test_freed_memory_is_used_again():
    took, faults = _run(wanted=True)
    assert took == "True"
    # Four tensors of about 60 MiB are 60000 pages.
    assert faults < 2000
    assert _run(wanted=False)[1] > 4 * faults + 1000
