"""Train the 2D prior of editing: a tiny Stable Diffusion with ControlNet, or a ControlNet only."""

import logging
from dataclasses import dataclass
from functools import partial

from mate3d.options import Device, FilePath, option_hints
from scripts._device import choose_device
from scripts._long_run import run_long
from scripts._options import Paths, Resume
from torch_utils.distributed import distributed
from training.prior.options import PriorOptions, PriorRecipe, PriorRunOptions

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainPriorOptions(PriorRunOptions):
    """Train the 2D prior of editing on datasets with captions.

    python -m scripts.train_prior data=data/cats64.zip output=outputs/train_prior
    python -m scripts.train_prior data=[data/cats64.zip,data/people64.zip] output=RUN
    python -m scripts.train_prior prior=controlnet prior.base=FOLDER data=DATA output=RUN

    Args:
        data: Dataset with captions: a folder or a .zip archive (see prepare_data). Several, as in
            data=[A,B], are mixed; their label sets may differ.
        output: Run folder; the prior is written to its subfolder `model`.
        resume: true resumes from the state in `output`; auto does so if there is one, and starts a
            new run otherwise.
        device: Where to train; auto uses a GPU if there is one.
        prior: Networks and stages to train.
        paths: Where files are.
    """

    data: tuple[FilePath, ...]
    output: FilePath
    resume: Resume = "false"
    device: Device = "auto"
    prior: PriorRecipe
    paths: Paths


OPTIONS = TrainPriorOptions


def _train(options: TrainPriorOptions, command: str, resume: bool) -> None:
    from training.prior.trainer import train_prior

    device = choose_device(options.device)
    run_options = {name: getattr(options, name) for name in option_hints(PriorRunOptions)}
    settings = PriorOptions(
        **run_options,
        **vars(options.prior),
        dataset_paths=options.data,
        output=options.output,
        resume=resume,
        device=device,
    )
    with distributed(device.type):
        model = train_prior(settings, command=command)
    if model is not None:
        _logger.info("prior: %s", model)


main = partial(run_long, "train_prior", _train)

if __name__ == "__main__":
    main()
