"""Peak memory is told where the system tells it."""

import torch

from torch_utils import memory
from torch_utils.memory import peak_memory_bytes


def test_peak_grows_with_what_is_held_and_stays(monkeypatch, tmp_path):
    before = peak_memory_bytes()
    held = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert peak_memory_bytes() >= max(before, held.numel())
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    assert abs(peak_memory_bytes() / before - 1) < 0.5


def test_peak_is_unknown_where_nothing_tells_it(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "resource", None)
    assert peak_memory_bytes() is None
