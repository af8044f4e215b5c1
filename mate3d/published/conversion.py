"""Convert a published generator to ours, and report which tensors were mapped."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from mate3d.errors import UserError
from mate3d.generator import Generator, GeneratorConfig
from mate3d.published.configs import infer_generator
from mate3d.published.names import generator_name
from mate3d.published.networks import PublishedNetwork

_FILTER = ".resample_filter"


@dataclass
class Conversion:
    """The result of `convert_generator`.

    Args:
        generator: Frozen, in eval mode, float32.
        mapped: Number of tensors of each part of our generator that came from the file.
        skipped: Why each published tensor was left out.
        initialised: Our tensors that the file lacks, set to random values; only if not strict.
        problems: Settings in the file that we do not support; only if not strict.
        notes: Assumptions, and settings without effect.
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
        strict: Raise for missing or unexpected tensors, values that are not finite and unsupported
            settings; otherwise list them.

    Raises:
        UserError: If the network does not fit.
    """
    inferred = infer_generator(network)
    renamed, skipped = _rename(network.state, inferred.gains)
    # The meta device takes no memory, so shapes are compared first.
    with torch.device("meta"):
        expected = {k: v.shape for k, v in Generator(inferred.config).state_dict().items()}
    misshapen = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name])}"
        for name, tensor in renamed.items()
        if name in expected and tensor.shape != expected[name]
    ]
    if misshapen:
        raise UserError(f"{network.class_name} has tensors of the wrong shape: {_some(misshapen)}")
    known = {None, *expected}
    unexpected = [name for name in network.state if generator_name(name) not in known]
    # Filters are constants, which our layers already have.
    absent = sorted(set(expected) - set(renamed))
    missing = [name for name in absent if not name.endswith(_FILTER)]
    problems = [*inferred.problems, *_broken_values(renamed)]
    if strict and (unexpected or missing or problems):
        parts = {"unexpected tensors": unexpected, "missing tensors": missing, "": problems}
        found = [f"{kind} {_some(names)}".strip() for kind, names in parts.items() if names]
        raise UserError(
            f"{network.class_name} does not fit: {'; '.join(found)}"
            " (strict=false converts the rest)"
        )
    skipped |= dict.fromkeys(unexpected, "our generator has no such tensor")
    constants = [k for k, value in network.attributes.items() if isinstance(value, Tensor)]
    skipped |= dict.fromkeys(constants, "a constant, not a weight")
    kept = {name: renamed[name] for name in expected if name in renamed}
    num_filters = len(absent) - len(missing)
    filters = f"{num_filters} resampling filters are not in the file; using 1, 3, 3, 1"
    return Conversion(
        generator=_fill(inferred.config, kept),
        mapped=dict(Counter(name.split(".")[0] for name in kept)),
        skipped=skipped,
        initialised=missing,
        problems=problems,
        notes=inferred.notes + _describe_gains(inferred.gains) + [filters] * (num_filters > 0),
    )


def _rename(
    state: dict[str, Tensor], gains: dict[str, float]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors by our names with our gains, and the reason for each unused one."""
    renamed: dict[str, Tensor] = {}
    skipped: dict[str, str] = {}
    for published, tensor in state.items():
        name = generator_name(published)
        if name is None:
            skipped[published] = "an unused filter"
        else:
            gain = gains.get(published)
            renamed[name] = tensor if gain is None else (tensor.double() * gain).to(tensor.dtype)
    return renamed, skipped


def _describe_gains(gains: dict[str, float]) -> list[str]:
    texts = {name: f"{gain:g}" for name, gain in gains.items()}
    return [
        f"multiplied by {text} because layers in the file have a different gain:"
        f" {_some([name for name in texts if texts[name] == text])}"
        for text in dict.fromkeys(texts.values())
    ]


def _broken_values(state: dict[str, Tensor]) -> list[str]:
    """List the tensors that hold anything but finite floating-point numbers."""
    integer = [name for name, tensor in state.items() if not tensor.is_floating_point()]
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    kinds = {"integers": integer, "values that are not finite": broken}
    return [f"{kind} in {_some(names)}" for kind, names in kinds.items() if names]


def _fill(config: GeneratorConfig, state: dict[str, Tensor]) -> Generator:
    """Build a generator and copy the given tensors; the rest is random but reproducible."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = Generator(config)
    generator.load_state_dict(state, strict=False)
    return generator.eval().requires_grad_(False)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
