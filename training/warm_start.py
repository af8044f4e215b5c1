"""Supervised warm start: regress the procedural field that belongs to each latent.

A portrait's attributes are a fixed function of z, so its true distances, labels and colours are
known for any latent. The generator first learns them at points and along single rays, then its
super-resolution learns from whole pictures; adversarial training follows from there.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mate3d.errors import UserError
from mate3d.field import FieldSamples, TriPlaneField
from mate3d.generator import Generator
from mate3d.labels import one_hot_mask
from mate3d.layers import FullyConnected
from mate3d.procedural.cat import BASIC_CAT_ATTRIBUTES, cat_parameters_from_direction
from mate3d.procedural.cat_field import CatField
from mate3d.procedural.portraits import sample_cameras
from mate3d.procedural.tracer import render_analytic, trace_rays
from mate3d.rays import DepthDraws, sample_rays
from mate3d.renderer import (
    FieldRender,
    composite_features,
    evaluate_rays,
    render_field,
    sample_depths,
)

# Distances are compared relative to themselves plus this length, so that the surface counts most.
_SURFACE_WIDTH = 0.02
# Classes are told apart this close to the surface, by differences of distance of this order.
_LABEL_WIDTH = 0.005


@dataclass(frozen=True)
class WarmStartConfig:
    """Lengths and sizes of the warm start.

    Args:
        num_field_steps: Steps on points and rays (mapping, backbone, decoder).
        num_image_steps: Steps on whole pictures (both super-resolutions).
        batch_size: Heads a field step.
        num_points: Points a head.
        num_rays: Rays a head; 0 learns from points alone.
        ray_interval: Every how many field steps rays are traced; tracing costs most.
        image_batch_size: Pictures an image step.
        pool_size: Traced pictures kept for image steps; tracing costs more than learning.
        lr: Adam's peak learning rate; decays to a tenth along a cosine.
        color_weight: Weight of surface colours at points.
        label_weight: Weight of telling the classes apart at the surface.
        ray_weight: Weight of composited colours and opacity.
        attribute_weight: Weight of predicting a cat's attributes from its style vector. Latents
            cost nothing without fields, so the mapping learns from many more heads this way.
        attribute_batch_size: Latents a step that only the mapping sees.
    """

    num_field_steps: int = 4000
    num_image_steps: int = 1000
    batch_size: int = 4
    num_points: int = 4096
    num_rays: int = 512
    ray_interval: int = 4
    image_batch_size: int = 4
    pool_size: int = 512
    lr: float = 1e-2
    color_weight: float = 1.0
    label_weight: float = 0.1
    ray_weight: float = 1.0
    attribute_weight: float = 1.0
    attribute_batch_size: int = 256


@torch.no_grad()
def sample_training_points(
    cats: CatField,
    ws: Tensor,  # [B, L, w_dim]
    num_points: int,
    reach: float,
) -> Tensor:  # [B, N, 3] in -reach..reach
    """Draw a quarter of the points anywhere, a half near the surface, a quarter near small parts.

    Near ones are the best of four times as many candidates, by distance and a Gumbel draw.
    """
    num_quarter = num_points // 4
    candidates = (torch.rand(len(ws), 4 * num_points, 3, device=ws.device) * 2 - 1) * reach
    class_sdf = cats.class_sdf(candidates)
    chosen = [candidates[:, :num_quarter]]
    for distances, count in (
        (class_sdf[..., 1:], 2 * num_quarter),
        (class_sdf[..., 2:], num_quarter),
    ):
        nearness = -distances.amin(dim=-1).abs() / _SURFACE_WIDTH
        gumbel = -torch.empty_like(nearness).exponential_().log()
        index = (nearness + gumbel).topk(count, dim=1).indices
        chosen.append(candidates.gather(1, index.unsqueeze(-1).expand(-1, -1, 3)))
    return torch.cat(chosen, dim=1)


def field_losses(
    generator: Generator,
    ws: Tensor,  # [B, L, w_dim]
    cats: CatField,
    config: WarmStartConfig,
    *,
    with_rays: bool,
) -> dict[str, Tensor]:
    """Return relative errors of distances, and errors of colours near the surface."""
    field = generator.make_field(ws, noise_mode="const")
    # Rays also cross space outside of the planes, whose features are zero: it must learn to be
    # empty.
    reach = 0.625 * generator.config.box_size
    points = sample_training_points(cats, ws, config.num_points, reach)
    truth, predicted = cats.sample(points), field.sample(points)
    losses = {}
    for name in ("sdf", "class_sdf"):
        target = getattr(truth, name)
        error = (getattr(predicted, name) - target).abs() / (target.abs() + _SURFACE_WIDTH)
        losses[name] = error.mean()
    nearness = torch.exp(-truth.sdf.abs() / _SURFACE_WIDTH)
    error = (predicted.features[..., :3] - truth.features).abs() * nearness
    losses["point_color"] = config.color_weight * error.mean() / nearness.mean()
    losses["point_label"] = config.label_weight * label_loss(predicted, truth)
    if with_rays:
        losses |= _ray_losses(generator, field, cats, config)
    if field.background is not None:
        error = field.background[:, :3] - cats.background_color
        losses["background"] = error.abs().mean()
    return losses


def label_loss(
    predicted: FieldSamples,
    truth: FieldSamples,
) -> Tensor:  # scalar
    """Return the cross entropy of the nearest class close to the surface.

    Thin parts such as the mouth are lost in distances whose error is small beside the whole head.
    """
    num_classes = truth.class_sdf.shape[-1]
    is_close = (truth.sdf.abs() < 2 * _LABEL_WIDTH).float().flatten()
    labels = truth.class_sdf.argmin(dim=-1).flatten()
    share = torch.bincount(labels, is_close, minlength=num_classes) / is_close.sum().clamp(min=1)
    weight = is_close * class_weights(share)[labels]
    logits = -predicted.class_sdf.flatten(0, 1) / _LABEL_WIDTH
    errors = nn.functional.cross_entropy(logits, labels, reduction="none")
    return (errors * weight).sum() / weight.sum().clamp(min=1)


def class_weights(
    share: Tensor,  # [...], fraction of pixels or points of each class
) -> Tensor:  # [...]
    """Weigh classes by the inverse root of their share, lest small parts drown in large ones."""
    return (share + 1e-3).rsqrt()


def _ray_losses(
    generator: Generator, field: TriPlaneField, cats: CatField, config: WarmStartConfig
) -> dict[str, Tensor]:
    """Compare random rays of random views with traced ones."""
    num_heads = len(field.texture_planes)
    camera = sample_cameras(num_heads).to(field.texture_planes.device)
    origins, directions = sample_rays(camera, generator.config.resolution)
    chosen = torch.randperm(origins.shape[1])[: config.num_rays]
    origins, directions = origins[:, chosen], directions[:, chosen]
    truth = trace_rays(cats, origins, directions)
    rendering = generator.config.rendering
    depths = sample_depths(field, origins, directions, rendering, DepthDraws(mode="random"))
    samples = evaluate_rays(field, origins, directions, depths, rendering)
    colors = composite_features(samples.features, samples.weights, rendering, field.background)
    opacity = samples.weights.sum(dim=2)
    hit = (truth.depth > 0).float().unsqueeze(-1)
    color_error = (colors[..., :3] - (truth.colors * 2 - 1)).abs().mean()
    return {
        "ray_color": config.ray_weight * 0.5 * color_error,
        "ray_opacity": config.ray_weight * (opacity - hit).abs().mean(),
    }


@dataclass
class Pictures:
    """Traced pictures beside what the generator renders for the same latents and cameras."""

    ws: Tensor  # [B, L, w_dim]
    view: FieldRender
    image: Tensor  # [B, 3, H, W]
    label_map: Tensor  # [B, H, W]


@torch.no_grad()
def make_pictures(generator: Generator, count: int) -> Pictures:
    """Trace new pictures and render the generator's fields for them."""
    config, device = generator.config, generator.mapping.w_avg.device
    z = torch.randn(count, config.z_dim, device=device)
    camera = sample_cameras(count).to(device)
    ws = generator.map(z, camera)
    view = render_field(
        generator.make_field(ws),
        *sample_rays(camera, config.neural_rendering_resolution),
        config.rendering,
        draws=DepthDraws(mode="random"),
    )
    truth = render_analytic(CatField(cat_parameters_from_direction(z)), camera, config.resolution)
    return Pictures(ws, view, truth.image, truth.label_map)


def join_pictures(pictures: list[Pictures]) -> Pictures:
    """Return several pictures as one batch."""
    views = [picture.view for picture in pictures]
    view = FieldRender(
        *(
            torch.cat([getattr(one, name) for one in views])
            for name in ("feature_image", "segmentation_raw", "depth", "opacity")
        ),
        normals=None,
        samples=None,
    )
    return Pictures(
        torch.cat([picture.ws for picture in pictures]),
        view,
        torch.cat([picture.image for picture in pictures]),
        torch.cat([picture.label_map for picture in pictures]),
    )


class PicturePool:
    """A growing, then rotating store of pictures; planes and decoder stay as they are meanwhile.

    Args:
        generator: Renders its side of the pictures.
        capacity: Most pictures kept.
    """

    def __init__(self, generator: Generator, capacity: int):
        self._generator, self._capacity = generator, capacity
        self._pictures: list[Pictures] = []
        self._next = 0

    def draw(self, count: int) -> Pictures:
        """Add one new picture, or as many as are missing, and return a random batch."""
        for _ in range(max(1, count - len(self._pictures))):
            picture = make_pictures(self._generator, 1)
            if len(self._pictures) < self._capacity:
                self._pictures.append(picture)
            else:
                self._pictures[self._next % self._capacity] = picture
            self._next += 1
        chosen = torch.randint(len(self._pictures), (count,)).tolist()
        return join_pictures([self._pictures[index] for index in chosen])


def picture_losses(
    generator: Generator,
    pictures: Pictures,
) -> dict[str, Tensor]:
    """Return errors of both super-resolutions; planes and decoder are left alone."""
    output = generator.superresolve(pictures.view, pictures.ws)
    target = 2 * one_hot_mask(pictures.label_map, generator.label_set.num_classes) - 1
    weight = class_weights((target + 1).mean(dim=(0, 2, 3), keepdim=True) / 2)
    segmentation_error = (output.segmentation - target).square() * weight / weight.mean()
    return {
        "image": (output.image - pictures.image).abs().mean(),
        "image_edges": (_edges(output.image) - _edges(pictures.image)).abs().mean(),
        "segmentation": segmentation_error.mean(),
    }


def _edges(image: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 6, H - 1, W - 1]
    corner = image[..., :-1, :-1]
    return torch.cat([image[..., 1:, :-1] - corner, image[..., :-1, 1:] - corner], dim=1)


class AttributeHead(nn.Module):
    """Predict a cat's attributes, each scaled to unit variance, from its style vector.

    Only the warm start uses it; afterwards style space is nearly linear in the attributes.
    """

    def __init__(self, generator: Generator):
        super().__init__()
        z = torch.randn(4096, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
        attributes = attribute_vectors(z)
        self.register_buffer("mean", attributes.mean(dim=0))
        self.register_buffer("deviation", attributes.std(dim=0))
        self.linear = FullyConnected(generator.config.w_dim, attributes.shape[1])

    def loss(
        self,
        z: Tensor,  # [B, z_dim]
        ws: Tensor,  # [B, L, w_dim]
    ) -> Tensor:  # scalar
        """Return the mean squared error of the prediction."""
        target = (attribute_vectors(z) - self.mean) / self.deviation
        return (self.linear(ws[:, 0]) - target).square().mean()


def attribute_vectors(
    z: Tensor,  # [B, z_dim]
) -> Tensor:  # [B, A]
    """Return all attributes of the cats that latents stand for, colours as three numbers each."""
    cats = cat_parameters_from_direction(z)
    return torch.cat([getattr(cats, name).view(len(z), -1) for name in BASIC_CAT_ATTRIBUTES], dim=1)


class WarmStart:
    """Run the warm start step by step; the caller owns the loop, logging and saving.

    Args:
        generator: Trained in place.
        config: Lengths and sizes.
    """

    def __init__(self, generator: Generator, config: WarmStartConfig):
        if generator.config.label_set != "catmask_hq":
            raise UserError(
                "warm_start=procedural knows cats only: the model's label_set is"
                f" '{generator.config.label_set}', allowed: catmask_hq"
            )
        self.generator, self.config = generator, config
        self.steps_done = 0
        self._pool = PicturePool(generator, config.pool_size)
        self._attribute_head = AttributeHead(generator).to(generator.mapping.w_avg.device)
        image_parameters = [
            *generator.superresolution.parameters(),
            *generator.segmentation_superresolution.parameters(),
        ]
        image_ids = {id(parameter) for parameter in image_parameters}
        field_parameters = [p for p in generator.parameters() if id(p) not in image_ids]
        field_parameters += self._attribute_head.parameters()
        self._field_optimizer = torch.optim.Adam(field_parameters, betas=(0.9, 0.99))
        self._image_optimizer = torch.optim.Adam(image_parameters, betas=(0.9, 0.99))

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return self.config.num_field_steps + self.config.num_image_steps

    def step(self) -> dict[str, float]:
        """Make one step and return its losses by name."""
        config = self.config
        num_field, done = config.num_field_steps, self.steps_done
        if done < num_field:
            losses = self._field_losses(with_rays=done % config.ray_interval == 0)
            self._update(self._field_optimizer, losses, done / num_field)
        else:
            losses = picture_losses(self.generator, self._pool.draw(config.image_batch_size))
            progress = (done - num_field) / config.num_image_steps
            self._update(self._image_optimizer, losses, progress)
        self.steps_done += 1
        return {name: value.item() for name, value in losses.items()}

    def _field_losses(self, *, with_rays: bool) -> dict[str, Tensor]:
        config, generator = self.config, self.generator
        device = generator.mapping.w_avg.device
        num_latents = max(config.batch_size, config.attribute_batch_size)
        z = torch.randn(num_latents, generator.config.z_dim, device=device)
        all_ws = generator.map(z, sample_cameras(num_latents).to(device))
        generator.mapping.update_average(all_ws.detach())
        attributes = config.attribute_weight * self._attribute_head.loss(z, all_ws)
        cats = CatField(cat_parameters_from_direction(z[: config.batch_size]))
        ws, with_rays = all_ws[: config.batch_size], with_rays and config.num_rays > 0
        losses = field_losses(generator, ws, cats, config, with_rays=with_rays)
        return losses | {"attributes": attributes}

    def _update(
        self, optimizer: torch.optim.Optimizer, losses: dict[str, Tensor], progress: float
    ) -> None:
        rate = self.config.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 0.05 + 20 * progress)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        optimizer.step()

    def state_dict(self) -> dict[str, object]:
        """Return optimisers and counter; the picture pool is traced anew after a resume."""
        return {
            "steps_done": self.steps_done,
            "attribute_head": self._attribute_head.state_dict(),
            "field_optimizer": self._field_optimizer.state_dict(),
            "image_optimizer": self._image_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Continue from `state_dict`."""
        self.steps_done = state["steps_done"]
        self._attribute_head.load_state_dict(state["attribute_head"])
        self._field_optimizer.load_state_dict(state["field_optimizer"])
        self._image_optimizer.load_state_dict(state["image_optimizer"])
