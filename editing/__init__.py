"""Edit 3D portraits with a repainted mask and a text prompt: see `edit_portrait`."""

from typing import Any

__all__ = ["edit_portrait", "sample_portrait"]


def __getattr__(name: str) -> Any:
    # Imported on demand, so that one module of this package can be imported without the others.
    if name == "edit_portrait":
        from editing.portrait_edit import edit_portrait

        return edit_portrait
    if name == "sample_portrait":
        from editing.portrait import sample_portrait

        return sample_portrait
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
