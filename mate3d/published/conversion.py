"""A published generator as ours: what was mapped, what was not and why."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.generator import Generator, GeneratorConfig
from mate3d.published.configs import infer_generator
from mate3d.published.names import generator_name
from mate3d.published.networks import PublishedNetwork

_FILTER = ".resample_filter"
_UNUSED_FILTER = "a filter that nothing is resampled with"
_UNKNOWN = "our generator has no such tensor"
# Elements; published generators have half as many.
_MAX_MADE_UP = 2**26


@dataclass
class Conversion:
    """A published generator as ours.

    Args:
        generator: Frozen, in eval mode, float32.
        mapped: Number of tensors of each part of our generator that came from the file.
        skipped: Reason for each published tensor that was left out.
        initialised: Our tensors that the file lacks, at random values; only if not strict.
        problems: Settings of the file that are not followed; only if not strict.
        notes: What was assumed, or is without effect.
    """

    generator: Generator
    mapped: dict[str, int]
    skipped: dict[str, str]
    initialised: list[str]
    problems: list[str]
    notes: list[str]


def convert_generator(network: PublishedNetwork, *, strict: bool = True) -> Conversion:
    """Build our generator from a published one of MaTe3D or EG3D.

    Args:
        network: Usually G_ema.
        strict: Missing or unexpected tensors, values that are not finite and settings that are not
            followed are errors; otherwise they are listed.

    Raises:
        UserError: If the network does not fit.
    """
    inferred = infer_generator(network)
    renamed, skipped = _rename(_scaled(network.state, inferred.gains))
    expected = _expected_shapes(inferred.config)
    unexpected = [name for name in network.state if _is_unexpected(name, expected)]
    # Filters are constants: our layers have the lineage's already.
    absent = sorted(set(expected) - set(renamed))
    missing = [name for name in absent if not name.endswith(_FILTER)]
    problems = [*inferred.problems, *_broken_values(renamed)]
    _check_shapes(renamed, expected, network.class_name)
    if strict and (unexpected or missing or problems):
        parts = {"unexpected tensors": unexpected, "missing tensors": missing, "": problems}
        found = [f"{kind} {_some(names)}".strip() for kind, names in parts.items() if names]
        raise UserError(
            f"{network.class_name} does not fit: {'; '.join(found)}"
            " (strict=false converts the rest)"
        )
    _check_fill([expected[name] for name in missing])
    skipped |= dict.fromkeys(unexpected, _UNKNOWN)
    kept = {name: renamed[name] for name in expected if name in renamed}
    return Conversion(
        generator=_fill(inferred.config, kept),
        mapped=_count_parts(kept),
        skipped=skipped | _skipped_attributes(network),
        initialised=missing,
        problems=problems,
        notes=inferred.notes
        + _describe_gains(inferred.gains)
        + _describe_filters(len(absent) - len(missing)),
    )


def _rename(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors by our names, and the reason for each one that is not used."""
    renamed: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for published, tensor in state.items():
        name = generator_name(published)
        if name is None:
            skipped[published] = _UNUSED_FILTER
        elif name in renamed:
            raise UserError(f"two published tensors would become {name}; one is {published}")
        else:
            renamed[name] = tensor
    return renamed, skipped


def _scaled(state: dict[str, Tensor], gains: dict[str, float]) -> dict[str, Tensor]:
    """Multiply tensors that are stored for another gain than our layers have."""
    return {
        name: (tensor.double() * gains[name]).to(tensor.dtype) if name in gains else tensor
        for name, tensor in state.items()
    }


def _describe_gains(gains: dict[str, float]) -> list[str]:
    names: dict[str, list[str]] = {}
    for name, gain in gains.items():
        names.setdefault(f"{gain:g}", []).append(name)
    return [
        f"multiplied by {gain}, as layers of the file have another gain: {_some(tensors)}"
        for gain, tensors in names.items()
    ]


def _describe_filters(count: int) -> list[str]:
    return [f"{count} resampling filters are not in the file; 1, 3, 3, 1 is taken"] if count else []


def _is_unexpected(published: str, expected: dict[str, torch.Size]) -> bool:
    name = generator_name(published)
    return name is not None and name not in expected


def _expected_shapes(config: GeneratorConfig) -> dict[str, torch.Size]:
    # On the meta device no memory is taken before shapes were compared.
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in Generator(config).state_dict().items()}


def _check_shapes(
    state: dict[str, Tensor], expected: dict[str, torch.Size], class_name: str
) -> None:
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name])}"
        for name in state
        if name in expected and state[name].shape != expected[name]
    ]
    if misshapen:
        raise UserError(f"{class_name} has tensors of other shapes: {_some(misshapen)}")


def _check_fill(shapes: list[torch.Size]) -> None:
    """Refuse to make up tensors of a size that the file gives no reason for."""
    if sum(map(torch.Size.numel, shapes)) > _MAX_MADE_UP:
        raise UserError("most of the generator is not in the file; nothing was converted")


def _broken_values(state: dict[str, Tensor]) -> list[str]:
    """Tell which tensors hold anything but finite floating-point numbers."""
    integer = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    broken = [
        name
        for name, tensor in state.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    problems = [f"whole numbers in {_some(integer)}"] if integer else []
    return problems + ([f"values that are not finite in {_some(broken)}"] if broken else [])


def _fill(config: GeneratorConfig, state: dict[str, Tensor]) -> Generator:
    """Build a generator and copy the given tensors into it; the rest is random but repeatable."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(config)
    generator.load_state_dict(state, strict=False)
    return generator.eval().requires_grad_(False)


def _count_parts(state: dict[str, Tensor]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in state:
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + 1
    return counts


def _skipped_attributes(network: PublishedNetwork) -> dict[str, str]:
    """Return the tensors that the network carries beside its state."""
    return {
        name: "a constant, not a weight"
        for name, value in network.attributes.items()
        if isinstance(value, Tensor)
    }


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
