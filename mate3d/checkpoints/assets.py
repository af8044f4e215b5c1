"""The models that come with the project, known by name from any folder."""

from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "assets"


def named_asset(text: str | Path) -> Path | None:
    """Return the folder of an asset such as `demo_cat`, or None where the text names none.

    A folder of the same name in the working directory is meant by `./demo_cat`.
    """
    folder = ASSETS / text
    return folder if Path(text).name == str(text) and folder.is_dir() else None
