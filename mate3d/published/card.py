"""The card of a converted checkpoint, and the report of a conversion."""

from pathlib import Path

from huggingface_hub.utils.sha import sha_fileobj

from mate3d.labels import LabelSet
from mate3d.published.conversion import Conversion
from mate3d.published.networks import PublishedSnapshot

_CARD = """\
# Generator converted from {file}

## Source

| | |
|---|---|
| file | `{file}` |
| size | {size} bytes |
| SHA-256 | `{sha256}` |
| network | `{network}` ({class_name}) |
| stored as | {precision} |
| made by | `python -m scripts.convert_checkpoint`; nothing in the file was executed |

## Licence

These weights do not belong to this project. The terms of their authors still apply: MaTe3D's and
EG3D's weights are for non-commercial use only. Read their licences before you use or share this
folder. This project's Apache-2.0 licence covers its code, not these weights.

## What was converted

```
{report}
```

## Labels

{labels}

## Cameras

A camera is 25 numbers: the 4x4 camera-to-world matrix row by row, then 3x3 intrinsics
divided by the image size. Camera axes are OpenCV's (x right, y down, z forward); the
world has y up, and a frontal portrait looks along +z.

Default cameras are {rig.radius:g} from the origin and look at ({target}). Their focal
length {rig.focal:g} is that of the training cameras; the snapshot stores none.
"""

_CAT_LABELS = """

No table of the cat ids is published. We inferred from the colours of the authors' figure that
4 is the mouth and 5 the nose."""


def report_lines(conversion: Conversion, snapshot: PublishedSnapshot, network: str) -> list[str]:
    """List the tensors that a conversion mapped, and the others with the reasons."""
    mapped = sum(conversion.mapped.values())
    lines = [f"mapped from {network}: {mapped} tensors"]
    lines += [_row(part, count) for part, count in conversion.mapped.items()]
    lines.append("not mapped:")
    lines += [
        _row(name, len(published.state), f"{published.class_name}; not network={network}")
        for name, published in snapshot.networks.items()
        if name != network
    ]
    lines += [_row(key, "", f"not a network ({kind})") for key, kind in snapshot.other.items()]
    lines += [_row(f"{network}.{name}", 1, why) for name, why in conversion.skipped.items()]
    if conversion.initialised:
        lines.append("not in the file, set to random values:")
        lines += [_row(name, 1) for name in conversion.initialised]
    lines += [f"problem: {text}" for text in conversion.problems]
    return lines + [f"note: {text}" for text in conversion.notes]


def _row(name: str, count: int | str, reason: str = "") -> str:
    return f"  {name:<36} {count:>4}  {reason}".rstrip()


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return sha_fileobj(file).hex()


def make_card(
    source: str | Path,
    network: str,
    conversion: Conversion,
    snapshot: PublishedSnapshot,
    *,
    precision: str,
) -> str:
    """Write the card of a converted checkpoint.

    Args:
        source: The snapshot's file.
        precision: Precision of the stored weights.
    """
    config = conversion.generator.config
    return _CARD.format(
        file=Path(source).name,
        size=Path(source).stat().st_size,
        sha256=file_sha256(source),
        network=network,
        class_name=snapshot.networks[network].class_name,
        precision=precision,
        report="\n".join(report_lines(conversion, snapshot, network)),
        labels=_describe_labels(conversion.generator.label_set),
        rig=config.camera_rig,
        target=", ".join(f"{value:g}" for value in config.camera_rig.target),
    )


def _describe_labels(label_set: LabelSet) -> str:
    if label_set.num_classes == 0:
        return "None: this network renders no segmentation."
    names = ", ".join(f"{index} {name}" for index, name in enumerate(label_set.class_names))
    text = f"`{label_set.name}`, inferred from the number of local heads: {names}."
    return text + _CAT_LABELS if label_set.name == "catmask_hq" else text
