"""Run a list of edits by several objectives, and write a table, its numbers and contact sheets.

    python benchmarks/edit_table.py runs=best,cdgt output=outputs/edit_table
    python benchmarks/edit_table.py runs=best edits="blue eyes" seeds=1 output=outputs/edit_table

Every edit is a call of `scripts.edit` with a mask painted by rule (painted_edits.py) on the head's
own source mask. Edits whose receipt is there are not run again, so the table resumes. Words:

    list=             YAML file of heads, runs and edits; benchmarks/edits.yaml
    runs= edits=      names of that file, separated by commas; all by default
    seeds=            heads per run instead of the file's
    words=            further words of `scripts.edit`, separated by spaces
    output=           folder: RUN/EDIT_SEED with all files of an edit, edits.json, the table,
                      sheet_RUN.png and compare.png

Columns of the table, means over the heads:

    repainted         IoU with the painted mask; of a removed label, the share of pixels that went
    kept              IoU of the labels that may not change
    network           the same seen by a network in the picture, over what it sees in the source
    dB, dB views      PSNR outside the region at the painted and at the worst other view
    agreement         probability of each colour that the prompt names, given the part's colour
    prior             the same of the prior's own samples on the painted mask
    seconds, at 0.25  measured, and scaled to a machine that makes an exact picture in 0.25 s
"""

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from common import describe_machine, read_words
from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline
from painted_edits import PAINTS
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from mate3d.checkpoint import load_generator
from mate3d.checkpoints.assets import folder_or_asset
from mate3d.generator import Generator
from mate3d.label_files import load_label_map
from mate3d.labels import CATMASK_HQ, colorize_label_map, save_label_map
from mate3d.metrics.named_colors import load_part_colors, named_colors
from scripts import edit

DEFAULTS = {
    "list": str(Path(__file__).with_name("edits.yaml")),
    "runs": "",
    "edits": "",
    "seeds": "",
    "words": "",
    "output": "outputs/edit_table",
}
REFERENCE_SECONDS = 0.25
_TIMED_PICTURES = 5


@dataclass(frozen=True)
class Case:
    """One edit of one head in one run."""

    run: str
    edit: str
    seed: int
    classes: tuple[str, ...]
    paint: str
    prompt: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the edit's folder."""
        return f"{self.edit.replace(' ', '_')}_{self.seed}"


def list_cases(plan: dict[str, Any], options: dict[str, str]) -> list[Case]:
    """Return the chosen edits in the order of the plan."""
    chosen = {
        key: options[key].split(",") if options[key] else list(plan[key])
        for key in ("runs", "edits")
    }
    for key, names in chosen.items():
        if unknown := [name for name in names if name not in plan[key]]:
            sys.exit(f"error: unknown {key}: {', '.join(unknown)}; use {', '.join(plan[key])}")
    cases = []
    for run in chosen["runs"]:
        count = int(options["seeds"] or plan["runs"][run]["seeds"])
        words = (*plan["runs"][run]["words"], *options["words"].split())
        for name in chosen["edits"]:
            one = plan["edits"][name]
            classes = CATMASK_HQ.class_names[1:] if one["classes"] == "all" else one["classes"]
            for seed in plan["seeds"][:count]:
                cases.append(
                    Case(run, name, seed, tuple(classes), one["paint"], one["prompt"], words)
                )
    return cases


class Table:
    """A folder of edits and what was measured on them.

    Args:
        plan: Content of the list.
        folder: Receives all files.
    """

    def __init__(self, plan: dict[str, Any], folder: Path):
        self.plan, self.folder = plan, folder
        self.generator = load_generator(plan["generator"])
        self.prior = PriorSamples(plan["prior"], plan["samples"], folder / "prior.json")

    def row(self, case: Case) -> dict[str, Any]:
        """Run an edit unless it is there; return its numbers."""
        folder = self.folder / case.run / case.name
        file = folder / "row.json"
        if not file.exists():
            row = self._measure(case, folder)
            file.write_text(json.dumps(row, indent=2) + "\n")
        return json.loads(file.read_text())

    def _measure(self, case: Case, folder: Path) -> dict[str, Any]:
        painted = PAINTS[case.paint](self._source_mask(case.seed))
        mask = self.folder / "masks" / f"{case.name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        save_label_map(mask, painted[0].numpy(), CATMASK_HQ)
        before = picture_seconds(self.generator)
        started = time.perf_counter()
        edit.main(
            [
                *case.words,
                f"generator={self.plan['generator']}",
                f"guidance.prior={self.plan['prior']}",
                f"seed={case.seed}",
                f"mask={mask}",
                f"prompt={case.prompt}",
                f"edit_classes=[{','.join(case.classes)}]",
                "report.num_orbit_frames=1",
                f"output={folder}",
            ]
        )
        seconds = time.perf_counter() - started
        picture = (before + picture_seconds(self.generator)) / 2
        receipt = json.loads((folder / "receipt.json").read_text())
        return {
            **summarize(receipt, is_whole_head=len(case.classes) == CATMASK_HQ.num_classes - 1),
            "prior": self.prior.agreement(case.prompt, painted),
            "seconds": seconds,
            "seconds_at_reference": seconds * REFERENCE_SECONDS / picture,
            "picture_seconds": picture,
        }

    def _source_mask(self, seed: int) -> Tensor:  # [1, H, W] int64
        folder = self.folder / "sources" / str(seed)
        path = folder / "paint_me.png"
        if not path.exists():
            edit.main([f"generator={self.plan['generator']}", f"seed={seed}", f"output={folder}"])
        return torch.from_numpy(load_label_map(path, CATMASK_HQ).astype(np.int64))[None]


def summarize(receipt: dict[str, Any], *, is_whole_head: bool) -> dict[str, Any]:
    """Return a receipt's numbers for the table.

    Args:
        is_whole_head: Whether all labels may change, so that PSNR outside them says nothing.
    """
    summary = receipt["summary"]
    views = [db for db in receipt["psnr_outside_region_other_views_db"] if db is not None]
    return {
        "repainted": summary["repainted"],
        "kept": summary["untouched"],
        "network": summary["untouched_by_network"],
        "db": None if is_whole_head else receipt["psnr_outside_region_db"],
        "db_views": None if is_whole_head or not views else min(views),
        "agreement": {
            f"{part} {one['word']}": one["agreement"]["after"]
            for part, one in receipt["colors"].items()
        },
    }


class PriorSamples:
    """How well the prior's own samples agree with prompts on painted masks.

    Args:
        prior: Stable Diffusion with ControlNet, in diffusers' format.
        options: count, steps and guidance_scale of the samples.
        cache: File that remembers the results.
    """

    def __init__(self, prior: str, options: dict[str, Any], cache: Path):
        self.options, self.cache = options, cache
        self.known = json.loads(cache.read_text()) if cache.exists() else {}
        self.pipeline = StableDiffusionControlNetPipeline.from_pretrained(
            folder_or_asset(prior), safety_checker=None, requires_safety_checker=False
        )
        self.pipeline.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)

    def agreement(self, prompt: str, painted: Tensor) -> dict[str, float]:
        """Return each named colour's mean agreement over the samples."""
        text = f"{prompt} {self.options}".encode() + painted.to(torch.uint8).numpy().tobytes()
        key = hashlib.sha256(text).hexdigest()[:16]
        if key not in self.known:
            self.known[key] = self._measure(prompt, painted)
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            self.cache.write_text(json.dumps(self.known, indent=2) + "\n")
        return self.known[key]

    def _measure(self, prompt: str, painted: Tensor) -> dict[str, float]:
        side = self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor
        small = F.interpolate(painted[None].float(), size=(side, side))[0].long()
        count = self.options["count"]
        samples = self.pipeline(
            [prompt] * count,
            image=((colorize_label_map(small, CATMASK_HQ) + 1) / 2).expand(count, -1, -1, -1),
            num_inference_steps=self.options["steps"],
            guidance_scale=self.options["guidance_scale"],
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images
        label_maps = small.expand(count, -1, -1)
        known = load_part_colors(CATMASK_HQ.name)
        found: dict[str, list[float]] = {}
        for one in named_colors(samples * 2 - 1, label_maps, [prompt] * count, CATMASK_HQ):
            if one.word in known[one.part].means:
                probability = known[one.part].probabilities(one.color)[one.word]
                found.setdefault(f"{one.part} {one.word}", []).append(probability)
        return {name: statistics.fmean(values) for name, values in found.items()}


@torch.no_grad()
def picture_seconds(generator: Generator) -> float:
    """Return the median time of one exact picture with its mask."""
    camera = generator.config.camera_rig.make_camera(0.0)
    ws = generator.map(torch.zeros(1, generator.config.z_dim), camera)
    times = []
    for _ in range(_TIMED_PICTURES):
        started = time.perf_counter()
        generator.synthesize(ws, camera)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def table_text(rows: list[tuple[Case, dict[str, Any]]]) -> str:
    """Return Markdown: a row per run and edit, and the means of each run."""
    names = ("run", "edit", "repainted", "kept", "network", "dB", "dB views")
    names += ("agreement", "prior", "seconds", "at 0.25")
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for run in dict.fromkeys(case.run for case, _ in rows):
        of_run = [(case, row) for case, row in rows if case.run == run]
        for name in dict.fromkeys(case.edit for case, _ in of_run):
            lines.append(_line(run, name, [row for case, row in of_run if case.edit == name]))
        lines.append(_line(f"**{run}**", "**mean**", [row for _, row in of_run], in_detail=False))
    return "\n".join(lines) + "\n"


def _line(run: str, name: str, rows: list[dict[str, Any]], *, in_detail: bool = True) -> str:
    def number(key: str, digits: int) -> str:
        value = _mean(row[key] for row in rows)
        return "-" if value is None else f"{value:.{digits}f}"

    def colors(key: str) -> str:
        parts = list(dict.fromkeys(part for row in rows for part in row[key]))
        if not in_detail:
            value = _mean(_mean(row[key].values()) for row in rows)
            return "-" if value is None else f"{value:.2f}"
        means = (statistics.fmean(row[key][p] for row in rows if p in row[key]) for p in parts)
        texts = (f"{part} {mean:.2f}" for part, mean in zip(parts, means, strict=True))
        return ", ".join(texts) or "-"

    cells = [run, name, *(number(key, 2) for key in ("repainted", "kept", "network"))]
    cells += [number("db", 0), number("db_views", 0), colors("agreement"), colors("prior")]
    cells += [number("seconds", 0), number("seconds_at_reference", 0)]
    return "| " + " | ".join(cells) + " |"


def contact_sheet(
    rows: list[list[Image.Image]], names: list[str], titles: list[str]
) -> Image.Image:
    """Return pictures in rows, with the name of each row on its left and titles above columns."""
    side, top = rows[0][0].width, 20
    left = 12 + max(len(name) for name in names) * 7
    width = left + side * max(len(row) for row in rows)
    sheet = Image.new("RGB", (width, top + side * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((left + column * side + 4, 4), title, fill="black")
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        draw.text((6, top + index * side + side // 2), name, fill="black")
        for column, picture in enumerate(row):
            sheet.paste(picture, (left + column * side, top + index * side))
    return sheet


def pictures_of(folder: Path) -> dict[str, Image.Image]:
    """Return an edit's pictures by title; the sides are the outermost views."""
    names = {"source": "source", "painted": "target_mask", "edited": "edited"}
    pictures = {
        title: Image.open(folder / f"{name}.png").convert("RGB") for title, name in names.items()
    }
    views, side = Image.open(folder / "views.png").convert("RGB"), pictures["source"].width
    for title, left in (("left", 0), ("right", views.width - side)):
        pictures[title] = views.crop((left, side, left + side, 2 * side))
    return pictures


def write_sheets(folder: Path, cases: list[Case]) -> None:
    """Write one sheet per run with all heads, and one with all runs of the first head."""
    pictures: dict[str, dict[str, list[dict[str, Image.Image]]]] = {}
    for case in cases:
        of_edit = pictures.setdefault(case.edit, {}).setdefault(case.run, [])
        of_edit.append(pictures_of(folder / case.run / case.name))
    runs = list(dict.fromkeys(case.run for case in cases))
    for run in runs:
        heads = {name: of_runs[run] for name, of_runs in pictures.items() if run in of_runs}
        rows = [[one for head in all_ for one in head.values()] for all_ in heads.values()]
        titles = [title for head in next(iter(heads.values())) for title in head]
        contact_sheet(rows, list(heads), titles).save(folder / f"sheet_{run}.png")
    rows = []
    for of_runs in pictures.values():
        first = {run: heads[0] for run, heads in of_runs.items()}
        any_head = next(iter(first.values()))
        blank = Image.new("RGB", any_head["source"].size, "white")
        edited = [first[run]["edited"] if run in first else blank for run in runs]
        rows.append([any_head["source"], any_head["painted"], *edited])
    sheet = contact_sheet(rows, list(pictures), ["source", "painted", *runs])
    sheet.save(folder / "compare.png")


def main() -> None:
    """Run the chosen edits and write everything."""
    options = read_words(DEFAULTS)
    plan = yaml.safe_load(Path(options["list"]).read_text(encoding="utf-8"))
    folder = Path(options["output"])
    cases = list_cases(plan, options)
    table, rows, failed = Table(plan, folder), [], []
    for case in cases:
        try:
            rows.append((case, table.row(case)))
        except SystemExit as stop:
            failed.append(f"{case.run}/{case.name} (exit code {stop.code})")
    if rows:
        numbers = [vars(case) | row for case, row in rows]
        document = {**describe_machine(torch.device("cpu")), "edits": numbers, "failed": failed}
        (folder / "edits.json").write_text(json.dumps(document, indent=2) + "\n")
        text = table_text(rows)
        (folder / "edits").with_suffix(".md").write_text(text)
        write_sheets(folder, [case for case, _ in rows])
        print(text)
    if failed:
        sys.exit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
