"""Find the files of a model: in a folder, in one file, or on the Hugging Face hub."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError, safe_open

from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.checkpoints.hub import hub_errors, is_hub_id, read_repository
from mate3d.errors import UserError

_logger = logging.getLogger(__name__)
_SINGLE_FILES = (".safetensors", ".ckpt")
_WEIGHTS = re.compile(
    r"(?:.*/)?(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?"
    r"(?:-\d{5}-of-\d{5})?\.(?P<format>safetensors|bin)"
)
# Folders of a Stable Diffusion that are used; others hold a safety checker and its input.
_PIPELINE_FOLDERS = ("", "scheduler", "text_encoder", "tokenizer", "unet", "vae")
_ADVICE = (
    "`python -m scripts.download_weights what=mate3d_face` (or mate3d_cat) fetches the weights of"
    " a preset, for use without a network"
)
_LFS_POINTER = b"version https://git-lfs"


def find_model(
    location: str,
    option: str,
    variant: str | None = None,
    choose: Callable[[Sequence[str]], str] = lambda names: "",
) -> Path:
    """Return the folder of a model, or its single file, after download where necessary.

    Args:
        location: The name of an included model, a folder, a file, or a hub id.
        option: Option that names the location, for messages.
        variant: Variant to download; see `choose_weights`.
        choose: Returns the model's folder in the place, given the names of all files there.

    Raises:
        UserError: If there is nothing, or the hub does not answer.
    """
    path = folder_or_asset(location)
    if path.is_file() and path.suffix in _SINGLE_FILES:
        return path
    if path.is_dir():
        return path / choose(_names_in(path))
    # A hub id looks like a relative path; if its first part is a folder here, it is a path.
    if not is_hub_id(location) or path.parent.is_dir():
        raise UserError(
            f"{option} not found: {location}; use a folder in diffusers' format, a file"
            f" ({', '.join(_SINGLE_FILES)}) or a hub id (owner/name)"
            f"{where_to_find(location, '*/model_index.json')}"
        )
    what = f"{option}={location}"
    try:
        info = read_repository(location, "main")
    except UserError as error:
        try:
            root = Path(snapshot_download(location, local_files_only=True))
        except LocalEntryNotFoundError:
            is_refusal = isinstance(error.__cause__, HfHubHTTPError)
            advice = "" if is_refusal else f"; {_ADVICE}"
            raise UserError(f"{what}: {error}{advice}") from error
        if not isinstance(error.__cause__, OfflineModeIsEnabled):
            _logger.warning("%s is taken from the cache: %s", what, error)
        return root / choose(_names_in(root))
    names = [file.rfilename for file in info.siblings]
    folder = choose(names)
    with hub_errors(location):
        # Unlike whole snapshots, single files show no progress if they are in the cache.
        for name in needed_files(names, [folder], variant, what):
            root = Path(hf_hub_download(location, name)).parents[name.count("/")]
    return root / folder


def controlnet_folders(names: Iterable[str]) -> list[str]:
    """Return the folders of the ControlNets among files; "" alone if the top is one."""
    files = [PurePosixPath(name) for name in names]
    weights = {file.parent for file in files if _WEIGHTS.fullmatch(file.name)}
    folders = {file.parent for file in files if file.name == "config.json"} & weights
    if PurePosixPath() in folders:
        return [""]
    others = (*_PIPELINE_FOLDERS, "safety_checker")
    return sorted(str(each) for each in folders if each.name not in others)


def choose_controlnet(names: Sequence[str], location: str, subfolder: str | None) -> str:
    """Return the folder of the only ControlNet among files; "" is the top.

    Args:
        subfolder: Folder in which to look; also the last one of the location. None looks in all.

    Raises:
        UserError: If there is none, or several to choose from.
    """
    found, what = controlnet_folders(names), f"guidance.controlnet={location}"
    wanted = f"/{subfolder.strip('/')}/" if subfolder else "/"
    chosen = [each for each in found if not each or wanted in f"/{location}/{each}/"]
    if len(chosen) == 1:
        return chosen[0]
    if not found:
        raise UserError(f"{what} is not a ControlNet in diffusers' format (config.json, weights)")
    raise UserError(
        f"{what} has {len(chosen)} ControlNets in {subfolder or 'it'}; set"
        f" guidance.controlnet_subfolder to one of: {', '.join(chosen or found)}"
    )


def needed_files(
    names: Sequence[str], folders: Sequence[str], variant: str | None, what: str
) -> list[str]:
    """Return the files of a repository that are loaded: settings, and one form of all weights.

    Args:
        folders: Those of ControlNets; "" for a Stable Diffusion, or a network at the top.

    Raises:
        UserError: If there are no weights, or several variants to choose from.
    """
    weights, settings = [], []
    for folder in _PIPELINE_FOLDERS if "" in folders else folders:
        inside = [name for name in names if name.rpartition("/")[0] == folder]
        settings += [name for name in inside if name.endswith((".json", ".txt"))]
        # Half precision is a smaller download, and serves full precision too.
        chosen = choose_weights(inside, variant, prefer_half=True, what=what)
        weights += [match.string for match in chosen]
    if not weights:
        held = ", ".join(names) or "nothing"
        raise UserError(f"{what} has no weights in diffusers' format; its files are {held}")
    return settings + weights


def choose_weights(
    names: Iterable[str], variant: str | None, *, prefer_half: bool, what: str
) -> list[re.Match[str]]:
    """Return a network's files of weights in one form, with the groups "variant" and "format".

    Args:
        names: Files of the network's folder.
        variant: Wanted variant, such as "fp16"; None, or one that the network does not have,
            takes the plain files, or those of half precision, or of the only variant.
        prefer_half: Whether files of half precision are better than plain ones.

    Raises:
        UserError: If there are several variants to choose from.
    """
    matches = [match for name in names if (match := _WEIGHTS.fullmatch(name))]
    found = sorted({match["variant"] or "" for match in matches})
    order = [variant, *(("fp16", "") if prefer_half else ("", "fp16"))]
    known = [each for each in order if each in found]
    if not known and len(found) > 1:
        listed = ", ".join(found)
        raise UserError(f"{what}: no plain weights; set guidance.variant to one of: {listed}")
    chosen = [match for match in matches if (match["variant"] or "") in (known or found)[:1]]
    is_safe = any(match["format"] == "safetensors" for match in chosen)
    return [match for match in chosen if (match["format"] == "safetensors") == is_safe]


def check_file(path: Path, what: str) -> None:
    """Refuse a file that is damaged, or only stands for a large one.

    Raises:
        UserError: Names the file.
    """
    try:
        with path.open("rb") as stream:
            is_pointer = stream.read(len(_LFS_POINTER)) == _LFS_POINTER
        if path.suffix == ".safetensors" and not is_pointer:
            safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{what}: {path} is damaged or unreadable: {error}") from None
    if is_pointer:
        raise UserError(f"{what}: {path} is a git-lfs pointer; run `git lfs pull` in its folder")


def _names_in(folder: Path) -> list[str]:
    # Deep enough for the checkpoints of a repository's ControlNets.
    found = (each for depth in range(4) for each in folder.glob("*/" * depth + "*"))
    return [each.relative_to(folder).as_posix() for each in found if each.is_file()]
