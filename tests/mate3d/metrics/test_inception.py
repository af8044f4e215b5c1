"""Inception's weights: where they are looked for, and what is refused."""

import importlib.util

import pytest
import torch

from mate3d.errors import UserError
from mate3d.metrics.inception import WEIGHTS_NAME, find_inception_weights, load_inception


class Command:
    """What a harmful pickle does when it is loaded: here it writes a file."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (str(self._path), "w")


def test_weights_are_looked_for_in_the_torch_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert find_inception_weights(None) is None
    cached = tmp_path / "checkpoints" / WEIGHTS_NAME
    cached.parent.mkdir()
    cached.write_bytes(b"")
    assert find_inception_weights(None) == cached
    other = tmp_path / "other.pth"
    other.write_bytes(b"")
    assert find_inception_weights(str(other)) == other


def test_given_path_without_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="metrics.inception_weights=.*none.pth"):
        find_inception_weights(tmp_path / "none.pth")


def test_nothing_in_the_file_is_executed(tmp_path):
    torch.save({"weight": Command(tmp_path / "proof")}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="bad.pth"):
        load_inception(tmp_path / "bad.pth")
    assert not (tmp_path / "proof").exists()


def test_other_weights_or_a_missing_package_are_one_line(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    is_installed = importlib.util.find_spec("torch_fidelity") is not None
    message = "does not hold FID's Inception" if is_installed else "pip install torch-fidelity"
    with pytest.raises(UserError, match=message):
        load_inception(tmp_path / "other.pth")
