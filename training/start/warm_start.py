"""Supervised warm start: regress the procedural field of each latent.

A portrait's attributes are a fixed function of z, so its true distances, labels and colours are
known for any latent. The generator first learns them at points and along single rays, then its
super-resolution learns from whole images; adversarial training follows. The model's label set
selects cats or people.
"""

import math
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mate3d.errors import UserError
from mate3d.generator import Generator
from mate3d.labels import one_hot_mask
from mate3d.network.layers import FullyConnected
from mate3d.procedural.attributes import PortraitParameters
from mate3d.procedural.portrait_field import PortraitField
from mate3d.procedural.portraits import kind_of_labels, sample_cameras
from mate3d.procedural.tracer import render_analytic
from mate3d.rendering.rays import DepthDraws, sample_rays
from mate3d.rendering.renderer import FieldRender, render_field
from training.settings import WarmStartSettings
from training.start.warm_start_losses import class_weights, field_losses


class Pictures(NamedTuple):
    """Traced images, and the generator's raw renders for the same latents and cameras."""

    ws: Tensor  # [B, L, w_dim]
    feature_image: Tensor  # [B, C, h, w]
    segmentation_raw: Tensor  # [B, K, h, w]
    depth: Tensor  # [B, 1, h, w]
    opacity: Tensor  # [B, 1, h, w]
    image: Tensor  # [B, 3, H, W]
    label_map: Tensor  # [B, H, W]


@torch.no_grad()
def make_pictures(generator: Generator, count: int) -> Pictures:
    """Trace new images and render the generator's fields for them."""
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
    truth = render_analytic(portraits_of(generator, z), camera, config.resolution)
    rendered = (view.feature_image, view.segmentation_raw, view.depth, view.opacity)
    return Pictures(ws, *rendered, truth.image, truth.label_map)


class PicturePool:
    """A ring buffer of up to `capacity` images, valid while planes and decoder do not change."""

    def __init__(self, generator: Generator, capacity: int):
        self._generator, self._capacity = generator, capacity
        self._pictures: list[Pictures] = []
        self._next = 0

    def draw(self, count: int) -> Pictures:
        """Add a new image, or more if the pool is too small, and return a random batch."""
        for _ in range(max(1, count - len(self._pictures))):
            picture = make_pictures(self._generator, 1)
            if len(self._pictures) < self._capacity:
                self._pictures.append(picture)
            else:
                self._pictures[self._next % self._capacity] = picture
            self._next += 1
        chosen = torch.randint(len(self._pictures), (count,)).tolist()
        parts = zip(*(self._pictures[index] for index in chosen), strict=True)
        return Pictures(*map(torch.cat, parts))


def picture_losses(
    generator: Generator,
    pictures: Pictures,
) -> dict[str, Tensor]:
    """Return the losses of both super-resolutions; planes and decoder get no gradients."""
    view = FieldRender(
        pictures.feature_image,
        pictures.segmentation_raw,
        pictures.depth,
        pictures.opacity,
        normals=None,
        samples=None,
    )
    output = generator.superresolve(view, pictures.ws)
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


def portraits_of(
    generator: Generator,
    z: Tensor,  # [B, z_dim]
) -> PortraitField:
    """Return the portraits of latents, of the kind with the generator's label set."""
    kind = kind_of_labels(generator.config.label_set)
    return kind.field(kind.parameters_from_direction(z))


class AttributeHead(nn.Module):
    """Predicts a portrait's attributes, scaled to unit variance, from its style vector.

    Used only in the warm start, to make style space nearly linear in the attributes. Constant
    attributes are left out.
    """

    def __init__(self, generator: Generator):
        super().__init__()
        self._kind = kind_of_labels(generator.config.label_set)
        z = torch.randn(4096, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
        attributes = attribute_vectors(self._kind.parameters_from_direction(z))
        self._is_varied = attributes.amax(dim=0) > attributes.amin(dim=0)
        attributes = attributes[:, self._is_varied]
        self.register_buffer("mean", attributes.mean(dim=0))
        self.register_buffer("deviation", attributes.std(dim=0))
        self.linear = FullyConnected(generator.config.w_dim, attributes.shape[1])

    def loss(
        self,
        z: Tensor,  # [B, z_dim]
        ws: Tensor,  # [B, L, w_dim]
    ) -> Tensor:  # scalar
        """Return the mean squared error of the prediction."""
        attributes = attribute_vectors(self._kind.parameters_from_direction(z))
        target = (attributes[:, self._is_varied.to(z.device)] - self.mean) / self.deviation
        return (self.linear(ws[:, 0]) - target).square().mean()


def attribute_vectors(
    portraits: PortraitParameters,
) -> Tensor:  # [B, A]
    """Return all attributes of portraits as vectors, with three numbers per colour."""
    values = [getattr(portraits, declared.name) for declared in fields(portraits)]
    return torch.cat([value.view(len(portraits), -1) for value in values], dim=1)


class WarmStart:
    """Trains a generator in place, step by step; the caller handles loop, logging and saving.

    Raises:
        UserError: If there are no procedural portraits with the generator's label set, or its
            latents are too short for them.
    """

    def __init__(self, generator: Generator, config: WarmStartSettings):
        self.generator, self.config = generator, config
        self.steps_done = 0
        self._pool = PicturePool(generator, config.pool_size)
        try:
            self._attribute_head = AttributeHead(generator).to(generator.mapping.w_avg.device)
        except UserError as error:
            raise UserError(f"train.warm_start=procedural: {error}") from None
        image_parameters = [
            *generator.superresolution.parameters(),
            *generator.segmentation_superresolution.parameters(),
        ]
        field_parameters = [
            *(p for name, p in generator.named_parameters() if "superresolution." not in name),
            *self._attribute_head.parameters(),
        ]
        self._field_optimizer = torch.optim.Adam(field_parameters, betas=(0.9, 0.99))
        self._image_optimizer = torch.optim.Adam(image_parameters, betas=(0.9, 0.99))

    @property
    def num_steps(self) -> int:
        """Total number of steps."""
        return self.config.num_field_steps + self.config.num_image_steps

    def step(self) -> dict[str, float]:
        """Run one step and return its losses by name."""
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
        portraits = portraits_of(generator, z[: config.batch_size])
        ws, with_rays = all_ws[: config.batch_size], with_rays and config.num_rays > 0
        losses = field_losses(generator, ws, portraits, config, with_rays=with_rays)
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
        """Return optimizers and counter; the image pool is refilled after resuming."""
        return {
            "steps_done": self.steps_done,
            "attribute_head": self._attribute_head.state_dict(),
            "field_optimizer": self._field_optimizer.state_dict(),
            "image_optimizer": self._image_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Resume from `state_dict`."""
        self.steps_done = state["steps_done"]
        self._attribute_head.load_state_dict(state["attribute_head"])
        self._field_optimizer.load_state_dict(state["field_optimizer"])
        self._image_optimizer.load_state_dict(state["image_optimizer"])
