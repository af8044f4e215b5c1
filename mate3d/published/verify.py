"""Compare a snapshot and our renders of it with recorded values (golden.md)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mate3d.discriminator import Discriminator
from mate3d.errors import UserError
from mate3d.generator import CAMERA_DIM, Generator
from mate3d.labels import LabelSet
from mate3d.published.configs import discriminator_config
from mate3d.published.names import convert_discriminator_state
from mate3d.published.networks import PublishedNetwork
from mate3d.storage import load_state_strictly
from mate3d.visualize import colorize_depth, colorize_segmentation, resize_nearest

TOLERANCE = 1e-4
# Sums of float64 in another order differ by far less; one changed weight by far more.
_SUM_TOLERANCE = 1e-9
# The recorded outputs are made with this truncation, and keep every 4th pixel of the segmentation.
_TRUNCATION_PSI = 0.7
_SEGMENTATION_STEP = 4
_INPUTS = ("in.z", "in.c", "in.c_cond")
# Recorded logits, and the network that they are of.
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
    """What a comparison found.

    Args:
        errors: Largest relative error of each compared quantity, and the error allowed.
        mismatches: What could not be compared, in words.
        outputs: Our value of each recorded output.
    """

    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_verified(self) -> bool:
        """Whether everything was compared and is within its tolerance."""
        has_outputs = "image" in self.outputs
        # Written so that an error that is not a number fails.
        within = all(error <= allowed for error, allowed in self.errors.values())
        return has_outputs and within and not self.mismatches

    def lines(self) -> list[str]:
        """Return the table of errors and the list of mismatches as text."""
        rows = [f"{'compared':<24} {'largest relative error':>24} {'allowed':>10}"]
        for name, (error, allowed) in self.errors.items():
            mark = "" if error <= allowed else "  <- too large"
            rows.append(f"{name:<24} {error:>24.2e} {allowed:>10.0e}{mark}")
        return rows + [f"mismatch: {text}" for text in self.mismatches]


def load_expected(path: str | Path) -> Expected:
    """Read a file of recorded values.

    Raises:
        UserError: If it is missing, damaged, or of another layout.
    """
    if not Path(path).is_file():
        raise UserError(f"expected values not found: {path}")
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads((file.metadata() or {}).get("state", "{}"))
        layout = {
            network: [(str(name), tuple(shape), str(dtype)) for name, shape, dtype in entries]
            for network, entries in state.items()
        }
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"expected values {path} cannot be read: {error}") from None
    missing = [name for name in (*_INPUTS, "image") if name not in tensors]
    missing += [f"sums.{network}" for network in layout if f"sums.{network}" not in tensors]
    if not layout or missing:
        raise UserError(
            f"expected values {path} lack {', '.join(missing) or 'the metadata entry state'}"
        )
    return Expected(layout, tensors)


def verify(
    networks: Mapping[str, PublishedNetwork], generator: Generator, expected: Expected
) -> Verification:
    """Compare weights with recorded names, shapes and sums, and outputs with recorded ones.

    Args:
        networks: Those of the snapshot.
        generator: G_ema, converted; float32 on the CPU.
        expected: Recorded values.
    """
    result = Verification()
    for name, entries in expected.state.items():
        if name not in networks:
            result.mismatches.append(f"the snapshot has no network {name}")
        else:
            sums = expected.tensors[f"sums.{name}"]
            _compare_state(result, name, networks[name].state, entries, sums)
    inputs = {name: expected.tensors[name].float() for name in _INPUTS}
    if not _fit(result, inputs, generator):
        return result
    outputs = _render(generator, inputs)
    for name, network in _JUDGES.items():
        if name in expected.tensors and network in networks:
            logits = _judge(networks[network], outputs, inputs["in.c"])
            if logits is not None:
                outputs[name] = logits
    for name, value in outputs.items():
        _compare_output(result, name, value, expected.tensors.get(name))
    unknown = [
        name
        for name in expected.tensors
        if name not in outputs and not name.startswith(("in.", "sums."))
    ]
    result.mismatches += [f"{name} is recorded but was not computed" for name in unknown]
    return result


def _compare_state(
    result: Verification,
    network: str,
    state: Mapping[str, Tensor],
    entries: list[tuple[str, tuple[int, ...], str]],
    sums: Tensor,  # [n, 2]: sum, sum of magnitudes
) -> None:
    found = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in state.items()]
    if found != entries or len(sums) != len(entries):
        different = sorted(set(found) ^ set(entries))
        first = f": {different[0]}" if different else " (their order)"
        result.mismatches.append(
            f"{network} has other tensors than recorded; {len(different)} differ{first}"
        )
        return
    ours = torch.tensor(
        [[t.double().sum().item(), t.double().abs().sum().item()] for t in state.values()],
        dtype=torch.float64,
    )
    scale = sums[:, 1:].double().clamp(min=1e-30)
    error = ((ours - sums.double()).abs() / scale).max().item() if len(sums) else 0.0
    result.errors[f"sums.{network}"] = (error, _SUM_TOLERANCE)


def _fit(result: Verification, inputs: Mapping[str, Tensor], generator: Generator) -> bool:
    """Tell whether recorded inputs are latents and cameras of this generator."""
    widths = {"in.z": generator.config.z_dim, "in.c": CAMERA_DIM, "in.c_cond": CAMERA_DIM}
    rows = inputs["in.z"].shape[:1].numel()
    unfit = [
        f"{name} has the shape {tuple(tensor.shape)} instead of {(rows, widths[name])}"
        for name, tensor in inputs.items()
        if tuple(tensor.shape) != (rows, widths[name])
    ]
    result.mismatches += unfit
    return not unfit


@torch.no_grad()
def _render(generator: Generator, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the recording script computed, without random numbers."""
    ws = generator.map(inputs["in.z"], inputs["in.c_cond"], truncation_psi=_TRUNCATION_PSI)
    view = generator.synthesize(ws, inputs["in.c"])
    outputs = {
        "ws": ws,
        "image": view.image,
        "image_raw": view.image_raw,
        "image_depth": view.depth,
    }
    if view.segmentation is not None:
        outputs["semantic_raw"], outputs["semantic"] = view.segmentation_raw, view.segmentation
    return outputs


@torch.no_grad()
def _judge(
    network: PublishedNetwork, outputs: Mapping[str, Tensor], camera: Tensor
) -> Tensor | None:  # [B, 1]
    """Return a discriminator's logits of our outputs; None if it takes other images."""
    config = discriminator_config(network)
    names = ("image", "semantic") if config.image_channels > 3 else ("image",)
    channels = sum(outputs[name].shape[1] for name in names if name in outputs)
    if channels != config.image_channels:
        return None
    discriminator = Discriminator(config)
    state = convert_discriminator_state(network.state)
    load_state_strictly(discriminator, state, network.class_name)
    image = torch.cat([outputs[name] for name in names], dim=1)
    image_raw = torch.cat([outputs[f"{name}_raw"] for name in names], dim=1)
    return discriminator.eval()(image, image_raw, camera)


def _compare_output(result: Verification, name: str, ours: Tensor, recorded: Tensor | None) -> None:
    if recorded is None:
        return
    if name == "semantic" and recorded.shape != ours.shape:
        ours = ours[..., ::_SEGMENTATION_STEP, ::_SEGMENTATION_STEP]
    if ours.shape != recorded.shape:
        result.mismatches.append(
            f"{name} has the shape {tuple(ours.shape)}, recorded is {tuple(recorded.shape)}"
        )
        return
    result.outputs[name] = ours
    largest = recorded.abs().max().item()
    error = (ours - recorded).abs().max().item() / max(largest, 1e-30)
    result.errors[name] = (error, TOLERANCE)


def comparison_picture(
    expected: Expected, verification: Verification, label_set: LabelSet
) -> Tensor:  # [3, H, W] in -1..1
    """Return rows of (expected, ours, 100 times their difference) for every picture compared."""
    rows = []
    for name in ("image", "image_raw", "semantic", "image_depth"):
        if name not in verification.outputs:
            continue
        pair = (expected.tensors[name].float(), verification.outputs[name])
        if name == "semantic":
            difference = _one_color((pair[1] - pair[0]).abs().amax(dim=1, keepdim=True))
            pair = tuple(colorize_segmentation(value, label_set) for value in pair)
        else:
            difference = pair[1] - pair[0]
            difference = _one_color(difference) if difference.shape[1] == 1 else difference
            if name == "image_depth":
                near, far = pair[0].min().item(), pair[0].max().item()
                pair = tuple(colorize_depth(value, near=near, far=far) for value in pair)
        tiles = [*pair, (100 * difference).clamp(-1, 1)]
        side = expected.tensors["image"].shape[-1]
        tiles = [resize_nearest(tile, side) for tile in tiles]
        # A head's three tiles stand side by side, heads below each other.
        rows.append(torch.cat([torch.cat(list(tile), dim=-2) for tile in tiles], dim=-1))
    return torch.cat(rows, dim=-2)


def _one_color(values: Tensor) -> Tensor:
    """Show [B, 1, H, W] as grey."""
    return values.expand(-1, 3, -1, -1)
