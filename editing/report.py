"""The HTML report of an edit, written beside the images that it shows."""

from pathlib import Path

from editing.outputs import picture_suffix
from editing.receipt import Receipt
from mate3d.outputs.charts import make_spark_lines
from mate3d.outputs.page import render_page


def write_report(path: str | Path, receipt: Receipt, history: list[dict[str, float]]) -> None:
    """Write the report; it links to the images and the video in the same folder."""
    curves = {
        name: [terms[name] for terms in history if name in terms]
        for name in (history[-1] if len(history) > 1 else ())
    }
    prompts = [receipt.prompt, *(f"{name}: {text}" for name, text in receipt.prompts.items())]
    others = receipt.psnr_outside_region_other_views_db
    num_views = max((len(one.iou_by_view) for one in receipt.labels.values()), default=1)
    page = render_page(
        "edit",
        title=", ".join(filter(None, prompts)) or "edit by mask alone",
        receipt=receipt,
        psnrs=["-" if value is None else f"{value:.1f}" for value in others],
        suffixes=[picture_suffix(number) for number in range(1, num_views + 1)],
        chart=make_spark_lines("loss terms by step", curves) if curves else None,
    )
    Path(path).write_text(page, encoding="utf-8")
