"""Modulated convolution in half precision, where squares of styles and weights do not fit."""

import pytest
import torch

from mate3d.network import layers
from mate3d.network.layers import SynthesisLayer


@pytest.mark.parametrize("scale", ["weights", "activations"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_styles_neither_vanish_nor_overflow(monkeypatch, scale, dtype):
    if scale == "activations":  # As on a GPU.
        monkeypatch.setattr(layers, "_scale_weights", layers._scale_activations)
    torch.manual_seed(0)
    layer = SynthesisLayer(512, 16, 32, 8)
    layer.affine.bias.data.fill_(40.0)
    x, w = torch.randn(2, 512, 8, 8), torch.randn(2, 32)
    expected = layer(x, w)
    with torch.autocast("cpu", dtype):
        y = layer(x.to(dtype), w)
    y.float().square().sum().backward()
    assert expected.std() > 0.3
    assert (y - expected).std() < 0.02 * expected.std()
    for parameter in (layer.weight, layer.affine.weight):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0
