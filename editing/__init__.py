"""Edit 3D portraits by mask and text: `from editing import edit_portrait`."""

from importlib import import_module
from typing import Any

_HOMES = {"edit_portrait": "editing.portrait_edit", "sample_portrait": "editing.portrait"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Imported on demand, so that one module of this package can be imported without the others.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
