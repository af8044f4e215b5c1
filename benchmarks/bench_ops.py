"""Time the operations of torch_utils at the sizes of the full model, each against PyTorch's.

    python benchmarks/bench_ops.py device=cuda precisions=fp32,fp16 runs=15
    python benchmarks/bench_ops.py device=cpu size=reduced runs=5
    python benchmarks/bench_ops.py cases=block runs=15

The third line shows in seconds whether a PyTorch release is slow at one of the building blocks of
the fast generator on a CPU: nanoseconds per value of each, and of what could replace it.

Words it takes:

    device=cpu               cpu or cuda; on cuda "fast" is the kernel and "slow" PyTorch's
                             operations, on a CPU these and the plain formula of each operation
    size=full                full: 512 px images, 256 px planes, 128 x 128 rays of 96 samples;
                             reduced: a quarter of every side
    precisions=fp32          to measure, separated by commas: fp32, bf16, fp16
    cases=                   only cases whose names contain this
    runs=5                   fast and slow alternate so often after a warm-up; medians
    output=                  also write the JSON here

The last line is one JSON object. `bytes` is what an operation has to read and write at least once;
`share_of_limit` is the rate at which "fast" moves them, over `copy_gb_per_second`, measured by a
large copy in the same run. A look-up reads most rows of the planes many times, from the cache:
`gathered_bytes` counts them all, and `share_of_cache_limit` compares their rate with
`cache_gb_per_second`, that of a sum that reads one small tensor over and over. Building blocks have
`nanoseconds_per_value` instead: of a hidden layer, or of the result. On CUDA the caches are emptied
before every call. On a CPU the seconds are the processor's.
"""

import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from common import Stopwatch, describe_machine, read_words, report
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.network.sdf_decoder import grouped_mlps, grouped_mlps_reference
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.triplane import find_corners, look_up, make_table, project_points
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.execution import DTYPES
from torch_utils.ops.resample import read_padding, setup_filter, upfirdn2d
from torch_utils.ops.triplane_sample import triplane_sample, triplane_sample_points_gradient
from torch_utils.ops.winograd import WinogradConvolution

DEFAULTS = {
    "device": "cpu",
    "size": "full",
    "precisions": "fp32",
    "cases": "",
    "runs": "5",
    "output": "",
}


@dataclass(frozen=True)
class Case:
    """One operation or derivative at one size.

    Args:
        name: In the results.
        fast: Call the implementation that users get.
        slow: Call what it is compared with.
        num_bytes: Least traffic: every input read and every result written once.
        gathered_bytes: Traffic with every row of the planes counted as often as it is read or
            added to; None for operations that touch everything once.
        num_values: Values that a building block computes.
    """

    name: str
    fast: Callable[[], object]
    slow: Callable[[], object]
    num_bytes: int
    gathered_bytes: int | None = None
    num_values: int | None = None


@dataclass(frozen=True)
class Setting:
    """Where and how large."""

    device: torch.device
    dtype: torch.dtype
    shrink: int  # factor on every side

    @property
    def is_cuda(self) -> bool:
        """Whether kernels are compared with PyTorch's operations; else these with plain ones."""
        return self.device.type == "cuda"

    def normal(self, *shape: int, channels_last: bool = False) -> Tensor:
        """Return normal numbers."""
        x = torch.randn(shape, device=self.device).to(self.dtype)
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def size_of(*tensors: Tensor) -> int:
    """Return the bytes of tensors."""
    return sum(x.numel() * x.element_size() for x in tensors)


def forward_call(function: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """Return a call that keeps nothing for gradients."""
    return torch.no_grad()(lambda: function(*inputs))


def gradient_call(
    function: Callable[..., Tensor], inputs: list[Tensor], wanted: int
) -> Callable[[], object]:
    """Return a call of the backward pass alone, to one of the inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = function(*leaves)
    cotangent = torch.ones_like(result)
    return lambda: torch.autograd.grad(result, leaves[wanted], cotangent, retain_graph=True)


def bias_act_cases(setting: Setting) -> Iterator[Case]:
    """Yield the activation of super-resolution layers, forward and backward, in both layouts."""
    side = 512 // setting.shrink
    bias = setting.normal(128)

    def call(x, impl="auto"):
        return bias_act(x, bias, activation="lrelu", clamp=256.0, impl=impl)

    def slow(x):
        if setting.is_cuda:
            return call(x, "pytorch")
        return (2**0.5 * F.leaky_relu(x + bias[:, None, None], 0.2)).clamp(-256, 256)

    for layout in ("contiguous", "channels_last"):
        x = setting.normal(1, 128, side, side, channels_last=layout == "channels_last")
        calls = (forward_call(function, [x]) for function in (call, slow))
        yield Case(f"bias_act lrelu {layout}", *calls, 2 * size_of(x))
        calls = (gradient_call(function, [x], 0) for function in (call, slow))
        yield Case(f"bias_act lrelu gradient {layout}", *calls, 3 * size_of(x))


def upfirdn2d_cases(setting: Setting) -> Iterator[Case]:
    """Yield the resamplings of generator, super-resolution and discriminators."""
    taps = setup_filter((1, 3, 3, 1), device=setting.device)
    separable = setup_filter((1, 3, 3, 1), separable=True, device=setting.device)
    blur = setup_filter([1.0] * 13, separable=True, device=setting.device)
    cases = {
        "filter after the last up-sampling convolution": (taps, (128, 515), {"gain": 4}),
        "separable filter, four taps": (separable, (128, 515), {"gain": 4}),
        "upsample planes": (taps, (96, 128), {"up": 2, "padding": (2, 1, 2, 1), "gain": 4}),
        "upsample 128 channels": (taps, (128, 256), {"up": 2, "padding": (2, 1, 2, 1), "gain": 4}),
        "downsample discriminator": (taps, (256, 512), {"down": 2, "padding": (1, 1, 1, 1)}),
        "blur of images, thirteen taps": (blur, (24, 512), {"padding": (6, 6, 6, 6)}),
    }
    for name, (filter, (channels, side), options) in cases.items():
        for layout in ("contiguous", "channels_last"):
            side_now = max(side // setting.shrink, 8)
            is_last = layout == "channels_last"
            x = setting.normal(1, channels, side_now, side_now, channels_last=is_last)
            call = partial(upfirdn2d, filter=filter, **options)
            slow = partial(call, impl="pytorch")
            if not setting.is_cuda:
                slow = partial(plain_upfirdn2d, filter=filter, **options)
            calls = (forward_call(function, [x]) for function in (call, slow))
            yield Case(f"upfirdn2d {name} {layout}", *calls, size_of(x, call(x)))


def plain_upfirdn2d(
    x: Tensor, filter: Tensor, up: int = 1, down: int = 1, padding: object = 0, gain: float = 1
) -> Tensor:
    """Compute `upfirdn2d` step by step, as its definition reads."""
    channels, (height, width) = x.shape[1], x.shape[2:]
    zeros = x.new_zeros(*x.shape[:2], height * up, width * up)
    zeros[:, :, ::up, ::up] = x
    taps = filter if filter.ndim == 2 else filter.outer(filter)
    taps = (gain * taps).to(x).expand(channels, 1, -1, -1)  # symmetric here: never flipped
    x = F.pad(zeros, list(read_padding(padding)))
    return F.conv2d(x, taps, groups=channels)[:, :, ::down, ::down]


def look_up_points(setting: Setting) -> Tensor:  # [1, 3, N, 2]
    """Return the samples of the full model's rays, projected on the planes."""
    camera = make_camera(yaw=0.3, pitch=0.1).to(setting.device)
    origins, directions = sample_rays(camera, 128 // setting.shrink)
    depths = torch.linspace(2.25, 3.3, 96 // setting.shrink, device=setting.device)
    points = origins[:, :, None] + directions[:, :, None] * depths[:, None]
    return project_points(2 * points.flatten(1, 2), "xy_xz_yz")


def triplane_cases(setting: Setting) -> Iterator[Case]:
    """Yield look-up and derivatives; the derivatives of the second order are the eikonal loss's."""
    side, channels = 256 // setting.shrink, 32
    # Channels of a pixel are neighbours, as the look-up wants them; else it copies them first.
    planes = setting.normal(1, 3, side, side, channels).permute(0, 1, 4, 2, 3)
    points = look_up_points(setting)
    features = setting.normal(1, points.shape[2], channels)
    rows = 12 * size_of(features)  # read for one feature vector each

    def look_up(planes, points, impl="auto"):
        return triplane_sample(planes, points, impl=impl)

    def pull_back(features, planes, points, impl="auto"):
        return triplane_sample_points_gradient(features, planes, points, impl=impl)

    def slow_look_up(planes, points):
        if setting.is_cuda:
            return look_up(planes, points, "pytorch")
        found = F.grid_sample(planes[0], points[0][:, None], align_corners=False)
        return found.mean(0).transpose(0, 2).squeeze(1)[None]

    def slow_pull_back(features, planes, points):
        if setting.is_cuda:
            return pull_back(features, planes, points, "pytorch")
        leaf = points.detach().requires_grad_()
        with torch.enable_grad():
            found = slow_look_up(planes, leaf)
        return torch.autograd.grad(found, leaf, features)[0]

    read = size_of(points, features)
    yield Case(
        "triplane_sample",
        *(forward_call(function, [planes, points]) for function in (look_up, slow_look_up)),
        read + size_of(planes),
        read + rows,
    )
    sums, added = planes.numel() * 4, 12 * features.numel() * 4
    yield Case(
        "triplane_sample gradient of planes",
        *(gradient_call(function, [planes, points], 0) for function in (look_up, slow_look_up)),
        read + sums,
        read + added,
    )
    inputs = [features, planes, points]
    pull_backs = (pull_back, slow_pull_back)
    yield Case(
        "triplane_sample gradient of points",
        *(forward_call(function, inputs) for function in pull_backs),
        read + size_of(planes, points),
        read + rows + size_of(points),
    )
    if not setting.is_cuda:
        return
    second = {
        "features": size_of(points) + rows,
        "planes": added,
        "points": 2 * size_of(points) + rows,
    }
    for wanted, (name, gathered) in enumerate(second.items()):
        yield Case(
            f"triplane_sample second derivative, {name}",
            *(gradient_call(function, inputs, wanted) for function in pull_backs),
            read + size_of(points, planes),
            read + gathered,
        )


def block_cases(setting: Setting) -> Iterator[Case]:
    """Yield what the fast generator consists of on a CPU, each with a replacement."""
    heads, width, channels = 19, 64, 32
    x = setting.normal(heads * width, 128)  # a chunk of the hidden layers; it fits in the cache
    at_least_1, result = x.exp() + 1, torch.empty_like(x)
    repeats = 100

    def repeated(function: Callable[[], object]) -> Callable[[], object]:
        return torch.no_grad()(lambda: [function() for _ in range(repeats)])

    elementwise = {
        "softplus as exp2, +1, log; softplus": (
            lambda: torch.exp2(x, out=result).add_(1).log_(),
            lambda: torch.ops.aten.softplus.out(x, out=result),
        ),
        "exp2; exp": (lambda: torch.exp2(x, out=result), lambda: torch.exp(x, out=result)),
        "log; log1p": (
            lambda: torch.log(at_least_1, out=result),
            lambda: torch.log1p(x.abs(), out=result),
        ),
    }
    for name, calls in elementwise.items():
        num_bytes = 2 * repeats * size_of(x)
        values = repeats * x.numel()
        yield Case(f"block {name}", *map(repeated, calls), num_bytes, num_values=values)
    shapes = (2**14, channels), (len(x), channels), (len(x),), (heads, 1, width), (heads, 1)
    inputs = [setting.normal(*shape) for shape in shapes]
    calls = (forward_call(function, inputs) for function in (grouped_mlps, grouped_mlps_reference))
    num_bytes = size_of(*inputs) + 2**14 * heads * 4
    yield Case("block grouped MLPs; the formula", *calls, num_bytes, num_values=2**14 * len(x))
    side = 256 // setting.shrink
    planes, points = setting.normal(1, 3, channels, side, side), setting.normal(1, 2**16, 3).tanh()
    table, axes = make_table(planes), ((0, 1), (0, 2), (1, 2))
    positions = torch.stack([points[0][:, list(pair)] for pair in axes])[:, None]
    calls = (
        torch.no_grad()(lambda: look_up(table, find_corners(points, axes, side))),
        forward_call(partial(F.grid_sample, align_corners=False), [planes[0], positions]),
    )
    values = 2**16 * channels
    yield Case("block look-up; grid_sample", *calls, size_of(planes, points), num_values=values)
    x = setting.normal(1, 256, 34, 258, channels_last=True)
    weight, bias = setting.normal(256, 256, 3, 3), setting.normal(256)
    calls = WinogradConvolution(weight, bias), partial(F.conv2d, weight=weight, bias=bias)
    calls = (forward_call(function, [x]) for function in calls)
    values = 256 * 32 * 256
    yield Case("block convolution by tiles; conv2d", *calls, size_of(x, weight), num_values=values)


class Timer:
    """Times calls on a device; on CUDA with empty caches and without the host's share."""

    def __init__(self, device: torch.device):
        self.device = device
        self._filler = torch.empty(2**28 if device.type == "cuda" else 0, device=device)

    def __call__(self, function: Callable[[], object]) -> float:
        """Return the seconds of one call."""
        if self.device.type != "cuda":
            with Stopwatch(self.device) as watch:
                function()
            return watch.processor_seconds
        # The device is busy with this while the host prepares the call.
        self._filler.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


def median_seconds(timer: Timer, functions: dict[str, Callable[[], object]], runs: int):
    """Return the median seconds of functions that alternate, after one warm-up each."""
    for function in functions.values():
        timer(function)
    times = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            times[name].append(timer(function))
    return {name: statistics.median(values) for name, values in times.items()}


def measure_limits(timer: Timer, runs: int) -> dict[str, float]:
    """Return the rates of a large copy and of reading one small tensor many times."""
    is_cuda = timer.device.type == "cuda"
    source = torch.ones(2**28 if is_cuda else 2**24, device=timer.device)
    target = torch.empty_like(source)
    # Sixteen MiB fit the cache of a large GPU, half a MiB that of a processor's core.
    small = torch.ones(2**22 if is_cuda else 2**17, device=timer.device)
    repeats = 256
    seconds = median_seconds(
        timer,
        {
            "copy": lambda: target.copy_(source),
            "cache": lambda: small.expand(repeats, -1).sum(0),
        },
        runs,
    )
    return {
        "copy_gb_per_second": 2 * size_of(source) / seconds["copy"] / 1e9,
        "cache_gb_per_second": repeats * size_of(small) / seconds["cache"] / 1e9,
    }


def measure(case: Case, timer: Timer, limits: dict[str, float], runs: int) -> dict[str, object]:
    """Return one entry of the results."""
    seconds = median_seconds(timer, {"fast": case.fast, "slow": case.slow}, runs)
    rate = case.num_bytes / seconds["fast"] / 1e9
    entry = {
        "seconds_fast": seconds["fast"],
        "seconds_slow": seconds["slow"],
        "speedup": seconds["slow"] / seconds["fast"],
        "bytes": case.num_bytes,
        "gb_per_second": rate,
        "share_of_limit": rate / limits["copy_gb_per_second"],
    }
    if case.gathered_bytes is not None:
        gathered = case.gathered_bytes / seconds["fast"] / 1e9
        entry["gathered_bytes"] = case.gathered_bytes
        entry["share_of_cache_limit"] = gathered / limits["cache_gb_per_second"]
    if case.num_values is not None:
        for way in ("fast", "slow"):
            nanoseconds = 1e9 * seconds[way] / case.num_values
            entry[f"nanoseconds_per_value_{way}"] = round(nanoseconds, 3)
    return entry


def main() -> None:
    """Measure every case for every type, and report."""
    options = read_words(DEFAULTS)
    if options["size"] not in ("full", "reduced"):
        sys.exit(f"error: size is '{options['size']}'; allowed are full and reduced")
    precisions = options["precisions"].split(",")
    if unknown := set(precisions) - set(DTYPES):
        sys.exit(f"error: unknown precisions {sorted(unknown)}; use {', '.join(DTYPES)}")
    device, runs = torch.device(options["device"]), int(options["runs"])
    torch.manual_seed(0)
    timer = Timer(device)
    limits = measure_limits(timer, runs)
    results = {}
    for precision in precisions:
        shrink = 4 if options["size"] == "reduced" else 1
        setting = Setting(device, DTYPES[precision], shrink)
        makers = {
            "bias_act": bias_act_cases,
            "upfirdn2d": upfirdn2d_cases,
            "triplane_sample": triplane_cases,
        }
        if device.type == "cpu" and precision == "fp32":
            makers["block"] = block_cases
        # Inputs are made for all cases of a kind.
        kind = options["cases"].partition(" ")[0]
        for make_cases in [makers[kind]] if kind in makers else makers.values():
            for case in make_cases(setting):
                if options["cases"] in case.name:
                    entry = measure(case, timer, limits, runs)
                    results[f"{case.name}, {precision}"] = entry
                    row = f"{case.name + ', ' + precision:<78} {1000 * entry['seconds_fast']:9.3f}"
                    row += f" {1000 * entry['seconds_slow']:9.3f} ms {entry['share_of_limit']:6.2f}"
                    if case.num_values is not None:
                        values = (entry[f"nanoseconds_per_value_{way}"] for way in ("fast", "slow"))
                        row += " {:7.3f} {:7.3f} ns per value".format(*values)
                    print(row, flush=True)
    document = {
        "benchmark": "ops",
        **describe_machine(device),
        "cuda_version": torch.version.cuda,
        "size": options["size"],
        "slow": "PyTorch's operations" if device.type == "cuda" else "plain formulas",
        "runs": runs,
        **limits,
        "cases": results,
    }
    report(document, options["output"])


if __name__ == "__main__":
    main()
