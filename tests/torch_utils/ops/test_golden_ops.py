"""Every recorded case of golden_ops.safetensors, each a test of its own (golden.md)."""

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from mate3d.cameras import focal_from_fov, lineage_pose, pack_camera
from mate3d.network.layers import Conv2d, FullyConnected, minibatch_stddev, modulated_conv2d
from mate3d.network.sdf_decoder import sdf_to_density
from mate3d.rendering.rays import (
    importance_depths,
    sample_rays,
    smooth_weights,
    stratified_depths,
)
from mate3d.rendering.triplane import project_points
from mate3d.rendering.volume_rendering import composite, expected_depth, interval_weights
from tests.golden import DATA, assert_golden
from tests.reference import ops as reference
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.blur import blur_image, blur_taps
from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.resize import resize_antialias
from torch_utils.ops.triplane_sample import triplane_sample
from torch_utils.ops.upfirdn2d import (
    filter2d,
    setup_filter,
    upfirdn2d,
    upsample2d,
)


@dataclass(frozen=True)
class GoldenCase:
    """One recorded case: its settings and its tensors."""

    settings: dict
    tensors: dict[str, Tensor]

    @property
    def args(self) -> dict:
        return self.settings["args"]

    def filter(self) -> Tensor | None:
        name = self.settings["filter"]
        return None if name is None else TENSORS[f"upfirdn2d_filter.{name}"]

    def leaves(self, *names: str) -> list[Tensor]:
        """Return tensors to differentiate with respect to."""
        return [self.tensors[name].clone().requires_grad_() for name in names]

    def check(self, field: str, actual: Tensor) -> None:
        expected = self.tensors[field]
        if expected.abs().max() == 0:  # leaves no magnitude to compare with
            assert actual.shape == expected.shape and actual.abs().max() == 0, field
        else:
            assert_golden(actual, expected)


def _read_golden() -> tuple[list[GoldenCase], dict[str, Tensor]]:
    with safe_open(DATA / "golden_ops.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        cases = []
        for settings in json.loads(file.metadata()["cases"]):
            prefix = settings["id"] + "."
            own = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            cases.append(GoldenCase(settings, own))
    return cases, tensors


CASES, TENSORS = _read_golden()


def _gradients(outputs: Tensor, inputs: list[Tensor], cotangent: Tensor | None = None):
    return torch.autograd.grad(outputs, inputs, cotangent, create_graph=True)


def _second_gradients(scalar: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Return gradients; zeros where the scalar does not depend on an input."""
    return torch.autograd.grad(scalar, inputs, allow_unused=True, materialize_grads=True)


def check_bias_act(case: GoldenCase) -> None:
    args = {"activation" if k == "act" else k: v for k, v in case.args.items()}
    names = ["x", "b"] if case.settings["has_bias"] else ["x"]
    functions = [reference.bias_act]
    if args["activation"] in ("linear", "lrelu") and "alpha" not in args:
        functions.append(bias_act)
    for function in functions:
        *inputs, v = case.leaves(*names, "v")
        y = function(*inputs, **args)
        first = _gradients(y, inputs, v)
        scalar = sum((g * case.tensors[f"u{n}"]).sum() for g, n in zip(first, names, strict=True))
        case.check("y", y)
        for name, gradient in zip(names, first, strict=True):
            case.check(f"d{name}", gradient)
        second = _second_gradients(scalar, [*inputs, v])
        for name, gradient in zip([*names, "v"], second, strict=True):
            case.check(f"d2_{name}", gradient)


def check_setup_filter(case: GoldenCase) -> None:
    case.check("f", setup_filter(case.settings["f"], **case.args))


def check_upfirdn2d(case: GoldenCase) -> None:
    for function in (upfirdn2d, reference.upfirdn2d):
        x, v = case.leaves("x", "v")
        y = function(x, case.filter(), **case.args)
        (dx,) = _gradients(y, [x], v)
        (d2_v,) = _second_gradients((dx * case.tensors["u"]).sum(), [v])
        case.check("y", y)
        case.check("dx", dx)
        case.check("d2_v", d2_v)


def check_resampling(case: GoldenCase) -> None:
    operations = {
        "filter2d": filter2d,
        "upsample2d": upsample2d,
        "downsample2d": reference.downsample2d,
    }
    operation = operations[case.settings["kind"]]
    case.check("y", operation(case.tensors["x"], case.filter(), **case.args))


def check_conv2d_resample(case: GoldenCase) -> None:
    x, weight = case.tensors["x"], case.tensors["w"]
    groups = case.settings["groups"]
    case.check("y", conv2d_resample(x, weight, case.filter(), groups=groups, **case.args))


def check_modulated_conv2d(case: GoldenCase) -> None:
    x, weight, styles = (case.tensors[name] for name in ("x", "w", "s"))
    args = dict(case.args)
    # The layer derives the orientation of the kernel from `up`.
    assert args.pop("flip_weight", True) == (args.get("up", 1) == 1)
    noise = case.tensors.get("noise")
    case.check(
        "y", modulated_conv2d(x, weight, styles, noise=noise, resample_filter=case.filter(), **args)
    )


def check_mbstd(case: GoldenCase) -> None:
    # The networks append one statistic; several are the statistics of groups of channels.
    x, group_size = case.tensors["x"], case.settings["group_size"]
    parts = x.chunk(case.settings["num_channels"], dim=1)
    statistics = [minibatch_stddev(part, group_size)[:, -1:] for part in parts]
    case.check("y", torch.cat([x, *statistics], dim=1))
    if len(parts) == 1:
        case.check("y", minibatch_stddev(x, group_size))


def check_resize_antialias(case: GoldenCase) -> None:
    case.check("y", resize_antialias(case.tensors["x"], case.settings["size"]))


def check_filtered_resizing(case: GoldenCase) -> None:
    size, mode = case.settings["size"], case.settings["filter_mode"]
    taps = TENSORS["upfirdn2d_filter.std"]
    case.check("y", reference.filtered_resize(case.tensors["x"], size, taps, mode))


def check_blur(case: GoldenCase) -> None:
    case.check("kernel", blur_taps(case.settings["sigma"]))
    case.check("y", blur_image(case.tensors["x"], case.settings["sigma"]))


def check_lookat(case: GoldenCase) -> None:
    angles = [torch.tensor([case.settings[name]]) for name in ("horizontal", "vertical")]
    pose = lineage_pose(*angles, radius=case.settings["radius"], target=case.settings["pivot"])
    case.check("cam2world", pose[0])


def check_fov(case: GoldenCase) -> None:
    focal = focal_from_fov(case.settings["degrees"])
    case.check("K", torch.tensor([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]]))


def check_rays(case: GoldenCase) -> None:
    camera = pack_camera(case.tensors["cam2world"], case.tensors["K"])
    origins, directions = sample_rays(camera, case.settings["resolution"])
    case.check("origins", origins)
    case.check("dirs", directions)


def check_ray_box(case: GoldenCase) -> None:
    near, far = reference.intersect_box(case.tensors["o"], case.tensors["d"], case.settings["box"])
    case.check("near", near)
    case.check("far", far)


def check_sample_planes(case: GoldenCase) -> None:
    box_size = case.settings["box_warp"]
    for look_up in (triplane_sample, reference.triplane_sample):
        planes, xyz, v = case.leaves("planes", "xyz", "v")
        y = reference.look_up_each_plane(planes, xyz, box_size, "eg3d_legacy", look_up)
        dplanes, dxyz = _gradients(y, [planes, xyz], v)
        scalar = (dplanes * case.tensors["uplanes"]).sum() + (dxyz * case.tensors["uxyz"]).sum()
        second = _second_gradients(scalar, [v, planes, xyz])
        names = ("y", "dplanes", "dxyz", "d2_v", "d2_planes", "d2_xyz")
        for name, actual in zip(names, (y, dplanes, dxyz, *second), strict=True):
            case.check(name, actual)


def check_stratified(case: GoldenCase) -> None:
    near, far = case.settings["near"], case.settings["far"]
    case.check("depths", stratified_depths(case.tensors["u"], near, far))


def check_importance(case: GoldenCase) -> None:
    depths, weights, uniforms = (case.tensors[name] for name in ("z", "weights", "u"))
    even = torch.linspace(0, 1, case.settings["n"]).expand_as(uniforms)
    case.check("smoothed", smooth_weights(weights.flatten(0, 1).squeeze(-1)))
    case.check("samples", importance_depths(depths, weights, uniforms, "legacy_midpoints"))
    case.check("samples_det", importance_depths(depths, weights, even, "legacy_midpoints"))


def check_march(case: GoldenCase) -> None:
    color, density, depth = (case.tensors[name] for name in ("color", "density", "depth"))
    weights = interval_weights(density, depth, "softplus_shifted")
    rgb = composite(color, weights)
    if case.settings["white_back"]:
        rgb = rgb + 1 - weights.sum(dim=2)
    case.check("weights", weights)
    case.check("rgb", 2 * rgb - 1)
    case.check("out_depth", expected_depth(depth, weights))


def check_sdf_density(case: GoldenCase) -> None:
    case.check("sigma", sdf_to_density(case.tensors["sdf"], case.settings["beta"]))


def check_fully_connected(case: GoldenCase) -> None:
    weight, bias = case.tensors["weight"], case.tensors["bias"]
    activation, multiplier = case.settings["activation"], case.settings["lr_multiplier"]
    layer = FullyConnected(*weight.shape[::-1], activation=activation, lr_multiplier=multiplier)
    layer.load_state_dict({"weight": weight, "bias": bias})
    case.check("y", layer(case.tensors["x"]))


def check_conv_layer(case: GoldenCase) -> None:
    weight = case.tensors["weight"]
    names = {"bias": "with_bias", "conv_clamp": "clamp"}
    args = {names.get(name, name): value for name, value in case.args.items()}
    layer = Conv2d(weight.shape[1], weight.shape[0], **args)
    layer.load_state_dict(
        {k: v for k, v in case.tensors.items() if k in ("weight", "bias")}
        | {"resample_filter": layer.resample_filter}
    )
    case.check("y", layer(case.tensors["x"], gain=case.settings["gain"]))


check_filter2d = check_upsample2d = check_downsample2d = check_resampling
CHECKS = {name[6:]: check for name, check in globals().items() if name.startswith("check_")}


def test_every_recorded_case_has_a_check():
    assert len(CASES) == len({case.settings["id"] for case in CASES}) == 127
    assert {case.settings["kind"] for case in CASES} <= CHECKS.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.settings["id"])
def test_operation_reproduces_recorded_numbers(case: GoldenCase):
    CHECKS[case.settings["kind"]](case)


def test_projection_reproduces_recorded_numbers():
    assert_golden(project_points(TENSORS["project.xyz"], "eg3d_legacy"), TENSORS["project.uv"])
