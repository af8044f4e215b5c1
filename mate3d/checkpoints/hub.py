"""The Hugging Face hub: its ids, failures as one line each, downloads that resume and verify."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from huggingface_hub import HfApi, ModelInfo, constants, get_hf_file_metadata, hf_hub_url
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
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import build_hf_headers, validate_repo_id
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from mate3d.errors import UserError

# The first kind that fits explains an error.
_EXPLANATIONS = {
    HFValidationError: "{repo_id!r} is not a hub id; write it as owner/name",
    GatedRepoError: "{repo_id} is gated: accept its terms at {endpoint}/{repo_id}, then {log_in}",
    RepositoryNotFoundError: "the hub shows no model repository {repo_id}; check it, or {log_in}",
    RevisionNotFoundError: "{repo_id} has no revision {revision}; give a branch, tag or commit",
    OfflineModeIsEnabled | LocalEntryNotFoundError: (
        "{repo_id} is not in the local cache, and HF_HUB_OFFLINE or local_files_only forbids the"
        " network"
    ),
    HfHubHTTPError: "the hub does not give {repo_id} ({reason}); {log_in}, or try again later",
    HTTPError: "{endpoint} cannot be reached ({reason}); check the network, then run it again",
    Exception: "the transfer of {repo_id} failed: {reason}",
}


def is_hub_id(text: str) -> bool:
    """Tell whether text has the form of a hub id, owner/name."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


@contextmanager
def hub_errors(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn what goes wrong between this machine and the hub into a UserError.

    Args:
        repo_id: Hub id of the repository that the block reads or writes.
        revision: Branch, tag or commit that it asks for.

    Raises:
        UserError: If the hub does not know or does not give what was asked for, cannot be
            reached, or the local disk cannot hold it.
    """
    try:
        yield
    except UserError:
        raise
    # The hub's client raises errors of the network library below it, or OSErrors of the disk.
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
    """Ask the hub what a model repository holds; its files come in the order of their names.

    Raises:
        UserError: If the hub does not know it, does not show it or cannot be reached.
    """
    with hub_errors(repo_id, revision):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    info.siblings = sorted(info.siblings or [], key=lambda file: file.rfilename)
    return info


def select_files(info: ModelInfo, names: list[str], suffix: str) -> list[RepoSibling]:
    """Return the named files of a repository, or all with a suffix if no names are given.

    Raises:
        UserError: If there is no such file.
    """
    known = {file.rfilename: file for file in info.siblings or []}
    chosen = dict.fromkeys(names) or [name for name in known if name.endswith(suffix)]
    unknown = [name for name in chosen or [f"*{suffix}"] if name not in known]
    if unknown:
        held = ", ".join(known) or "nothing"
        raise UserError(f"{info.id} has no file {unknown[0]}; it holds {held}")
    return [known[name] for name in chosen]


def download_file(
    info: ModelInfo, file: RepoSibling, folder: str | Path, *, sha256: str | None = None
) -> Path:
    """Download a file, or what is missing of it, and verify it.

    An interrupted download stays beside the file as NAME.CHECKSUM.incomplete and is continued by
    the next call. The file gets its name only once its content has been verified.

    Args:
        info: The repository.
        file: One of its files.
        folder: Receives the file under its path in the repository.
        sha256: Checksum that the user expects, in hexadecimal.

    Returns:
        The verified file; nothing is downloaded if it is already there.

    Raises:
        UserError: If the content is not what the hub or the user says, another file has the name,
            or the transfer fails.
    """
    name, stated = file.rfilename, file.lfs.sha256 if file.lfs else None
    if sha256 and stated and sha256.lower() != stated:
        raise UserError(
            f"{name}: the hub's SHA-256 {stated} is not the expected {sha256.lower()}; nothing was"
            " downloaded"
        )
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise UserError(f"the repository's file name {name!r} leads out of the output folder")
    path = Path(folder, *parts)
    partial = path.with_name(f"{path.name}.{(stated or file.blob_id)[:12]}.incomplete")
    with hub_errors(info.id, info.sha):
        if path.exists():
            problem = find_damage(path, file, sha256)
            if problem is not None:
                raise UserError(f"{path} exists and is another file ({problem}); move it away")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(info, file, partial)
        problem = find_damage(partial, file, sha256)
        if problem is not None:
            partial.unlink()
            raise UserError(f"{name}: {problem}; the download was deleted, run it again")
        # A file that appeared meanwhile is not overwritten.
        if path.exists():
            raise UserError(f"{path} appeared during the download; the new file is {partial}")
        os.replace(partial, path)
    return path


def find_damage(path: Path, file: RepoSibling, sha256: str | None = None) -> str | None:
    """Compare a local file with what the hub says of it; None if they agree.

    Args:
        path: The local file.
        file: What the hub says.
        sha256: Stands in where the hub states none: small files have the id of a git blob.
    """
    size, expected = path.stat().st_size, file.lfs.sha256 if file.lfs else sha256
    if size != file.size:
        return f"{size} bytes instead of {file.size}"
    with path.open("rb") as stream:
        found = sha_fileobj(stream).hex() if expected else git_hash(stream.read())
    expected = (expected or file.blob_id).lower()
    return None if found == expected else f"checksum {found} instead of {expected}"


def _fetch(info: ModelInfo, file: RepoSibling, partial: Path) -> None:
    """Append what is missing to the partial file."""
    url = hf_hub_url(info.id, file.rfilename, revision=info.sha)
    # The hub's own downloads start again after an interruption, so the partial file is kept here.
    with partial.open("ab") as stream:
        present = stream.tell()
        free = shutil.disk_usage(partial.parent).free
        if free < file.size - present:
            raise UserError(
                f"{partial.parent} has {free / 1e6:.0f} MB free, but {file.rfilename} needs"
                f" {(file.size - present) / 1e6:.0f} MB more"
            )
        if present >= file.size:
            # Complete, or damaged, which the checksum tells.
            return
        location = get_hf_file_metadata(url).location
        # Large files come from another host by a signed address, which must not see the token.
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
