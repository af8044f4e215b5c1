"""A frozen generator and its learnable copy, combined into one head."""

import copy
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cached_property

import torch
from torch import Tensor, nn

from editing.fusion import FusedField
from editing.regions import EditRegion
from editing.stacking import Layer, PlaneChange, Stack, reached_texels, stacked
from mate3d.errors import UserError
from mate3d.generator import Generator, RenderOutput
from mate3d.rendering.field import Field, FieldProbe, open_probe
from mate3d.rendering.rays import sample_rays
from mate3d.rendering.renderer import FieldRender, render_field
from mate3d.rendering.triplane import TriPlaneField

# The two planes in their order, as learnable names.
PLANE_KINDS = ("texture", "shape")
_OWN_NAMES = ("ws", *PLANE_KINDS)


class EditedGenerator(nn.Module):
    """Source and edited head of one portrait.

    An edit changes the planes only. They follow from the style vectors, from the weights of a copy
    of the backbone, and from offsets that are added to them, which are the most local of the three.
    Decoder, super-resolution and background are shared with the source. The source's planes are
    computed once.

    Args:
        generator: Source generator; it is frozen.
        source_ws: Style vectors of the portrait, [1, L, w_dim].
        region: Where the edited copy is visible.
        look: Further points where only the copy's texture is visible; depends on the source's
            distances alone. None for no such points.
        learnable: What is optimised: "ws", "texture" and "shape" (offsets on the planes), and
            patterns of module or parameter names such as "backbone.blocks.*.to_image".
        layers: Earlier edits, which belong to the source.

    Raises:
        UserError: If a pattern matches no weights of the backbone, or if the generator cannot be
            edited (`check_editable`).
    """

    def __init__(
        self,
        generator: Generator,
        source_ws: Tensor,  # [1, L, w_dim]
        region: EditRegion,
        look: EditRegion | None = None,
        *,
        learnable: Sequence[str] = (),
        layers: Sequence[Layer] = (),
    ):
        super().__init__()
        check_editable(generator)
        self.generator = generator.eval().requires_grad_(False)
        self.region, self.look = region, look
        self.register_buffer("source_ws", source_ws.detach().clone())
        self.ws = nn.Parameter(self.source_ws.clone(), requires_grad="ws" in learnable)
        self.backbone = copy.deepcopy(generator.backbone)
        for pattern in learnable:
            if pattern not in _OWN_NAMES:
                _make_learnable(self.backbone, pattern)
        with torch.no_grad():
            self._source_planes = generator.make_planes(self.source_ws)
        self._stack = Stack(generator.make_field(self.source_ws, self._source_planes), layers)
        self._fixed_planes: tuple[Tensor, Tensor] | None = None
        # Offsets of texture and shape planes, by name.
        self.offsets = nn.ParameterDict()
        for name in PLANE_KINDS:
            if name in learnable:
                self._add_offset(name)

    def source_field(self) -> TriPlaneField:
        """Return the source head."""
        return stacked(self._stack.base, self._stack) if self._stack.layers else self._stack.base

    @cached_property
    def source_probe(self) -> FieldProbe:
        """A probe of the source head, shared by all its views."""
        return open_probe(self.source_field())

    def edited_field(self) -> TriPlaneField:
        """Return the head of the learnable copy, without fusion."""
        planes = self._fixed_planes or self._edited_planes()
        field = self.generator.make_field(self.source_ws, planes)
        return stacked(field, self._stack) if self._stack.layers else field

    def _edited_planes(self) -> tuple[Tensor, Tensor]:
        texture, shape = self.backbone(self.ws, "const")
        if "texture" in self.offsets:
            texture = texture + self.offsets["texture"]
        if "shape" in self.offsets:
            shape = shape + self.offsets["shape"]
        return texture, shape

    @torch.no_grad()
    def settle(self) -> tuple[PlaneChange | None, PlaneChange | None]:
        """End the optimisation: keep what changed in the precision in which it is saved."""
        # Losses move texels out of reach too, where nothing shows them.
        within = reached_texels(self.source_field(), (self.region, self.look))
        pairs = zip(self._source_planes, self._edited_planes(), strict=True)
        changes = tuple(PlaneChange.between(*pair, within) for pair in pairs)
        self.fix(changes)
        return changes

    @torch.no_grad()
    def fix(
        self, changes: tuple[PlaneChange | None, PlaneChange | None], strength: float = 1.0
    ) -> None:
        """Show a finished edit from now on, given as changes of texture and shape planes."""
        pairs = zip(self._source_planes, changes, strict=True)
        self._fixed_planes = tuple(
            planes if change is None else planes + change.planes(strength)
            for planes, change in pairs
        )

    def fused_field(self) -> FusedField:
        """Return the source outside the region and the learnable copy inside it."""
        return FusedField(self.source_field(), self.edited_field(), self.region, self.look)

    def render(
        self,
        field: Field,
        camera: Tensor,  # [1, 25]
        **options: bool,
    ) -> RenderOutput:
        """Render one of the three fields, softened or not, with the source's networks."""
        return self.generator.superresolve(
            self.render_raw(field, camera, **options), self.source_ws
        )

    def render_raw(
        self,
        field: Field,
        camera: Tensor,  # [1, 25]
        *,
        with_normals: bool = False,
        with_samples: bool = False,
    ) -> FieldRender:
        """Do the same without super-resolution.

        Unlike in training, the gradient of the segmentation reaches the density, so a painted
        outline moves the surface and not only the labels.
        """
        config = self.generator.config
        return render_field(
            field,
            *sample_rays(camera, config.neural_rendering_resolution),
            config.rendering,
            with_normals=with_normals,
            with_samples=with_samples,
            detach_semantic_density=False,
        )

    def plane_std(self, kind: str) -> float:
        """Return the standard deviation of the source's texture or shape planes."""
        return self._source_planes[PLANE_KINDS.index(kind)].std().item()

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return the learnable weights of the backbone, without `ws`."""
        return [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]

    def edit_state(self) -> dict[str, Tensor]:
        """Return everything that an edit changed: `ws`, learnable weights, plane offsets."""
        changed = {name: each for name, each in self.named_parameters() if each.requires_grad}
        changed |= {"ws": self.ws}
        return {name: tensor.detach().clone() for name, tensor in changed.items()}

    @torch.no_grad()
    def load_edit_state(self, state: dict[str, Tensor]) -> None:
        """Load a state that `edit_state` returned.

        Raises:
            UserError: If a tensor is unknown or its shape does not fit this generator.
        """
        for name in PLANE_KINDS:
            if f"offsets.{name}" in state and name not in self.offsets:
                self._add_offset(name)
        targets = {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("generator.")
        }
        for name, tensor in state.items():
            if name not in targets or targets[name].shape != tensor.shape:
                raise UserError(f"edit has {name} {list(tensor.shape)}, not in this generator")
            targets[name].copy_(tensor)

    def _add_offset(self, kind: str) -> None:
        planes = self._source_planes[PLANE_KINDS.index(kind)]
        self.offsets[kind] = nn.Parameter(torch.zeros_like(planes))


def check_editable(generator: Generator) -> None:
    """Reject generators without a signed distance for each part.

    Raises:
        UserError: If the geometry is a density or there are no labels, as in EG3D.
    """
    config = generator.config
    if config.geometry != "sdf" or generator.label_set.num_classes == 0:
        raise UserError(
            f"this generator has geometry={config.geometry} and label_set={config.label_set}; "
            "editing needs geometry=sdf and labels (init_from= of train makes one from it)"
        )


def _make_learnable(backbone: nn.Module, pattern: str) -> None:
    found = [
        parameter
        for name, parameter in backbone.named_parameters(prefix="backbone")
        if fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
    ]
    if not found:
        raise UserError(
            f"learnable '{pattern}' names no weights; use ws, texture, shape or names below "
            "backbone, such as backbone.blocks.*.to_image"
        )
    for parameter in found:
        parameter.requires_grad_(True)
