"""The convolution by tiles against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from torch_utils.ops import winograd
from torch_utils.ops.winograd import WinogradConvolution


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
