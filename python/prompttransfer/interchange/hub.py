"""Prompts on a model hub: a path or a hub ID becomes a local file, and a folder becomes a repository.

A repository holds one prompt file, `prompt.safetensors`, and next to it the files of a PEFT adapter. Only these are
read, and all are safetensors or JSON.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from prompttransfer.files.excerpt import first_line
from prompttransfer.files.model_names import hub_fault, hub_folder, quiet_hub

PROMPT = "prompt.safetensors"
# A PEFT adapter, and next to it its cards by task id. PEFT ignores unknown files.
CONFIG, WEIGHTS, CARDS = "adapter_config.json", "adapter_model.safetensors", "prompt_cards.json"
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"

Place = Path | str


class Pushed(NamedTuple):
    """url: of the repository; revision: of the commit, for `user/name@revision`."""

    url: str
    revision: str


def prompt_file(place: Place) -> Path:
    """The file of a prompt: the path as it is, or that of a hub ID, fetched unless the hub's cache has it.

    A path that exists is never taken for a hub ID, nor is one that ends in .safetensors. A hub ID is `user/name` or
    `user/name@revision`.

    Raises:
        ValueError: no such repository or revision, or it holds no prompt file.
        ConnectionError: the hub does not answer, or HF_HUB_OFFLINE is set, and the cache does not have it.
    """
    if not _is_hub_id(place):
        return Path(place)
    file = _fetched(place, [PROMPT]) / PROMPT
    if not file.is_file():
        raise ValueError(
            f"{place}: the repository holds no {PROMPT}, which `prompttransfer export --push` writes; "
            f"if it is an adapter of PEFT: prompttransfer import {place} FILE"
        )
    return file


def adapter_folder(place: Place) -> Path:
    """The folder of an adapter: the path as it is, or that of a hub ID, fetched without any pickle file."""
    if not _is_hub_id(place):
        return Path(place)
    folder = _fetched(place, [CONFIG, WEIGHTS, CARDS])
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{place}: the repository holds no {name}; want an adapter of PEFT in safetensors")
    return folder


def is_repository(name: str) -> bool:
    """Whether a repository could have that name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def check_target(repository: str) -> None:
    """Check, before anything is sent, that a prompt could be pushed there.

    Raises:
        ValueError: not of the form user/name, or not logged in.
        ConnectionError: HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants, get_token

    if repository.count("/") != 1 or not is_repository(repository):
        raise ValueError(f"repository: got {repository!r}, want user/name or organisation/name")
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(f"{repository}: HF_HUB_OFFLINE is set; unset it to push")
    if not get_token():
        raise ValueError(f"{repository}: not logged in to {constants.ENDPOINT}; {_LOGIN}")


def push_folder(folder: Path, repository: str, *, private: bool = False, message: str = "Prompt") -> Pushed:
    """Make the repository unless it exists, and commit the files of a folder to it.

    The same commit deletes files of an earlier push that the folder lacks.

    Args:
        private: of a new repository; one that exists and is public is refused.

    Raises:
        ValueError: the hub refuses the token, or a value of the model card.
        ConnectionError: the hub does not answer.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with _push_errors(repository), quiet_hub():
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        public = private and not api.model_info(repository).private
    if public:
        raise ValueError(
            f"{repository} exists and is public, so nothing was sent; make it private at {url}/settings, "
            "or name another"
        )
    with _push_errors(repository), quiet_hub():
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            delete_patterns=[PROMPT, CONFIG, WEIGHTS, CARDS],
        )
    return Pushed(str(url), commit.oid)


def _is_hub_id(place: Place) -> bool:
    """Whether it is read as a hub ID, see `prompt_file`."""
    name = _parts(place)[0]
    # Unlike Path.exists, os.path.exists returns False for a name that is too long for a file.
    here = os.path.exists(place)
    return name.count("/") == 1 and not name.endswith(".safetensors") and not here and is_repository(name)


def _parts(place: Place) -> tuple[str, str | None]:
    """Name and revision of a hub ID."""
    name, _, revision = str(place).partition("@")
    return name, revision or None


def _fetched(place: Place, files: Sequence[str]) -> Path:
    """Folder in the hub's cache with those of the files that the repository holds."""
    from huggingface_hub import snapshot_download

    hub_folder()  # without a home folder, the hub would create a folder named ~ in the current one
    name, revision = _parts(place)
    with _read_errors(place), quiet_hub():
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))


@contextmanager
def _read_errors(place: Place) -> Iterator[None]:
    """Errors of huggingface_hub become messages that say what to do."""
    from huggingface_hub import constants, errors

    name, revision = _parts(place)
    try:
        yield
    except errors.GatedRepoError as error:
        terms = f"{constants.ENDPOINT}/{name}"
        raise ValueError(f"{place}: the repository is gated; accept its terms at {terms}, then {_LOGIN}") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"{place}: neither a file here nor a repository of {constants.ENDPOINT} that you can read; "
            f"if it is private, {_LOGIN}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(
            f"{place}: the repository has no revision {revision!r}; want a branch, tag or commit"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError) as error:
        cause = error.__cause__ or error
        offline = isinstance(cause, errors.OfflineModeIsEnabled)
        why = "HF_HUB_OFFLINE is set" if offline else f"{constants.ENDPOINT} does not give it ({first_line(cause)})"
        raise ConnectionError(
            f"{place}: neither a file here nor in the hub's cache, and {why}\n"
            f"Fetch it where there is a connection (hf download {name}), or name a local file."
        ) from error
    except Exception:
        _check_answer(place)
        raise


@contextmanager
def _push_errors(repository: str) -> Iterator[None]:
    """As `_read_errors`, for a repository that is created or written."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        answer = error.server_message or first_line(error)
        if code in (401, 403, 404):
            owner = repository.partition("/")[0]
            raise ValueError(
                f"{repository}: {constants.ENDPOINT} refuses the token ({code}: {answer}); want one that may write to "
                f"repositories of {owner}: {_LOGIN}"
            ) from error
        raise ConnectionError(f"{repository}: {constants.ENDPOINT} answers {code}: {answer}") from error
    except ValueError as error:  # by huggingface_hub, with what the hub says of the metadata
        answer = " ".join(str(error).split())
        raise ValueError(
            f"{repository}: {constants.ENDPOINT} refuses the model card ({answer}); --licence names another licence"
        ) from error
    except Exception:
        _check_answer(repository)
        raise


def _check_answer(place: Place) -> None:
    """Raise a ConnectionError if the hub does not answer.

    For errors of the HTTP library: which library that is depends on the version of huggingface_hub.
    """
    from huggingface_hub import constants

    if fault := hub_fault(constants.ENDPOINT):
        raise ConnectionError(f"{place}: {constants.ENDPOINT} does not answer ({fault})")
