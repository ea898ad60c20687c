"""Publications on the Hugging Face Hub: an adapter's repository, and beside it one of its data set.

The token is the client's own business: it reads HF_TOKEN or the login. Nothing here takes, shows or stores it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.files import disk_errors
from rewards import CheckError, InputError
from rl.publish.card import data_repository
from rl.publish.content import DATA
from rl.publish.sums import OF_THE_HUB, SUMS, read_sums

SCHEME: Final = "hub:"


def check_token(repository: str) -> None:
    """Raise an `InputError` if there is no token to publish with."""
    from huggingface_hub import get_token

    if not get_token():
        raise InputError(
            f"{SCHEME}{repository}: there is no token; set HF_TOKEN to one that may write there, or log in with "
            "`hf auth login`"
        )


def check_repositories(repository: str) -> None:
    """Refuse a place on the Hub that holds something else than a publication, before any work is done.

    Args:
        repository: `ORG/NAME`; its data set is `ORG/NAME-data`.

    Raises:
        InputError: a repository holds other files, or the Hub refuses the token.
        CheckError: the Hub cannot be reached or fails.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    for name, kind in ((repository, "model"), (data_repository(repository), "dataset")):
        with _hub_errors(name, "write"):
            names = _names(api, name, kind)
        if names and SUMS not in names:
            raise _other_files(name, kind)


def upload(folder: Path, repository: str) -> bool:
    """Upload a publication, each repository in one commit, and return whether anything was new.

    The data set comes first, so that an adapter on the Hub always has its data. What an earlier, interrupted upload
    has brought there is not sent again.

    Args:
        folder: the publication.
        repository: `ORG/NAME`; the data set goes to `ORG/NAME-data`.

    Raises:
        InputError: a repository holds other files, or the Hub refuses the token or the files.
        CheckError: the Hub cannot be reached or fails.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    parts = [(folder / DATA, data_repository(repository), "dataset")] if (folder / DATA).is_dir() else []
    parts.append((folder, repository, "model"))
    left = []
    for part in parts:  # before anything is sent
        with _hub_errors(part[1], "write"):
            if not _is_there(api, *part):
                left.append(part)
    for path, name, kind in left:
        with _hub_errors(name, "write"):
            api.create_repo(name, repo_type=kind, exist_ok=True)
            api.upload_folder(
                folder_path=path,
                repo_id=name,
                repo_type=kind,
                commit_message="Publish with synthpert",
                ignore_patterns=[f"{DATA}/*"] if kind == "model" else None,
            )
    return bool(left)


def download(repository: str, out: Path) -> None:
    """Download a publication into a folder, its data set to the folder's `data`. Nothing is checked yet.

    Raises:
        InputError: there is no such repository, it is no publication, or the Hub refuses the token.
        CheckError: the Hub cannot be reached or fails.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    model = repository.removesuffix(data_repository(""))
    with _hub_errors(repository, "read"):
        if model != repository and not api.repo_exists(repository) and api.repo_exists(repository, repo_type="dataset"):
            raise InputError(
                f"{SCHEME}{repository}: is the data set of a publication; pull {SCHEME}{model}, which brings it along"
            )
        if SUMS not in api.list_repo_files(repository):  # before anything large is fetched
            raise InputError(f"{SCHEME}{repository}: holds no {SUMS}, so it is no publication; check the name")
        _fetch(api, repository, "model", out)
    listed = read_sums(out / SUMS, f"{SCHEME}{repository}")
    if any(name.startswith(f"{DATA}/") for name in listed):
        with _hub_errors(data_repository(repository), "read"):
            _fetch(api, data_repository(repository), "dataset", out / DATA)


def _fetch(api: Any, repository: str, kind: str, out: Path) -> None:
    with disk_errors(out):
        api.snapshot_download(repository, repo_type=kind, local_dir=out)
    shutil.rmtree(out / ".cache", ignore_errors=True)  # the client's notes


def _is_there(api: Any, folder: Path, repository: str, kind: str) -> bool:
    """Whether a repository holds this part of a publication already; False where it is new or empty.

    Raises:
        InputError: it holds something else.
    """
    names = _names(api, repository, kind)
    if not names:
        return False
    if SUMS in names:
        with TemporaryDirectory() as scratch:
            there = Path(api.hf_hub_download(repository, SUMS, repo_type=kind, local_dir=scratch)).read_bytes()
        if there == (folder / SUMS).read_bytes():
            return True
    raise _other_files(repository, kind)


def _names(api: Any, repository: str, kind: str) -> set[str]:
    """The files of a repository but for the Hub's own; none where it does not exist."""
    if not api.repo_exists(repository, repo_type=kind):
        return set()
    return set(api.list_repo_files(repository, repo_type=kind)) - {OF_THE_HUB}


def _other_files(repository: str, kind: str) -> InputError:
    return InputError(
        f"{SCHEME}{repository}: the {kind} repository holds other files; choose another name, or delete the "
        "repository on the Hub"
    )


@contextmanager
def _hub_errors(repository: str, doing: str) -> Iterator[None]:
    """Turn what goes wrong with the Hub into one line with a remedy; `doing` is read or write."""
    import httpx
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    name = f"{SCHEME}{repository}"
    again = "run the same command again"
    try:
        yield
    except (InputError, CheckError):
        raise
    except (httpx.HTTPError, OSError, RuntimeError, ValueError, OfflineModeIsEnabled) as error:
        answer = _answer(error)
        if answer is None and isinstance(error, ValueError):  # the client itself refuses a name or a card
            raise InputError(f"{name}: {_one_line(error)}; correct that and {again}") from None
        if answer is None:
            raise CheckError(
                f"{name}: the Hub cannot be reached ({type(error).__name__}); check the network and HF_ENDPOINT, and "
                f"{again}"
            ) from error
        code = answer.status_code
        if code >= 500 or code == 429:
            raise CheckError(f"{name}: the Hub fails ({code}); {again} later") from error
        if code == 404 or isinstance(error, RepositoryNotFoundError):
            raise InputError(
                f"{name}: the Hub has no such repository, or your token may not {doing} there; check the name and "
                "HF_TOKEN"
            ) from None
        if code in (401, 403):
            raise InputError(
                f"{name}: the Hub refuses the token ({code}); set HF_TOKEN to one that may {doing} there, or log in "
                "with `hf auth login`"
            ) from None
        raise InputError(f"{name}: the Hub refuses it ({code}: {_one_line(error)}); correct that and {again}") from None


def _answer(error: BaseException | None) -> Any:
    """The Hub's answer behind an error, which the client may have wrapped; None where there was none."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response
        error = error.__cause__ or error.__context__
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(getattr(error, "server_message", None) or error).split())[:300]
