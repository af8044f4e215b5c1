"""Complete procedural portraits: image, label map, depth, normals, camera, caption, latent."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mate3d.cameras import make_camera
from mate3d.errors import UserError
from mate3d.labels import CATMASK_HQ, CELEBAMASK_HQ, LabelSet
from mate3d.network.layers import normalize_second_moment
from mate3d.procedural.attributes import (
    Number,
    PortraitParameters,
    attribute_rows,
    join_portraits,
    set_attributes,
)
from mate3d.procedural.cats.captions import caption_cat
from mate3d.procedural.cats.cat import CatParameters, cat_parameters_from_latent
from mate3d.procedural.cats.cat_field import CatField
from mate3d.procedural.cats.varied_cat import varied_cat_parameters_from_latent
from mate3d.procedural.people.captions import caption_person
from mate3d.procedural.people.field import PersonField
from mate3d.procedural.people.person import PersonParameters, person_parameters_from_latent
from mate3d.procedural.portrait_field import PortraitField
from mate3d.procedural.tracer import AnalyticRender, render_analytic

MAX_YAW = 0.7
MAX_PITCH = 0.4


@dataclass(frozen=True)
class PortraitKind:
    """One kind of portrait: cats or people.

    Args:
        parameters_from_latent: Functions from [B, Z] latents to parameters, one per variety.
        field: Makes the field of a batch of parameters.
        caption: Describes portrait `index` of a batch, in random words.
    """

    parameters_from_latent: Mapping[str, Callable[[Tensor], PortraitParameters]]
    field: Callable[[Any], PortraitField]
    caption: Callable[[Any, int, random.Random], str]
    label_set: LabelSet

    def parameters_from_direction(
        self,
        z: Tensor,  # [B, Z]
    ) -> PortraitParameters:
        """Return the basic portrait that a generator should make for a latent.

        Mapping networks see only the direction of z, so its length is ignored here too.

        Raises:
            UserError: If z has fewer entries than the portraits need.
        """
        return self.parameters_from_latent["basic"](normalize_second_moment(z))


CAT = PortraitKind(
    parameters_from_latent={
        "basic": cat_parameters_from_latent,
        "rich": varied_cat_parameters_from_latent,
    },
    field=CatField,
    caption=caption_cat,
    label_set=CATMASK_HQ,
)
PERSON = PortraitKind(
    parameters_from_latent={"basic": person_parameters_from_latent},
    field=PersonField,
    caption=caption_person,
    label_set=CELEBAMASK_HQ,
)
_KIND_OF = {CatParameters: CAT, PersonParameters: PERSON}


def kind_of_labels(label_set: str) -> PortraitKind:
    """Return the kind of portrait with a label set.

    Raises:
        UserError: If there is none.
    """
    kinds = {kind.label_set.name: kind for kind in (CAT, PERSON)}
    if label_set not in kinds:
        raise UserError(
            f"no procedural portraits with label set {label_set}; use {' or '.join(kinds)}"
        )
    return kinds[label_set]


@dataclass
class ProceduralPortraits:
    """A batch of portraits with all of their ground truth.

    Args:
        z: [B, Z] latents that determine the portraits, apart from overridden attributes.
        camera: [B, 25].
        captions: One per portrait.
        attributes: One dictionary per portrait; colours are lists of three.
    """

    z: Tensor
    parameters: PortraitParameters
    camera: Tensor
    render: AnalyticRender
    captions: list[str]
    attributes: list[dict[str, Number]]


def sample_cameras(num: int, generator: torch.Generator | None = None) -> Tensor:  # [num, 25]
    """Sample cameras with yaw uniform in +-0.7 and pitch uniform in +-0.4 radians."""
    yaw, pitch = torch.rand(2, num, generator=generator) * 2 - 1
    return make_camera(MAX_YAW * yaw, MAX_PITCH * pitch)


def render_portrait(
    parameters: PortraitParameters,
    camera: Tensor,  # [B, 25]
    resolution: int,
    *,
    supersampling: int = 2,
) -> AnalyticRender:
    """Render heads of any kind, such as the ground truth of an edit.

    For example, `dataclasses.replace(parameters, ear_size=1.5 * parameters.ear_size)` enlarges the
    ears by half; `set_attributes` also checks values.

    Args:
        resolution: H = W in pixels.
        supersampling: Rays per pixel along each image axis.
    """
    field = _KIND_OF[type(parameters)].field(parameters)
    return render_analytic(field, camera, resolution, supersampling=supersampling)


def make_procedural_cat(
    seeds: Sequence[int], resolution: int, **options: Any
) -> ProceduralPortraits:
    """Make cats, "basic" (22 latent attributes) or "rich" (all 52); see `make_portraits`."""
    return make_portraits(CAT, seeds, resolution, **options)


def make_procedural_person(
    seeds: Sequence[int], resolution: int, **options: Any
) -> ProceduralPortraits:
    """Make people; for arguments and options see `make_portraits`."""
    return make_portraits(PERSON, seeds, resolution, **options)


def make_portraits(
    kind: PortraitKind,
    seeds: Sequence[int],
    resolution: int,
    *,
    latent_dim: int = 64,
    supersampling: int = 2,
    variety: str = "basic",
    attributes: Mapping[str, float | Sequence[float]] | None = None,
    factors: Mapping[str, float] | None = None,
) -> ProceduralPortraits:
    """Make one portrait per seed; a seed gives the same portrait in any batch.

    Args:
        resolution: H = W in pixels.
        latent_dim: Length of z; at least the number of attributes that vary.
        supersampling: Rays per pixel along each image axis.
        variety: "basic", or for cats also "rich".
        attributes: Values set on every portrait; see the parameters for names and ranges.
        factors: Multipliers of each portrait's own values; see `set_attributes`.

    Raises:
        UserError: If the variety or an attribute is unknown, or a value is not allowed.
    """
    if variety not in kind.parameters_from_latent:
        allowed = " or ".join(kind.parameters_from_latent)
        raise UserError(f"unknown variety '{variety}'; use {allowed}")
    latents, cameras = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        latents.append(torch.randn(1, latent_dim, generator=generator))
        cameras.append(sample_cameras(1, generator))
    z, camera = torch.cat(latents), torch.cat(cameras)
    # One by one, because matrix products round differently at different batch sizes.
    parts = [kind.parameters_from_latent[variety](latent) for latent in latents]
    parameters = set_attributes(join_portraits(parts), attributes, factors)
    return ProceduralPortraits(
        z=z,
        parameters=parameters,
        camera=camera,
        render=render_analytic(
            kind.field(parameters), camera, resolution, supersampling=supersampling
        ),
        captions=[
            kind.caption(parameters, index, random.Random(seed)) for index, seed in enumerate(seeds)
        ],
        attributes=attribute_rows(parameters),
    )
