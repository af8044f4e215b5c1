"""Options of an edit, the files that it reads and may write, and what its result depends on."""

import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from editing.masks import PaintedMask, find_mask
from editing.options import EditOptions, GuidanceOptions, ReportOptions
from editing.recipe import CHANGES_FILE
from mate3d.cameras import PitchDegrees
from mate3d.errors import UserError
from mate3d.generation.options import TruncationPsi
from mate3d.options import (
    Device,
    FilePath,
    NonNegativeFloat,
    NonNegativeInt,
    Options,
    PositiveInt,
    Range,
    Share,
    config_to_dict,
)
from scripts._options import Paths, Resume

# Options on which the result does not depend.
_OF_THE_RUN = "paths output resume more_steps preview_steps keep_state_mib".split()


@dataclass(frozen=True, kw_only=True)
class EditScriptOptions(Options):
    r"""Edit a portrait with a repainted mask, a prompt, or both.

    python -m scripts.edit source=3 output=outputs/source
        writes source.png and paint_me.png; repaint the mask (docs/masks.md)
    python -m scripts.edit source=3 output=outputs/edit_mine \
        mask=outputs/source/paint_me.png prompt="a cat with pointed black ears"
    python -m scripts.edit source=3 output=outputs/edit_orange prompt="an orange cat"
    python -m scripts.edit edits=edits.yaml output=outputs/edits

    Args:
        output: Folder for the results and this run's log.
        edits: YAML list of edits to make one after the other in folders of output, which gets a
            page to compare them (docs/editing.md). Edits that are done are skipped. null makes one
            edit.
        generator: Generator to edit: a checkpoint folder, owner/name on the Hugging Face hub, or
            demo_cat, which comes with the project.
        source: Head to edit: a seed, a latent file (.npy with z or style vectors), or the folder of
            an edit, to add another edit to it. seed=N is short for it.
        strength: Without a mask or prompt: make the edits of source again with their changes times
            this; 1 repeats them exactly, 0 is the head before them. null stands for 1 if one of the
            four options below is given.
        without: Edits of source to leave out, counted from 1, such as [2].
        blend: Folder of another edit of the same head, to mix with source.
        blend_share: Share of the other edit; source has the rest.
        apply_to: Another head, a seed or latent file, to which the edits of source are applied.
        truncation_psi: Truncation psi; 1 disables truncation, 0 gives the average head.
        mask: Repainted mask in the colours of the label set or as label ids (docs/masks.md), with
            the size of the generator's images or a whole multiple of it. null without a prompt
            writes source.png and paint_me.png, the mask to repaint, and stops; with one, the prompt
            alone edits the look.
        yaw_degrees: Yaw of the painted view in degrees; 0 is frontal, positive values move the
            camera to the right of the image.
        pitch_degrees: Pitch of the painted view in degrees; positive values move the camera up.
        views: Masks of further views, which count as much as mask, such as
            [{mask: side.png, yaw_degrees: 30, pitch_degrees: 0}].
        mask_snap: Assign colours of the masks that JPEG or anti-aliasing mixed to one of the
            classes beside them, instead of refusing them.
        prompt: What the edited parts should look like.
        prompts: Prompts of single labels, which replace the global one there, such as {ears:a cat
            with black ears}.
        negative_prompt: Negative prompt.
        edit_classes: Classes that may change, such as ears,eyes. auto takes the repainted ones, or
            without a mask all; all is every class but the background.
        resume: true continues an interrupted edit from the state in output, with the same options;
            auto does so if there is one, and starts otherwise.
        more_steps: Steps to add to the finished edit in output.
        preview_steps: Steps after which output gets a new preview.png, the painted view and one
            from a side, while the edit runs; 0 for none, null for a fifth of the steps.
        keep_state_mib: Largest state, in MiB, that stays with a finished edit for more_steps.
        num_samples: Edits to make with different random draws. All are shown, the best is kept.
        device: Where networks run; auto uses a GPU if there is one.
        report: Measurements and output files.
        guidance: The diffusion prior.
        edit: How the edit is optimised.
        paths: Where files are.
    """

    output: FilePath
    edits: FilePath | None = None
    generator: FilePath = "demo_cat"
    source: FilePath = "0"
    strength: NonNegativeFloat | None = None
    without: tuple[PositiveInt, ...] = ()
    blend: FilePath | None = None
    blend_share: Share = 0.5
    apply_to: FilePath | None = None
    truncation_psi: TruncationPsi = 0.7
    mask: FilePath | None = None
    yaw_degrees: float = 0.0
    pitch_degrees: PitchDegrees = 0.0
    views: tuple[PaintedMask, ...] = ()
    mask_snap: bool = False
    prompt: str = ""
    prompts: dict[str, str] = field(default_factory=dict)
    negative_prompt: str = ""
    edit_classes: tuple[str, ...] = ("auto",)
    resume: Resume = "false"
    more_steps: NonNegativeInt = 0
    preview_steps: NonNegativeInt | None = None
    keep_state_mib: NonNegativeInt = 32
    num_samples: Annotated[int, Range(1, 100)] = 1
    device: Device = "auto"
    report: ReportOptions = ReportOptions()
    guidance: GuidanceOptions
    edit: EditOptions = EditOptions()
    paths: Paths

    @property
    def masks(self) -> list[Path]:
        """The files of all masks.

        Raises:
            UserError: If one is missing.
        """
        given = [*([self.mask] if self.mask else []), *(view.mask for view in self.views)]
        return list(map(find_mask, given))

    @property
    def is_source(self) -> bool:
        """Whether only the source is wanted, to paint on."""
        has_prompt = self.prompt.strip() or self.prompts
        has_task = self.edits or self.mask or self.views or has_prompt
        return not (has_task or self.is_replay)

    @property
    def is_replay(self) -> bool:
        """Whether edits that exist are made again, changed."""
        return self.strength is not None or bool(self.without or self.blend or self.apply_to)


def protect_files(config: EditScriptOptions) -> AbstractContextManager[None]:
    """Refuse to write over a file that the command reads, or over the results of an edit.

    Raises:
        UserError: If that would happen, or a mask is missing.
    """
    from editing.edited_portrait import RECEIPT_FILE, WRITTEN_FILES

    folder = Path(config.output)
    if (config.more_steps or config.resume == "true") and config.is_source:
        raise UserError("resume=true and more_steps need the mask and prompt of the edit again")
    if config.more_steps and config.edits:
        raise UserError("more_steps continues one edit; use it without edits")
    read = config.masks + ([Path(config.edits)] if config.edits else [])
    for source in filter(None, (config.source, config.blend, config.apply_to)):
        if Path(source).is_dir() and Path(source).resolve() == folder.resolve():
            raise UserError(
                f"the edit would overwrite {source}, which it reads; use another output"
            )
    for path in (each.resolve() for each in read):
        if path.parent == folder.resolve() and WRITTEN_FILES.fullmatch(path.name):
            raise UserError(f"the edit would overwrite {path}, which it reads; use another output")
    if config.is_source and (folder / RECEIPT_FILE).exists():
        raise UserError(f"{folder} holds an edit; use another output for the mask to paint")
    return nullcontext()


def request_of(config: EditScriptOptions) -> dict[str, Any]:
    """Return everything that the result depends on, with hashes of the masks' contents."""
    masks = [hashlib.sha256(path.read_bytes()).hexdigest() for path in config.masks]
    views = tuple(replace(view, mask="") for view in config.views)
    values = config_to_dict(replace(config, mask=None, views=views))
    asked = {name: each for name, each in values.items() if name not in _OF_THE_RUN}
    places = filter(None, (config.source, config.blend, config.apply_to))
    files = [path / CHANGES_FILE if path.is_dir() else path for path in map(Path, places)]
    sources = [hashlib.sha256(each.read_bytes()).hexdigest() for each in files if each.is_file()]
    return asked | {"masks": masks, "sources": sources}


def hash_of(config: EditScriptOptions) -> str:
    """Return a hash of `request_of`."""
    text = json.dumps(request_of(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
