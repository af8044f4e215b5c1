"""Finished edits on disk: recipe.yaml says what was asked, edit.safetensors holds what changed."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from editing.head_scale import HeadScale
from editing.regions import ClassRegion, EditRegion, PaintedView, RegionOptions, make_regions
from editing.stacking import Layer, PlaneChange
from mate3d.checkpoints.storage import save_weights
from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.labels import LabelSet
from mate3d.options import config_from_dict

RECIPE_FILE, CHANGES_FILE = "recipe.yaml", "edit.safetensors"
FORMAT_VERSION = 3
_KINDS = ("texture", "shape")


@dataclass(frozen=True)
class StepRecipe:
    """The request behind one edit.

    Args:
        prompt: Text prompt; empty for an edit by mask alone.
        class_names: Classes that may change.
        region: Where the edited copy is visible.
        scale: Lengths of the head below, which the region is relative to.
        config_hash: Hash of the resolved configuration.
        prompts: Prompts of single labels.
        negative_prompt: Negative prompt.
        seed: Seed of the random draws.
        options: All other options of the edit.
        prior_sha256: Hash of each network of the prior; empty without one.
        strength: Share of the changes that is shown; 0 is the head below.
    """

    prompt: str
    class_names: tuple[str, ...]
    region: RegionOptions
    scale: HeadScale
    config_hash: str = ""
    prompts: dict[str, str] = field(default_factory=dict)
    negative_prompt: str = ""
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    prior_sha256: dict[str, str] = field(default_factory=dict)
    strength: float = 1.0


@dataclass(frozen=True)
class EditStep:
    """One finished edit of a chain.

    Args:
        recipe: What was asked for.
        views: Painted views.
        changes: What it added to texture and shape planes; None for nothing.
    """

    recipe: StepRecipe
    views: tuple[PaintedView, ...]
    changes: tuple[PlaneChange | None, PlaneChange | None]

    @property
    def is_shown(self) -> bool:
        """Whether the edit has any strength."""
        return self.recipe.strength != 0

    def regions(self, label_set: LabelSet) -> tuple[EditRegion, EditRegion | None]:
        """Return where the edit is visible, and where only its texture is."""
        if not self.is_shown:
            return ClassRegion(()), None
        recipe, class_ids = self.recipe, self.class_ids(label_set)
        return make_regions(recipe.region, class_ids, self.views, recipe.scale, label_set)

    def class_ids(self, label_set: LabelSet) -> tuple[int, ...]:
        """Return the classes that may change."""
        return tuple(map(label_set.class_id, self.recipe.class_names))

    def layer(self, label_set: LabelSet) -> Layer:
        """Return the edit as a layer of a stack."""
        strength = self.recipe.strength
        planes = (None if each is None else each.planes(strength) for each in self.changes)
        return Layer(tuple(planes), *self.regions(label_set))

    def scaled(self, share: float) -> "EditStep":
        """Return the edit with a share of its strength."""
        strength = self.recipe.strength * share
        return replace(self, recipe=replace(self.recipe, strength=strength))


@dataclass(frozen=True)
class EditRecipe:
    """A head and the edits on it.

    Args:
        source: Seed or latent file of the head.
        generator: Name of the generator, for people.
        generator_sha256: Hash of its weights.
        steps: The edits, the first one first.
        format_version: Of both files.
    """

    source: str
    generator: str
    generator_sha256: str
    steps: tuple[StepRecipe, ...]
    format_version: int = FORMAT_VERSION


def save_edit(
    folder: str | Path, generator: Generator, recipe: EditRecipe, ws: Tensor, steps: list[EditStep]
) -> None:
    """Write a head and the edits on it.

    Args:
        folder: Existing folder.
        recipe: Its steps and the hash of its generator are filled in.
        ws: Style vectors of the head, [1, L, w_dim].
    """
    tensors = {"source_ws": ws}
    for number, step in enumerate(steps, start=1):
        columns = zip(*(vars(view).values() for view in step.views), strict=True)
        for each, column in zip(fields(PaintedView), columns, strict=True):
            values = torch.cat(column)
            values = values if values.is_floating_point() else values.to(torch.uint8)
            tensors[f"{number}.{each.name}"] = values
        for kind, change in zip(_KINDS, step.changes, strict=True):
            if change is not None:
                tensors |= {f"{number}.{kind}.{name}": each for name, each in vars(change).items()}
    save_weights(
        Path(folder) / CHANGES_FILE, {name: _packed(each) for name, each in tensors.items()}
    )
    recipe = replace(
        recipe,
        generator_sha256=weights_hash(generator),
        steps=tuple(step.recipe for step in steps),
    )
    values = json.loads(json.dumps(dataclasses.asdict(recipe)))
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    (Path(folder) / RECIPE_FILE).write_text(text, encoding="utf-8")


def load_edit(
    folder: str | Path, generator: Generator
) -> tuple[EditRecipe, Tensor, tuple[EditStep, ...]]:
    """Return the recipe in a folder, the style vectors of its head, and its edits.

    Raises:
        UserError: If a file is missing or damaged, or was made with another generator.
    """
    path = Path(folder) / RECIPE_FILE
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        steps = [config_from_dict(StepRecipe, step) for step in values.pop("steps")]
        recipe = EditRecipe(**values, steps=tuple(steps))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no edit: {RECIPE_FILE} not found") from None
    except (
        OSError,
        UnicodeDecodeError,
        yaml.YAMLError,
        TypeError,
        AttributeError,
        KeyError,
    ) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if recipe.format_version != FORMAT_VERSION:
        raise UserError(f"{path} has format {recipe.format_version}; use {FORMAT_VERSION}")
    if (found := weights_hash(generator)) != recipe.generator_sha256:
        raise UserError(
            f"edit {folder} was made with a different generator: {recipe.generator or 'unnamed'},"
            f" sha256 {recipe.generator_sha256[:12]}; this one has {found[:12]}"
        )
    tensors = _read(Path(folder) / CHANGES_FILE, next(generator.parameters()).device)
    side = generator.config.plane_resolution
    try:
        steps = [
            EditStep(step, _views(tensors, number), _changes(tensors, number, side))
            for number, step in enumerate(recipe.steps, start=1)
        ]
        return recipe, tensors["source_ws"], tuple(steps)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"edit {folder} is incomplete: {error!r}") from None


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's state: names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().view(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def prior_hashes(guidance: Any) -> dict[str, str]:
    """Return the hash of each network of a prior; empty for None."""
    networks = guidance.named_children() if isinstance(guidance, nn.Module) else ()
    return {name: weights_hash(network) for name, network in networks}


def _views(tensors: dict[str, Tensor], number: int) -> tuple[PaintedView, ...]:
    columns = [tensors[f"{number}.{each.name}"] for each in fields(PaintedView)]
    columns = [each if each.is_floating_point() else each.long() for each in columns]
    return tuple(
        PaintedView(*row) for row in zip(*(each.split(1) for each in columns), strict=True)
    )


def _changes(tensors: dict[str, Tensor], number: int, side: int) -> tuple[PlaneChange | None, ...]:
    found = []
    for kind in _KINDS:
        texels = tensors.get(f"{number}.{kind}.texels")
        if texels is not None:
            bits = texels[:, None] >> torch.arange(8, device=texels.device, dtype=torch.uint8) & 1
            texels = bits.flatten()[: 3 * side**2].bool().view(3, side, side)
            values, scale = (tensors[f"{number}.{kind}.{name}"] for name in ("values", "scale"))
            texels = PlaneChange(texels, values, scale)
        found.append(texels)
    return tuple(found)


def _packed(values: Tensor) -> Tensor:
    """Return bits as bytes, the lowest bit first; other values as they are."""
    if values.dtype != torch.bool:
        return values
    bits = nn.functional.pad(values.flatten().to(torch.uint8), (0, -values.numel() % 8)).view(-1, 8)
    weights = 2 ** torch.arange(8, device=bits.device, dtype=torch.uint8)
    return (bits * weights).sum(dim=1).to(torch.uint8)


def _read(path: Path, device: torch.device) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"edit not found: {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"edit {path} cannot be read: {error}") from None
