"""Train a 2D prior: a tiny Stable Diffusion with ControlNet, or a ControlNet on an existing one."""

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from mate3d.errors import UserError
from mate3d.outputs.visualize import make_image_grid, save_image
from training.data.dataset import PortraitDataset
from training.prior.data import (
    CachedBatches,
    CaptionedImages,
    PriorBatch,
    class_weights,
    image_batches,
    load_images,
    make_control_image,
    make_normal_maps,
    require_captions,
    stream_batches,
)
from training.prior.models import (
    PriorArchitecture,
    PriorNetworks,
    fast_numerics,
    load_base,
    make_noise_scheduler,
    make_pipeline,
    make_tiny_networks,
    save_prior,
)
from training.prior.quality import measure_quality
from training.prior.stage import Stage, load_state, save_state
from training.prior.steps import (
    AutoencoderOptions,
    DiffusionOptions,
    StageOptions,
    autoencoder_losses,
    denoising_losses,
)
from training.run_folder.monitor import Monitor

MODEL_FOLDER = "model"
STATE_FILE = "state.pt"
QUALITY_FILE = "quality.json"
# References of the quality's measures come from this many images at most.
_QUALITY_IMAGES = 4096
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PriorOptions:
    """What to train, on what, and how long.

    Args:
        dataset_path: Data set with captions, a folder or zip.
        output: Receives the model folder, sample grids, stats and the state to resume from.
        resolution: Side of the training images in pixels.
        architecture: Sizes; not used on top of a base.
        autoencoder: Its stage; not used on top of a base.
        diffusion: Stage of denoiser, text encoder and ControlNet, or of the ControlNet alone.
        base: Stable Diffusion folder in diffusers' format; None trains one from scratch.
        resume: Go on from the state in `output`.
        seed: Of initial weights, order and noise.
        device: Where to train.
        with_bfloat16: Compute the forward pass in bfloat16 where that is safe.
        num_workers: Processes that read images on top of a base.
        tick_steps: Steps between status lines.
        snapshot_steps: Steps between snapshots of model and state.
        num_samples: Captions and label maps of the sample grid, which shows each with each.
        guidance_scale: Of the sample grid and of the quality's samples.
        quality_samples: Samples of which the quality is measured at the end; 0 leaves it out.
    """

    dataset_path: str
    output: str
    resolution: int
    diffusion: DiffusionOptions
    architecture: PriorArchitecture | None = None
    autoencoder: AutoencoderOptions | None = None
    base: str | None = None
    resume: bool = False
    seed: int = 0
    device: torch.device = torch.device("cpu")
    with_bfloat16: bool = True
    num_workers: int = 0
    tick_steps: int = 50
    snapshot_steps: int = 500
    num_samples: int = 5
    guidance_scale: float = 3.0
    quality_samples: int = 0


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
    trainer = PriorTrainer(options, load_state(state_path) if options.resume else None)
    try:
        networks = trainer.train(with_progress_bar=with_progress_bar)
    finally:
        trainer.close()
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
        self._monitor: Monitor | None = None
        torch.manual_seed(options.seed)

    def train(self, *, with_progress_bar: bool) -> PriorNetworks:
        """Train what is not trained yet, save the model, and return it."""
        options = self._options
        if options.base is not None:
            networks = load_base(options.base).to(self._device)
            self._monitor = self._make_monitor(with_progress_bar)
            return self._train_diffusion(networks, self._stream(networks))
        assert options.architecture is not None and options.autoencoder is not None
        data = load_images(self._dataset)
        networks = make_tiny_networks(options.architecture, data.captions, options.resolution)
        networks.to(self._device)
        self._monitor = self._make_monitor(with_progress_bar)
        self._train_autoencoder(networks, data)
        return self._train_diffusion(networks, self._encode(networks, data))

    def _make_monitor(self, with_progress_bar: bool) -> Monitor:
        return Monitor(
            self._output,
            images_seen=self._images_seen_before(),
            total_images=self._images_of_autoencoder() + _num_images(self._options.diffusion),
            with_progress_bar=with_progress_bar,
        )

    def close(self) -> None:
        """Finish the logs."""
        if self._monitor is not None:
            self._monitor.close()

    def _images_of_autoencoder(self) -> int:
        """Return the images of the whole first stage, which a base makes superfluous."""
        options = self._options
        return 0 if options.base is not None else _num_images(options.autoencoder)

    def _images_seen_before(self) -> int:
        if self._state is None:
            return 0
        name, step = self._state["name"], self._state["step"]
        before = self._images_of_autoencoder() if name == "diffusion" else 0
        return before + step * getattr(self._options, name).batch_size

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
            save_state(self._output / STATE_FILE, stage.state_dict())
            self._save_reconstructions(stage, data)

        self._run(stage, compute_losses, save, images_before=0)
        networks.vae = stage.averages["vae"]

    def _encode(self, networks: PriorNetworks, data: CaptionedImages) -> CachedBatches:
        """Encode the data set, and set the factor that gives latents unit variance."""
        batches = CachedBatches(
            data,
            networks.vae.eval().requires_grad_(False),
            batch_size=self._options.diffusion.batch_size,
            seed=self._options.seed,
            position=self._diffusion_position(),
        )
        factor = 1 / float(batches.latents.std())
        networks.vae.register_to_config(scaling_factor=factor)
        _logger.info("latents of %d images, scaling factor %.3f", len(data.captions), factor)
        return batches

    def _stream(self, networks: PriorNetworks) -> Iterator[PriorBatch]:
        for module in (networks.vae, networks.text_encoder, networks.unet):
            module.eval().requires_grad_(False)
        return stream_batches(
            self._dataset,
            networks.vae,
            batch_size=self._options.diffusion.batch_size,
            seed=self._options.seed,
            position=self._diffusion_position(),
            num_workers=self._options.num_workers,
        )

    def _diffusion_position(self) -> int:
        if self._state is None or self._state["name"] != "diffusion":
            return 0
        return self._state["step"] * self._options.diffusion.batch_size

    def _train_diffusion(
        self, networks: PriorNetworks, batches: Iterator[PriorBatch]
    ) -> PriorNetworks:
        """Train the ControlNet and, without a base, denoiser and text encoder with it."""
        options = self._options.diffusion
        is_base = self._options.base is not None
        names = ("controlnet",) if is_base else ("unet", "text_encoder", "controlnet")
        trained = {name: networks.modules()[name].train() for name in names}
        stage = Stage("diffusion", trained, options, seed=self._options.seed + 1)
        self._restore(stage)
        scheduler = make_noise_scheduler(networks)
        averaged = dataclasses.replace(networks, **dict(stage.averages.items()))

        def compute_losses() -> dict[str, Tensor]:
            return denoising_losses(networks, scheduler, next(batches), options, stage.generator)

        def save() -> None:
            frozen = {} if is_base else {"vae": networks.vae.state_dict()}
            save_state(self._output / STATE_FILE, stage.state_dict() | frozen)
            save_prior(self._output / MODEL_FOLDER, averaged, with_base=not is_base)
            self._save_samples(averaged, stage.step)

        self._run(stage, compute_losses, save, images_before=self._images_of_autoencoder())
        return averaged

    def _restore(self, stage: Stage) -> None:
        if self._state is not None and self._state["name"] == stage.name:
            stage.load_state_dict(self._state)

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
            with fast_numerics(self._device, with_bfloat16=options.with_bfloat16):
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
        images = data.images[: 2 * self._options.num_samples].float() / 127.5 - 1
        vae = stage.averages["vae"]
        output = vae.decode(vae.encode(images.to(self._device)).latent_dist.mean).sample
        pairs = torch.cat([images, output.cpu()])
        path = self._output / f"reconstructions_{stage.step:06d}.png"
        save_image(path, make_image_grid(pairs, len(images)))

    def _save_samples(self, networks: PriorNetworks, step: int) -> None:
        count = min(self._options.num_samples, len(self._dataset))
        items = [self._dataset[index] for index in range(count)]
        label_maps = torch.stack([item["label_map"] for item in items])
        grid = sample_grid(
            networks,
            [item["caption"] for item in items],
            make_control_image(label_maps, self._dataset.label_set),
            guidance_scale=self._options.guidance_scale,
        )
        save_image(self._output / f"samples_{step:06d}.png", grid)


def _num_images(options: StageOptions) -> int:
    return options.steps * options.batch_size


def _stage_line(stage: Stage, stats: dict[str, float]) -> str:
    prefix = f"Loss/{stage.name}/"
    losses = [f"{k.removeprefix(prefix)} {v:.4f}" for k, v in stats.items() if prefix in k]
    place = f"{stage.name} step {stage.step}/{stage.options.steps}"
    return f"{place}  {stage.progress:4.0%}  min {stage.seconds / 60:.1f}  " + "  ".join(losses)


@torch.no_grad()
def sample_grid(
    networks: PriorNetworks,
    prompts: Sequence[str],
    control: Tensor,  # [M, 3, H, W] in 0..1
    *,
    guidance_scale: float,
    num_inference_steps: int = 20,
    seed: int = 0,
) -> Tensor:  # [3, (P + 1) * H, M * W] in [-1, 1]
    """Draw every prompt (row) under every label map (column), the label maps on top.

    Args:
        networks: The prior.
        prompts: P texts.
        control: Coloured label maps.
        guidance_scale: Of classifier-free guidance.
        num_inference_steps: Denoising steps.
        seed: Of the initial noise.
    """
    pipeline = make_pipeline(networks)
    rows = [control * 2 - 1]
    for prompt in prompts:
        images = pipeline(
            [prompt] * len(control),
            image=control.to(networks.unet.device),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        ).images
        rows.append(images.float().cpu() * 2 - 1)
    return make_image_grid(torch.cat(rows), len(control))
