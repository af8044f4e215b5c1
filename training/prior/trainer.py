"""Train a 2D prior: a tiny Stable Diffusion with ControlNet, or a ControlNet on an existing one."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import DDPMScheduler
from torch import Tensor

from mate3d.atomic import atomic_file
from mate3d.checkpoints.storage import load_document, save_document
from mate3d.errors import UserError
from mate3d.outputs.visualize import make_image_grid, save_image
from training.data.dataset import PortraitDataset
from training.prior.data import (
    CaptionedImages,
    PriorBatch,
    cached_batches,
    class_weights,
    encode_posterior,
    image_batches,
    load_images,
    make_control_image,
    make_normal_maps,
    require_captions,
    stream_batches,
    to_float,
)
from training.prior.models import (
    PriorNetworks,
    draw_samples,
    fast_numerics,
    load_base,
    make_tiny_networks,
    save_prior,
)
from training.prior.options import PriorOptions, StageOptions
from training.prior.quality import measure_quality
from training.prior.stage import Stage
from training.prior.steps import autoencoder_losses, denoising_losses
from training.run_folder.monitor import Monitor

MODEL_FOLDER = "model"
STATE_FILE = "state.pt"
QUALITY_FILE = "quality.json"
# References of the quality's measures come from this many images at most.
_QUALITY_IMAGES = 4096
_logger = logging.getLogger(__name__)


def train_prior(options: PriorOptions, *, with_progress_bar: bool = False) -> Path:
    """Train a prior and return its model folder.

    Raises:
        UserError: If data set, base or output do not fit.
    """
    output = Path(options.output)
    state_path = output / STATE_FILE
    if (output / MODEL_FOLDER).exists() and not options.resume:
        raise UserError(f"output {output} already holds a prior; give another or resume=true")
    if options.resume and not state_path.is_file():
        raise UserError(f"output {output} holds no {STATE_FILE} to resume from")
    require_captions(options.dataset_path)
    # Its bars for files of a few megabytes would tear the training's own bar apart.
    transformers.utils.logging.disable_progress_bar()
    output.mkdir(parents=True, exist_ok=True)
    trainer = PriorTrainer(options, load_document(state_path) if options.resume else None)
    networks = trainer.train(with_progress_bar=with_progress_bar)
    if options.quality_samples > 0:
        _save_quality(networks, options)
    return output / MODEL_FOLDER


def _save_quality(networks: PriorNetworks, options: PriorOptions) -> None:
    dataset = PortraitDataset(options.dataset_path, resolution=options.resolution)
    quality = measure_quality(
        networks,
        load_images(dataset, max_images=_QUALITY_IMAGES),
        num_samples=options.quality_samples,
        guidance_scale=options.guidance_scale,
        seed=options.seed,
    )
    text = json.dumps(dataclasses.asdict(quality), indent=2)
    (Path(options.output) / QUALITY_FILE).write_text(text + "\n")
    _logger.info("quality: %s", text)


class PriorTrainer:
    """Runs the stages of a prior's training one after the other.

    Args:
        options: See `PriorOptions`.
        state: What an earlier run of the same options saved, or None.
    """

    def __init__(self, options: PriorOptions, state: dict | None = None):
        self._options = options
        self._state = state
        self._output = Path(options.output)
        self._device = options.device
        self._dataset = PortraitDataset(options.dataset_path, resolution=options.resolution)
        first = {"autoencoder": options.autoencoder} if options.base is None else {}
        self._stages: dict[str, StageOptions] = {**first, "diffusion": options.diffusion}
        torch.manual_seed(options.seed)

    def train(self, *, with_progress_bar: bool) -> PriorNetworks:
        """Train what is not trained yet, save the model, and return it."""
        options, data = self._options, None
        if options.base is not None:
            networks = load_base(options.base).to(self._device)
        else:
            assert options.architecture is not None and options.autoencoder is not None
            data = load_images(self._dataset)
            networks = make_tiny_networks(options.architecture, data.captions, options.resolution)
            networks.to(self._device)
        monitor = Monitor(
            self._output,
            images_seen=sum(map(self._images_done, self._stages)),
            total_images=sum(map(_num_images, self._stages.values())),
            with_progress_bar=with_progress_bar,
        )
        with contextlib.closing(monitor) as self._monitor:
            if data is not None:
                self._train_autoencoder(networks, data)
            return self._train_diffusion(networks, self._make_batches(networks, data))

    def _make_batches(
        self, networks: PriorNetworks, data: CaptionedImages | None
    ) -> Iterator[PriorBatch]:
        """Encode the data set at once or, on top of a base, when a batch is needed."""
        options = self._options
        order = {
            "batch_size": options.diffusion.batch_size,
            "seed": options.seed,
            "position": self._images_done("diffusion"),
        }
        for module in (networks.vae, networks.text_encoder, networks.unet):
            module.eval().requires_grad_(False)
        if data is None:
            num_workers = options.num_workers
            return stream_batches(self._dataset, networks.vae, num_workers=num_workers, **order)
        latents = encode_posterior(networks.vae, data.images)
        # Gives latents unit variance.
        factor = 1 / float(latents[0].std())
        networks.vae.register_to_config(scaling_factor=factor)
        _logger.info("latents of %d images, scaling factor %.3f", len(data.captions), factor)
        return cached_batches(data, *latents, **order)

    def _images_done(self, name: str) -> int:
        """Return the images of a stage that an earlier run used; all if it was in a later one."""
        stages, at = list(self._stages), self._state["name"] if self._state else None
        if at is None or stages.index(name) > stages.index(at):
            return 0
        options = self._stages[name]
        return self._state["step"] * options.batch_size if name == at else _num_images(options)

    def _train_autoencoder(self, networks: PriorNetworks, data: CaptionedImages) -> None:
        """Train `networks.vae`, which becomes the average of its weights."""
        options = self._options.autoencoder
        if self._state is not None and self._state["name"] != "autoencoder":
            networks.vae.load_state_dict(self._state["vae"])
            return
        stage = Stage("autoencoder", {"vae": networks.vae}, options, seed=self._options.seed)
        self._restore(stage)
        normal_maps, normal_label_maps = make_normal_maps(
            options.num_normal_maps, self._options.resolution, self._options.seed
        )
        batches = image_batches(
            torch.cat([data.images, normal_maps]),
            torch.cat([data.label_maps, normal_label_maps]),
            batch_size=options.batch_size,
            seed=self._options.seed,
            position=stage.step * options.batch_size,
            device=self._device,
        )
        num_classes = data.label_set.num_classes
        weights = class_weights(data.label_maps, num_classes, options.part_balance)
        weights = weights.to(self._device)
        latent_shape = networks.unet.config.in_channels, *(2 * [networks.unet.config.sample_size])

        def compute_losses() -> dict[str, Tensor]:
            noise = torch.randn(options.batch_size, *latent_shape, generator=stage.generator)
            images, label_map = next(batches)
            return autoencoder_losses(
                networks.vae,
                images,
                weights[label_map].unsqueeze(1),
                noise.to(self._device),
                options,
            )

        def save() -> None:
            self._save_state(stage.state_dict())
            self._save_reconstructions(stage, data)

        self._run(stage, compute_losses, save, images_before=0)
        networks.vae = stage.averages["vae"]

    def _train_diffusion(
        self, networks: PriorNetworks, batches: Iterator[PriorBatch]
    ) -> PriorNetworks:
        """Train the ControlNet and, without a base, denoiser and text encoder with it."""
        options = self._options.diffusion
        is_base = self._options.base is not None
        names = ("controlnet",) if is_base else ("unet", "text_encoder", "controlnet")
        trained = {name: networks.modules()[name].train().requires_grad_() for name in names}
        stage = Stage("diffusion", trained, options, seed=self._options.seed + 1)
        self._restore(stage)
        scheduler = DDPMScheduler.from_config(networks.scheduler.config)
        total = sum(map(_num_images, self._stages.values()))
        averaged = dataclasses.replace(networks, **dict(stage.averages.items()))

        def compute_losses() -> dict[str, Tensor]:
            return denoising_losses(networks, scheduler, next(batches), options, stage.generator)

        def save() -> None:
            frozen = {} if is_base else {"vae": networks.vae.state_dict()}
            self._save_state(stage.state_dict() | frozen)
            save_prior(self._output / MODEL_FOLDER, averaged, with_base=not is_base)
            self._save_samples(averaged, stage.step)

        self._run(stage, compute_losses, save, images_before=total - _num_images(options))
        return averaged

    def _restore(self, stage: Stage) -> None:
        if self._state is not None and self._state["name"] == stage.name:
            stage.load_state_dict(self._state)

    def _save_state(self, state: dict[str, Any]) -> None:
        with atomic_file(self._output / STATE_FILE) as path:
            save_document(path, state)

    def _run(
        self,
        stage: Stage,
        compute_losses: Callable[[], dict[str, Tensor]],
        save: Callable[[], None],
        *,
        images_before: int,
    ) -> None:
        """Step until the stage is over, with a status line a tick and snapshots in between."""
        options = self._options
        monitor = self._monitor

        def compute() -> dict[str, Tensor]:
            with fast_numerics(self._device, options.precision):
                return compute_losses()

        while not stage.is_finished:
            losses = stage.advance(compute)
            images_seen = images_before + stage.step * stage.options.batch_size
            monitor.record({f"Loss/{stage.name}/{k}": v for k, v in losses.items()})
            monitor.advance(images_seen)
            if stage.step % options.tick_steps == 0:
                stats = monitor.tick(images_seen)
                _logger.info(_stage_line(stage, stats))
            if stage.step % options.snapshot_steps == 0 and not stage.is_finished:
                save()
        save()

    @torch.no_grad()
    def _save_reconstructions(self, stage: Stage, data: CaptionedImages) -> None:
        images = to_float(data.images[: 2 * self._options.num_samples])
        vae = stage.averages["vae"]
        output = vae.decode(vae.encode(images.to(self._device)).latent_dist.mean).sample
        pairs = torch.cat([images, output.cpu()])
        path = self._output / f"reconstructions_{stage.step:06d}.png"
        save_image(path, make_image_grid(pairs, len(images)))

    def _save_samples(self, networks: PriorNetworks, step: int) -> None:
        """Draw every caption (row) under every label map (column), the label maps on top."""
        count = min(self._options.num_samples, len(self._dataset))
        batch = self._dataset.read_batch(range(count))
        control = make_control_image(batch["label_map"], self._dataset.label_set)
        scale = self._options.guidance_scale
        rows = [
            draw_samples(networks, [caption] * count, control, guidance_scale=scale)
            for caption in batch["caption"]
        ]
        grid = make_image_grid(torch.cat([control * 2 - 1, *rows]), count)
        save_image(self._output / f"samples_{step:06d}.png", grid)


def _num_images(options: StageOptions) -> int:
    return options.steps * options.batch_size


def _stage_line(stage: Stage, stats: dict[str, float]) -> str:
    prefix = f"Loss/{stage.name}/"
    losses = [f"{k.removeprefix(prefix)} {v:.4f}" for k, v in stats.items() if prefix in k]
    place = f"{stage.name} step {stage.step}/{stage.options.steps}"
    return f"{place}  {stage.progress:4.0%}  min {stage.seconds / 60:.1f}  " + "  ".join(losses)
