"""`torch.compile` for the networks that take most of the training time."""

from contextlib import AbstractContextManager

import torch

from mate3d.generator import Generator
from mate3d.network.discriminator import Discriminator


def compile_networks(generator: Generator, *discriminators: Discriminator) -> None:
    """Compile the convolutional networks in place, each on its first call.

    Weight names are unchanged, and copies of the networks are not compiled. Fields and rendering
    run eagerly.
    """
    enlarging = (generator.superresolution, generator.segmentation_superresolution)
    for module in (generator.backbone, *enlarging, *discriminators):
        if module is not None:
            module.compile()


def not_compiled() -> AbstractContextManager[None]:
    """Return a context in which compiled networks run eagerly.

    Compiled networks have no second derivatives, which gradient penalties need. Also, weights that
    a loss does not depend on (such as texture weights in SDF losses) get zero gradients instead of
    None, which Adam counts as a step.
    """
    return torch.compiler.set_stance("force_eager")
