"""Portraits as 3D fields: `from mate3d import Generator` is all that most programs need."""

from typing import Any

__all__ = ["Generator"]


def __getattr__(name: str) -> Any:
    # On demand, so that a module of this package can be imported without all the others.
    if name == "Generator":
        from mate3d.generator import Generator

        return Generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
