"""Training options of a 2D prior: sizes, stages, lengths and logging."""

from dataclasses import dataclass
from typing import Literal

import torch

from mate3d.options import (
    FilePath,
    NonNegativeFloat,
    NonNegativeInt,
    OptionError,
    Options,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
)
from training.data.preparation.photo_options import ParsingOptions

_Sizes = tuple[PositiveInt, ...]


@dataclass(frozen=True)
class PriorArchitecture(Options):
    """Sizes of a tiny Stable Diffusion with its ControlNet.

    Args:
        vae_channels: Channels of the autoencoder, finest level first; each further level halves
            the resolution.
        latent_channels: Channels of the latents.
        vocabulary_size: Upper bound of the tokenizer's vocabulary, single characters included.
        max_tokens: Length that captions are padded or truncated to, in tokens.
        text_width: Width of the text encoder and of cross-attention.
        text_layers: Layers of the text encoder.
        unet_channels: Channels of the denoiser, finest level first.
        attention_levels: For each level of the denoiser, whether it attends to the text.
        attention_heads: Attention heads per layer.
        norm_groups: Groups of the group normalisations; divides all channel counts.
        control_channels: Channels of the network that reduces the coloured label map to the
            resolution of the latents, one entry per level of the autoencoder.
    """

    vae_channels: _Sizes = (32, 48, 64)
    latent_channels: PositiveInt = 4
    vocabulary_size: PositiveInt = 900
    max_tokens: PositiveInt = 48
    text_width: PositiveInt = 128
    text_layers: PositiveInt = 3
    unet_channels: _Sizes = (64, 96, 96)
    attention_levels: tuple[bool, ...] = (False, True, True)
    attention_heads: PositiveInt = 4
    norm_groups: PositiveInt = 8
    control_channels: _Sizes = (16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class StageOptions(Options):
    """Length and optimization of one stage.

    Args:
        steps: Number of optimizer steps.
        batch_size: Images per step, over all processes.
        accumulation: Parts into which each process divides its share of the batch, one after the
            other, to use less memory. The result is the same.
        learning_rate: Peak learning rate, after a linear warm-up; falls to 0 along half a cosine.
        max_minutes: End the stage earlier, with the learning rate falling accordingly; the result
            then depends on the machine's speed. null sets no limit.
        warmup_steps: Steps until the peak learning rate.
        weight_decay: Weight decay of AdamW.
        ema_decay: Share of the averaged weights that a step keeps (less in the first steps).
    """

    steps: PositiveInt = 6000
    batch_size: PositiveInt
    accumulation: PositiveInt = 1
    learning_rate: PositiveFloat
    max_minutes: PositiveFloat | None = None
    warmup_steps: NonNegativeInt = 100
    weight_decay: NonNegativeFloat = 0.01
    ema_decay: Share = 0.998


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions(StageOptions):
    """Options of the autoencoder's stage.

    Args:
        kl_weight: Weight of the KL divergence from the standard normal, averaged over latents.
        edge_weight: Weight of the error of image gradients, which keeps edges crisp.
        part_balance: Pixels are weighted by their class's frequency to the power of minus this, so
            that small parts such as eyes are not neglected; 0 weights all pixels equally.
        num_normal_maps: Rendered normal maps of procedural heads to add to the training images,
            because distillation encodes normal maps too.
    """

    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = 1.2e-3
    kl_weight: NonNegativeFloat = 3e-4
    edge_weight: NonNegativeFloat = 1.0
    part_balance: NonNegativeFloat = 0.5
    num_normal_maps: NonNegativeInt = 1000


@dataclass(frozen=True, kw_only=True)
class DiffusionOptions(StageOptions):
    """Options of the denoiser's stage.

    Args:
        caption_dropout: Share of captions replaced by the empty one, for classifier-free guidance
            and to make the network use the label map.
        phrase_share: Share of the other captions replaced by one of their phrases, such as "blue
            eyes", because edits of one part have such prompts.
        control_dropout: Share of samples without a label map; use 0 if the denoiser is frozen.
        snr_gamma: Cap of the signal-to-noise ratio in the loss weight (Hang et al. 2023).
        optimizer: adamw_8bit stores Adam's averages in 8 bits (needs bitsandbytes and a GPU).
        gradient_checkpointing: Keep fewer activations of denoiser and ControlNet, and compute them
            again in the backward pass.
    """

    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 8e-4
    warmup_steps: NonNegativeInt = 200
    caption_dropout: Share = 0.1
    phrase_share: Share = 0.2
    control_dropout: Share = 0.25
    snr_gamma: PositiveFloat = 5.0
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class PriorRecipe(Options):
    """Networks and stages to train.

    Args:
        base: Stable Diffusion to train a ControlNet for: a folder, a single file or a hub id; null
            trains all networks.
        resolution: Resolution of the training images, in pixels.
        architecture: Sizes of the networks; not used with a base.
        autoencoder: Autoencoder stage; not used with a base.
        diffusion: Diffusion stage: denoiser, text encoder and ControlNet; with a base, only the
            ControlNet.
    """

    base: FilePath | None
    resolution: PositiveInt = 64
    architecture: PriorArchitecture | None = PriorArchitecture()
    autoencoder: AutoencoderOptions | None = AutoencoderOptions()
    diffusion: DiffusionOptions = DiffusionOptions()

    def __post_init__(self):
        super().__post_init__()
        if self.base is None and (self.architecture is None or self.autoencoder is None):
            raise OptionError("base", None, "use a Stable Diffusion folder, or prior=demo_cat")


@dataclass(frozen=True, kw_only=True)
class PriorRunOptions(Options):
    """Logging, snapshots and output of a run.

    Args:
        seed: Seed of initial weights, data order and noise.
        precision: Precision of forward passes where that is safe, and of all weights of a base.
            bf16 is faster on GPUs and on CPUs with AVX-512 BF16; fp16 needs a GPU.
        num_workers: Processes that read the images that are encoded.
        cache: Folder for encoded images and captions, which several runs can share; null takes
            `encodings` in the run folder.
        tick_steps: Steps between status lines.
        snapshot_steps: Steps between snapshots of model, state and sample grid.
        num_samples: Number of captions and of label maps in the sample grid, which shows every
            combination.
        num_inference_steps: Denoising steps of the sample grid and of quality_samples.
        guidance_scale: Classifier-free guidance scale of these samples.
        quality_samples: Number of images at the end of each dataset that are not trained on.
            Samples under their masks and captions measure the result (quality.json); 0 measures
            nothing.
        quality_parser: Finds the masks of samples; without a model, a small network is trained on
            the dataset, which needs images of up to 128 px.
    """

    seed: Seed = 0
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    num_workers: NonNegativeInt = 0
    cache: FilePath | None = None
    tick_steps: PositiveInt = 50
    snapshot_steps: PositiveInt = 500
    num_samples: PositiveInt = 5
    num_inference_steps: PositiveInt = 20
    guidance_scale: NonNegativeFloat = 3.0
    quality_samples: NonNegativeInt = 0
    quality_parser: ParsingOptions = ParsingOptions()


@dataclass(frozen=True, kw_only=True)
class PriorOptions(PriorRecipe, PriorRunOptions):
    """All options of training a prior.

    Args:
        dataset_paths: Datasets with captions, folders or zips.
        output: Receives the model folder, sample grids, stats and the state to resume from.
        resume: Resume from the state in `output`.
        device: Where to train.
    """

    dataset_paths: tuple[FilePath, ...]
    output: FilePath
    base: FilePath | None = None
    resume: bool = False
    device: torch.device = torch.device("cpu")
