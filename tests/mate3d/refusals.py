"""What must hold when a snapshot is refused."""

import sys
from pathlib import Path

import pytest

from mate3d.errors import UserError
from mate3d.published.networks import read_networks


def refuse(path: Path, *words: str) -> str:
    """Read a file that must be refused without any effect; return the message."""
    modules, folder = (
        set(sys.modules),
        sorted(path.parent.iterdir()) if path.parent.exists() else [],
    )
    with pytest.raises(UserError) as info:
        read_networks(path)
    assert set(sys.modules) == modules
    assert not folder or sorted(path.parent.iterdir()) == folder
    message = str(info.value)
    assert "\n" not in message and len(message) < 400
    for word in words:
        assert word in message, message
    return message
