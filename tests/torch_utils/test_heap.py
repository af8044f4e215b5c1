"""Freed memory is used again, as page faults of a fresh process tell."""

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, torch
from torch_utils.heap import keep_freed_memory
def faults():
    torch.ones(2**25)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (62, 60, 58, 56):
        torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), keep_freed_memory(), faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of the GNU C library")
def test_freed_memory_is_used_again():
    words = [sys.executable, "-c", _PROGRAM]
    result = subprocess.run(words, capture_output=True, text=True, check=True)
    usual, took, faults = result.stdout.split()
    assert took == "True"
    # Four tensors of about 60 MiB are 60000 pages.
    assert int(faults) < 2000 and int(usual) > 4 * int(faults) + 1000
