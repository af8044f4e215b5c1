"""Time the operations of torch_utils against their references: `python benchmarks/bench_ops.py`.

Prints processor milliseconds, the best of several runs, forward and with first gradients.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.triplane_sample import triplane_sample
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

NUM_RUNS = 5


def measure(function: Callable[[], object]) -> float:
    """Return the least processor time of a call, in milliseconds."""
    function()
    times = []
    for _ in range(NUM_RUNS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


def report(name: str, function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Print the times of one function, without and with gradients of all inputs."""
    with torch.no_grad():
        cotangent = torch.ones_like(function(*inputs))
        forward = measure(lambda: function(*inputs))
    leaves = [x.clone().requires_grad_() for x in inputs]
    both = measure(lambda: torch.autograd.grad(function(*leaves), leaves, cotangent))
    print(f"{name:<58} {forward:9.2f} {both:9.2f}", flush=True)


def bench_bias_act() -> None:
    """Time the activation of a synthesis layer."""
    x, bias = torch.randn(4, 64, 128, 128), torch.randn(64)
    for clamp in (None, 256.0):
        for impl in ("auto", "reference"):
            report(
                f"bias_act lrelu [4, 64, 128, 128] clamp={clamp} {impl}",
                lambda x, b, c=clamp, i=impl: bias_act(x, b, activation="lrelu", clamp=c, impl=i),
                x,
                bias,
            )


def bench_upfirdn2d() -> None:
    """Time the resamplings of synthesis and discriminator blocks."""
    taps = setup_filter((1, 3, 3, 1))
    options = {
        "upsample": {"up": 2, "padding": (2, 1, 2, 1), "gain": 4},
        "filter": {"padding": (1, 1, 1, 1)},
        "downsample": {"down": 2, "padding": (1, 1, 1, 1)},
    }
    for shape in ((4, 96, 64, 64), (1, 128, 128, 128), (4, 512, 16, 16)):
        for name, args in options.items():
            for impl in ("auto", "reference"):
                report(
                    f"{name} {list(shape)} {impl}",
                    lambda x, a=args, i=impl: upfirdn2d(x, taps, **a, impl=i),
                    torch.randn(shape),
                )


def grid_sample_mean(planes: Tensor, plane_points: Tensor) -> Tensor:
    """Look up by PyTorch's own function, which has no second derivative."""
    features = F.grid_sample(
        planes.flatten(0, 1), plane_points.flatten(0, 1)[:, None], align_corners=False
    )
    return features.view(len(planes), 3, planes.shape[2], -1).mean(1).transpose(1, 2)


def bench_triplane_sample() -> None:
    """Time look-ups of random points, the worst case for a cache."""
    for size, num_points in ((64, 50_000), (256, 100_000)):
        planes = torch.randn(1, 3, 32, size, size)
        plane_points = torch.rand(1, 3, num_points, 2) * 2 - 1
        name = f"planes {size} px, {num_points} points"
        report(f"triplane_sample {name} auto", triplane_sample, planes, plane_points)
        report(
            f"triplane_sample {name} reference",
            lambda planes, points: triplane_sample(planes, points, impl="reference"),
            planes,
            plane_points,
        )
        report(f"grid_sample {name}", grid_sample_mean, planes, plane_points)


if __name__ == "__main__":
    print(f"{'':<58} {'forward':>9} {'+backward':>9}")
    bench_bias_act()
    bench_upfirdn2d()
    bench_triplane_sample()
