"""conv2d_resample: its short cuts equal upsample, convolve, downsample one after the other."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from tests.reference.ops import upfirdn2d
from torch_utils.ops.resample import (
    Padding,
    conv2d_resample,
    downsample_padding,
    setup_filter,
    upsample_padding,
)

FILTER = setup_filter((1, 3, 3, 1))


@pytest.mark.parametrize("kernel", [1, 3, 4])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 1)])
def test_equals_the_separate_steps(up, down, kernel):
    torch.manual_seed(0)
    padding = kernel // 2
    pads = Padding(*[padding] * 4)
    pads = pads.plus(upsample_padding(FILTER, up)) if up > 1 else pads
    pads = pads.plus(downsample_padding(FILTER, down)) if down > 1 else pads
    for groups in (1, 2):
        x, weight = torch.randn(2, 4, 8, 6), torch.randn(6, 4 // groups, kernel, kernel)
        plain = upfirdn2d(x, FILTER if up > 1 else None, up=up, padding=pads, gain=up**2)
        for flip_weight in (True, False):
            options = {"padding": padding, "groups": groups, "flip_weight": flip_weight}
            y = conv2d_resample(x, weight, FILTER, up=up, down=down, **options)
            flipped = weight if flip_weight else weight.flip([2, 3])
            expected = F.conv2d(plain, flipped, groups=groups)
            expected = upfirdn2d(expected, FILTER if down > 1 else None, down=down)
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_gradients_agree_with_finite_differences(up, down, layout):
    torch.manual_seed(1)
    x = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def function(x, weight):
        x = x.contiguous(memory_format=layout)
        return conv2d_resample(x, weight, FILTER, up=up, down=down, padding=1)

    assert gradcheck(function, (x, weight))
    assert gradgradcheck(function, (x, weight))
