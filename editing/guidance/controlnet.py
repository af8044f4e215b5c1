"""Stable Diffusion with a mask ControlNet, frozen."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from editing.guidance.base import PromptEmbeds
from editing.guidance.vocabulary import ignored_words, unknown_words
from editing.regions import is_member
from mate3d.diffusion.networks import PriorNetworks
from mate3d.errors import UserError

_logger = logging.getLogger(__name__)


class ControlNetGuidance(nn.Module):
    """Frozen VAE, text encoder, UNet and ControlNet behind the `Guidance` protocol.

    The text encoder is on the device only while it encodes.

    Args:
        networks: Loaded networks; they are set to eval mode without gradients.
        palette: See `GuidanceOptions`.
        checkpointing: See `GuidanceOptions`.
        compile: See `GuidanceOptions`.
    """

    def __init__(
        self,
        networks: PriorNetworks,
        *,
        palette: str | None = None,
        checkpointing: bool = False,
        compile: bool = False,
    ):
        super().__init__()
        self.palette = palette
        self.vae = networks.vae
        self.text_encoder = networks.text_encoder
        self.unet = networks.unet
        self.controlnet = networks.controlnet
        self.tokenizer = networks.tokenizer
        self.prediction_type = networks.scheduler.config.prediction_type
        alphas_cumprod = networks.scheduler.alphas_cumprod.float().to(self.unet.device)
        self.register_buffer("alphas_cumprod", alphas_cumprod)
        self.eval().requires_grad_(False)
        # AutoencoderTiny needs little memory, and diffusers' checkpoints skip its input scaling.
        if checkpointing and isinstance(self.vae, AutoencoderKL):
            self.vae.enable_gradient_checkpointing()
            # The first block's values, computed again, are most of the peak: one image at a time.
            self.vae.enable_slicing()
            # Before diffusers 0.33 only encoders in training mode do it; nothing else depends on
            # the mode.
            self.vae.encoder.train()
        if compile:
            self.unet.compile()
            if self.controlnet is not None:
                self.controlnet.compile()

    @property
    def image_size(self) -> int:
        downscale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.unet.config.sample_size * downscale

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str,
        negative_prompt: str = "",
        label_prompts: Mapping[int, str] | None = None,
    ) -> PromptEmbeds:
        """Encode all texts, padded and cut to the text encoder's length; log words without effect.

        Equal texts of labels are encoded once, and cost one prediction.
        """
        labels: dict[str, list[int]] = {}
        for class_id, text in (label_prompts or {}).items():
            if text != prompt:
                labels.setdefault(text, []).append(class_id)
        texts = [prompt, negative_prompt, *labels]
        self._log_words_without_effect(texts)
        embeds = self._encode_texts(texts).split(1)
        class_ids = map(tuple, labels.values())
        return PromptEmbeds(*embeds[:2], dict(zip(class_ids, embeds[2:], strict=True)))

    def encode_image(
        self,
        image: Tensor,  # [B, 3, H, W] in [-1, 1], any size
    ) -> Tensor:  # [B, C, h, w] float32
        """Return the mean of the VAE's posterior times its scaling factor, differentiably.

        AutoencoderTiny has no posterior. Gradients reach the image as in fp32, whatever their size.
        """
        size = (self.image_size, self.image_size)
        if image.shape[-2:] != size:
            image = F.interpolate(
                image, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        # A tensor of its own, because the image has other gradients, which must not be scaled.
        image = image.view_as(image)
        encoded = self.vae.encode(image.to(self.vae.dtype))
        is_tiny = hasattr(encoded, "latents")
        latents = (encoded.latents if is_tiny else encoded.latent_dist.mode()).float()
        if latents.requires_grad:
            _scale_gradients_between(latents, image)
        return latents * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_latents(
        self,
        latents: Tensor,  # [B, C, h, w]
    ) -> Tensor:  # [B, 3, image_size, image_size] in [-1, 1], float32
        latents = latents / self.vae.config.scaling_factor
        return self.vae.decode(latents.to(self.vae.dtype)).sample.float().clamp(-1, 1)

    @torch.no_grad()
    def predict_noise(
        self,
        noisy_latents: Tensor,  # [B, C, h, w]
        timestep: Tensor,  # [B] int64
        prompt_embeds: PromptEmbeds,
        control_image: Tensor | None,  # [B, 3, H, W] in [0, 1], or None for text only
        *,
        guidance_scale: float,
        controlnet_conditioning_scale: float,
        only_added: bool = False,
    ) -> Tensor:  # [B, C, h, w] float32
        """Return epsilon after classifier-free guidance; the mask conditions all branches.

        All prompts are predicted in one batch, but the negative one if the scale is 1. Shares of
        labels are the label map's, averaged over each latent's area, so a prompt has no effect on
        latents that its label does not touch.
        """
        label_texts, shares = _label_shares(prompt_embeds, noisy_latents.shape[-2:])
        texts = [prompt_embeds.prompt, *label_texts]
        if with_negative := only_added or guidance_scale != 1:
            texts.append(prompt_embeds.negative_prompt)
        inputs = {
            "sample": noisy_latents.repeat(len(texts), 1, 1, 1).to(self.unet.dtype),
            "timestep": timestep.repeat(len(texts)),
            "encoder_hidden_states": torch.cat(texts).repeat_interleave(len(timestep), dim=0),
        }
        with _compiler_errors():
            residuals, scale = {}, controlnet_conditioning_scale
            if control_image is not None:
                residuals = self._control_residuals(inputs, control_image, scale)
            sample = self.unet(**inputs, **residuals).sample
        everywhere, *others = sample.float().chunk(len(texts))
        guided = everywhere
        for share, prediction in zip(shares, others, strict=False):
            # Adding differences keeps the global prediction bit for bit where the share is 0.
            guided = guided + share * (prediction - everywhere)
        if with_negative:
            added = guidance_scale * (guided - others[-1])
            guided = added if only_added else others[-1] + added
        origin = torch.zeros_like(noisy_latents) if only_added else noisy_latents
        return self._to_epsilon(guided, origin, timestep)

    def _log_words_without_effect(self, texts: list[str]) -> None:
        for text in texts:
            if ignored := ignored_words(text, self.tokenizer):
                _logger.warning(
                    "the prior reads only %d tokens of a prompt and ignores: %s",
                    self.tokenizer.model_max_length,
                    " ".join(ignored),
                )
        if unknown := unknown_words(" ".join(texts), self.tokenizer):
            _logger.warning(
                "the prior has never seen these words, so they may do nothing: %s",
                ", ".join(unknown),
            )

    def _encode_texts(self, texts: list[str]) -> Tensor:  # [len(texts), T, D]
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = self.alphas_cumprod.device
        with_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        attention_mask = tokens.attention_mask.to(device) if with_mask else None
        text_encoder = self.text_encoder.to(device)
        embeds = text_encoder(tokens.input_ids.to(device), attention_mask=attention_mask)[0]
        text_encoder.to("cpu")
        return embeds

    def _control_residuals(
        self,
        inputs: dict[str, Tensor],
        control_image: Tensor,  # [B, 3, H, W] in [0, 1]
        conditioning_scale: float,
    ) -> dict[str, object]:
        if self.controlnet is None:
            raise UserError(
                "guidance has no ControlNet; set guidance.controlnet or edit.condition=none"
            )
        # Label colours must stay pure, so the condition is resized without interpolation.
        control = F.interpolate(control_image, size=(self.image_size, self.image_size))
        num_copies = len(inputs["sample"]) // len(control)
        down, middle = self.controlnet(
            **inputs,
            controlnet_cond=control.repeat(num_copies, 1, 1, 1).to(self.controlnet.dtype),
            conditioning_scale=conditioning_scale,
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    def _to_epsilon(
        self,
        prediction: Tensor,  # [B, C, h, w]
        noisy_latents: Tensor,  # [B, C, h, w]
        timestep: Tensor,  # [B] int64
    ) -> Tensor:  # [B, C, h, w]
        if self.prediction_type == "epsilon":
            return prediction
        # v = sqrt(a) eps - sqrt(1 - a) x0 (Salimans and Ho 2022), solved for eps.
        alpha = self.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return alpha.sqrt() * prediction + (1 - alpha).sqrt() * noisy_latents


@contextmanager
def _compiler_errors() -> Iterator[None]:
    """Name the option if networks cannot be compiled, which their first call shows."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        cause = getattr(error, "inner_exception", error)
        reason = str(cause).strip().splitlines()[0]
        raise UserError(f"guidance.compile=true does not work here ({reason}); use false") from None


def _scale_gradients_between(
    latents: Tensor,  # [B, C, h, w] float32
    image: Tensor,  # [B, 3, H, W] float32
) -> None:
    """Scale the gradient of each image's latents to about 1, and undo that at the image.

    Half precision has no numbers below 6e-8 or above 65504, and weights of losses and means over
    latents can take gradients there. The factors are powers of two, which round nothing.
    """
    exponents = {}

    def begin(gradient: Tensor) -> Tensor:
        largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
        exponents["of"] = torch.frexp(largest).exponent
        return torch.ldexp(gradient, -exponents["of"])

    latents.register_hook(begin)
    image.register_hook(lambda gradient: torch.ldexp(gradient, exponents["of"]))


def _label_shares(
    prompt_embeds: PromptEmbeds, size: tuple[int, int]
) -> tuple[list[Tensor], list[Tensor]]:  # P of [1, T, D], P of [1 or B, 1, h, w]
    """Return the prompts of the labels that the view shows, and their shares of each latent."""
    texts, shares = [], []
    for class_ids, text in prompt_embeds.label_prompts.items():
        if prompt_embeds.label_map is None:
            raise ValueError("prompts of labels need the label map of the view")
        is_inside = is_member(prompt_embeds.label_map, class_ids).unsqueeze(1)
        if is_inside.any():
            texts.append(text)
            shares.append(F.interpolate(is_inside.float(), size=size, mode="area"))
    return texts, shares
