"""Train the 2D prior of editing: a tiny Stable Diffusion with ControlNet, or a ControlNet only."""

import logging
from functools import partial

from hydra.utils import instantiate
from omegaconf import DictConfig

from scripts._device import choose_device
from scripts._long_run import run_long
from training.prior.trainer import PriorOptions, train_prior

_logger = logging.getLogger(__name__)


def _train(config: DictConfig, command: str, resume: bool) -> None:
    is_from_scratch = config.prior.base is None
    options = PriorOptions(
        dataset_path=config.data,
        output=config.output,
        resolution=config.prior.resolution,
        architecture=instantiate(config.prior.architecture) if is_from_scratch else None,
        autoencoder=instantiate(config.prior.autoencoder) if is_from_scratch else None,
        diffusion=instantiate(config.prior.diffusion),
        base=config.prior.base,
        resume=resume,
        seed=config.seed,
        device=choose_device(config.device),
        with_bfloat16=config.with_bfloat16,
        num_workers=config.num_workers,
        tick_steps=config.tick_steps,
        snapshot_steps=config.snapshot_steps,
        num_samples=config.num_samples,
        guidance_scale=config.guidance_scale,
        quality_samples=config.quality_samples,
    )
    model = train_prior(options, command=command, with_progress_bar=True)
    if model is not None:
        _logger.info("prior: %s", model)


main = partial(run_long, "train_prior", _train)

if __name__ == "__main__":
    main()
