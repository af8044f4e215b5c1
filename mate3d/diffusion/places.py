"""Find the files of a model: in a folder, in one file, or on the Hugging Face hub."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.checkpoints.hub import hub_errors, is_hub_id, read_repository, select_networks
from mate3d.errors import UserError

_SINGLE_FILES = (".safetensors", ".ckpt")
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?"
    r"(?:-\d{5}-of-\d{5})?\.(?P<format>safetensors|bin)"
)
# Networks of a Stable Diffusion beside its ControlNet.
_OTHER_NETWORKS = ("vae", "unet", "text_encoder", "safety_checker", "image_encoder")
_ADVICE = (
    "`python -m scripts.download_weights what=mate3d_face` (or mate3d_cat) fetches the weights of"
    " a preset, for use without a network"
)
_LFS_POINTER = b"version https://git-lfs"


def find_model(
    location: str, option: str, choose: Callable[[Sequence[str]], str] = lambda names: ""
) -> Path:
    """Return the folder of a model, or its single file, after download where necessary.

    Args:
        location: The name of an included model, a folder, a file, or a hub id.
        option: Option that names the location, for messages.
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
    try:
        info = read_repository(location, "main")
    except UserError as error:
        try:
            root = Path(snapshot_download(location, local_files_only=True))
        except LocalEntryNotFoundError:
            is_refusal = isinstance(error.__cause__, HfHubHTTPError)
            advice = "" if is_refusal else f"; {_ADVICE}"
            raise UserError(f"{option}={location}: {error}{advice}") from error
        return root / choose(_names_in(root))
    folder = choose([file.rfilename for file in info.siblings])
    with hub_errors(location):
        # Unlike whole snapshots, single files show no progress if they are in the cache.
        for name in (file.rfilename for file in select_networks(info, folder)):
            root = Path(hf_hub_download(location, name)).parents[name.count("/")]
    return root / folder


def choose_controlnet(
    names: Sequence[str], location: str, subfolder: str | None, *, option: str, what: str
) -> str:
    """Return the folder of the only ControlNet among files; "" is the top.

    Args:
        subfolder: Folder in which to look; also the last one of the location. None looks in all.
        option: Option that gives the subfolder.
        what: The option of the location and its value.

    Raises:
        UserError: If there is none, or several to choose from.
    """
    files = [PurePosixPath(name) for name in names]
    weights = {file.parent for file in files if _WEIGHTS.fullmatch(file.name)}
    folders = {file.parent for file in files if file.name == "config.json"} & weights
    found = sorted(str(each) for each in folders if each.name not in _OTHER_NETWORKS)
    if "." in found:
        return ""
    wanted = f"/{subfolder.strip('/')}/" if subfolder else ""
    chosen = [folder for folder in found if wanted in f"/{location}/{folder}/"]
    if len(chosen) == 1:
        return chosen[0]
    if not found:
        raise UserError(f"{what} is not a ControlNet in diffusers' format (config.json, weights)")
    raise UserError(
        f"{what} has {len(chosen)} ControlNets in {subfolder or 'it'}; set {option} to one of:"
        f" {', '.join(chosen or found)}"
    )


def choose_weights(
    folder: Path, variant: str | None, *, prefer_half: bool, option: str, what: str
) -> tuple[Path, dict[str, object]]:
    """Return a network's file of weights, and the arguments with which it is loaded.

    Args:
        variant: Wanted variant, such as "fp16"; None, or one that the network does not have,
            takes the plain files, or those of the only variant.
        prefer_half: Whether files of half precision are better than plain ones.
        option: Option that chooses the variant.
        what: The option of the prior and its value.

    Raises:
        UserError: If there are none, or several variants to choose from, or one is damaged.
    """
    found: dict[tuple[str | None, str], Path] = {}
    for path in sorted(folder.glob("*")):
        check_file(path, what)
        if match := _WEIGHTS.fullmatch(path.name):
            found.setdefault((match["variant"], match["format"]), path)
    if not found:
        raise UserError(f"{what}: no weights in {folder}")
    variants = {key[0] for key in found}
    order = [variant, *(("fp16", None) if prefer_half else (None, "fp16"))][variant is None :]
    chosen, *others = [each for each in order if each in variants] or sorted(variants)
    if others and chosen not in order:
        names = ", ".join(sorted(variants))
        raise UserError(f"{what}: no plain weights in {folder}; set {option} to one of: {names}")
    format = "safetensors" if (chosen, "safetensors") in found else "bin"
    arguments = {"variant": chosen, "use_safetensors": format == "safetensors"}
    return found[chosen, format], arguments


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
