"""Numbers of the receipt."""

import pytest
import torch

from editing import receipt
from editing.report import write_report


def test_iou_counts_one_class():
    first, second = torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 4).long()
    first[0, :2] = 2
    second[0, 1:3] = 2
    assert receipt.mask_iou(first, second, 2) == pytest.approx(4 / 12)
    assert receipt.mask_iou(first, first, 2) == 1
    assert receipt.mask_iou(first, second, 5) is None


def test_psnr_ignores_the_region_and_sees_the_rest():
    source = torch.zeros(1, 3, 4, 4)
    region = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    region[..., :2, :] = True
    image = source.clone()
    image[..., :2, :] = 1
    assert receipt.psnr_outside(image, source, region) == receipt.MAX_PSNR_DB
    # One level of 255 everywhere outside.
    image[..., 2:, :] = 1 / 127.5
    assert receipt.psnr_outside(image, source, region) == pytest.approx(48.13, abs=0.01)


def test_color_change_is_a_mean_over_the_region():
    source = torch.full((1, 3, 4, 4), -1.0)
    image = source.clone()
    image[:, 2] = 1
    region = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert receipt.color_change(image, source, region) == (0, 0, 0)
    region[..., 0, 0] = True
    assert receipt.color_change(image, source, region) == (0, 0, 255)


def test_config_hash_ignores_order_and_sees_values():
    first, same = receipt.config_hash({"a": 1, "b": 2}), receipt.config_hash({"b": 2, "a": 1})
    assert first == same != receipt.config_hash({"a": 1, "b": 3})


@pytest.mark.parametrize(("peak", "shown"), [(None, "peak memory unknown,"), (10, "10 MiB,")])
def test_page_shows_peak_memory_or_that_it_is_unknown(monkeypatch, tmp_path, peak, shown):
    total = None if peak is None else peak * 2**20
    monkeypatch.setattr(receipt, "peak_memory_bytes", lambda: total)
    filled = receipt.Receipt(
        prompt="a cat",
        edit_classes=("ears",),
        mask_iou={},
        psnr_outside_region_db=50.0,
        psnr_outside_region_other_views_db=(),
        region={"definition": "", "dilation_pixels": 1, "share_of_picture": 0.1},
        color_change_in_region=(0.0, 0.0, 0.0),
        prompt_score=None,
        num_steps=2,
        num_steps_planned=2,
        seconds={"optimization": 1.0, "total": 2.0},
        peak_memory_mib=receipt.peak_memory_mib(torch.device("cpu")),
        config_hash="0",
    )
    write_report(tmp_path / "report.html", filled, [])
    assert shown in " ".join((tmp_path / "report.html").read_text().split())
