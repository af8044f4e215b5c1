"""Numbers of the receipt."""

import torch

from editing import receipt


def test_color_change_is_a_mean_over_the_region():
    source = torch.zeros(1, 3, 4, 4)
    image = source.clone()
    image[:, 2] = 255
    region = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert receipt.color_change(image, source, region) == (0, 0, 0)
    region[..., 0, 0] = True
    assert receipt.color_change(image, source, region) == (0, 0, 255)


def test_config_hash_ignores_order_and_sees_values():
    first, same = receipt.config_hash({"a": 1, "b": 2}), receipt.config_hash({"b": 2, "a": 1})
    assert first == same != receipt.config_hash({"a": 1, "b": 3})
