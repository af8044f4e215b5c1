"""The card of a converted checkpoint, and the report of a conversion."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import yaml

from mate3d.checkpoints.storage import config_to_dict
from mate3d.generator import GeneratorConfig
from mate3d.published.conversion import Conversion
from mate3d.published.networks import PublishedSnapshot

_LICENSE_NOTE = """\
These weights are not this project's. They stay under the terms of those who trained and published
them: MaTe3D's and EG3D's are for non-commercial use, as their own licenses say in full; read them
before you use or share this folder. This project's Apache-2.0 license covers its code, not these
weights."""

_COMPATIBILITY = {
    "plane_layout": "the axes that the file's planes were trained with",
    "density_activation": "the lineage's marcher: softplus(density - 1)",
    "importance_bins": "the lineage lays importance samples half an interval nearer",
    "background_class": "what shines through counts as no class",
}


def report_lines(conversion: Conversion, snapshot: PublishedSnapshot, network: str) -> list[str]:
    """Return what a conversion mapped and what it did not, with the reasons, as lines."""
    mapped = sum(conversion.mapped.values())
    lines = [f"mapped from {network}: {mapped} tensors"]
    lines += [_row(part, count) for part, count in conversion.mapped.items()]
    lines.append("not mapped:")
    lines += [
        _row(name, len(published.state), _why_left_out(name, network))
        for name, published in snapshot.networks.items()
        if name != network
    ]
    lines += [_row(key, "", _why_other(key, kind)) for key, kind in snapshot.other.items()]
    lines += [_row(f"{network}.{name}", 1, why) for name, why in conversion.skipped.items()]
    if conversion.initialised:
        lines.append("not in the file, at random values:")
        lines += [_row(name, 1) for name in conversion.initialised]
    lines += [f"problem: {text}" for text in conversion.problems]
    return lines + [f"note: {text}" for text in conversion.notes]


def _row(name: str, count: int | str, reason: str = "") -> str:
    return f"  {name:<36} {count:>4}  {reason}".rstrip()


def _why_left_out(name: str, network: str) -> str:
    if name.startswith("D"):
        return "a discriminator; checkpoints hold the generator"
    other = "the moving average" if name == "G_ema" else "the weights last trained"
    return f"{other}; network={network} was asked for"


def _why_other(key: str, kind: str) -> str:
    if kind == "NoneType":
        return "empty"
    return "a setting of the training run" if key.endswith("kwargs") else f"no network ({kind})"


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def make_card(
    source: str | Path,
    network: str,
    conversion: Conversion,
    snapshot: PublishedSnapshot,
    *,
    dtype: str,
    verification: list[str],
) -> str:
    """Write the card of a converted checkpoint.

    Args:
        source: The snapshot's file.
        network: The network converted.
        conversion: What was converted.
        snapshot: What the file holds.
        dtype: Precision of the stored weights.
        verification: Lines of the comparison with recorded values; empty if none was made.
    """
    config = conversion.generator.config
    facts = {
        "file": f"`{Path(source).name}`",
        "size": f"{Path(source).stat().st_size} bytes",
        "SHA-256": f"`{file_sha256(source)}`",
        "network": f"`{network}` ({snapshot.networks[network].class_name})",
        "stored as": dtype,
        "made by": "`python -m scripts.convert_checkpoint`; nothing in the file was executed",
    }
    sections: dict[str, list[str]] = {
        "Source": ["| | |", "|---|---|", *(f"| {key} | {text} |" for key, text in facts.items())],
        "License": [_LICENSE_NOTE],
        "What was converted": _fenced(report_lines(conversion, snapshot, network)),
        "Verification": _describe_verification(verification),
        "Labels": _describe_labels(conversion),
        "Cameras": _describe_cameras(config),
        "Compatibility": _describe_compatibility(config),
    }
    parts = [f"# Generator converted from {Path(source).name}"]
    parts += ["\n".join([f"## {title}", "", *lines]) for title, lines in sections.items()]
    return "\n\n".join(parts) + "\n"


def _describe_verification(lines: list[str]) -> list[str]:
    if not lines:
        return ["Not compared with recorded values (`verify=`)."]
    return [*_fenced(lines), "", "Every error is within what is allowed."]


def _fenced(lines: list[str]) -> list[str]:
    return ["```", *lines, "```"]


def _describe_labels(conversion: Conversion) -> list[str]:
    label_set = conversion.generator.label_set
    if label_set.num_classes == 0:
        return ["None: this network renders no segmentation."]
    names = ", ".join(f"{index} {name}" for index, name in enumerate(label_set.class_names))
    lines = [f"`{label_set.name}`, told by the number of local heads: {names}."]
    if label_set.name == "catmask_hq":
        lines += [
            "",
            "No table of the cat ids is published. That 4 is the mouth and 5 the nose is inferred",
            "from the colours of the authors' figure.",
        ]
    return lines


def _describe_cameras(config: GeneratorConfig) -> list[str]:
    rig = config.camera_rig
    target = ", ".join(f"{value:g}" for value in rig.target)
    return [
        "A camera is 25 numbers: the 4x4 camera-to-world matrix row by row, then 3x3 intrinsics",
        "divided by the image size. Camera axes are OpenCV's (x right, y down, z forward); the",
        "world has y up, and a frontal portrait looks along +z.",
        "",
        f"Default cameras stand {rig.radius:g} from the origin and look at ({target}). Their focal",
        f"length {rig.focal:g} is that of the training cameras; the snapshot stores none.",
    ]


def _describe_compatibility(config: GeneratorConfig) -> list[str]:
    values: Mapping[str, object] = {
        "plane_layout": config.plane_layout,
        "density_activation": config.rendering.density_activation,
        "importance_bins": config.rendering.importance_bins,
        "background_class": config.rendering.background_class,
    }
    shown = yaml.safe_dump(config_to_dict(config), sort_keys=False).rstrip()
    return [
        "These settings keep the conventions that the weights were trained with:",
        "",
        *(f"- `{name}: {_yaml(values[name])}`: {_COMPATIBILITY[name]}" for name in values),
        "",
        "The whole configuration, inferred from the file:",
        "",
        "```yaml",
        shown,
        "```",
    ]


def _yaml(value: object) -> str:
    """Write a plain value as YAML does."""
    return "null" if value is None else str(value)
