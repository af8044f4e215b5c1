"""The files that come with the project, known by name from any folder."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def named_asset(text: str | Path) -> Path | None:
    """Return the folder of an asset such as `demo_cat`, or None if no asset has that name.

    The name wins over a folder in the working directory, which is `./demo_cat`.
    """
    return next((folder for folder in ASSETS.iterdir() if folder.name == str(text)), None)


def folder_or_asset(text: str | Path) -> Path:
    """Return the folder of an asset, or the text as a path."""
    return named_asset(text) or Path(text).expanduser()


def where_to_find(folder: str | Path, *patterns: str) -> str:
    """Return the end of an error message: what to use instead of a folder that lacks some file.

    Args:
        folder: The given folder; if a folder inside it holds the file, such as the checkpoint of a
            run, that one is named, or else the assets that hold it.
        patterns: Where the file may be, relative to the folder.
    """
    inside, included = (
        sorted(path.parent for pattern in patterns for path in place.glob(pattern))
        for place in (Path(folder).expanduser(), ASSETS)
    )
    if inside:
        return f"; use {inside[-1]}"
    names = [path.name for path in included if path.parent == ASSETS]
    return f"; included with MaTe3D: {', '.join(names)}" if names else ""
