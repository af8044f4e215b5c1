"""Train a 2D prior: a tiny Stable Diffusion with ControlNet, or a ControlNet on an existing one."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import transformers
from diffusers import DDPMScheduler
from torch import Tensor, nn

from mate3d.atomic import atomic_file
from mate3d.diffusion.networks import PriorNetworks
from mate3d.outputs.visualize import make_image_grid, save_image
from torch_utils.interruption import stop_on_signal
from training.prior.data import (
    CaptionedDatasets,
    CaptionedImages,
    PriorBatch,
    cached_batches,
    class_weights,
    encode_posterior,
    image_batches,
    load_images,
    make_control_image,
    make_normal_maps,
    stream_batches,
    to_float,
)
from training.prior.models import (
    draw_samples,
    fast_numerics,
    load_base,
    make_tiny_networks,
    save_prior,
)
from training.prior.options import PriorOptions, StageOptions
from training.prior.quality import PriorQuality, QualityCheck
from training.prior.steps import autoencoder_losses, denoising_losses
from training.run_folder.careful_loop import report_stop
from training.run_folder.monitor import Monitor
from training.run_folder.state_file import STATE_FILE, read_state, restore_random, write_state
from training.supervised_stage import Stage

MODEL_FOLDER = "model"
QUALITY_FILE = "quality.json"
_logger = logging.getLogger(__name__)


def train_prior(options: PriorOptions, *, command: str = "") -> Path | None:
    """Train a prior.

    Args:
        command: Starts this run; appears in the log line about resuming it.

    Returns:
        The model folder, or None if a signal stopped the run.

    Raises:
        UserError: If the dataset, base or state does not fit, or training diverges.
    """
    output = Path(options.output)
    # Its bars for files of a few megabytes would break up the training's own bar.
    transformers.utils.logging.disable_progress_bar()
    output.mkdir(parents=True, exist_ok=True)
    dataset = CaptionedDatasets(
        options.dataset_paths, options.resolution, num_held_out=options.quality_samples
    )
    check = QualityCheck(dataset, options) if options.quality_samples > 0 else None
    networks = PriorTrainer(options, dataset, command).train()
    if networks is None:
        return None
    if check is not None:
        _save_quality(output / QUALITY_FILE, check.measure(networks))
    return output / MODEL_FOLDER


def _save_quality(file: Path, quality: Mapping[str, PriorQuality]) -> None:
    values = {path: dataclasses.asdict(each) for path, each in quality.items()}
    text = json.dumps(values, indent=2)
    with atomic_file(file) as path:
        path.write_text(text + "\n")
    _logger.info("quality: %s", text)


class PriorTrainer:
    """Runs the stages of a prior's training one after the other.

    Raises:
        UserError: If there is nothing to resume, or the state does not fit.
    """

    def __init__(self, options: PriorOptions, dataset: CaptionedDatasets, command: str = ""):
        self._options, self._dataset, self._command = options, dataset, command
        self._output = Path(options.output)
        self._device = options.device
        first = {"autoencoder": options.autoencoder} if options.base is None else {}
        self._stages: dict[str, StageOptions] = {**first, "diffusion": options.diffusion}
        self._state_path = self._output / STATE_FILE
        sizes = options.architecture and dataclasses.asdict(options.architecture)
        parts = [[len(part), part.source.label_set.name] for part in dataset.datasets]
        self._model = [options.resolution, sizes, parts]
        self._state = read_state(self._state_path, self._model) if options.resume else None
        torch.manual_seed(options.seed)

    def train(self) -> PriorNetworks | None:
        """Train the remaining stages and save; return the networks, or None after a signal."""
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
        )
        with contextlib.closing(monitor) as self._monitor, stop_on_signal() as self._should_stop:
            stage = None if data is None else self._train_autoencoder(networks, data)
            if stage is None or stage.is_finished:
                stage = self._train_diffusion(networks, self._make_batches(networks, data))
        if stage.is_finished:
            return dataclasses.replace(networks, **dict(stage.averages.items()))
        report_stop(stage.position, self._command)
        return None

    def _make_batches(
        self, networks: PriorNetworks, data: CaptionedImages | None
    ) -> Iterator[PriorBatch]:
        """Encode the whole dataset up front or, with a base, batch by batch."""
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
        # Scales latents to unit variance.
        factor = 1 / float(latents[0].std())
        networks.vae.register_to_config(scaling_factor=factor)
        _logger.info("latents of %d images, scaling factor %.3f", len(data.captions), factor)
        return cached_batches(data, self._dataset.palette, *latents, **order)

    def _images_done(self, name: str) -> int:
        """Return how many images an earlier run used in a stage."""
        stages, at = list(self._stages), self._state["name"] if self._state else None
        if at is None or stages.index(name) > stages.index(at):
            return 0
        options = self._stages[name]
        return self._state["step"] * options.batch_size if name == at else _num_images(options)

    def _train_autoencoder(self, networks: PriorNetworks, data: CaptionedImages) -> Stage | None:
        """Train `networks.vae`, then replace it with the average of its weights."""
        options = self._options.autoencoder
        if self._state is not None and self._state["name"] != "autoencoder":
            networks.vae.load_state_dict(self._state["vae"])
            return None
        stage = self._make_stage("autoencoder", {"vae": networks.vae}, seed=self._options.seed)
        normal_maps, normal_label_maps = make_normal_maps(
            options.num_normal_maps,
            self._options.resolution,
            self._options.seed,
            self._dataset.label_sets,
        )
        batches = image_batches(
            torch.cat([data.images, normal_maps]),
            torch.cat([data.label_maps, normal_label_maps]),
            batch_size=options.batch_size,
            seed=self._options.seed,
            position=stage.step * options.batch_size,
            device=self._device,
        )
        num_classes = len(self._dataset.palette)
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
            self._save_reconstructions(stage)
            write_state(self._state_path, stage.state_dict(), self._model)

        self._run(stage, compute_losses, save, images_before=0)
        networks.vae = stage.averages["vae"]
        return stage

    def _train_diffusion(self, networks: PriorNetworks, batches: Iterator[PriorBatch]) -> Stage:
        """Train the ControlNet and, without a base, denoiser and text encoder with it."""
        options = self._options.diffusion
        is_base = self._options.base is not None
        names = ("controlnet",) if is_base else ("unet", "text_encoder", "controlnet")
        trained = {name: networks.modules()[name].train().requires_grad_() for name in names}
        stage = self._make_stage("diffusion", trained, seed=self._options.seed + 1)
        scheduler = DDPMScheduler.from_config(networks.scheduler.config)
        total = sum(map(_num_images, self._stages.values()))
        averaged = dataclasses.replace(networks, **dict(stage.averages.items()))

        def compute_losses() -> dict[str, Tensor]:
            return denoising_losses(networks, scheduler, next(batches), options, stage.generator)

        def save() -> None:
            save_prior(self._output / MODEL_FOLDER, averaged, with_base=not is_base)
            self._save_samples(averaged, stage.step)
            # Written last, so that a state never lacks the model that belongs to it.
            frozen = {} if is_base else {"vae": networks.vae.state_dict()}
            write_state(self._state_path, stage.state_dict() | frozen, self._model)

        self._run(stage, compute_losses, save, images_before=total - _num_images(options))
        return stage

    def _make_stage(self, name: str, networks: dict[str, nn.Module], *, seed: int) -> Stage:
        """Return a stage at its start, or where an earlier run saved it."""
        options = self._stages[name]
        stage = Stage(
            name,
            networks,
            options,
            warmup=lambda step, _: (step + 1) / max(options.warmup_steps, 1),
            ema_decay=options.ema_decay,
            seed=seed,
        )
        if self._state is not None and self._state["name"] == name:
            stage.load_state_dict(self._state)
            restore_random(self._state)
        return stage

    def _run(
        self,
        stage: Stage,
        compute_losses: Callable[[], dict[str, Tensor]],
        save: Callable[[], None],
        *,
        images_before: int,
    ) -> None:
        options = self._options

        def compute() -> dict[str, Tensor]:
            with fast_numerics(self._device, options.precision):
                return compute_losses()

        stage.run(
            compute,
            save,
            self._monitor,
            should_stop=self._should_stop,
            tick_steps=options.tick_steps,
            snapshot_steps=options.snapshot_steps,
            images_before=images_before,
        )

    @torch.no_grad()
    def _save_reconstructions(self, stage: Stage) -> None:
        images = to_float(self._dataset.examples(2 * self._options.num_samples).images)
        vae = stage.averages["vae"]
        output = vae.decode(vae.encode(images.to(self._device)).latent_dist.mean).sample
        pairs = torch.cat([images, output.cpu()])
        path = self._output / f"reconstructions_{stage.step:06d}.png"
        save_image(path, make_image_grid(pairs, len(images)))

    def _save_samples(self, networks: PriorNetworks, step: int) -> None:
        """Draw every caption (row) under every label map (column), with the label maps on top."""
        count = min(self._options.num_samples, len(self._dataset))
        examples = self._dataset.examples(count)
        control = make_control_image(examples.label_maps, self._dataset.palette)
        scale = self._options.guidance_scale
        rows = [
            draw_samples(networks, [caption] * count, control, guidance_scale=scale)
            for caption in examples.captions
        ]
        grid = make_image_grid(torch.cat([control * 2 - 1, *rows]), count)
        save_image(self._output / f"samples_{step:06d}.png", grid)


def _num_images(options: StageOptions) -> int:
    return options.steps * options.batch_size
