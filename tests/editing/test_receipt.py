"""Numbers of the receipt."""

import pytest
import torch

from editing import receipt
from editing.report import write_report


@pytest.mark.parametrize(("peak", "shown"), [(None, "unknown."), (10, "10 MiB.")])
def test_page_shows_peak_memory_or_that_it_is_unknown(monkeypatch, tmp_path, peak, shown):
    total = None if peak is None else peak * 2**20
    monkeypatch.setattr(receipt, "peak_memory_bytes", lambda: total)
    filled = receipt.Receipt(
        prompt="a cat",
        edit_classes=("ears",),
        labels={},
        colors={},
        clip_score=None,
        psnr_outside_region_db=50.0,
        psnr_outside_region_other_views_db=(),
        region={"definition": "", "rim": 0.03, "share_of_picture": 0.1, "note": ""},
        num_steps=2,
        num_steps_planned=2,
        seconds={"optimization": 1.0, "total": 2.0},
        peak_memory_mib=receipt.peak_memory_mib(torch.device("cpu")),
        config_hash="0",
    )
    write_report(tmp_path / "report.html", filled, [])
    assert f"Peak memory: {shown}" in " ".join((tmp_path / "report.html").read_text().split())
