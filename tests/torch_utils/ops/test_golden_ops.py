"""Every recorded case of golden_ops.safetensors, each a test of its own (tests/data/README.md)."""

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from mate3d.cameras import look_at_pose, make_intrinsics, pack_camera
from mate3d.network.layers import Conv2d, FullyConnected, minibatch_stddev, modulated_conv2d
from mate3d.network.sdf_decoder import sdf_to_density
from mate3d.rendering.rays import (
    composite,
    expected_depth,
    importance_depths,
    interval_weights,
    sample_rays,
    smooth_weights,
    stratified_depths,
)
from mate3d.rendering.triplane import project_points
from tests.golden import DATA, assert_golden
from tests.reference import ops as reference
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.resample import (
    blur_image,
    blur_taps,
    conv2d_resample,
    filter2d,
    resize_antialias,
    setup_filter,
    upfirdn2d,
    upsample2d,
)
from torch_utils.ops.triplane_sample import triplane_sample


@dataclass(frozen=True)
class GoldenCase:
    """One recorded case: its settings and its tensors, both by name."""

    settings: dict
    tensors: dict[str, Tensor]

    def __getitem__(self, name: str) -> Any:
        return self.tensors[name] if name in self.tensors else self.settings[name]

    @property
    def filter(self) -> Tensor | None:
        name = self["filter"]
        return None if name is None else TENSORS[f"upfirdn2d_filter.{name}"]

    def leaves(self, *names: str) -> list[Tensor]:
        """Return tensors to differentiate with respect to."""
        return [self[name].clone().requires_grad_() for name in names]

    def check(self, **actual: Tensor) -> None:
        for field, value in actual.items():
            expected = self.tensors[field]
            if expected.abs().max() == 0:  # leaves no magnitude to compare with
                assert value.shape == expected.shape and value.abs().max() == 0, field
            else:
                assert_golden(value, expected)


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
    args = {"activation" if k == "act" else k: v for k, v in case["args"].items()}
    names = ["x", "b"] if case["has_bias"] else ["x"]
    functions = [reference.bias_act]
    if args["activation"] in ("linear", "lrelu") and "alpha" not in args:
        functions.append(bias_act)
    for function in functions:
        *inputs, v = case.leaves(*names, "v")
        y = function(*inputs, **args)
        first = _gradients(y, inputs, v)
        scalar = sum((g * case[f"u{n}"]).sum() for g, n in zip(first, names, strict=True))
        second = _second_gradients(scalar, [*inputs, v])
        fields = ["y", *(f"d{name}" for name in names), *(f"d2_{name}" for name in (*names, "v"))]
        case.check(**dict(zip(fields, (y, *first, *second), strict=True)))


def check_upfirdn2d(case: GoldenCase) -> None:
    for function in (upfirdn2d, reference.upfirdn2d):
        x, v = case.leaves("x", "v")
        y = function(x, case.filter, **case["args"])
        (dx,) = _gradients(y, [x], v)
        (d2_v,) = _second_gradients((dx * case["u"]).sum(), [v])
        case.check(y=y, dx=dx, d2_v=d2_v)


def check_conv2d_resample(case: GoldenCase) -> None:
    args = {"groups": case["groups"], **case["args"]}
    case.check(y=conv2d_resample(case["x"], case["w"], case.filter, **args))


def check_modulated_conv2d(case: GoldenCase) -> None:
    args = {"noise": case.tensors.get("noise"), "resample_filter": case.filter, **case["args"]}
    # The layer derives the orientation of the kernel from `up`.
    assert args.pop("flip_weight", True) == (args.get("up", 1) == 1)
    case.check(y=modulated_conv2d(case["x"], case["w"], case["s"], **args))


def check_mbstd(case: GoldenCase) -> None:
    # The networks append one statistic; several are the statistics of groups of channels.
    x, group_size = case["x"], case["group_size"]
    parts = x.chunk(case["num_channels"], dim=1)
    statistics = [minibatch_stddev(part, group_size)[:, -1:] for part in parts]
    case.check(y=torch.cat([x, *statistics], dim=1))
    if len(parts) == 1:
        case.check(y=minibatch_stddev(x, group_size))


def check_filtered_resizing(case: GoldenCase) -> None:
    taps = TENSORS["upfirdn2d_filter.std"]
    case.check(y=reference.filtered_resize(case["x"], case["size"], taps, case["filter_mode"]))


def check_lookat(case: GoldenCase) -> None:
    # The release's polar angle is uniform in area; pi / 2 is frontal and level.
    horizontal, vertical = (torch.tensor([case[name]]) for name in ("horizontal", "vertical"))
    phi = torch.arccos(1 - 2 * vertical.clamp(1e-5, math.pi - 1e-5) / math.pi)
    azimuth = math.pi - horizontal
    direction = [phi.sin() * azimuth.cos(), phi.cos(), phi.sin() * azimuth.sin()]
    position = case["radius"] * torch.stack(direction, dim=-1)
    case.check(cam2world=look_at_pose(position, torch.tensor(case["pivot"]))[0])


def check_fov(case: GoldenCase) -> None:
    # With the rounded constants of the release.
    focal = 1 / (math.tan(case["degrees"] * 3.14159 / 360) * 1.414)
    case.check(K=make_intrinsics(focal))


def check_rays(case: GoldenCase) -> None:
    camera = pack_camera(case["cam2world"], case["K"])
    origins, directions = sample_rays(camera, case["resolution"])
    case.check(origins=origins, dirs=directions)


def check_ray_box(case: GoldenCase) -> None:
    near, far = reference.intersect_box(case["o"], case["d"], case["box"])
    case.check(near=near, far=far)


def check_sample_planes(case: GoldenCase) -> None:
    for look_up in (triplane_sample, reference.triplane_sample):
        planes, xyz, v = case.leaves("planes", "xyz", "v")
        y = reference.look_up_each_plane(planes, xyz, case["box_warp"], "eg3d_legacy", look_up)
        dplanes, dxyz = _gradients(y, [planes, xyz], v)
        scalar = (dplanes * case["uplanes"]).sum() + (dxyz * case["uxyz"]).sum()
        d2_v, d2_planes, d2_xyz = _second_gradients(scalar, [v, planes, xyz])
        case.check(y=y, dplanes=dplanes, dxyz=dxyz, d2_v=d2_v, d2_planes=d2_planes, d2_xyz=d2_xyz)


def check_importance(case: GoldenCase) -> None:
    depths, weights, uniforms = (case[name] for name in ("z", "weights", "u"))
    even = torch.linspace(0, 1, case["n"]).expand_as(uniforms)
    case.check(
        smoothed=smooth_weights(weights.flatten(0, 1).squeeze(-1)),
        samples=importance_depths(depths, weights, uniforms, "legacy_midpoints"),
        samples_det=importance_depths(depths, weights, even, "legacy_midpoints"),
    )


def check_march(case: GoldenCase) -> None:
    weights = interval_weights(case["density"], case["depth"], "softplus_shifted")
    rgb = composite(case["color"], weights)
    if case["white_back"]:
        rgb = rgb + 1 - weights.sum(dim=2)
    depth = expected_depth(case["depth"], weights)
    case.check(weights=weights, rgb=2 * rgb - 1, out_depth=depth)


def check_fully_connected(case: GoldenCase) -> None:
    weight, names = case["weight"], ("activation", "lr_multiplier")
    layer = FullyConnected(*weight.shape[::-1], **{name: case[name] for name in names})
    layer.load_state_dict({"weight": weight, "bias": case["bias"]})
    case.check(y=layer(case["x"]))


def check_conv_layer(case: GoldenCase) -> None:
    weight = case["weight"]
    names = {"bias": "with_bias", "conv_clamp": "clamp"}
    args = {names.get(name, name): value for name, value in case["args"].items()}
    layer = Conv2d(weight.shape[1], weight.shape[0], **args)
    layer.load_state_dict(
        {k: v for k, v in case.tensors.items() if k in ("weight", "bias")}
        | {"resample_filter": layer.resample_filter}
    )
    case.check(y=layer(case["x"], gain=case["gain"]))


CHECKS = {name[6:]: check for name, check in globals().items() if name.startswith("check_")} | {
    "setup_filter": lambda case: case.check(f=setup_filter(case.settings["f"], **case["args"])),
    "filter2d": lambda case: case.check(y=filter2d(case["x"], case.filter, **case["args"])),
    "upsample2d": lambda case: case.check(y=upsample2d(case["x"], case.filter, **case["args"])),
    "downsample2d": lambda case: case.check(
        y=reference.downsample2d(case["x"], case.filter, **case["args"])
    ),
    "resize_antialias": lambda case: case.check(y=resize_antialias(case["x"], case["size"])),
    "blur": lambda case: case.check(
        kernel=blur_taps(case["sigma"]), y=blur_image(case["x"], case["sigma"])
    ),
    "stratified": lambda case: case.check(
        depths=stratified_depths(case["u"], case["near"], case["far"])
    ),
    "sdf_density": lambda case: case.check(sigma=sdf_to_density(case["sdf"], case["beta"])),
}


def test_every_recorded_case_has_a_check():
    assert len(CASES) == len({case.settings["id"] for case in CASES}) == 127
    assert {case.settings["kind"] for case in CASES} <= CHECKS.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.settings["id"])
def test_operation_reproduces_recorded_numbers(case: GoldenCase):
    CHECKS[case.settings["kind"]](case)


def test_projection_reproduces_recorded_numbers():
    assert_golden(project_points(TENSORS["project.xyz"], "eg3d_legacy"), TENSORS["project.uv"])
