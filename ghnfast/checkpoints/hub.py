"""The Hugging Face Hub, through its own client: downloads into its cache, which other programs share, and uploads.

The client's variables count as they are when a call is made: HF_ENDPOINT, HF_HUB_OFFLINE, HF_HUB_CACHE and HF_HOME.
(The client reads them once, when it is imported, which may have been long ago.) Tokens are its own business.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, MissingPackageError
from ..files import in_words
from ..optional import import_optional

TRUE = ("1", "ON", "YES", "TRUE")
BY_PATH = "A file that was downloaded elsewhere is accepted by its path"


def client() -> Any:
    """The client's module.

    Raises:
        MissingPackageError: it is not installed.
    """
    what = "GHNs on the Hugging Face Hub need"
    for module in ("errors", "constants"):
        import_optional(f"huggingface_hub.{module}", what)
    return import_optional("huggingface_hub", what)


def endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def offline() -> str | None:
    """The variable that forbids to ask the Hub, where one does."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").upper() in TRUE), None)


def hub_cache() -> str | None:
    """The folder of downloads where a variable says it, else None for the client's own."""
    if own := os.environ.get("HF_HUB_CACHE"):
        return os.path.expanduser(own)
    home = os.environ.get("HF_HOME")
    return os.path.join(os.path.expanduser(home), "hub") if home else None


def hub_file(repository: str, file: str, revision: str | None = None, optional: bool = False) -> Path | None:
    """A file of a repository in the Hub's cache, downloaded where it is not there or not the newest.

    The client compares how many bytes came with how many were announced. No digest is compared.

    Args:
        repository: "owner/name".
        revision: a branch, a tag or a commit; by default the main branch.
        optional: whether the repository may lack the file, which then is None.

    Raises:
        CheckpointError: no such repository, revision or file; or it cannot be reached, and is not in the cache.
        MissingPackageError: the client is not installed.
    """
    hub = client()
    try:
        found: str = hub.hf_hub_download(
            repository,
            file,
            revision=revision,
            cache_dir=hub_cache(),
            endpoint=endpoint(),
            local_files_only=offline() is not None,
            library_name="ghnfast",
        )
    except Exception as error:  # the client's own, those of its HTTP library, and those of the file system
        if optional and isinstance(error, hub.errors.EntryNotFoundError):
            # Not in the cache, while the Hub cannot be asked, is such an error, too: absent is what it was known to be.
            local = isinstance(error, hub.errors.LocalEntryNotFoundError)
            known = hub.try_to_load_from_cache(repository, file, cache_dir=hub_cache(), revision=revision)
            if not local or known is hub._CACHED_NO_EXIST:
                return None
        raise CheckpointError(refusal(hub, error, repository, file, revision)) from error
    return Path(found)


def hub_file_here(repository: str, file: str) -> Path | None:
    """A file of a repository in the Hub's cache, without asking the Hub; None where it, or the client, is not there."""
    try:
        hub = client()
    except MissingPackageError:
        return None
    found = hub.try_to_load_from_cache(repository, file, cache_dir=hub_cache())
    return Path(found) if isinstance(found, str) else None


def refusal(hub: Any, error: Exception, repository: str, file: str, revision: str | None) -> str:
    what = (
        f"could not get '{file}' of '{repository}'{f' at {revision!r}' if revision else ''} from the Hugging Face Hub"
    )
    errors = hub.errors
    if (variable := offline()) and isinstance(error, errors.LocalEntryNotFoundError):
        where = hub_cache() or hub.constants.HF_HUB_CACHE
        return f"{what}: {variable} is set, and the file is not in its cache {where}. {BY_PATH}"
    for kind, reason in (
        (errors.GatedRepoError, "the repository asks for a permission that this account has not been given"),
        (errors.RepositoryNotFoundError, "there is no such repository, or this account may not see it"),
        (errors.RevisionNotFoundError, "there is no such revision; a branch, a tag or a commit is accepted"),
        (errors.LocalEntryNotFoundError, f"it cannot be reached, and the file is not in its cache. {BY_PATH}"),
        (errors.EntryNotFoundError, "the repository has no such file"),
    ):
        if isinstance(error, kind):
            return f"{what}: {reason}"
    return f"{what}: {in_words(error)}. {BY_PATH}"


def upload_folder(
    folder: Path, repository: str, private: bool | None, token: str | None, message: str, revision: str | None
) -> str:
    """Upload a folder's files as one commit to a repository, which is made where there is none.

    A model card that is there stays: somebody may have written it.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the Hub refused it, or cannot be reached.
        MissingPackageError: the client is not installed.
    """
    hub = client()
    if variable := offline():
        raise CheckpointError(f"nothing can be uploaded to '{repository}': {variable} is set")
    api = hub.HfApi(endpoint=endpoint(), token=token, library_name="ghnfast")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        there = api.file_exists(repository, "README.md", revision=revision)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            revision=revision,
            ignore_patterns=["README.md"] if there else None,
        )
    except Exception as error:  # see `hub_file`
        raise CheckpointError(
            f"could not upload to '{repository}' on the Hugging Face Hub: {in_words(error)}; 'owner/name' of a "
            "repository that the token may write to is accepted"
        ) from error
    return str(done.commit_url)
