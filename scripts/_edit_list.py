"""Lists of edits: read one, and make its edits with the networks loaded once."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from editing.edited_portrait import read_receipt
from mate3d.atomic import atomic_file
from mate3d.checkpoints.assets import named_asset
from mate3d.errors import UserError
from mate3d.outputs.page import render_page
from scripts._compose import build_options, compose_config, composing, flatten
from scripts._edit_options import EditScriptOptions, hash_of, protect_files
from scripts._entry import check_own_run, write_run_folder
from scripts._flags import read_flags
from scripts._words import find_option, script_groups

_logger = logging.getLogger(__name__)

# Options of the list as a whole.
_COMMON = "output edits paths generator guidance device experiment debug".split()


def read_edits(config: EditScriptOptions, words: Sequence[str]) -> list[EditScriptOptions]:
    """Return the options of each edit of a list: those of the command line, then its own.

    The `source` or `blend` of an edit may be the name of an earlier one.

    Args:
        words: The command line.

    Raises:
        UserError: If the list cannot be read, or an edit has no name, the name of another one, an
            unknown option, or one that is common to all.
    """
    path = Path(config.edits)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"edits={path} is not readable YAML: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"edits={path} is not a list; each item is a name and options of an edit")
    found, (_, options) = {}, read_flags(words)
    for number, entry in enumerate(entries, start=1):
        where = f"edit {number} of {path}"
        own = dict(entry) if isinstance(entry, dict) else {}
        name = str(own.pop("name", ""))
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"{where} needs a name of letters, digits and _.- for its folder")
        if name in found:
            raise UserError(f"{where} has the name {name} of an edit before it")
        try:
            found[name] = _read_edit(config, options, name, own, list(found))
        except UserError as error:
            raise UserError(f"{where}, {name}: {error}") from None
    return list(found.values())


def _read_edit(
    config: EditScriptOptions,
    words: Sequence[str],
    name: str,
    entry: Mapping[str, Any],
    earlier: Sequence[str],
) -> EditScriptOptions:
    entry = {"source" if key == "seed" else str(key): value for key, value in entry.items()}
    for key in entry:
        if key.partition(".")[0] in _COMMON:
            raise UserError(f"{key} is common to all edits; give it on the command line")
    groups = {
        key: str(entry.pop(key))
        for key in set(entry) & set(script_groups("edit"))
        if not isinstance(entry[key], Mapping)
    }
    replaced = {"output", "edits", "paths.run_folder", *groups}
    kept = [word for word in words if word.lstrip("+").partition("=")[0] not in replaced]
    own = [f"{key}={value}" for key, value in groups.items()]
    composed = compose_config("edit", [*kept, *own, f"output={Path(config.output) / name}"])
    for key in {"source", "blend"} & set(entry):
        if str(entry[key]) in earlier:
            entry[key] = str(Path(config.output) / str(entry[key]))
    views = entry.get("views")
    for each in (entry, *(views if isinstance(views, list) else ())):
        mask = isinstance(each, dict) and each.get("mask")
        if isinstance(mask, str) and not named_asset(mask):
            each["mask"] = str(Path(config.edits).parent / Path(mask).expanduser())
    with composing("edit"):
        for key, value in flatten(entry):
            find_option("edit", key)
            OmegaConf.update(composed, key, value, force_add=True)
    options = build_options("edit", composed)
    if options.is_source:
        raise UserError("an edit needs a mask, views or a prompt")
    return options


def make_edits(
    config: EditScriptOptions,
    entries: Sequence[EditScriptOptions],
    make_edit: Callable[[EditScriptOptions], None],
    should_stop: Callable[[], bool],
) -> None:
    """Make the edits that are not done yet; a failure does not stop the others.

    Args:
        entries: The options of each edit.
        make_edit: Makes and writes one.

    Raises:
        UserError: At the end, if some failed.
    """
    folder, problems = Path(config.output), {}
    names = [Path(options.output).name for options in entries]
    for number, options in enumerate(entries, start=1):
        name = names[number - 1]
        try:
            if _is_done(options):
                _logger.info("edit %d of %d: %s is done already", number, len(entries), name)
                continue
            if should_stop():
                continue
            _logger.info("edit %d of %d: %s", number, len(entries), name)
            check_own_run(Path(options.output) / "config.yaml", "edit")
            protect_files(options)
            make_edit(options)
            write_run_folder(Path(options.output), "edit", options)
        except Exception as error:
            _logger.debug("failed", exc_info=True)
            known = isinstance(error, UserError)
            problems[name] = str(error) if known else f"{type(error).__name__}: {error}"
            _logger.error("edit %s failed: %s", name, problems[name])
        _write_page(folder, names, problems)
    _write_page(folder, names, problems)
    _logger.info("open %s", folder / "index.html")
    if should_stop():
        _logger.info("stopped; the same command makes the edits that are not done")
    if problems:
        failed = ", ".join(problems)
        raise UserError(f"{len(problems)} of {len(entries)} edits failed: {failed}")


def _write_page(folder: Path, names: Sequence[str], problems: Mapping[str, str]) -> None:
    """Write the page that compares the edits: pictures and numbers of those with results."""
    rows = [(name, problems.get(name), read_receipt(folder / name)) for name in names]
    with atomic_file(folder / "index.html") as path:
        page = render_page("edit_list", title=folder.name, rows=rows)
        path.write_text(page, encoding="utf-8")


def _is_done(options: EditScriptOptions) -> bool:
    receipt = read_receipt(options.output)
    return (
        receipt.get("config_hash") == hash_of(options)
        and (options.is_replay or receipt.get("num_steps", 0) >= options.edit.num_steps)
        and len(receipt.get("samples", ())) in (0, options.num_samples)
    )
