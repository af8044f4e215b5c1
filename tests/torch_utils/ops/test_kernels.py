"""Values and derivatives of the operations: PyTorch's, and the kernels', against plain formulas.

"host" are loops on the CPU over the kernels' arithmetic, which the compiled library holds for tests
as `torch.ops.mate3d_host`: what a GPU would compute, element by element. What remains untested
without a GPU is that threads are launched for all elements and that memory is accessed in parallel.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import Library, register_autograd

from tests.reference import ops as formulas
from tests.torch_utils.ops.library_cases import LAYOUTS, Place
from torch_utils.kernel_build.library import LIBRARY_NAME, check_library
from torch_utils.ops import _extension, triplane_sample
from torch_utils.ops._library_upfirdn2d import backward, save
from torch_utils.ops.bias_act import BiasAct
from torch_utils.ops.triplane_sample import look_up

# Of the largest magnitude in a tensor.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
# Both activations with these gains, limits and with a bias or not.
BIAS_ACT_CASES = [
    (slope, *options)
    for slope in (1.0, 0.2)
    for options in ((2**0.5, None, True), (1.5, 0.8, True), (1.0, None, False))
]
UPFIRDN2D_CASES = [
    # Those with a 4 x 4 filter and equal factors have a kernel of their own.
    {"up": 1, "down": 1, "padding": (1, 2, 2, 1), "filter": (4, 4)},
    {"up": 2, "down": 1, "padding": (2, 1, 2, 1), "filter": (4, 4), "gain": 4},
    {"up": 2, "down": 1, "padding": (3, 2, 1, -1), "filter": (4, 4), "flip_filter": True},
    {"up": 1, "down": 2, "padding": (1, 1, 1, 1), "filter": (4, 4)},
    {"up": 1, "down": 2, "padding": (-2, 1, 0, -1), "filter": (4, 4), "flip_filter": True},
    {"up": 2, "down": 1, "padding": (2, 1, 2, 1), "filter": (4,), "gain": 4},
    {"up": 1, "down": 1, "padding": (5, 6, 7, 4), "filter": (4,)},
    {"up": 1, "down": 1, "padding": (0, 0, 0, 0), "filter": (1, 1)},
    {"up": 2, "down": 2, "padding": (2, 3, 1, 4), "filter": (4, 4)},
    {"up": (3, 2), "down": (2, 1), "padding": (2, 1, 3, 0), "filter": (5, 3)},
    {"up": 1, "down": 3, "padding": (-1, 4, 2, -2), "filter": (3, 6), "gain": 0.7},
    {"up": 2, "down": 1, "padding": (6, 5, 6, 5), "filter": (12,), "gain": 4},
    {"up": (1, 2), "down": (2, 1), "padding": (3, 3, 3, 3), "filter": (7,), "flip_filter": True},
]


@pytest.fixture(
    scope="module",
    params=[
        "pytorch",
        pytest.param("host", marks=pytest.mark.slow),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def place(request) -> Iterator[Place]:
    if request.param == "host":
        request.getfixturevalue("compiled_kernels")
        library, ops = Library("mate3d_host", "FRAGMENT"), torch.ops.mate3d_host
        derivative = partial(backward, ops.upfirdn2d)
        register_autograd("mate3d_host::upfirdn2d", derivative, setup_context=save, lib=library)
        yield Place(ops)
        library._destroy()
        return
    if request.param == "cuda" and not _extension.load():
        pytest.skip("the kernels cannot be had here: see python -m torch_utils.doctor")
    yield Place(torch.ops.mate3d, "cuda" if request.param == "cuda" else "cpu")


def assert_agree(
    function: Callable[..., Tensor],
    formula: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    tolerance: float,
) -> None:
    """Compare values, gradients and gradients of the gradients with a formula in float64."""
    actual = _derivatives(function, inputs)
    expected = _derivatives(formula, [x.double() for x in inputs])
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        scale = e.abs().max().item() if e.numel() else 1
        error = (a.double() - e).abs().max().item() if e.numel() else 0
        assert a.shape == e.shape and error <= tolerance * max(scale, 1e-3), (index, error, scale)


def _derivatives(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    output = function(*inputs)
    cotangent = torch.linspace(-1, 1.5, output.numel(), dtype=torch.float64, device=output.device)
    cotangent = cotangent.view(output.shape).to(output.dtype).requires_grad_()
    first = torch.autograd.grad(output, inputs, cotangent, create_graph=True)
    # Rounded alike, so that the second derivatives are those of the same sum.
    weights = [torch.linspace(1, -2, g.numel()).view(g.shape) for g in first]
    total = sum((g * w.to(g)).sum() for g, w in zip(first, weights, strict=True))
    second = torch.autograd.grad(
        total, [cotangent, *inputs], allow_unused=True, materialize_grads=True
    )
    return [x.detach() for x in (output, *first, *second)]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_bias_act_and_derivatives(place, dtype):
    shapes = [((5,), 0), ((3, 7), 1), ((2, 3, 5), 0), ((2, 1, 3, 3), 1), ((4, 6, 1, 1), 1)]
    variants = [(shape, dim, "contiguous") for shape, dim in shapes]
    variants += [((3, 5, 4, 7), 1, layout) for layout in LAYOUTS]
    if place.device == "cuda":
        variants += [((2, 33, 37, 41), 1, layout) for layout in LAYOUTS]
    for slope, gain, clamp, with_bias in BIAS_ACT_CASES:
        for shape, dim, layout in variants:
            x = place.normal(shape, dtype, layout)
            inputs = [x, place.normal((shape[dim],), dtype)] if with_bias else [x]
            options = {"dim": dim, "gain": gain, "clamp": clamp}
            assert_agree(
                lambda x, b=None, o=(dim, slope, gain, clamp): BiasAct.apply(x, b, place.ops, *o),
                partial(formulas.bias_act, activation="lrelu", alpha=slope, **options),
                inputs,
                TOLERANCES[dtype],
            )


@pytest.mark.parametrize("case", UPFIRDN2D_CASES, ids=str)
def test_upfirdn2d_and_derivatives(place, case):
    up, down = ([f, f] if isinstance(f, int) else f for f in (case["up"], case["down"]))
    options = case.get("flip_filter", False), case.get("gain", 1)
    # Sizes around the strips of the fast kernel, with channels for packs or not.
    shapes = [(2, 4, 13, 10), (2, 5, 13, 10), (1, 1, 9, 31), (1, 4, 17, 16), (1, 4, 9, 9)]
    shapes += [(2, 5, 37, 70), (1, 32, 64, 64)] if place.device == "cuda" else []
    # Too small for the other filters.
    shapes += [(1, 4, 2, 3), (1, 4, 3, 2)] if case in UPFIRDN2D_CASES[:4] else []
    for dtype in TOLERANCES if place.has_kernels else (torch.float64,):
        taps = place.normal(case["filter"], triplane_sample.sum_dtype(dtype))
        formula = partial(formulas.upfirdn2d, **case | {"filter": taps.double()})

        def function(x, taps=taps):
            return place.ops.upfirdn2d(x, taps, *up, *down, *case["padding"], *options)

        variants = [(shape, "contiguous") for shape in shapes]
        variants += [(shape, layout) for shape in shapes[:3] for layout in LAYOUTS[1:]]
        for shape, layout in variants if place.has_kernels else variants[3:6]:
            x = place.normal(shape, dtype, layout)
            assert_agree(function, formula, [x], 2 * TOLERANCES[dtype])
            if layout == "channels_last" and not x.is_contiguous():
                assert function(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_triplane_sample_and_derivatives(place, dtype, monkeypatch):
    # Several pieces, the last of them partial.
    monkeypatch.setattr(triplane_sample, "CHUNK_POINTS", 32)
    variants = [(layout, {}) for layout in LAYOUTS]
    variants += [("contiguous", {"channels": channels}) for channels in (5, 32)]
    if place.device == "cuda":
        variants += [(layout, {"channels": 32, "num_points": 1001}) for layout in LAYOUTS]
    for layout, options in variants:
        assert_agree(
            partial(look_up, ops=place.ops),
            lambda table, points: formulas.triplane_sample(table.permute(0, 1, 4, 2, 3), points),
            place.triplane_inputs(dtype, layout, **options),
            4 * TOLERANCES[dtype],
        )


def test_gradients_agree_with_finite_differences(place):
    ops, taps = place.ops, place.normal((4, 4))
    x, bias, image = (place.normal(shape) for shape in ((2, 3, 3), (3,), (1, 2, 3, 2)))
    look_ups = place.triplane_inputs(torch.float64, channels=2, num_points=4, size=(3, 4))
    calls = [
        (lambda x, b, o=case[:3]: BiasAct.apply(x, b, ops, 1, *o), (x, bias))
        for case in BIAS_ACT_CASES
    ]
    calls += [
        (lambda x: ops.upfirdn2d(x, taps, 2, 2, 1, 1, 2, 1, 2, 1, False, 4.0), (image,)),
        (partial(look_up, ops=ops), look_ups),
    ]
    for call, inputs in calls:
        inputs = [value.detach().requires_grad_() for value in inputs]
        # Atomic additions round differently from call to call.
        assert gradcheck(call, inputs, nondet_tol=1e-10)
        assert gradgradcheck(call, inputs, nondet_tol=1e-10)


def test_derivatives_along_a_direction_agree_with_differences(place):
    ops, step = place.ops, 1e-6
    table, points = place.triplane_inputs(torch.float64, channels=2, num_points=3, size=(3, 4))
    direction, grad = place.normal((2, 3, 3, 2)), place.normal((2, 3, 2))
    for call in (
        lambda p, d: ops.triplane_sample(table, p, d),
        lambda p, d: ops.triplane_sample_table_grad(grad, p, d, 3, 4),
        lambda p, d: ops.triplane_sample_points_grad(grad, table, p, d),
    ):
        ahead, behind = call(points + step * direction, None), call(points - step * direction, None)
        expected = (ahead - behind) / (2 * step)
        torch.testing.assert_close(call(points, direction), expected, rtol=1e-6, atol=1e-8)


def test_points_far_outside_see_zero_and_what_is_no_number_shows(place):
    table, points = place.triplane_inputs(torch.float32)
    far = torch.tensor([[5.0, 0.0], [0.0, -1e6], [1e30, -1e30]], device=place.device)
    far, grad = far.expand(2, 3, 3, 2), torch.ones(2, 3, 8, device=place.device)
    assert (place.ops.triplane_sample(table, far, None) == 0).all()
    assert (place.ops.triplane_sample_table_grad(grad, far, None, 5, 7) == 0).all()
    points[0, 1, 3, 0] = torch.nan
    features = place.ops.triplane_sample(table, points, None)
    assert features[0, 3].isnan().all()
    assert not features[1].isnan().any()


def test_empty_inputs_give_empty_or_zero_results(place):
    ops, zeros = place.ops, partial(torch.zeros, device=place.device)
    assert ops.bias_act(zeros(0, 3), zeros(3), 1, 0.2, 1.0, None).shape == (0, 3)
    empty = ops.upfirdn2d(zeros(0, 3, 8, 8), zeros(4, 4), 2, 2, 1, 1, 2, 1, 2, 1, False, 1.0)
    assert empty.shape == (0, 3, 16, 16)
    table, points = place.triplane_inputs(torch.float32, num_points=0)
    assert ops.triplane_sample(table, points, None).shape == (2, 0, 8)
    assert (ops.triplane_sample_table_grad(zeros(2, 0, 8), points, None, 5, 7) == 0).all()
    shape = ops.triplane_sample_points_grad(zeros(2, 0, 8), table, points, None).shape
    assert shape == (2, 3, 0, 2)


@pytest.mark.slow
def test_kernels_refuse_inputs_that_do_not_fit(compiled_kernels):
    ops, zeros = torch.ops.mate3d_host, torch.zeros
    image, taps = zeros(1, 1, 8, 8), torch.ones(4, 4)
    step, sizes = (1, 0.2, 1.0, None), (1, 1, 1, 1, 0, 0, 0, 0, False, 1.0)
    table, points = zeros(1, 3, 4, 4, 8), zeros(1, 3, 5, 2)
    many = zeros(2, 3, 1, 2).expand(-1, -1, 2**30, -1)
    for operation, *arguments in (
        (ops.bias_act, zeros(2, 3), zeros(4), *step),
        (ops.bias_act, zeros(2, 3).int(), None, *step),
        (ops.bias_act, zeros(2, 3), zeros(3).half(), *step),
        (ops.bias_act_grad, zeros(2, 3), zeros(3, 2), *step[1:]),
        (ops.upfirdn2d, zeros(3, 8, 8), taps, *sizes),
        (ops.upfirdn2d, zeros(1, 1, 3, 3), taps, *sizes),
        (ops.upfirdn2d, image, taps.half(), *sizes),
        (ops.triplane_sample, zeros(1, 2, 4, 4, 8), points, None),
        (ops.triplane_sample, table, points.half(), None),
        (ops.triplane_sample, zeros(2, 3, 4, 4, 8), many, None),
        (ops.triplane_sample_points_grad, zeros(1, 4, 8), table, points, None),
    ):
        with pytest.raises(RuntimeError, match="bias_act|upfirdn2d|triplane_sample"):
            operation(*arguments)


@pytest.mark.slow
def test_library_holds_code_for_every_architecture_and_every_operation(compiled_kernels):
    info = check_library(compiled_kernels, ["8.0", "8.6", "8.9", "9.0"])
    assert set(info.codes) == {"sm_80", "sm_86", "sm_89", "sm_90", "compute_90"}
    names = [name for name in torch._C._dispatch_get_all_op_names() if name[:8] == "mate3d::"]
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    found = {name[8:] for name in names if has_kernel(name, "CUDA")}
    assert found == {
        "bias_act",
        "bias_act_grad",
        "upfirdn2d",
        "triplane_sample",
        "triplane_sample_points_grad",
        "triplane_sample_table_grad_atomic",
    }


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nm"), reason="no nm: the library's symbols were not seen")
def test_library_depends_on_neither_python_nor_unstable_parts_of_pytorch(compiled_kernels):
    command = ["nm", "--dynamic", "--undefined-only", str(compiled_kernels / LIBRARY_NAME)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-1] for line in output.splitlines()]
    assert any(symbol.startswith(("aoti_torch_", "torch_")) for symbol in symbols)
    # Mangled names of C++ functions in at::, c10:: and torch::, which change between versions.
    unstable = ("_ZN2at", "_ZNK2at", "_ZN3c10", "_ZNK3c10", "_ZN5torch", "_ZNK5torch")
    assert not [symbol for symbol in symbols if symbol.startswith((*unstable, "Py", "_Py"))]
    # The CUDA runtime is inside: its version need not be PyTorch's.
    assert not [symbol for symbol in symbols if symbol.startswith("cuda")]
