"""Train the small generator with the release's rendering that tests/data/soft_cat holds.

    python -m tests.editing.make_soft_generator STATE_FOLDER OUTPUT_FOLDER

The release's beta of 0.1 makes surfaces foggy: density is 5 per unit where the distance is zero,
absorption saturates at 9 per unit, and empty space absorbs 0.313 (spec 6.2 and 6.4). A generator
of metric distances would be only fog, so distances start ten times as steep, with a dense wall
behind the head for the background, which is a class of its own and has no other place. Then the
whole generator is trained by traced pictures and labels alone, through the renderer.
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import save_image

from mate3d.checkpoint import save_generator
from mate3d.checkpoints.storage import load_document, save_document
from mate3d.generator import Generator, GeneratorConfig
from mate3d.labels import get_label_set, one_hot_mask
from mate3d.procedural.portraits import sample_cameras
from mate3d.procedural.tracer import render_analytic
from mate3d.rendering.rays import DepthDraws
from mate3d.rendering.renderer import RenderingConfig
from training.start.warm_start import AttributeHead, portraits_of
from training.start.warm_start_losses import class_weights, sample_training_points, small_classes

CONFIG = GeneratorConfig(
    label_set="catmask_hq",
    z_dim=32,
    w_dim=96,
    mapping_layers=3,
    mapping_lr_multiplier=5.0,
    camera_scale=0.0,
    plane_resolution=64,
    plane_channels=16,
    plane_layout="eg3d_legacy",
    channel_base=2560,
    channel_max=80,
    hidden_width=32,
    num_features=16,
    beta=0.1,
    neural_rendering_resolution=32,
    sr_input_resolution=32,
    resolution=64,
    sr_channels=(32, 16),
    rendering=RenderingConfig(
        num_coarse_samples=16,
        num_fine_samples=16,
        density_activation="softplus_shifted",
        importance_bins="legacy_midpoints",
        background_class=None,
    ),
)
NUM_FIELD_STEPS, NUM_PICTURE_STEPS = 1000, 1300
FIELD_BATCH, PICTURE_BATCH, NUM_POINTS, POOL_SIZE, SAVE_EVERY = 4, 2, 3072, 1200, 100
STEEPNESS = 10.0
WALL_DISTANCE = 0.25


def field_losses(generator: Generator, z: Tensor, ws: Tensor) -> dict[str, Tensor]:
    """Return losses of steep distances, labels and colours at points."""
    field, portraits = generator.make_field(ws), portraits_of(generator, z)
    reach = 0.55 * CONFIG.box_size
    small = small_classes(generator.label_set)
    points = sample_training_points(portraits, small, ws, NUM_POINTS, reach)
    truth, predicted = portraits.sample(points), field.sample(points)
    # A bowl around the head, open towards all cameras.
    x, y, z_axis = points.abs()[..., 0], points.abs()[..., 1], points[..., 2]
    wall = z_axis + WALL_DISTANCE - 0.8 * (F.relu(x - 0.3) + F.relu(y - 0.35))
    wall = wall.unsqueeze(-1)
    class_sdf = torch.cat([wall, truth.class_sdf[..., 1:]], dim=-1)
    sdf = torch.minimum(truth.sdf, wall)
    losses = {}
    for name, target in (("sdf", sdf), ("class_sdf", class_sdf)):
        error = (getattr(predicted, name) / STEEPNESS - target).abs() / (target.abs() + 0.02)
        losses[name] = error.mean()
    colors = torch.where(wall < truth.sdf, portraits.background.unsqueeze(1), truth.features)
    nearness = torch.exp(-F.relu(sdf) / 0.02 - F.relu(-sdf) / 0.1)
    error = (predicted.features[..., :3] - colors).abs() * nearness
    losses["color"] = error.mean() / nearness.mean()
    labels = class_sdf.argmin(dim=-1)
    share = torch.bincount(labels.flatten(), minlength=class_sdf.shape[-1]) / labels.numel()
    weight = class_weights(share)[labels] * nearness.squeeze(-1)
    logits = -predicted.class_sdf.transpose(1, 2) / (0.1 * STEEPNESS)
    errors = F.cross_entropy(logits, labels, reduction="none")
    losses["label"] = 0.1 * (errors * weight).sum() / weight.sum()
    return losses


class Pool:
    """A ring of traced pictures."""

    def __init__(self) -> None:
        self.items: list[tuple[Tensor, ...]] = []
        self.next = 0

    def draw(self, generator: Generator) -> tuple[Tensor, ...]:
        """Add a picture, or more if there are few, and return z, camera, image, label map."""
        for _ in range(max(1, PICTURE_BATCH - len(self.items))):
            z, camera = torch.randn(1, CONFIG.z_dim), sample_cameras(1)
            truth = render_analytic(portraits_of(generator, z), camera, CONFIG.resolution)
            item = (z, camera, truth.image, truth.label_map.byte())
            if len(self.items) < POOL_SIZE:
                self.items.append(item)
            else:
                self.items[self.next % POOL_SIZE] = item
            self.next += 1
        chosen = torch.randint(len(self.items), (PICTURE_BATCH,)).tolist()
        parts = zip(*(self.items[index] for index in chosen), strict=True)
        return tuple(map(torch.cat, parts))


def picture_losses(
    generator: Generator, ws: Tensor, camera: Tensor, image: Tensor, label_map: Tensor
) -> dict[str, Tensor]:
    """Return losses of raw and final pictures and labels, with gradients everywhere."""
    output = generator.render(
        generator.make_field(ws),
        ws,
        camera,
        draws=DepthDraws(mode="random"),
        detach_semantic_density=False,
    )
    target = 2 * one_hot_mask(label_map.long(), generator.label_set.num_classes) - 1
    weight = class_weights((target + 1).mean(dim=(0, 2, 3), keepdim=True) / 2)
    weight = weight / weight.mean()
    losses = {}
    for name, picture, scores in (
        ("raw", output.image_raw, output.segmentation_raw),
        ("final", output.image, output.segmentation),
    ):
        side = picture.shape[-1]
        wanted, wanted_scores = (F.adaptive_avg_pool2d(t, side) for t in (image, target))
        losses[f"image_{name}"] = (picture - wanted).abs().mean()
        steps = [(picture - wanted).diff(dim=axis).abs().mean() for axis in (2, 3)]
        losses[f"edges_{name}"] = sum(steps)
        losses[f"labels_{name}"] = ((scores - wanted_scores).square() * weight).mean()
        # Squared errors alone leave the mouth below the skin everywhere.
        entropy = F.cross_entropy(5 * scores, (wanted_scores + 1) / 2, weight.flatten())
        losses[f"entropy_{name}"] = 0.2 * entropy
    return losses


@torch.no_grad()
def evaluate(generator: Generator, seed: int = 7, count: int = 32) -> tuple[list[float], Tensor]:
    """Return each class's IoU over heads of random views, and pictures beside the truth."""
    torch.manual_seed(seed)
    z, camera = torch.randn(count, CONFIG.z_dim), sample_cameras(count)
    truth = render_analytic(portraits_of(generator, z), camera, CONFIG.resolution)
    parts = [generator(z[i : i + 4], camera[i : i + 4]) for i in range(0, count, 4)]
    labels = torch.cat([part.segmentation.argmax(dim=1) for part in parts])
    raw = torch.cat([part.segmentation_raw.argmax(dim=1) for part in parts])
    ious = []
    small = truth.label_map[:, 1::2, 1::2]
    for found, wanted in ((labels, truth.label_map), (raw, small)):
        for index in range(6):
            both, one = (found == index) & (wanted == index), (found == index) | (wanted == index)
            ious.append(float(both.sum() / one.sum().clamp(min=1)))
    palette = torch.tensor(get_label_set(CONFIG.label_set).palette) / 127.5 - 1
    image = torch.cat([part.image for part in parts])
    rows = [truth.image[:8], image[:8]]
    rows += [palette[t[:8]].movedim(-1, 1) for t in (truth.label_map, labels)]
    rows += [F.interpolate(palette[raw[:8]].movedim(-1, 1), size=64)]
    rows += [F.interpolate(torch.cat([p.image_raw for p in parts])[:8], size=64)]
    return ious, torch.cat(rows)


def main(state_folder: str, output_folder: str) -> None:
    """Train, resuming from the state folder, and save the generator."""
    folder = Path(state_folder)
    torch.manual_seed(0)
    generator = Generator(CONFIG)
    head = AttributeHead(generator)
    parameters = [*generator.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.99))
    done, pool, total = 0, Pool(), NUM_FIELD_STEPS + NUM_PICTURE_STEPS
    if (folder / "state.pt").is_file():
        state = load_document(folder / "state.pt")
        done = state["done"]
        generator.load_state_dict(state["generator"])
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        torch.manual_seed(done)
    while done < total:
        z, is_field = torch.randn(256, CONFIG.z_dim), done < NUM_FIELD_STEPS
        if not is_field:
            drawn, *views = pool.draw(generator)
            z = torch.cat([drawn, z[PICTURE_BATCH:]])
        ws = generator.map(z, sample_cameras(len(z)))
        generator.mapping.update_average(ws.detach())
        losses = {"attributes": head.loss(z, ws)}
        count = FIELD_BATCH if is_field else PICTURE_BATCH
        first, first_z = ws[:count], z[:count]
        if is_field:
            losses |= field_losses(generator, first_z, first)
            progress, peak = done / NUM_FIELD_STEPS, 1e-2
        else:
            losses |= picture_losses(generator, first, *views)
            progress, peak = (done - NUM_FIELD_STEPS) / NUM_PICTURE_STEPS, 6e-3
        rate = peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 0.05 + 20 * progress)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        done += 1
        if done % 20 == 0:
            print(
                done, {name: round(value.item(), 4) for name, value in losses.items()}, flush=True
            )
        if done % SAVE_EVERY == 0 or done == total:
            state = {"done": done, "generator": generator.state_dict(), "head": head.state_dict()}
            save_document(folder / "new.pt", state | {"optimizer": optimizer.state_dict()})
            (folder / "new.pt").rename(folder / "state.pt")
        if done % (2 * SAVE_EVERY) == 0 or done == total:
            ious, pictures = evaluate(generator)
            torch.manual_seed(done)
            print("iou", [round(value, 3) for value in ious], flush=True)
            save_image(pictures.clamp(-1, 1) / 2 + 0.5, folder / "pictures.png", nrow=8)
    save_generator(output_folder, generator.eval(), dtype=torch.float16)


if __name__ == "__main__":
    main(*sys.argv[1:])
