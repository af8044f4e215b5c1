"""Pretended compilers, so that tests of the kernels' build take no time."""

from pathlib import Path

import pytest

from tests.fake_toolkit import FakeToolkit, make_toolkit
from torch_utils.ops import _extension


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeToolkit:
    """Compilers that this process uses, with a cache of its own and nothing prebuilt."""
    toolkit = make_toolkit(tmp_path / "toolkit")
    toolkit.use(tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(_extension, "PREBUILT_FOLDER", tmp_path / "prebuilt")
    monkeypatch.setattr(_extension, "_outcome", None)
    return toolkit
