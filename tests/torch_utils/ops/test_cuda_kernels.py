"""The kernels on a GPU: what the loops of test_kernels cannot see, and the way to them."""

import pytest
import torch

from tests.torch_utils.ops.library_cases import Place
from torch_utils.ops import _extension
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.resample import setup_filter, upfirdn2d
from torch_utils.ops.triplane_sample import triplane_sample, triplane_sample_points_gradient

pytestmark = pytest.mark.gpu

PLACE = Place(device="cuda")
BYTES_OF_A_BIG_TENSOR = 2 * (2**31 + 2**22)


@pytest.fixture
def ops():
    """The operations, with kernels behind them."""
    if not _extension.load():
        pytest.skip("the kernels cannot be had here: see python -m torch_utils.doctor")
    return torch.ops.mate3d


def _skip_without_memory(num_bytes: int) -> None:
    if torch.cuda.mem_get_info()[0] < num_bytes:
        pytest.skip(f"needs {num_bytes / 2**30:.0f} GiB of GPU memory")


def test_public_functions_agree_with_pytorch_operations_also_without_points(ops):
    taps = setup_filter((1, 3, 3, 1), device="cuda")

    def results(impl, size, num_points):
        x = PLACE.normal((size, 96, 32, 32), torch.float32, "channels_last").requires_grad_()
        points = PLACE.normal((size, 3, num_points, 2), torch.float32)
        bias = torch.ones(96, device="cuda")
        y = bias_act(x, bias, activation="lrelu", clamp=2.0, impl=impl)
        y = upfirdn2d(y, taps, up=2, padding=[2, 1], gain=4, impl=impl)
        # The channels of a pixel are neighbours: the kernel reads them where they are.
        planes = y.unflatten(1, (3, 32))
        features = triplane_sample(planes, points, impl=impl)
        grad = torch.ones_like(features)
        slopes = triplane_sample_points_gradient(grad, planes, points, impl=impl)
        return features, slopes, *torch.autograd.grad((features**2).sum() + slopes.sum(), x)

    for sizes in ((2, 777), (2, 0)):
        for a, e in zip(results("auto", *sizes), results("pytorch", *sizes), strict=True):
            scale = e.abs().max().item() if e.numel() else 0
            torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-3 * scale)


def test_bias_act_of_more_elements_than_32_bits_count(ops):
    _skip_without_memory(3 * BYTES_OF_A_BIG_TENSOR)
    x = torch.zeros(2**20 + 2, 2048, dtype=torch.bfloat16, device="cuda")
    bias = torch.arange(2048, device="cuda") % 7
    y = bias_act(x, bias.bfloat16(), activation="lrelu", gain=1.0)
    for row in (0, 2**19, 2**20, 2**20 + 1):
        assert (y[row] == bias).all()


@pytest.mark.parametrize("size", [4, 3])
def test_upfirdn2d_of_more_elements_than_32_bits_count(ops, size):
    _skip_without_memory(3 * BYTES_OF_A_BIG_TENSOR)
    x = torch.zeros(1, 513, 2048, 2048, dtype=torch.float16, device="cuda")
    x[:, -1] = torch.rand(2048, 2048, device="cuda")
    taps = torch.ones(size, size, device="cuda") / size**2
    y = upfirdn2d(x, taps, padding=[size - 1, 0])
    assert (y[:, :-1:64] == 0).all()
    expected = upfirdn2d(x[:, -1:].contiguous(), taps, padding=[size - 1, 0], impl="pytorch")
    torch.testing.assert_close(y[:, -1:], expected, rtol=0, atol=2e-3)


def test_all_but_gradients_of_planes_repeat_bit_for_bit_and_these_if_asked_for(ops):
    planes = PLACE.normal((1, 3, 32, 64, 64), torch.float32).requires_grad_()
    points = (PLACE.normal((1, 3, 20000, 2), torch.float32) / 2).requires_grad_()

    def all_gradients():
        features = triplane_sample(planes, points)
        return features, *torch.autograd.grad((features**2).sum(), (points, planes))

    first, second = all_gradients(), all_gradients()
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    torch.testing.assert_close(first[2], second[2])
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(all_gradients()[2], all_gradients()[2])
    finally:
        torch.use_deterministic_algorithms(before)


def test_kernels_run_in_the_current_stream(ops):
    stream = torch.cuda.Stream()
    x = torch.zeros(2**26, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            x += 1
        y = bias_act(x[None], activation="linear", gain=2.0)
    stream.synchronize()
    assert (y == 40).all()


def test_without_kernels_pytorch_operations_serve_cuda_tensors(monkeypatch):
    monkeypatch.setenv("MATE3D_OPS", "pytorch")
    monkeypatch.setattr(_extension, "_outcome", None)
    x = torch.ones(1, 6, 8, 8, device="cuda")
    x = upfirdn2d(bias_act(x, activation="lrelu"), None, up=2, padding=[1, 0])
    planes = x.unflatten(1, (3, 2)).requires_grad_()
    y = triplane_sample(planes, torch.zeros(1, 3, 5, 2, device="cuda"))
    torch.autograd.grad(y.sum(), planes)
    assert not _extension.load()
