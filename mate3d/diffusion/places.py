"""Where the files of a model are: in a folder, in one file, or on the Hugging Face hub."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from mate3d.checkpoints.assets import folder_or_asset, where_to_find
from mate3d.checkpoints.hub import hub_errors, is_hub_id, read_repository
from mate3d.errors import UserError

SINGLE_FILES = (".safetensors", ".ckpt")
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>\w+))?"
    r"(?:-\d{5}-of-\d{5})?\.(?P<format>safetensors|bin)"
)
# Folders inside a folder that are looked through for a model.
_DEPTH = 3
# Networks of a Stable Diffusion beside its ControlNet.
_OTHER_NETWORKS = ("vae", "unet", "text_encoder", "safety_checker", "image_encoder")
_HUB_ADVICE = (
    "; python -m scripts.download_weights what=mate3d_cat fetches the weights of a preset, for use"
    " without a network"
)
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Place:
    """A model's files.

    Args:
        what: The option and its value, for messages, such as "guidance.prior=weights/sd".
        folder: Where the files are; None if they are on the hub.
        repo_id: Their repository on the hub; "" if they are in a folder.
        files: Names of the files, relative to the folder or repository.
        single_file: The one file that holds everything, or None.
    """

    what: str
    folder: Path | None
    repo_id: str = ""
    files: tuple[str, ...] = ()
    single_file: Path | None = None

    def fetch(self, names: Sequence[str]) -> Path:
        """Return the folder that holds the named files, after download where necessary.

        Raises:
            UserError: If they cannot be downloaded, or are damaged.
        """
        folder = self.folder
        if folder is None:
            # Unlike whole snapshots, single files show no progress if they are in the cache.
            with _hub_errors(self.what), hub_errors(self.repo_id):
                paths = [Path(hf_hub_download(self.repo_id, name)) for name in names]
            folder = paths[0].parents[names[0].count("/")]
        for name in names:
            check_file(folder / name, self.what)
        return folder

    def inside(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder; "" is the top."""
        return [name for name in self.files if _parent(name) == folder]


def find_place(location: str, option: str, *patterns: str) -> Place:
    """Return the place of a model: the name of an included one, a folder, a file, or a hub id.

    Args:
        option: Option that names the location.
        patterns: Where an existing folder may have the model instead, for advice.

    Raises:
        UserError: If there is nothing, or the hub does not answer.
    """
    path, what = folder_or_asset(location), f"{option}={location}"
    if path.is_file() and path.suffix in SINGLE_FILES:
        check_file(path, what)
        return Place(what, path.parent, single_file=path)
    if path.is_dir():
        return Place(what, path, files=_list_files(path))
    # A hub id looks like a relative path; if its first part is a folder here, it is a path.
    if not is_hub_id(location) or path.parent.is_dir():
        raise UserError(
            f"{option} not found: {location}; use a folder in diffusers' format, a file"
            f" ({', '.join(SINGLE_FILES)}) or a hub id (owner/name)"
            f"{where_to_find(location, *patterns)}"
        )
    try:
        with _hub_errors(what):
            siblings = read_repository(location, "main").siblings
        return Place(what, None, location, tuple(file.rfilename for file in siblings))
    except UserError as error:
        try:
            folder = Path(snapshot_download(location, local_files_only=True))
        except LocalEntryNotFoundError:
            raise error from None
        return Place(what, folder, files=_list_files(folder))


def choose_weights(
    place: Place, folder: str, variant: str | None, *, prefer_half: bool, option: str
) -> tuple[list[str], dict[str, object]]:
    """Return a network's files of weights, and the arguments with which diffusers loads them.

    Args:
        folder: The network's folder in the place.
        variant: Wanted variant, such as "fp16"; None, or one that the network does not have,
            takes the plain files, or those of the only variant.
        prefer_half: Whether files of half precision are better than plain ones.
        option: Option that chooses the variant.

    Raises:
        UserError: If there are none, or several variants to choose from.
    """
    found: dict[tuple[str | None, str], list[str]] = {}
    for name in place.inside(folder):
        if match := _WEIGHTS.fullmatch(PurePosixPath(name).name):
            found.setdefault((match["variant"], match["format"]), []).append(name)
    if not found:
        raise UserError(f"{place.what} has no weights in {folder or 'its folder'}")
    variants = {key[0] for key in found}
    order = [variant] if variant else []
    order += ["fp16", None] if prefer_half else [None, "fp16"]
    chosen, *others = [each for each in order if each in variants] or sorted(variants, key=str)
    if others and chosen not in order:
        names = ", ".join(sorted(map(str, variants)))
        raise UserError(f"{place.what} has no plain {folder}; set {option} to one of: {names}")
    format = "safetensors" if (chosen, "safetensors") in found else "bin"
    arguments = {"variant": chosen, "use_safetensors": format == "safetensors"}
    return found[chosen, format], arguments


def find_controlnet(
    location: str, subfolder: str | None, option: str, subfolder_option: str
) -> tuple[Place, str]:
    """Return the place of a ControlNet, and its folder there; "" is the place itself.

    Args:
        subfolder: Folder in which to look; also the last one of the location. None looks in all.

    Raises:
        UserError: If there is none, or several to choose from.
    """
    place = find_place(location, option, "controlnet/config.json")
    folders = {_parent(name) for name in place.files if PurePosixPath(name).name == "config.json"}
    with_weights = [
        folder
        for folder in sorted(folders)
        if PurePosixPath(folder).name not in _OTHER_NETWORKS
        and any(_WEIGHTS.fullmatch(PurePosixPath(name).name) for name in place.inside(folder))
    ]
    if place.single_file or "" in with_weights:
        return place, ""
    wanted = f"/{subfolder.strip('/')}/" if subfolder else ""
    chosen = [folder for folder in with_weights if wanted in f"/{location}/{folder}/"]
    if len(chosen) == 1:
        return place, chosen[0]
    if not with_weights:
        raise UserError(
            f"{place.what} is not a ControlNet in diffusers' format (no config.json with weights)"
        )
    raise UserError(
        f"{place.what} has {len(chosen)} ControlNets in {subfolder or 'it'}; set"
        f" {subfolder_option} to one of: {', '.join(chosen or with_weights)}"
    )


def check_file(path: Path, what: str) -> None:
    """Refuse a file that is missing, damaged, or only stands for a large one.

    Raises:
        UserError: Names the file.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise UserError(
                f"{what}: {path} is a git-lfs pointer; run `git lfs pull` in its folder"
            )
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
    except (OSError, SafetensorError) as error:
        raise UserError(f"{what}: {path} is damaged or unreadable: {error}") from None


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        is_refusal = isinstance(error.__cause__, HfHubHTTPError)
        raise UserError(f"{what}: {error}{'' if is_refusal else _HUB_ADVICE}") from error


def _list_files(folder: Path) -> tuple[str, ...]:
    found = (each for depth in range(_DEPTH + 1) for each in folder.glob("*/" * depth + "*"))
    return tuple(sorted(each.relative_to(folder).as_posix() for each in found if each.is_file()))


def _parent(name: str) -> str:
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else parent
