"""Published weights on the hub: what a repository holds, and downloads that resume and verify."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from mate3d.checkpoints.hub import hub_errors
from mate3d.errors import UserError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """A file as the hub describes it.

    Args:
        name: Path in the repository.
        size: Bytes.
        sha256: Of the content, in hexadecimal; None for small files, which the hub keeps in git.
        blob_id: Git's id of a small file's content, which is a SHA-1 too.
    """

    name: str
    size: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True)
class HubRepository:
    """What a repository holds at one commit.

    Args:
        repo_id: owner/name.
        revision: Branch, tag or commit that was asked for.
        commit: The commit that it meant.
        license: As the repository's card states it; None if it does not.
        files: In the order of their names.
    """

    repo_id: str
    revision: str
    commit: str
    license: str | None
    files: tuple[HubFile, ...]

    def select(self, names: list[str], suffix: str) -> list[HubFile]:
        """Return the named files, or all with a suffix if no names are given.

        Raises:
            UserError: If there is no such file.
        """
        known = {file.name: file for file in self.files}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(
                f"{self.repo_id} has no file {unknown[0]}; it holds {', '.join(known) or 'nothing'}"
            )
        if names:
            return [known[name] for name in dict.fromkeys(names)]
        chosen = [file for file in self.files if file.name.endswith(suffix)]
        if not chosen:
            raise UserError(
                f"{self.repo_id} has no {suffix} files; it holds {', '.join(known) or 'nothing'}"
            )
        return chosen


def read_repository(repo_id: str, revision: str) -> HubRepository:
    """Ask the hub what a model repository holds.

    Raises:
        UserError: If the hub does not know it, does not show it or cannot be reached.
    """
    with hub_errors(repo_id, revision):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True)
    card = info.card_data.to_dict() if info.card_data else {}
    files = [
        HubFile(
            name=sibling.rfilename,
            size=sibling.size or 0,
            sha256=sibling.lfs.sha256 if sibling.lfs else None,
            blob_id=sibling.blob_id or "",
        )
        for sibling in info.siblings or []
    ]
    return HubRepository(
        repo_id=repo_id,
        revision=revision,
        commit=info.sha or revision,
        license=card.get("license_name") or card.get("license"),
        files=tuple(sorted(files, key=lambda file: file.name)),
    )


def download_file(
    repository: HubRepository, file: HubFile, folder: str | Path, *, sha256: str | None = None
) -> Path:
    """Download a file, or what is missing of it, and verify it.

    An interrupted download stays beside the file as NAME.CHECKSUM.incomplete and is continued by
    the next call. The file gets its name only once its content has been verified.

    Args:
        repository: Where the file is.
        file: One of its files.
        folder: Receives the file under its path in the repository.
        sha256: Checksum that the user expects, in hexadecimal.

    Returns:
        The verified file; nothing is downloaded if it is already there.

    Raises:
        UserError: If the content is not what the hub or the user says, another file has the name,
            or the transfer fails.
    """
    if sha256 and file.sha256 and sha256.lower() != file.sha256:
        raise UserError(
            f"{file.name}: the hub's SHA-256 {file.sha256} is not the expected {sha256.lower()};"
            " nothing was downloaded"
        )
    path = _local_path(folder, file.name)
    with hub_errors(repository.repo_id, repository.revision):
        if path.exists():
            _check_existing(path, file, sha256)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{(file.sha256 or file.blob_id)[:12]}.incomplete")
        _check_space(partial, file)
        _fetch(repository, file, partial)
        problem = find_damage(partial, file, sha256)
        if problem is not None:
            partial.unlink()
            raise UserError(f"{file.name}: {problem}; the download was deleted, run it again")
        # A file that appeared meanwhile is not overwritten.
        _rename_without_overwriting(partial, path)
    return path


def find_damage(path: Path, file: HubFile, sha256: str | None = None) -> str | None:
    """Compare a local file with what the hub says of it; None if they agree.

    Args:
        path: The local file.
        file: What the hub says.
        sha256: Stands in where the hub states none.
    """
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes instead of {file.size}"
    if file.sha256 or sha256:
        name, digest, expected = "SHA-256", hashlib.sha256(), file.sha256 or sha256
    else:
        name, digest, expected = "git blob", hashlib.sha1(b"blob %d\0" % size), file.blob_id
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != expected.lower():
        return f"{name} {digest.hexdigest()} instead of {expected.lower()}"
    return None


def _local_path(folder: str | Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
        raise UserError(f"the repository's file name {name!r} leads out of the output folder")
    return Path(folder).joinpath(*parts)


def _check_existing(path: Path, file: HubFile, sha256: str | None) -> None:
    problem = find_damage(path, file, sha256)
    if problem is not None:
        raise UserError(
            f"{path} exists and is another file ({problem}); move it away or choose another output"
        )


def _check_space(partial: Path, file: HubFile) -> None:
    present = partial.stat().st_size if partial.exists() else 0
    free = shutil.disk_usage(partial.parent).free
    if free < file.size - present:
        raise UserError(
            f"{partial.parent} has {free / 1e6:.0f} MB free, but {file.name} needs"
            f" {(file.size - present) / 1e6:.0f} MB more"
        )


def _fetch(repository: HubRepository, file: HubFile, partial: Path) -> None:
    """Append what is missing to the partial file."""
    url = hf_hub_url(repository.repo_id, file.name, revision=repository.commit)
    # The hub's client starts interrupted downloads anew, so the partial file is kept here.
    with partial.open("ab") as stream:
        present = stream.tell()
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
            displayed_filename=file.name,
        )


def _rename_without_overwriting(source: Path, target: Path) -> None:
    if target.exists():
        raise UserError(f"{target} appeared during the download; the new file is {source}")
    os.replace(source, target)
