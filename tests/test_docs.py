"""What the documents point to exists, and their tables say what the code says."""

import ast
import json
import re
from dataclasses import fields
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from editing.edited_portrait import WRITTEN_FILES
from editing.options import EditOptions, ObjectiveName
from editing.receipt import LabelReceipt, Measures, Receipt
from mate3d.labels import get_label_set, label_set_names
from mate3d.procedural.cats.cat import CatParameters
from mate3d.procedural.people.person import PersonParameters
from scripts._compose import compose_config, flatten
from training.data.doctor.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for folder in ("docs", "datasets", "benchmarks", "mate3d/assets")
    for path in (ROOT / folder).rglob("*.md")
) + [Path("README.md")]
PACKAGES = ("mate3d", "training", "editing", "torch_utils", "scripts")
CODE = sorted(
    path
    for folder in (*PACKAGES, "configs", "tests", "benchmarks", "docs")
    for pattern in ("*.py", "*.cu", "*.cuh", "*.yaml")
    for path in (ROOT / folder).rglob(pattern)
)
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
EDITING = (ROOT / "docs" / "editing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_to_files(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    missing = [link for link in local if not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_files_that_a_document_names_exist(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    rooms = "mate3d|training|editing|torch_utils|scripts|configs|tests|benchmarks"
    named = set(re.findall(rf"(?<![\w/.])(?:{rooms})/[\w/.*]*\w", text))
    assert not [name for name in named if not list(ROOT.glob(name))]


@cache
def known_options() -> set[str]:
    """Return the dotted options of all scripts, and the groups that hold them."""
    words = {"prepare_data": ["dataset=catmask_hq"]}
    scripts = [path.stem for path in (ROOT / "scripts").glob("[a-z]*.py")]
    configs = [compose_config(script, words.get(script, [])) for script in scripts]
    names = {name for config in configs for name, _ in flatten(config) if "." in name}
    return names | {name.rpartition(".")[0] for name in names}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_options_that_a_document_names_exist(document):
    if document.stem == "generator_spec":
        pytest.skip("it names the modules of others")
    text = (ROOT / document).read_text(encoding="utf-8")
    code = " ".join(re.findall(r"`[^`\n]+`|^ {4}.*", text, flags=re.MULTILINE))
    options = known_options()
    groups = "|".join({name.partition(".")[0] for name in options})
    files = r"\.(py|yaml|html|json|safetensors|png|zip|md)$|^training\.[a-z_]*\.[a-z_]*$"
    named = set(re.findall(rf"(?<![\w./])((?:{groups})\.[a-z_.*]*[a-z*])(?![\w(/])", code))
    named = {name for name in named if not re.search(files, name)}
    assert not [name for name in named if not any(fnmatch(known, name) for known in options)]


def test_every_finding_of_the_check_is_listed_and_starred_if_it_can_be_repaired():
    listed = re.findall(r"^\| (\w+) \| `(\w+)`( \*)? \|", DATA, flags=re.MULTILINE)
    expected = {(kind.severity, kind.code, bool(kind.fix)) for kind in CATALOGUE.values()}
    assert {(severity, code, bool(star)) for severity, code, star in listed} == expected


def test_every_label_set_is_listed_with_its_number_of_classes():
    listed = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", DATA, flags=re.MULTILINE))
    sizes = {name: get_label_set(name).num_classes for name in label_set_names()}
    with_classes = {name: str(size) for name, size in sizes.items() if size > 0}
    assert listed == with_classes


def first_column(page: str, heading: str) -> list[str]:
    """Return the names in backticks in the first cells of the tables of a section."""
    section = re.search(rf"^## {heading}\n.*?(?=^## )", page, flags=re.MULTILINE | re.DOTALL)[0]
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", section, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_every_variant_and_objective_of_an_edit_is_listed():
    variants = {path.stem for path in (ROOT / "configs" / "edit").glob("*.yaml")}
    listed = first_column(EDITING, "Choose a variant")
    assert len(listed) == len(variants) and set(listed) == variants
    assert set(first_column(EDITING, "Choose an objective")) == set(get_args(ObjectiveName))


def test_defaults_of_an_edit_are_those_that_its_page_says():
    options, text = EditOptions(), " ".join(EDITING.split())
    for phrase in (
        f"; {options.num_steps} steps |",
        f"these are {options.distillation.denoised.num_views} fixed views",
        f"({100 * options.soft_thickness:g} % of the head's size)",
        f"the first {100 * options.soft_share:g} % of the steps",
    ):
        assert phrase in text, phrase


def test_values_of_a_receipt_are_those_that_edits_write():
    known = {"summary", *(each.name for kind in (Receipt, LabelReceipt) for each in fields(kind))}
    listed = [name for name in first_column(EDITING, "Read the results") if name.isidentifier()]
    assert set(listed) <= known
    assert {each.name for each in (*fields(Measures), *fields(LabelReceipt))} <= set(listed)


def test_files_of_an_edit_that_are_listed_are_written():
    listed = [name for name in first_column(EDITING, "Read the results") if "." in name]
    assert all(WRITTEN_FILES.fullmatch(name) for name in listed)


def color_table(names: list[str]) -> str:
    """Return the classes of label sets with their colours, and the id in each set."""
    sets = [get_label_set(name) for name in names]
    colors = {
        class_name: color
        for one in sets
        for class_name, color in zip(one.class_names, one.palette, strict=True)
    }
    rows = [["name", "colour", *(f"`{name}`" for name in names)], ["---"] * (2 + len(names))]
    for class_name, color in colors.items():
        ids = [
            str(one.class_id(class_name)) if class_name in one.class_names else "" for one in sets
        ]
        rows.append([class_name, "`#{:02x}{:02x}{:02x}`".format(*color), *ids])
    lines = (f"|{'|'.join(row)}|" if row[0] == "---" else f"| {' | '.join(row)} |" for row in rows)
    return "\n".join(lines).replace("  |", " |")


def test_page_on_masks_has_the_colours_and_ids_of_all_label_sets():
    page = (ROOT / "docs" / "masks.md").read_text(encoding="utf-8")
    faces = [
        name
        for name in re.findall(r"^\| `(\w+)` \| \d+ \|", DATA, flags=re.MULTILINE)
        if name != "catmask_hq"
    ]
    for names in (["catmask_hq"], faces):
        assert f"\n\n{color_table(names)}\n\n" in page, color_table(names)


@pytest.mark.parametrize(
    ("parameters", "card"),
    [(CatParameters, "procedural_cat"), (PersonParameters, "procedural_person")],
)
def test_card_lists_every_attribute_with_its_range(parameters, card):
    text = (ROOT / "datasets" / card / "README.md").read_text(encoding="utf-8")
    for field in fields(parameters):
        low, high, size = (field.metadata[key] for key in ("low", "high", "size"))
        wanted = "colour" if size == 3 else f"{low:g}..{high:g}"
        assert f"`{field.name}` {wanted}" in text, field.name


def test_spec_sections_that_the_code_cites_exist():
    page = (ROOT / "docs" / "generator_spec.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", page, flags=re.MULTILINE))
    cited = {
        (path.relative_to(ROOT).as_posix(), section)
        for path in CODE
        for sections in re.findall(
            r"\bspec (\d[\d., and-]*)", path.read_text(encoding="utf-8"), flags=re.IGNORECASE
        )
        for section in re.findall(r"\d+(?:\.\d+)?", sections)
    }
    assert cited and not {(path, section) for path, section in cited if section not in headings}


def test_files_that_the_code_cites_are_in_the_repository():
    pages, missing = {page.name for page in DOCUMENTS}, []
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(
            r"(?:docs|tests|datasets|benchmarks)/[\w/-]+\.(?:md|py|cu|safetensors|pkl)\b", text
        ):
            missing += [] if (ROOT / name).exists() else [(path, name)]
        # A file that a command writes beside a model, and not a page.
        for name in set(re.findall(r"\b\w+\.md\b", text)) - {"card.md"}:
            missing += [] if name in pages else [(path, name)]
    assert not missing


def test_functions_that_the_method_names_exist():
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    cited = re.findall(r"`(\w+/[\w/]+\.py):(\w+)`", page)
    assert len(cited) > 30
    for path, name in cited:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        kinds = (ast.FunctionDef, ast.ClassDef)
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, kinds)}, path


# Rows of speed tables by the benchmark's result.
SPEEDS = {
    "generator_face512_128px": "an image with segmentation, 128 px renders",
    "generator_face512_64px": "the same, 64 px renders",
    "training_face512_64px": "a training iteration, 64 px renders",
}


@pytest.mark.parametrize("document", ["README.md", "benchmarks/README.md"])
def test_speeds_are_those_of_committed_results(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for name, row in SPEEDS.items():
        path = ROOT / "benchmarks" / "results" / f"{name}.json"
        result = json.loads(path.read_text(encoding="utf-8"))
        speed = result["times_as_fast_by_processor_seconds"]["fast"]
        ratios = f"{speed:.1f}x | {result['share_of_memory']['fast']:.2f}x |"
        assert re.search(rf"^\| {row} \|.* {re.escape(ratios)}", text, re.MULTILINE), (row, ratios)
        machine = [str(result[key]) for key in ("machine", "instruction_set", "torch_version")]
        assert all(word in text for word in machine) and result["threads"] == 1, machine
