"""Generate images, videos and meshes of heads from seeds."""

import logging
from dataclasses import dataclass
from functools import partial

from mate3d.errors import UserError
from mate3d.generation.options import GenerationOptions
from mate3d.options import Device, FilePath, Options
from scripts._device import choose_device
from scripts._entry import run
from scripts._options import Paths
from torch_utils.stages import stage

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _PlaceOptions(Options):
    """Where to read, run and write.

    Args:
        output: Folder for the files and this run's log.
        source: One head instead of seeds: a seed, a latent file (.npy), or the folder of an edit.
        generator: Generator to use: a checkpoint folder, owner/name on the Hugging Face hub, or
            demo_cat, which comes with the project.
        device: Where networks run; auto uses a GPU if there is one.
        paths: Where files are.
    """

    output: FilePath
    source: FilePath | None = None
    generator: FilePath = "demo_cat"
    device: Device = "auto"
    paths: Paths


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(GenerationOptions, _PlaceOptions):
    """Generate images, videos and meshes of heads from seeds.

    python -m scripts.generate seeds=0-7 output=outputs/generate_cats
    python -m scripts.generate seeds=3 views.path=grid pictures=all output=outputs/generate_grid
    python -m scripts.generate seeds=0-3 interpolate=true output=outputs/generate_morph
    python -m scripts.generate source=outputs/edit mesh.enabled=true output=outputs/edit_mesh
    """

    def __post_init__(self):
        super().__post_init__()
        if self.source is not None and (self.interpolate or self.mix.shapes):
            raise UserError("source is one head; leave out interpolate and mix")


OPTIONS = GenerateOptions


def _generate(options: GenerateOptions) -> None:
    with stage("Loading the generator"):
        from mate3d.checkpoint import load_generator
        from mate3d.generation.run import GenerationRun

        generator = load_generator(options.generator, choose_device(options.device))
    head = None
    if options.source is not None:
        from editing.portrait import open_portrait

        psi = options.truncation_psi
        head = open_portrait(generator, options.source, truncation_psi=psi).head
    generation = GenerationRun(generator, options, head)
    with stage("Rendering views", generation.num_views) as bar:
        paths = generation.write(options.output, source=options.generator, on_view=bar.update)
    _logger.info("wrote %d files in %s", len(paths), options.output)


main = partial(run, "generate", _generate)

if __name__ == "__main__":
    main()
