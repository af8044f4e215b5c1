"""What must hold when a snapshot is refused, and pieces of hostile ones."""

import resource
import struct
import sys
from pathlib import Path

import pytest

from mate3d.errors import UserError
from mate3d.published.networks import read_networks

START = b"\x80\x04"


def refuse(path: Path, *words: str) -> None:
    """Read a file that must be refused without any effect, in one line and under 1 GiB."""
    modules, memory = set(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = sorted(path.parent.glob("*"))
    with pytest.raises(UserError) as info:
        read_networks(path)
    assert set(sys.modules) == modules
    assert sorted(path.parent.glob("*")) == folder
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20
    message = str(info.value)
    assert "\n" not in message and len(message) < 400
    for word in words:
        assert word in message, message


def refuse_bytes(folder: Path, content: bytes, *words: str) -> None:
    """Write a file that must be refused, and see that it is."""
    (folder / "x.pkl").write_bytes(content)
    refuse(folder / "x.pkl", *words)


def text(value: str) -> bytes:
    """Push a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name_global(module: str, name: str) -> bytes:
    """Push a global as protocol 4 does."""
    return text(module) + text(name) + b"\x93"
