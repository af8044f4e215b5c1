"""The Hugging Face hub: its ids, one-line errors, and verified downloads that resume."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from huggingface_hub import HfApi, ModelInfo, constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata, http_get, repo_folder_name
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, validate_repo_id
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from mate3d.errors import UserError

# The first matching type explains an error.
_EXPLANATIONS = {
    HFValidationError: "{repo_id!r} is not a hub id; write it as owner/name",
    GatedRepoError: "{repo_id} is gated: accept its terms at {endpoint}/{repo_id}, then {log_in}",
    RepositoryNotFoundError: "the hub has no public model {repo_id}; check the id, or {log_in}",
    RevisionNotFoundError: "{repo_id} has no revision {revision}; give a branch, tag or commit",
    OfflineModeIsEnabled | LocalEntryNotFoundError: (
        "{repo_id} is not in the local cache, and HF_HUB_OFFLINE or local_files_only forbids the"
        " network"
    ),
    HfHubHTTPError: "the hub refused {repo_id} ({reason}); {log_in}, or try again later",
    HTTPError: "no connection to {endpoint}/{repo_id} ({reason}); check the network and try again",
    Exception: "the transfer of {repo_id} failed: {reason}",
}


def is_hub_id(text: str) -> bool:
    """Return whether text has the form of a hub id, owner/name."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


@contextmanager
def hub_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn errors of the hub, the network and the disk into a UserError.

    Raises:
        UserError: If the hub refuses the request or cannot be reached, or the disk is full.
    """
    try:
        yield
    except UserError:
        raise
    # The hub's client also raises errors of its network library and of the disk.
    except (HTTPError, OSError, EntryNotFoundError, ValueError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, HTTPError | HfHubHTTPError):
            cause = cause.__cause__
        text = next(text for kind, text in _EXPLANATIONS.items() if isinstance(cause, kind))
        explanation = text.format(
            repo_id=repo_id,
            revision=revision,
            endpoint=constants.ENDPOINT,
            reason=" ".join(str(cause).split())[:200] or type(cause).__name__,
            log_in="log in with `hf auth login` or set HF_TOKEN",
        )
        raise UserError(explanation) from error


def read_repository(repo_id: str, revision: str) -> ModelInfo:
    """Return the hub's metadata of a model repository, with files sorted by name.

    Raises:
        UserError: If it does not exist, is not public, or the hub cannot be reached.
    """
    with hub_errors(repo_id, revision):
        # Without a timeout the client waits for ever.
        api, timeout = HfApi(), constants.HF_HUB_ETAG_TIMEOUT
        info = api.model_info(repo_id, revision=revision, files_metadata=True, timeout=timeout)
    # A repository that has moved tells its new name; the cache goes by the one that is asked for.
    info.id = repo_id
    info.siblings = sorted(info.siblings or [], key=lambda file: file.rfilename)
    return info


def select_snapshots(info: ModelInfo, names: Sequence[str] = ()) -> list[RepoSibling]:
    """Return the named files of a repository, or every .pkl if there are no names.

    Those of a training's state, beside a ControlNet, are left out.

    Raises:
        UserError: If there is no such file.
    """
    known = {file.rfilename: file for file in info.siblings}
    snapshots = [each for each in known if each.endswith(".pkl") and "controlnet/" not in each]
    chosen = list(dict.fromkeys(names)) or snapshots or ["*.pkl"]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        held = ", ".join(known) or "nothing"
        raise UserError(f"{info.id} has no file {unknown[0]}; its files are {held}")
    return [known[name] for name in chosen]


def local_paths(info: ModelInfo, file: RepoSibling, folder: str | Path | None) -> tuple[Path, Path]:
    """Return where `download_file` puts a file, and where its unfinished download is.

    Raises:
        UserError: If that would be outside the folder.
    """
    name, checksum = file.rfilename, file.lfs.sha256 if file.lfs else file.blob_id
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise UserError(f"the repository's file name {name!r} points outside the output folder")
    if folder is None:
        # Under its checksum, so that other commits of the repository share it.
        repository = repo_folder_name(repo_id=info.id, repo_type="model")
        path = Path(constants.HF_HUB_CACHE, repository, "blobs", checksum)
    else:
        path = Path(folder, *parts)
    return path, path.with_name(f"{path.name}.{checksum[:12]}.incomplete")


def download_file(
    info: ModelInfo, file: RepoSibling, folder: str | Path | None, *, sha256: str | None = None
) -> Path:
    """Download a file, or its missing part, and verify it.

    An interrupted download stays beside the file as NAME.CHECKSUM.incomplete, and the next call
    resumes it. The file gets its name only after its content has been verified.

    Args:
        folder: The file gets its path in the repository below this folder. None is Hugging Face's
            cache, where `from_pretrained` finds the hub id, also without network.
        sha256: Expected checksum, in hexadecimal.

    Returns:
        The verified file; nothing is downloaded if it already exists.

    Raises:
        UserError: If the checksum is wrong, a different file has the name, or the transfer fails.
    """
    name, stated = file.rfilename, file.lfs.sha256 if file.lfs else None
    if sha256 and stated and sha256.lower() != stated:
        raise UserError(
            f"{name}: the hub's SHA-256 is {stated} (expected {sha256.lower()}); nothing was"
            " downloaded"
        )
    path, partial = local_paths(info, file, folder)
    with hub_errors(info.id, info.sha):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(info, file, partial)
            problem = find_damage(partial, file, sha256)
            if problem is not None:
                partial.unlink()
                raise UserError(f"{name}: {problem}; the download was deleted; try again")
            os.replace(partial, path)
        elif (problem := find_damage(path, file, sha256)) is not None:
            raise UserError(f"{path} exists but is a different file ({problem}); move it away")
        # The hub's client finds the content in its cache and gives it its name.
        return path if folder is not None else Path(hf_hub_download(info.id, name))


def find_damage(path: Path, file: RepoSibling, sha256: str | None = None) -> str | None:
    """Compare a local file with the hub's size and checksum; return the difference or None.

    Args:
        sha256: Used where the hub has no SHA-256: small files only have a git blob id.
    """
    size, expected = path.stat().st_size, file.lfs.sha256 if file.lfs else sha256
    if size != file.size:
        return f"{size} bytes instead of {file.size}"
    with path.open("rb") as stream:
        found = sha_fileobj(stream).hex() if expected else git_hash(stream.read())
    expected = (expected or file.blob_id).lower()
    return None if found == expected else f"checksum {found} instead of {expected}"


def _fetch(info: ModelInfo, file: RepoSibling, partial: Path) -> None:
    """Append the missing part to the partial file."""
    url = hf_hub_url(info.id, file.rfilename, revision=info.sha)
    # The hub's client restarts interrupted downloads from zero, so we keep the partial file.
    with partial.open("ab") as stream:
        present = stream.tell()
        if present >= file.size:
            # Complete or damaged; the checksum decides.
            return
        location = get_hf_file_metadata(url).location
        # Large files come from another host through a signed URL; it must not see the token.
        is_same_host = urlsplit(location).netloc == urlsplit(url).netloc
        headers = build_hf_headers() if is_same_host else build_hf_headers(token=False)
        http_get(
            location,
            stream,
            resume_size=present,
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.rfilename,
        )
