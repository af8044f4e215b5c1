"""The convolution by tiles against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from torch_utils.ops import resample, winograd
from torch_utils.ops.resample import conv2d_resample
from torch_utils.ops.winograd import PaddedConvolution, WinogradConvolution


@pytest.mark.parametrize("buffer_size", [1, 36 * 3 * 7 * 2, 2**20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_result_is_that_of_pytorch(monkeypatch, buffer_size, dtype, tolerance):
    monkeypatch.setattr(winograd, "_BUFFER_SIZE", buffer_size)
    torch.manual_seed(0)
    weight, bias = torch.randn(7, 5, 3, 3, dtype=dtype), torch.randn(7, dtype=dtype)
    convolve = WinogradConvolution(weight, bias)
    for height, width in ((20, 12), (8, 4), (12, 16)):
        x = torch.randn(1, 5, height + 2, width + 2, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        expected = F.conv2d(x, weight, bias)
        torch.testing.assert_close(convolve(x), expected, atol=10 * tolerance, rtol=tolerance)


def test_first_and_second_gradients_are_exact():
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, 4, 8), torch.randn(3, 2, 3, 3)]
    inputs = [tensor.double().requires_grad_() for tensor in inputs]
    torch.testing.assert_close(PaddedConvolution.apply(*inputs), F.conv2d(*inputs, padding=1))
    assert torch.autograd.gradcheck(PaddedConvolution.apply, inputs)
    assert torch.autograd.gradgradcheck(PaddedConvolution.apply, inputs)


def test_large_recorded_convolutions_go_by_tiles(monkeypatch):
    sides = []
    apply = PaddedConvolution.apply
    monkeypatch.setattr(
        resample.PaddedConvolution,
        "apply",
        lambda *args: sides.append(args[0].shape) or apply(*args),
    )
    weight = (torch.randn(128, 128, 3, 3) / 34).requires_grad_()
    for size, is_recorded in ((64, True), (64, False), (32, True)):
        x = torch.randn(1, 128, size, size)
        with torch.set_grad_enabled(is_recorded):
            y = conv2d_resample(x, weight, padding=1)
        torch.testing.assert_close(y, F.conv2d(x, weight, padding=1), atol=1e-4, rtol=1e-4)
    assert sides == [(1, 128, 64, 64)]
