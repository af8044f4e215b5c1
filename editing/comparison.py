"""The page that compares the edits of a list, written beside their folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from editing.edited_portrait import read_receipt
from mate3d.atomic import atomic_file
from mate3d.outputs.page import render_page


def write_comparison(folder: Path, names: Sequence[str], problems: Mapping[str, str]) -> None:
    """Write index.html with pictures and numbers of all edits that have results.

    Args:
        folder: Holds a folder for each edit.
        names: The edits in their order.
        problems: Why an edit failed, by name.
    """
    rows = [_row(folder / name, problems.get(name, "")) for name in names]
    page = render_page("edit_list", title=folder.name, rows=rows)
    with atomic_file(folder / "index.html") as path:
        path.write_text(page, encoding="utf-8")


def _row(folder: Path, problem: str) -> dict[str, Any]:
    receipt = read_receipt(folder)
    others = receipt.get("psnr_outside_region_other_views_db", ())
    return {
        "name": folder.name,
        "problem": problem,
        "receipt": receipt,
        "summary": receipt.get("summary", {}),
        "psnr": receipt.get("psnr_outside_region_db"),
        "psnr_others": min((value for value in others if value is not None), default=None),
    }
