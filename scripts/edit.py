"""Edit a portrait by a repainted mask and a prompt."""

import json
import logging
import time
from functools import partial

from omegaconf import DictConfig, OmegaConf

from editing.guidance.controlnet import ControlNetGuidance, load_controlnet_guidance
from editing.masks import load_painted_mask, resolve_edit_classes
from editing.options import EditOptions
from editing.outputs import write_source
from editing.receipt import config_hash
from editing.session import EditRequest, EditSession, Portrait, sample_portrait
from mate3d.checkpoint import load_generator
from mate3d.errors import UserError
from mate3d.options import config_from_dict
from scripts._device import choose_device
from scripts._entry import run
from torch_utils.interruption import stop_on_signal

_logger = logging.getLogger(__name__)


def _edit(config: DictConfig) -> None:
    started = time.perf_counter()
    values = OmegaConf.to_container(config)
    options = config_from_dict(EditOptions, values["edit"])
    portrait = sample_portrait(
        load_generator(config.generator, choose_device(config.device)),
        seed=config.seed,
        truncation_psi=config.truncation_psi,
        yaw=config.yaw,
        pitch=config.pitch,
    )
    if config.mask is None:
        write_source(
            config.output, portrait.image, portrait.label_map, portrait.generator.label_set
        )
        _logger.info(
            "wrote source_mask.png; repaint it and give it as mask=... (%s)", config.output
        )
        return
    request = _make_request(config, options, portrait, config_hash(_hashed(values)))
    session = EditSession(portrait, request, options, _load_guidance(config, options))
    with stop_on_signal() as should_stop:
        session.run(should_stop)
    receipt = session.write(config.output, started=started, **values["report"])
    _logger.info("IoU with the painted mask: %s", json.dumps(receipt.mask_iou))
    _logger.info("PSNR outside the region: %.1f dB", receipt.psnr_outside_region_db)
    _logger.info("results in %s, page report.html", config.output)


def _make_request(
    config: DictConfig, options: EditOptions, portrait: Portrait, hash_of_config: str
) -> EditRequest:
    prompt = (config.prompt or "").strip()
    if options.weights.distillation and not prompt:
        raise UserError("prompt is empty; say what the edited parts should look like")
    generator = portrait.generator
    painted = load_painted_mask(config.mask, generator.label_set, generator.config.resolution)
    painted = painted.to(portrait.label_map.device)
    return EditRequest(
        painted_label_map=painted,
        class_ids=resolve_edit_classes(
            config.edit_classes or [], portrait.label_map, painted, generator.label_set
        ),
        prompt=prompt,
        negative_prompt=config.negative_prompt or "",
        seed=config.seed,
        config_hash=hash_of_config,
    )


def _load_guidance(config: DictConfig, options: EditOptions) -> ControlNetGuidance | None:
    if not options.weights.distillation:
        return None
    return load_controlnet_guidance(**config.guidance, device=choose_device(config.device))


def _hashed(values: dict) -> dict:
    return {name: value for name, value in values.items() if name not in ("paths", "output")}


main = partial(run, "edit", _edit)

if __name__ == "__main__":
    main()
