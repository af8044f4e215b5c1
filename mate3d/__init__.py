"""Portraits as 3D fields: `from mate3d import Generator` is all that most programs need."""

from typing import Any

__all__ = ["Generator", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on demand, so that one module of this package can be imported without the others.
    if name == "Generator":
        from mate3d.generator import Generator

        return Generator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
