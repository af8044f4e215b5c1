"""Networks of a 2D prior in diffusers' format: create tiny ones, load a base, save a pipeline."""

import copy
import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mate3d.atomic import atomic_folder
from mate3d.diffusion.loading import load_prior
from mate3d.diffusion.networks import NETWORK_NAMES, PriorNetworks
from mate3d.errors import UserError
from training.prior.options import PriorArchitecture

_SPECIAL_TOKENS = {"<|startoftext|>": 0, "<|endoftext|>": 1}
_END_OF_WORD = "</w>"
# ControlNet's default channels for reducing its input to latents 8 times smaller than images.
_CONTROL_CHANNELS = (16, 32, 96, 256)

# Of the images that are encoded or drawn together: one of Stable Diffusion's.
MAX_PIXELS = 512**2


def make_tokenizer(
    captions: Sequence[str], *, vocabulary_size: int, max_tokens: int
) -> CLIPTokenizer:
    """Return a CLIP tokenizer with byte pairs learned from captions; it can encode any text.

    Its `init_kwargs` keep `caption_words`, so that an edit can name words that were never seen.
    The `tokenizers` library could learn them too, but it numbers tokens differently in each run.
    """
    backend = CLIPTokenizer(vocab=dict(_SPECIAL_TOKENS), merges=[]).backend_tokenizer
    words: Counter[tuple[str, ...]] = Counter()
    for caption in captions:
        text = backend.normalizer.normalize_str(caption)
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text):
            words[(*word[:-1], word[-1] + _END_OF_WORD)] += 1
    letters = sorted(ByteLevel.alphabet())
    tokens = [*_SPECIAL_TOKENS, *letters, *(letter + _END_OF_WORD for letter in letters)]
    merges = _learn_merges(words, vocabulary_size - len(tokens))
    tokens += dict.fromkeys(first + second for first, second in merges)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    caption_words = sorted(set(re.findall(r"[^\W\d_]+", " ".join(captions).lower())))
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        model_max_length=max_tokens,
        caption_words=caption_words,
    )


def _learn_merges(words: Counter[tuple[str, ...]], num_merges: int) -> list[tuple[str, str]]:
    """Repeatedly join the most frequent pair of neighbours (byte pair encoding)."""
    merges: list[tuple[str, str]] = []
    while len(merges) < num_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = Counter({_join_pair(word, best): count for word, count in words.items()})
    return merges


def _join_pair(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for symbol in word:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return tuple(joined)


def make_tiny_networks(
    architecture: PriorArchitecture, captions: Sequence[str], resolution: int
) -> PriorNetworks:
    """Return untrained networks.

    Args:
        captions: The tokenizer learns its vocabulary from these.
    """
    a = architecture
    tokenizer = make_tokenizer(captions, vocabulary_size=a.vocabulary_size, max_tokens=a.max_tokens)
    unet = _make_unet(a, resolution // 2 ** (len(a.vae_channels) - 1))
    return PriorNetworks(
        vae=_make_vae(a, resolution),
        text_encoder=_make_text_encoder(a, tokenizer),
        tokenizer=tokenizer,
        unet=unet,
        controlnet=ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=tuple(a.control_channels)
        ),
        scheduler=make_scheduler(),
    )


def make_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule with deterministic sampling."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def _make_vae(a: PriorArchitecture, resolution: int) -> AutoencoderKL:
    num_levels = len(a.vae_channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * num_levels,
        up_block_types=("UpDecoderBlock2D",) * num_levels,
        block_out_channels=tuple(a.vae_channels),
        layers_per_block=1,
        latent_channels=a.latent_channels,
        norm_num_groups=a.norm_groups,
        sample_size=resolution,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def _make_text_encoder(a: PriorArchitecture, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=a.text_width,
            intermediate_size=4 * a.text_width,
            projection_dim=a.text_width,
            num_hidden_layers=a.text_layers,
            num_attention_heads=a.attention_heads,
            max_position_embeddings=a.max_tokens,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _make_unet(a: PriorArchitecture, latent_resolution: int) -> UNet2DConditionModel:
    down = [f"{'CrossAttn' if attends else ''}DownBlock2D" for attends in a.attention_levels]
    up = [f"{'CrossAttn' if attends else ''}UpBlock2D" for attends in a.attention_levels]
    return UNet2DConditionModel(
        sample_size=latent_resolution,
        in_channels=a.latent_channels,
        out_channels=a.latent_channels,
        layers_per_block=1,
        block_out_channels=tuple(a.unet_channels),
        down_block_types=tuple(down),
        up_block_types=tuple(reversed(up)),
        cross_attention_dim=a.text_width,
        # The number of heads; diffusers uses this name.
        attention_head_dim=a.attention_heads,
        norm_num_groups=a.norm_groups,
    )


def load_base(base: str | Path, dtype: torch.dtype = torch.float32) -> PriorNetworks:
    """Load a Stable Diffusion; its ControlNet starts as a copy of the denoiser's encoder.

    Args:
        base: What `load_prior` takes.
        dtype: Precision of all networks but the ControlNet, which is trained.

    Raises:
        UserError: If it is missing, damaged, incomplete or another kind of model.
    """
    networks = load_prior(str(base), dtype=dtype, option="prior.base")
    num_levels = len(networks.vae.config.block_out_channels)
    channels = _CONTROL_CHANNELS[:num_levels]
    networks.controlnet = ControlNetModel.from_unet(
        networks.unet, conditioning_embedding_out_channels=channels
    ).float()
    return networks


def make_pipeline(networks: PriorNetworks) -> StableDiffusionControlNetPipeline:
    """Put the networks into diffusers' pipeline, without copying them."""
    pipeline = StableDiffusionControlNetPipeline(
        **networks.modules(),
        tokenizer=networks.tokenizer,
        scheduler=networks.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def draw_samples(
    networks: PriorNetworks,
    prompts: Sequence[str],  # B
    control: Tensor,  # [B, 3, H, W] in 0..1
    *,
    guidance_scale: float,
    num_inference_steps: int = 20,
    seed: int = 0,
) -> Tensor:  # [B, 3, H, W] in [-1, 1], on the CPU
    """Draw one image per prompt, with its coloured label map as condition.

    Args:
        seed: Seed of the initial noise of the first image; the others follow.
    """
    pipeline, images = make_pipeline(networks), []
    for rows in torch.arange(len(prompts)).split(max(1, MAX_PIXELS // control[0, 0].numel())):
        samples = pipeline(
            [prompts[row] for row in rows],
            image=control[rows].to(networks.unet.device),
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            generator=[torch.Generator().manual_seed(seed + int(row)) for row in rows],
            output_type="pt",
        ).images
        images.append(samples.float().cpu() * 2 - 1)
    return torch.cat(images)


def save_prior(folder: str | Path, networks: PriorNetworks, *, with_base: bool) -> None:
    """Atomically replace a folder with these networks, weights in half precision.

    Args:
        folder: `StableDiffusionControlNetPipeline.from_pretrained` loads it. Without the base it
            only has `controlnet/`, which `ControlNetModel.from_pretrained` loads.
        with_base: Write the whole pipeline instead of the ControlNet alone.
    """
    names = NETWORK_NAMES if with_base else ("controlnet",)
    halves = {name: copy.deepcopy(getattr(networks, name)).half() for name in names}
    with atomic_folder(folder) as temporary:
        if with_base:
            make_pipeline(replace(networks, **halves)).save_pretrained(temporary)
            # transformers omits these two files, but other readers of the format expect them.
            networks.tokenizer.backend_tokenizer.model.save(str(temporary / "tokenizer"))
            _declare_float32(temporary / "text_encoder" / "config.json")
        else:
            halves["controlnet"].save_pretrained(temporary / "controlnet")


def _declare_float32(path: Path) -> None:
    """Make transformers load half-precision weights as float32, like diffusers."""
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")


def encode_captions(networks: PriorNetworks, captions: Sequence[str]) -> Tensor:
    """Return text embeddings [B, max_tokens, text_width], differentiable in the text encoder."""
    tokens = networks.tokenizer(
        list(captions), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return networks.text_encoder(tokens.to(networks.text_encoder.device))[0]


def plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """Compute attention step by step on CPUs.

    The backward pass of fused attention is slow there for few tokens (a third of a step).
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def optimizer_class(name: str, device: torch.device) -> type[torch.optim.Optimizer]:
    """Return the class of "adamw" or "adamw_8bit".

    Raises:
        UserError: If its library is not installed, or does not support the device.
    """
    if name == "adamw":
        return torch.optim.AdamW
    if device.type == "cpu":
        raise UserError("optimizer=adamw_8bit needs a GPU; use adamw")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        advice = "pip install -e '.[8bit]'"
        raise UserError(f"optimizer=adamw_8bit needs bitsandbytes ({error}); {advice}") from None
    return AdamW8bit
