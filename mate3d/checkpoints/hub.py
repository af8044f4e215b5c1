"""The Hugging Face hub: which names mean it, and its failures as one line each."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
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
from huggingface_hub.utils import validate_repo_id

from mate3d.errors import UserError

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


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
        raise UserError(_explain(error, repo_id, revision)) from error


def _explain(error: Exception, repo_id: str, revision: str | None) -> str:
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is not a hub id; write it as owner/name"
    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{repo_id}"
        return f"{repo_id} is gated: accept its terms at {page}, then {LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub shows no model repository {repo_id}; check the name, or if it is private"
            f" {LOG_IN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision}; give a branch, a tag or a full commit"
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        cause = _root_cause(error)
        if isinstance(cause, HfHubHTTPError):
            return _explain_status(cause, repo_id)
        if isinstance(cause, OfflineModeIsEnabled | LocalEntryNotFoundError):
            return (
                f"{repo_id} is not in the local cache, and HF_HUB_OFFLINE or local_files_only"
                " forbids the network"
            )
        return f"{_unreachable(cause)}; {repo_id} is not in the local cache either"
    if isinstance(error, EntryNotFoundError):
        return f"{repo_id} lacks a file: {_reason(error)}"
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, repo_id)
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot read or write {error.filename or 'a download'}: {error.strerror}"
    if isinstance(error, HTTPError):
        return f"{_unreachable(error)}; check the network, then run it again"
    return f"the transfer of {repo_id} failed: {_reason(error)}"


def _unreachable(error: BaseException) -> str:
    return f"{constants.ENDPOINT} cannot be reached ({_reason(error)})"


def _explain_status(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    if status in (401, 403):
        what = "has no valid token" if status == 401 else "may not do this with the token in use"
        return f"the hub refuses {repo_id}: this machine {what}; {LOG_IN}"
    return f"the hub answered {status} for {repo_id}; try again later"


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None and not isinstance(error, HfHubHTTPError):
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
