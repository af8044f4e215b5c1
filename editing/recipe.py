"""Save an edit as a small file, and apply it again to the generator it was made with."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from editing.edited_generator import EditedGenerator
from editing.head_scale import HeadScale
from editing.regions import PaintedView, RegionOptions, make_regions
from mate3d.checkpoints.storage import save_weights
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.options import config_from_dict

FORMAT_VERSION = 2
_EDIT_PREFIX = "edit."
# The fields of all painted views, one below the other.
_VIEW_TENSORS = tuple(field.name for field in fields(PaintedView))


@dataclass(frozen=True)
class Recipe:
    """The request behind an edit; stored as JSON beside the changed tensors.

    Args:
        prompt: Text prompt; empty for an edit by mask alone.
        class_names: Classes that may change.
        region: Where the edited copy is visible.
        scale: Lengths of the source head, which the region is relative to.
        config_hash: Hash of the resolved configuration.
    """

    prompt: str
    class_names: tuple[str, ...]
    region: RegionOptions
    scale: HeadScale
    config_hash: str


def save_edit(
    path: str | Path,
    edited: EditedGenerator,
    recipe: Recipe,
    *,
    views: Sequence[PaintedView],
) -> None:
    """Write `ws`, the changed weights, and the inputs of the region.

    Args:
        edited: Source and finished copy.
        views: Painted views.
    """
    tensors = {f"{_EDIT_PREFIX}{name}": value for name, value in edited.edit_state().items()}
    tensors["source_ws"] = edited.source_ws
    columns = zip(*(vars(view).values() for view in views), strict=True)
    tensors |= dict(zip(_VIEW_TENSORS, map(torch.cat, columns), strict=True))
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "recipe": json.dumps(dataclasses.asdict(recipe)),
        "generator_sha256": weights_hash(edited.generator),
    }
    save_weights(path, tensors, metadata=metadata)


def load_edit(
    path: str | Path,
    generator: Generator,
) -> tuple[EditedGenerator, Recipe]:
    """Apply a saved edit to its generator; it renders exactly as the finished edit did.

    Raises:
        UserError: If the file is missing or damaged, or was made with another generator.
    """
    tensors, metadata = _read(path, next(generator.parameters()).device)
    if (version := metadata.get("format_version")) != str(FORMAT_VERSION):
        raise UserError(f"edit {path} has format version {version}; use {FORMAT_VERSION}")
    if metadata.get("generator_sha256") != weights_hash(generator):
        raise UserError(f"edit {path} was made with a different generator")
    try:
        recipe = config_from_dict(Recipe, json.loads(metadata["recipe"]))
        class_ids = [generator.label_set.class_id(name) for name in recipe.class_names]
        rows = zip(*(tensors[name].split(1) for name in _VIEW_TENSORS), strict=True)
        views = [PaintedView(*row) for row in rows]
        regions = make_regions(recipe.region, class_ids, views, recipe.scale, generator.label_set)
        edited = EditedGenerator(generator, tensors["source_ws"], *regions)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"edit {path} is incomplete: {error!r}") from None
    edited.load_edit_state(
        {
            name.removeprefix(_EDIT_PREFIX): value
            for name, value in tensors.items()
            if name.startswith(_EDIT_PREFIX)
        }
    )
    return edited, recipe


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's state: names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _read(path: str | Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not Path(path).is_file():
        raise UserError(f"edit not found: {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"edit {path} cannot be read: {error}") from None
