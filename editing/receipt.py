"""The receipt of an edit: what was asked and came, and what was not asked and stayed."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from torch_utils.memory import peak_memory_bytes

Change = Literal["repainted", "edited", "untouched"]


@dataclass(frozen=True)
class BeforeAfter:
    """A measure of the source and of the edited head; null where it is not defined."""

    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class LabelReceipt:
    """How one label changed at the painted views.

    Args:
        change: repainted; edited if it could change but the mask keeps it; or untouched.
        iou: IoU of the rendered mask with the painted one, which equals the source's where nothing
            was painted; over all painted views. Null where neither mask has the label.
        iou_by_view: The same for each painted view.
        removed_pixels: Pixels of the source that the painted mask gives to other labels.
        left_pixels: Those that still show the label; if it was painted away completely, all
            pixels that show it.
        added_pixels: Pixels of other labels that the painted mask gives to this one.
        gained_pixels: Those that show it now.
        network_iou: IoU of the labels that a network sees in the picture: on the source picture
            with the source mask, on the edited picture with the painted mask. It was not part of
            the edit, so it shows whether a part still looks like one.
    """

    change: Change
    iou: BeforeAfter
    iou_by_view: tuple[BeforeAfter, ...]
    removed_pixels: int
    left_pixels: int
    added_pixels: int
    gained_pixels: int
    network_iou: BeforeAfter

    @property
    def is_removed(self) -> bool:
        """Whether the mask removes the label completely."""
        return self.removed_pixels > 0 and self.added_pixels == 0 and self.iou.before == 0.0

    @property
    def success(self) -> float | None:
        """The IoU after the edit; for a removed label the share of its pixels that went."""
        if self.is_removed:
            return max(0.0, 1 - self.left_pixels / self.removed_pixels)
        return self.iou.after

    @property
    def network_ratio(self) -> float | None:
        """The network's IoU on the edited picture over that on the source picture."""
        before, after = self.network_iou.before, self.network_iou.after
        return after / before if before and after is not None else None

    def line(self) -> str:
        """Return what the mask asked for and what came, in a few words."""
        if self.is_removed:
            return f"{self.removed_pixels} px -> {self.left_pixels} px left"
        text = f"IoU {_number(self.iou.before)} -> {_number(self.iou.after)}"
        if self.added_pixels:
            text += f", {self.gained_pixels} of {self.added_pixels} px gained"
        if self.removed_pixels:
            text += f", {self.left_pixels} of {self.removed_pixels} px left"
        return text


@dataclass(frozen=True)
class ColorReceipt:
    """Whether a part has the colour that the prompt names.

    The colours that words mean were fitted to exact procedural portraits. They did not guide the
    edit.

    Args:
        word: The colour in the prompt.
        agreement: How probable that word is for the mean colour inside the rendered label, among
            all colours of this part.
        looks_before: The most probable word of the source; null without the part.
        looks_after: The most probable word of the edited head.
    """

    word: str
    agreement: BeforeAfter
    looks_before: str | None
    looks_after: str | None


@dataclass(frozen=True)
class Measures:
    """Measurements of the written 8-bit images and masks.

    Args:
        labels: Each label of the source, painted or edited mask.
        colors: Each part that could change and whose colour the prompt names, if such parts are
            known from procedural portraits.
        clip_score: CLIP score of picture and prompt; null without `report.clip`.
        psnr_outside_region_db: PSNR of the edited against the source image outside the region, at
            the painted view; the lowest if there are several. Null if almost nothing is outside.
        psnr_outside_region_other_views_db: The same at the views of views.png.
        region: Definition, rim and area of that region, and a note where the PSNR is null.
    """

    labels: dict[str, LabelReceipt]
    colors: dict[str, ColorReceipt]
    clip_score: BeforeAfter | None
    psnr_outside_region_db: float | None
    psnr_outside_region_other_views_db: tuple[float | None, ...]
    region: dict[str, Any]

    def summary(self) -> dict[str, float | None]:
        """Return the means that compare edits; null where nothing of the kind was asked or kept.

        Returns:
            repainted: Success of the repainted labels.
            untouched: IoU of the labels that may not change.
            untouched_by_network: What a network sees of these, over what it sees in the source.
            agreement: Agreement of the colours that the prompt names.
            score: Mean of the four, each at most 1.
        """
        kept = [one for one in self.labels.values() if one.change == "untouched"]
        means = {
            "repainted": _mean(
                one.success for one in self.labels.values() if one.change == "repainted"
            ),
            "untouched": _mean(one.iou.after for one in kept),
            "untouched_by_network": _mean(one.network_ratio for one in kept),
            "agreement": _mean(one.agreement.after for one in self.colors.values()),
        }
        score = _mean(min(1.0, value) for value in means.values() if value is not None)
        return means | {"score": score}

    def lines(self) -> list[str]:
        """Return the measurements that matter most, one line each."""
        is_kept = {name: one.change == "untouched" for name, one in self.labels.items()}
        lines = [f"{name}: {one.line()}" for name, one in self.labels.items() if not is_kept[name]]
        kept = {name: one.iou.after or 0.0 for name, one in self.labels.items() if is_kept[name]}
        if kept:
            worst, mean = min(kept, key=kept.__getitem__), _number(self.summary()["untouched"])
            lines.append(f"untouched labels: IoU {mean}, at least {kept[worst]:.3f} ({worst})")
        for part, one in self.colors.items():
            change = f"{_number(one.agreement.before)} -> {_number(one.agreement.after)}"
            lines.append(f"{one.word} {part}: agreement {change}, looks {one.looks_after}")
        psnr = self.psnr_outside_region_db
        worth = self.region["note"] if psnr is None else f"{psnr:.1f} dB"
        return [*lines, f"PSNR outside the region: {worth}"]


@dataclass(frozen=True, kw_only=True)
class Receipt(Measures):
    """What an edit did, as in receipt.json.

    Args:
        prompt: The text prompt.
        edit_classes: Classes that were allowed to change.
        prompts: Prompts of single labels.
        num_steps: Optimizer steps.
        num_steps_planned: Optimizer steps requested; more if the edit was stopped.
        num_steps_skipped: Steps that changed nothing, because a loss or gradient was not finite.
        seconds: Duration of the optimisation and of the whole command.
        peak_memory_mib: Peak memory of the process, or of the GPU if one was used; null if the
            system does not report it.
        config_hash: Hash of the resolved configuration without output paths.
        samples: Seed and summary of each sample; empty if there is one.
        chain: Number of edits on the head, and the PSNR of the result against the head before all
            of them, outside of all their regions; null for a first edit.
        masks_sha256: Hash of each written mask, to notice masks that were painted on later.
    """

    prompt: str
    edit_classes: tuple[str, ...]
    num_steps: int
    num_steps_planned: int
    seconds: dict[str, float]
    peak_memory_mib: int | None
    config_hash: str
    prompts: dict[str, str] = field(default_factory=dict)
    num_steps_skipped: int = 0
    samples: tuple[dict[str, Any], ...] = ()
    chain: dict[str, Any] | None = None
    masks_sha256: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return JSON, with the summary; numbers that are not finite become null."""
        text = json.dumps({"summary": self.summary(), **asdict(self)})
        values = json.loads(text, parse_constant=lambda name: None)
        return json.dumps(values, indent=2, allow_nan=False) + "\n"


def peak_memory_mib(device: torch.device) -> int | None:
    """Return the peak of GPU memory, or on the CPU of resident memory; None if unknown."""
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else peak_memory_bytes()
    return None if peak is None else round(peak / 2**20)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
