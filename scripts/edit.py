"""Edit a portrait with a repainted mask and a prompt."""

import logging
import math
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from editing.masks import find_mask, load_painted_mask, resolve_edit_classes
from editing.options import EditOptions, GuidanceOptions, ReportOptions
from mate3d.cameras import PitchDegrees
from mate3d.errors import UserError
from mate3d.generation.options import TruncationPsi
from mate3d.options import Device, FilePath, Options, Seed, config_to_dict
from scripts._device import choose_device
from scripts._entry import run
from scripts._options import Paths
from torch_utils.interruption import stop_on_signal
from torch_utils.stages import stage

if TYPE_CHECKING:
    from editing.guidance.controlnet import ControlNetGuidance
    from editing.session import EditRequest, Portrait

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EditScriptOptions(Options):
    r"""Edit a portrait with a repainted mask and a prompt.

    python -m scripts.edit generator=demo_cat output=outputs/source
        writes source.png and source_mask.png; repaint the mask (docs/masks.md)
    python -m scripts.edit generator=demo_cat output=outputs/edit_mine \
        mask=outputs/source/source_mask.png prompt="a cat with pointed black ears"

    Args:
        output: Folder for the results and this run's log.
        generator: Generator to edit: a checkpoint folder, owner/name on the Hugging Face hub, or
            demo_cat, which comes with the project.
        mask: Repainted mask in the colours of the label set or as label ids (docs/masks.md), with
            the size of the generator's images or a whole multiple of it. null writes source.png and
            source_mask.png to repaint, and stops.
        mask_snap: Assign colours of the mask that JPEG or anti-aliasing mixed to one of the classes
            beside them, instead of refusing them.
        prompt: What the edited parts should look like.
        prompts: Prompts of single labels, which replace the global one there, such as {ears:a cat
            with black ears}.
        negative_prompt: Negative prompt.
        edit_classes: Classes that may change, such as ears,eyes; auto takes the repainted ones.
        seed: Seed of the portrait and of all random draws of the edit.
        truncation_psi: Truncation psi; 1 disables truncation, 0 gives the average head.
        yaw_degrees: Yaw of the painted view in degrees; 0 is frontal, positive values move the
            camera to the right of the image.
        pitch_degrees: Pitch of the painted view in degrees; positive values move the camera up.
        device: Where networks run; auto uses a GPU if there is one.
        report: Measurements and output files.
        guidance: The diffusion prior.
        edit: How the edit is optimised.
        paths: Where files are.
    """

    output: FilePath
    generator: FilePath = "demo_cat"
    mask: FilePath | None = None
    mask_snap: bool = False
    prompt: str = ""
    prompts: dict[str, str] = field(default_factory=dict)
    negative_prompt: str = ""
    edit_classes: tuple[str, ...] = ("auto",)
    seed: Seed = 0
    truncation_psi: TruncationPsi = 0.7
    yaw_degrees: float = 0.0
    pitch_degrees: PitchDegrees = 0.0
    device: Device = "auto"
    report: ReportOptions = ReportOptions()
    guidance: GuidanceOptions
    edit: EditOptions = EditOptions()
    paths: Paths


OPTIONS = EditScriptOptions


def _edit(config: EditScriptOptions) -> None:
    started = time.perf_counter()
    options = config.edit
    mask = None if config.mask is None else find_mask(config.mask)
    has_prompt = config.prompt.strip() or config.prompts
    if mask and options.weights.distillation and not has_prompt:
        raise UserError("prompt is empty; describe how the edited parts should look")
    with stage("Loading the generator"):
        from editing.outputs import write_source
        from editing.session import EditSession, sample_portrait
        from mate3d.checkpoint import load_generator

        generator = load_generator(config.generator, choose_device(config.device))
    with stage("Rendering the source"):
        portrait = sample_portrait(
            generator,
            seed=config.seed,
            truncation_psi=config.truncation_psi,
            yaw=math.radians(config.yaw_degrees),
            pitch=math.radians(config.pitch_degrees),
        )
    if mask is None:
        write_source(config.output, portrait.image, portrait.label_map, generator.label_set)
        _logger.info("wrote %s/source_mask.png; repaint it and pass it as mask=...", config.output)
        return
    request = _make_request(config, portrait, mask)
    class_names = portrait.generator.label_set.class_names
    names = ", ".join(class_names[each] for each in request.class_ids)
    _logger.info("classes that may change: %s", names)
    session = EditSession(portrait, request, options, _load_guidance(config))
    with stop_on_signal() as should_stop:
        session.run(should_stop)
    taken = len(session.history)
    if taken < options.num_steps:
        text = "stopped after step %d of %d; writing the edit so far to %s"
        _logger.info(text, taken, options.num_steps, config.output)
    receipt = session.write(config.output, config.report, started=started)
    for line in receipt.lines():
        _logger.info(line)
    _logger.info("results in %s; open report.html", config.output)


def _make_request(config: EditScriptOptions, portrait: "Portrait", mask: Path) -> "EditRequest":
    from editing.prompts import resolve_label_prompts
    from editing.receipt import config_hash
    from editing.session import EditRequest

    before, label_set = portrait.label_map, portrait.generator.label_set
    resolution, snap = portrait.generator.config.resolution, config.mask_snap
    painted = load_painted_mask(mask, label_set, resolution, snap=snap)
    painted, values = painted.to(before.device), config_to_dict(config)
    hashed = {name: value for name, value in values.items() if name not in ("paths", "output")}
    return EditRequest(
        painted_label_map=painted,
        class_ids=resolve_edit_classes(config.edit_classes, before, painted, label_set),
        prompt=config.prompt.strip(),
        negative_prompt=config.negative_prompt,
        seed=config.seed,
        config_hash=config_hash(hashed),
        label_prompts=resolve_label_prompts(config.prompts, label_set),
    )


def _load_guidance(config: EditScriptOptions) -> "ControlNetGuidance | None":
    if not config.edit.weights.distillation:
        return None
    with stage("Loading the prior"):
        from editing.guidance.controlnet import load_controlnet_guidance

        guidance = config_to_dict(config.guidance)
        return load_controlnet_guidance(**guidance, device=choose_device(config.device))


main = partial(run, "edit", _edit)

if __name__ == "__main__":
    main()
