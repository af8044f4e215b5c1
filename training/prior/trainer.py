"""Train a 2D prior: a tiny Stable Diffusion with ControlNet, or a ControlNet on an existing one."""

import contextlib
import copy
import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDPMScheduler
from torch import Tensor, nn

from mate3d.atomic import atomic_file
from mate3d.diffusion.networks import PriorNetworks
from mate3d.errors import UserError
from mate3d.outputs.visualize import make_image_grid, save_image
from torch_utils.batch_random import BatchRandom
from torch_utils.distributed import is_main, run_on_main, world
from torch_utils.interruption import stop_on_signal
from torch_utils.ops.execution import DTYPES
from training.data.loader import infinite_batches
from training.prior.data import (
    CaptionedDatasets,
    CaptionedImages,
    class_weights,
    draw_captions,
    load_images,
    make_control_image,
    make_normal_maps,
    possible_captions,
    to_float,
)
from training.prior.encodings import Encodings, encode_images, encode_texts
from training.prior.models import (
    draw_samples,
    encode_captions,
    load_base,
    make_tiny_networks,
    optimizer_class,
    plain_attention,
    save_prior,
)
from training.prior.options import PriorOptions, StageOptions
from training.prior.quality import PriorQuality, QualityCheck
from training.prior.steps import PriorBatch, autoencoder_losses, denoising_losses
from training.run_folder.careful_loop import report_stop
from training.run_folder.monitor import Monitor
from training.run_folder.state_file import STATE_FILE, read_state, restore_random, write_state
from training.step_inputs import BatchParts
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
    # It warns of casts that are right.
    diffusers.utils.logging.set_verbosity_error()
    output.mkdir(parents=True, exist_ok=True)
    dataset = CaptionedDatasets(
        options.dataset_paths, options.resolution, num_held_out=options.quality_samples
    )
    is_measured = options.quality_samples > 0
    check = QualityCheck(dataset, options) if is_measured and is_main() else None
    networks = PriorTrainer(options, dataset, command).train()
    if networks is None:
        return None
    if is_measured:
        run_on_main(lambda: _save_quality(output / QUALITY_FILE, check.measure(networks)))
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
        if options.precision == "fp16" and self._device.type == "cpu":
            raise UserError("precision=fp16 needs a GPU; use bf16 or fp32")
        first = {"autoencoder": options.autoencoder} if options.base is None else {}
        self._stages: dict[str, StageOptions] = {**first, "diffusion": options.diffusion}
        self._state_path = self._output / STATE_FILE
        sizes = options.architecture and dataclasses.asdict(options.architecture)
        parts = [[len(part), part.source.label_set.name] for part in dataset.datasets]
        self._model = [options.resolution, sizes, parts, options.base]
        self._state = read_state(self._state_path, self._model) if options.resume else None
        self._parts = {
            name: BatchParts(stage.batch_size, stage.accumulation, world(), f"prior.{name}")
            for name, stage in self._stages.items()
        }
        counts = [stage.steps * stage.batch_size for stage in self._stages.values()]
        *before, self._total_images = accumulate(counts, initial=0)
        self._images_before = dict(zip(self._stages, before, strict=True))
        torch.manual_seed(options.seed)

    def train(self) -> PriorNetworks | None:
        """Train the remaining stages and save; return the networks, or None after a signal."""
        options, data, images_seen = self._options, None, 0
        if options.base is not None:
            networks = load_base(options.base, DTYPES[options.precision])
        else:
            assert options.architecture is not None and options.autoencoder is not None
            data = load_images(self._dataset)
            networks = make_tiny_networks(options.architecture, data.captions, options.resolution)
        depths = [len(net.config.block_out_channels) for net in (networks.vae, networks.unet)]
        factor = 2 ** (sum(depths) - 2)
        if options.resolution % factor:
            raise UserError(f"prior.resolution={options.resolution}; use a multiple of {factor}")
        if self._state is not None:
            name, step = self._state["name"], self._state["step"]
            images_seen = self._images_before[name] + step * self._stages[name].batch_size
        monitor = Monitor(
            self._output,
            images_seen=images_seen,
            total_images=self._total_images,
            is_main=is_main(),
        )
        with (
            contextlib.closing(monitor) as self._monitor,
            stop_on_signal() as self._should_stop,
            contextlib.nullcontext() if data is None else plain_attention(self._device),
        ):
            stage = None if data is None else self._train_autoencoder(networks, data)
            if stage is None or stage.is_finished:
                stage = self._train_diffusion(networks)
        if stage.is_finished:
            return self._complete(networks, stage).to(self._device)
        report_stop(stage.position, self._command)
        return None

    def _complete(self, networks: PriorNetworks, stage: Stage) -> PriorNetworks:
        """Return the networks that draw: with averaged weights, all in one precision."""
        averages = dict(stage.averages.items())
        if self._options.base is not None:
            averages["controlnet"] = copy.deepcopy(averages["controlnet"]).to(networks.unet.dtype)
        return dataclasses.replace(networks, **averages)

    def _draws(self, stage: Stage, num_items: int) -> Iterator[tuple[list[int], BatchRandom]]:
        """Yield items and random numbers of each part of this process's batches."""
        parts, seed = self._parts[stage.name], self._options.seed
        batches = infinite_batches(
            num_items,
            parts.process_batch_size,
            seed=seed,
            position=stage.step * stage.options.batch_size,
            rank=parts.world.rank,
            num_replicas=parts.world.size,
        )
        for rows in batches:
            for part in range(parts.accumulation):
                key = (seed, list(self._stages).index(stage.name), stage.step)
                yield rows[part :: parts.accumulation], BatchRandom(key, parts.places(part))

    def _train_autoencoder(self, networks: PriorNetworks, data: CaptionedImages) -> Stage | None:
        """Train `networks.vae`, then replace it with the average of its weights."""
        options = self._options.autoencoder
        if self._state is not None and self._state["name"] != "autoencoder":
            networks.vae.load_state_dict(self._state["vae"])
            return None
        stage = self._make_stage("autoencoder", {"vae": networks.vae.to(self._device)})
        normal_maps, normal_label_maps = make_normal_maps(
            options.num_normal_maps,
            self._options.resolution,
            self._options.seed,
            self._dataset.label_sets,
        )
        images = torch.cat([data.images, normal_maps])
        label_maps = torch.cat([data.label_maps, normal_label_maps])
        draws = self._draws(stage, len(images))
        num_classes = len(self._dataset.palette)
        weights = class_weights(data.label_maps, num_classes, options.part_balance)
        latent_shape = networks.unet.config.in_channels, *(2 * [networks.unet.config.sample_size])

        def compute_losses(_: int) -> dict[str, Tensor]:
            chosen, random = next(draws)
            return autoencoder_losses(
                networks.vae,
                to_float(images[chosen].to(self._device)),
                weights[label_maps[chosen].long()].unsqueeze(1).to(self._device),
                random.randn((len(chosen), *latent_shape)).to(self._device),
                options,
            )

        def save() -> None:
            self._save_reconstructions(stage)
            write_state(self._state_path, stage.state_dict(), self._model)

        self._run(stage, compute_losses, save)
        networks.vae = stage.averages["vae"]
        return stage

    def _train_diffusion(self, networks: PriorNetworks) -> Stage:
        """Train the ControlNet and, without a base, denoiser and text encoder with it."""
        options, is_base = self._options.diffusion, self._options.base is not None
        for module in (networks.vae, networks.text_encoder, networks.unet):
            module.eval().requires_grad_(False)
        images, texts = self._encode(networks)
        names = ("controlnet",) if is_base else ("unet", "text_encoder", "controlnet")
        if options.gradient_checkpointing:
            networks.unet.enable_gradient_checkpointing()
            networks.controlnet.enable_gradient_checkpointing()
        networks.unet.to(self._device)
        trained = {
            name: networks.modules()[name].to(self._device).train().requires_grad_()
            for name in names
        }
        parts = self._parts["diffusion"]
        num_controlled = options.batch_size - round(options.batch_size * options.control_dropout)
        stage = self._make_stage(
            "diffusion",
            trained,
            optimizer=optimizer_class(options.optimizer, self._device),
            uses_all=num_controlled >= parts.num_units,
        )
        scheduler = DDPMScheduler.from_config(networks.scheduler.config)
        captions, readable = self._dataset.captions, images.whole("is_own").nonzero().flatten()
        draws = self._draws(stage, len(readable))

        def compute_losses(part: int) -> dict[str, Tensor]:
            rows, random = next(draws)
            chosen = readable[rows].tolist()
            drawn = draw_captions(
                [captions[row] for row in chosen],
                dropout=options.caption_dropout,
                phrase_share=options.phrase_share,
                random=random,
            )
            # The batch is shuffled, so its first samples are a random selection.
            is_controlled = [place < num_controlled for place in parts.places(part)]
            label_maps = images.take("label_map", chosen)[: sum(is_controlled)]
            batch = PriorBatch(
                latent_mean=images.take("mean", chosen).to(self._device),
                latent_std=images.take("std", chosen).to(self._device),
                embeds=texts(drawn).to(self._device),
                control=make_control_image(label_maps, self._dataset.palette).to(self._device),
            )
            return denoising_losses(networks, scheduler, batch, random, snr_gamma=options.snr_gamma)

        def save() -> None:
            averaged = dataclasses.replace(networks, **dict(stage.averages.items()))
            save_prior(self._output / MODEL_FOLDER, averaged, with_base=not is_base)
            self._save_samples(self._complete(networks, stage), stage.step)
            # Written last, so that a state never lacks the model that belongs to it.
            frozen = {} if is_base else {"vae": networks.vae.state_dict()}
            write_state(self._state_path, stage.state_dict() | frozen, self._model)

        self._run(stage, compute_losses, save)
        return stage

    def _encode(
        self, networks: PriorNetworks
    ) -> tuple[Encodings, Callable[[Sequence[str]], Tensor]]:
        """Encode all images and, if the text encoder is frozen, all captions."""
        options, dataset, device = self._options, self._dataset, self._device
        cache = self._output / "encodings" if options.cache is None else Path(options.cache)
        images = encode_images(
            cache, dataset, networks.vae, device, num_workers=options.num_workers
        )
        if options.base is None:
            # Scales latents to unit variance.
            factor = 1 / float(images.whole("mean").float().std())
            networks.vae.register_to_config(scaling_factor=factor)
            _logger.info("scaling factor of latents %.3f", factor)
            return images, partial(encode_captions, networks)
        captions = possible_captions(dataset.captions, options.diffusion.phrase_share)
        return images, encode_texts(cache, captions, networks, device)

    def _make_stage(self, name: str, networks: dict[str, nn.Module], **more: Any) -> Stage:
        """Return a stage at its start, or where an earlier run saved it."""
        options = self._stages[name]
        stage = Stage(
            name,
            networks,
            options,
            warmup=lambda step, _: (step + 1) / max(options.warmup_steps, 1),
            ema_decay=options.ema_decay,
            precision=self._options.precision,
            accumulation=options.accumulation,
            **more,
        )
        if self._state is not None and self._state["name"] == name:
            stage.load_state_dict(self._state)
            restore_random(self._state)
            # That of a large prior takes gigabytes.
            self._state = None
        return stage

    def _run(
        self,
        stage: Stage,
        compute_losses: Callable[[int], dict[str, Tensor]],
        save: Callable[[], None],
    ) -> None:
        stage.run(
            compute_losses,
            save,
            self._monitor,
            should_stop=self._should_stop,
            tick_steps=self._options.tick_steps,
            snapshot_steps=self._options.snapshot_steps,
            images_before=self._images_before[stage.name],
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
        networks.to(self._device)
        rows = [
            draw_samples(
                networks,
                [caption] * count,
                control,
                guidance_scale=self._options.guidance_scale,
                num_inference_steps=self._options.num_inference_steps,
            )
            for caption in examples.captions
        ]
        networks.vae.to("cpu")
        if self._options.base is not None:
            networks.text_encoder.to("cpu")
        grid = make_image_grid(torch.cat([control * 2 - 1, *rows]), count)
        save_image(self._output / f"samples_{step:06d}.png", grid)
