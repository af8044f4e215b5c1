"""Compare a snapshot and our renders of it with recorded values (tests/data/README.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mate3d.cameras import CAMERA_DIM
from mate3d.checkpoints.storage import load_state_strictly
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.labels import LabelSet
from mate3d.network.discriminator import Discriminator
from mate3d.outputs.visualize import colorize_depth, colorize_segmentation, resize_nearest
from mate3d.published.configs import discriminator_config
from mate3d.published.names import convert_discriminator_state
from mate3d.published.networks import PublishedNetwork
from mate3d.published.plain_values import shown

TOLERANCE = 1e-4
# The order of summation in float64 changes sums by far less, one changed weight by far more.
_SUM_TOLERANCE = 1e-9
# Recorded outputs use this truncation and keep every 4th pixel of the segmentation.
_TRUNCATION_PSI = 0.7
_SEGMENTATION_STEP = 4
_INPUTS = ("in.z", "in.c", "in.c_cond")
_PICTURES = ("image", "image_raw", "semantic", "image_depth")
# Recorded logits, and the network they come from.
_JUDGES = {"D": "D", "Ds": "D_semantic"}


@dataclass
class Expected:
    """A file of recorded values.

    Args:
        state: (name, shape, dtype) of every tensor, in order, of each network.
        tensors: Sums `sums.{network}` [n, 2], inputs `in.*` and outputs.
    """

    state: dict[str, list[tuple[str, tuple[int, ...], str]]]
    tensors: dict[str, Tensor]


@dataclass
class Verification:
    """The result of a comparison.

    Args:
        errors: Largest relative error of each compared quantity, and its tolerance.
        mismatches: Messages about everything that could not be compared.
        outputs: Our value of each recorded output.
    """

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def has_pictures(self) -> bool:
        """Whether any image was compared."""
        return any(name in self.outputs for name in _PICTURES)

    @property
    def is_verified(self) -> bool:
        """Whether everything was compared and within tolerance."""
        # An error of nan must fail too.
        within = all(error <= allowed for error, allowed in self.errors.values())
        return "image" in self.outputs and within and not self.mismatches

    def lines(self) -> list[str]:
        """Return the table of errors and the mismatches as text."""
        rows = [f"{'compared':<24} {'largest relative error':>24} {'allowed':>10}"]
        for name, (error, allowed) in self.errors.items():
            mark = "" if error <= allowed else "  <- too large"
            rows.append(f"{name:<24} {error:>24.2e} {allowed:>10.0e}{mark}")
        return rows + [f"mismatch: {text}" for text in self.mismatches]


def load_expected(path: str | Path) -> Expected:
    """Read a file of recorded values.

    Raises:
        UserError: If it is missing, damaged, or laid out differently.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {}).get("state", "{}")
        layout = {
            network: [(str(name), tuple(map(int, shape)), str(t)) for name, shape, t in entries]
            for network, entries in json.loads(text).items()
        }
    except (SafetensorError, OSError) as error:
        raise UserError(f"expected values {path} cannot be read: {shown(str(error))}") from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UserError(
            f"expected values {path}: the metadata entry state does not list (name, shape, type)"
            " of each network's tensors"
        ) from None
    required = [*_INPUTS, "image", *(f"sums.{network}" for network in layout)]
    missing = [name for name in required if name not in tensors]
    if not layout or missing:
        names = ", ".join(map(shown, missing[:4]))
        raise UserError(f"expected values {path} lack {names or 'the metadata entry state'}")
    whole = [name for name, tensor in tensors.items() if not tensor.is_floating_point()]
    if whole:
        raise UserError(
            f"expected values {path}: {shown(whole[0])} does not hold floating-point numbers"
        )
    return Expected(layout, tensors)


def verify(
    networks: Mapping[str, PublishedNetwork], generator: Generator, expected: Expected
) -> Verification:
    """Compare weights with recorded names, shapes and sums, and outputs with recorded ones.

    Args:
        generator: The converted G_ema, float32 on the CPU.
    """
    result = Verification()
    if "G_ema" not in expected.state:
        result.mismatches.append("the tensors of G_ema are not recorded")
    for name, entries in expected.state.items():
        if name not in networks:
            result.mismatches.append(f"the snapshot has no network {shown(name)}")
        else:
            sums = expected.tensors[f"sums.{name}"]
            _compare_state(result, name, networks[name].state, entries, sums)
    misfits = _misfits(expected.tensors, generator)
    if misfits:
        result.mismatches += misfits
        return result
    inputs = {name: expected.tensors[name].float() for name in _INPUTS}
    outputs = _render(generator, inputs)
    for name, network in _JUDGES.items():
        is_recorded = name in expected.tensors or network in expected.state
        if is_recorded and network in networks:
            outputs |= _judge(name, networks[network], outputs, inputs["in.c"])
    for name, value in outputs.items():
        _compare_output(result, name, value, expected.tensors.get(name))
    known = {*outputs, *_INPUTS, *(f"sums.{name}" for name in expected.state)}
    unknown = sorted(set(expected.tensors) - known)
    result.mismatches += [f"{shown(name)} is recorded but was not computed" for name in unknown]
    return result


def _compare_state(
    result: Verification,
    network: str,
    state: Mapping[str, Tensor],
    entries: list[tuple[str, tuple[int, ...], str]],
    sums: Tensor,  # [n, 2]: sum, sum of magnitudes
) -> None:
    found = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in state.items()]
    if found != entries or tuple(sums.shape) != (len(entries), 2):
        different = sorted(set(found) ^ set(entries))
        first = f", {str(different[0])[:160]}" if different else ""
        result.mismatches.append(
            f"{network} does not have the recorded tensors in the recorded order, or its sums have"
            f" the wrong shape {tuple(sums.shape)}; {len(different)} differ{first}"
        )
        return
    ours = torch.tensor(
        [[t.double().sum().item(), t.double().abs().sum().item()] for t in state.values()],
        dtype=torch.float64,
    )
    scale = sums[:, 1:].double().clamp(min=1e-30)
    error = ((ours - sums.double()).abs() / scale).max().item() if len(sums) else 0.0
    result.errors[f"sums.{network}"] = (error, _SUM_TOLERANCE)


def _misfits(recorded: Mapping[str, Tensor], generator: Generator) -> list[str]:
    """List the inputs and images that do not have this generator's sizes."""
    config, rows = generator.config, max(recorded["in.z"].shape[:1].numel(), 1)
    shapes = {
        "in.z": (rows, config.z_dim),
        "in.c": (rows, CAMERA_DIM),
        "in.c_cond": (rows, CAMERA_DIM),
        "image": (rows, 3, config.resolution, config.resolution),
        "image_raw": (rows, 3, *[config.neural_rendering_resolution] * 2),
    }
    return [
        f"{name} has the shape {tuple(recorded[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in recorded and tuple(recorded[name].shape) != shape
    ]


@torch.no_grad()
def _render(generator: Generator, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of the recording script, without random numbers."""
    ws = generator.map(inputs["in.z"], inputs["in.c_cond"], truncation_psi=_TRUNCATION_PSI)
    view = generator.synthesize(ws, inputs["in.c"])
    outputs = {"ws": ws, "image": view.image, "image_raw": view.image_raw}
    outputs["image_depth"] = view.depth
    if view.segmentation is not None:
        outputs["semantic_raw"], outputs["semantic"] = view.segmentation_raw, view.segmentation
    return outputs


@torch.no_grad()
def _judge(
    name: str, network: PublishedNetwork, outputs: Mapping[str, Tensor], camera: Tensor
) -> dict[str, Tensor]:
    """Return a discriminator's logits [B, 1] of our outputs; nothing if their sizes do not fit."""
    config = discriminator_config(network)
    names = ("image", "semantic") if config.image_channels > 3 else ("image",)
    channels = sum(outputs[name].shape[1] for name in names if name in outputs)
    if channels != config.image_channels or outputs["image"].shape[-1] != config.resolution:
        return {}
    discriminator = Discriminator(config).eval()
    state = convert_discriminator_state(network.state)
    load_state_strictly(discriminator, state, network.class_name)
    image = torch.cat([outputs[name] for name in names], dim=1)
    image_raw = torch.cat([outputs[f"{name}_raw"] for name in names], dim=1)
    return {name: discriminator(image, image_raw, camera)}


def _compare_output(result: Verification, name: str, ours: Tensor, recorded: Tensor | None) -> None:
    if recorded is None:
        result.mismatches.append(f"{name} is not recorded")
        return
    if name == "semantic" and recorded.shape != ours.shape:
        ours = ours[..., ::_SEGMENTATION_STEP, ::_SEGMENTATION_STEP]
    if ours.shape != recorded.shape:
        result.mismatches.append(
            f"{name} has the shape {tuple(ours.shape)} (recorded: {tuple(recorded.shape)})"
        )
        return
    result.outputs[name] = ours
    largest = recorded.abs().max().item()
    error = (ours - recorded.float()).abs().max().item() / max(largest, 1e-30)
    result.errors[name] = (error, TOLERANCE)


def comparison_picture(
    expected: Expected, verification: Verification, label_set: LabelSet
) -> Tensor:  # [3, H, W] in -1..1
    """Return a row of (expected, ours, 100 times their difference) for each compared image.

    At least one image must have been compared. Values that are not finite are shown as 0.
    """
    rows = []
    names = [name for name in _PICTURES if name in verification.outputs]
    side = max(verification.outputs[name].shape[-1] for name in names)
    for name in names:
        pair = (expected.tensors[name].float(), verification.outputs[name])
        pair = tuple(value.nan_to_num(0.0, 0.0, 0.0) for value in pair)
        difference = pair[1] - pair[0]
        if name == "semantic":
            difference = difference.abs().amax(dim=1, keepdim=True)
            pair = tuple(colorize_segmentation(value, label_set) for value in pair)
        elif name == "image_depth":
            near, far = pair[0].min().item(), pair[0].max().item()
            pair = tuple(colorize_depth(value, near=near, far=far) for value in pair)
        tiles = [*pair, (100 * difference).clamp(-1, 1).expand(-1, 3, -1, -1)]
        tiles = [resize_nearest(tile, side) for tile in tiles]
        # Each head's three tiles are side by side; heads are stacked.
        rows.append(torch.cat([torch.cat(list(tile), dim=-2) for tile in tiles], dim=-1))
    return torch.cat(rows, dim=-2)
