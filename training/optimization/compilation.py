"""`torch.compile` for the networks that training spends its time in."""

from contextlib import AbstractContextManager

import torch

from mate3d.generator import Generator
from mate3d.network.discriminator import Discriminator


def compile_networks(generator: Generator, *discriminators: Discriminator) -> None:
    """Compile the convolutional networks in place, each on its first call.

    Names of weights stay the same, copies of the networks are not compiled. Fields and rendering
    stay as written.
    """
    enlarging = (generator.superresolution, generator.segmentation_superresolution)
    for module in (generator.backbone, *enlarging, *discriminators):
        if module is not None:
            module.compile()


def not_compiled() -> AbstractContextManager[None]:
    """Return a context in which compiled networks run as written.

    Compiled ones have no second derivatives, which penalties on gradients need; and weights that a
    loss does not reach get gradients of zero from them instead of none, which Adam counts as a
    step. Losses of distances alone do not reach the texture.
    """
    return torch.compiler.set_stance("force_eager")
