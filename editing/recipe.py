"""Save an edit as a small file, and apply it again to the generator it was made with."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from editing.edited_generator import EditedGenerator
from editing.regions import RegionOptions, make_region
from mate3d.checkpoints.storage import save_weights
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.options import config_from_dict

FORMAT_VERSION = 1
_EDIT_PREFIX = "edit."


@dataclass(frozen=True)
class Recipe:
    """The request behind an edit; stored as JSON beside the changed tensors.

    Args:
        prompt: Text prompt; empty for an edit by mask alone.
        class_names: Classes that may change.
        region: Where the edited copy is visible.
        config_hash: Hash of the resolved configuration.
    """

    prompt: str
    class_names: tuple[str, ...]
    region: RegionOptions
    config_hash: str


def save_edit(
    path: str | Path,
    edited: EditedGenerator,
    recipe: Recipe,
    *,
    camera: Tensor,  # [1, 25]
    repainted: Tensor,  # [1, 1, H, W] bool
) -> None:
    """Write `ws`, the changed weights, and the inputs of the region.

    Args:
        edited: Source and finished copy.
        camera: Camera of the painted view.
        repainted: Pixels of that view whose label was changed.
    """
    tensors = {f"{_EDIT_PREFIX}{name}": value for name, value in edited.edit_state().items()}
    tensors |= {"source_ws": edited.source_ws, "camera": camera, "repainted": repainted}
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
    tensors, metadata = _read(path)
    if metadata.get("generator_sha256") != weights_hash(generator):
        raise UserError(f"edit {path} was made with a different generator")
    try:
        recipe = config_from_dict(Recipe, json.loads(metadata["recipe"]))
        class_ids = [generator.label_set.class_id(name) for name in recipe.class_names]
        region = make_region(recipe.region, class_ids, tensors["camera"], tensors["repainted"])
        edited = EditedGenerator(generator, tensors["source_ws"], region)
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


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not Path(path).is_file():
        raise UserError(f"edit not found: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"edit {path} cannot be read: {error}") from None
