"""Edit a portrait with a repainted mask, a prompt, or both."""

import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from math import radians
from pathlib import Path
from typing import TYPE_CHECKING

from scripts._device import choose_device
from scripts._edit_options import EditScriptOptions, hash_of, protect_files
from scripts._entry import run
from torch_utils.interruption import stop_on_signal
from torch_utils.stages import stage

if TYPE_CHECKING:
    from editing.edited_portrait import EditedPortrait
    from editing.guidance.base import Guidance
    from mate3d.generator import Generator

_logger = logging.getLogger(__name__)

OPTIONS = EditScriptOptions


def _main(words: Sequence[str], config: EditScriptOptions) -> None:
    device = choose_device(config.device)
    if config.edits is not None:
        from scripts._edit_list import make_edits, read_edits

        entries = [replace(each, resume="auto") for each in read_edits(config, words)]
    with stage("Loading the generator"):
        from editing.portrait import open_portrait, write_source
        from editing.portrait_edit import load_guidance
        from mate3d.checkpoint import load_generator

        generator = load_generator(config.generator, device)
    if config.is_source:
        with stage("Rendering the source"):
            psi, angles = config.truncation_psi, (config.yaw_degrees, config.pitch_degrees)
            portrait = open_portrait(generator, config.source, truncation_psi=psi)
            camera = portrait.camera(*map(radians, angles))
            path = write_source(config.output, portrait, camera)
        _logger.info("wrote %s; repaint it and pass it as mask=...", path)
        return
    guidance = cache(partial(load_guidance, config.guidance, device))
    with stop_on_signal() as should_stop:
        if config.edits is None:
            _edit(config, generator, guidance, should_stop)
            return
        make_edit = partial(_edit, generator=generator, guidance=guidance, should_stop=should_stop)
        make_edits(config, entries, make_edit, should_stop)


def _edit(
    config: EditScriptOptions,
    generator: "Generator",
    guidance: "Callable[[], Guidance]",
    should_stop: Callable[[], bool],
) -> None:
    from editing import edit_portrait
    from editing.progress import finish_progress
    from scripts._edit_progress import open_progress

    if config.is_replay:
        _write(config, _replayed(config, generator))
        return
    edit = edit_portrait(
        generator,
        config.prompt,
        mask=config.mask,
        yaw_degrees=config.yaw_degrees,
        pitch_degrees=config.pitch_degrees,
        views=config.views,
        mask_snap=config.mask_snap,
        edit_classes=config.edit_classes,
        prompts=config.prompts,
        negative_prompt=config.negative_prompt,
        source=config.source,
        truncation_psi=config.truncation_psi,
        num_samples=config.num_samples,
        options=config.edit,
        report=config.report,
        guidance=guidance,
        config_hash=hash_of(config),
        should_stop=should_stop,
        progress=open_progress(config, generator),
    )
    taken, planned = edit.receipt.num_steps, edit.receipt.num_steps_planned
    if taken < planned:
        text = "stopped after step %d of %d; writing the edit so far to %s"
        _logger.info(text, taken, planned, config.output)
    _write(config, edit)
    is_finished = taken >= planned and (config.num_samples == 1 or not should_stop())
    if not is_finished:
        _logger.info("the same command with resume=true takes the other steps")
    keep = config.keep_state_mib
    finish_progress(Path(config.output), is_finished=is_finished, largest_mib=keep)


def _replayed(config: EditScriptOptions, generator: "Generator") -> "EditedPortrait":
    from editing.portrait import open_portrait
    from editing.session import change_edits, replay

    open_source = partial(open_portrait, generator, truncation_psi=config.truncation_psi)
    changed = change_edits(
        open_source(config.source),
        strength=1.0 if config.strength is None else config.strength,
        without=config.without,
        blend=open_source(config.blend) if config.blend else None,
        blend_share=config.blend_share,
        apply_to=open_source(config.apply_to) if config.apply_to else None,
    )
    return replay(changed, config.report, config_hash=hash_of(config))


def _write(config: EditScriptOptions, edit: "EditedPortrait") -> None:
    edit = replace(edit, generator_name=config.generator)
    for line in edit.write(config.output, config.report).lines():
        _logger.info(line)
    _logger.info("results in %s; open report.html", config.output)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script; see `scripts._entry.run`."""
    words = sys.argv[1:] if argv is None else argv
    words = [re.sub(r"^(\+*)seed=", r"\1source=", word) for word in words]
    run("edit", partial(_main, words), words, guard=protect_files, keeps_older=True)


if __name__ == "__main__":
    main()
