"""A folder -> a repository of the Hub: model, adapter or dataset with its card, in one commit.

    push_to_hub("outputs/mt10/finetune", "me/mt10-policy", results=["outputs/mt10_eval"], licence="apache-2.0")

Everything is checked before anything is sent. Retries are huggingface_hub's.
"""

import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..errors import InputError
from ..modeling.saved_files import TOKEN_HELP, require_token
from ..version import __version__
from .contents import Contents, is_weight, look_into, place_on_base


@dataclass
class Push:
    """What a push sends, or sent.

    Args:
        repo_id: "user/name". repo_type: "model" or "dataset".
        files: Names and sizes in bytes, README.md among them.
        card: The text of README.md. rendered: It was made from the folder's files, not found there.
        url: Of the repository. commit: Of the commit; None for a dry run.
    """

    repo_id: str
    repo_type: str
    files: dict[str, int]
    card: str
    rendered: bool
    url: str
    commit: str | None = None


def push_to_hub(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    results: Iterable[str | os.PathLike] = (),
    licence: str | None = None,
    data_licence: str | None = None,
    datasets: Iterable[str] = (),
    base_model: str | None = None,
    render_card: bool = False,
    keep_card: bool = False,
    dry_run: bool = False,
) -> Push:
    """Pushes the folder of a finished run, a saved model, an adapter or a LeRobot dataset.

    Args:
        folder: As training, `save_policy`, `hf-vpdd record` or `hf-vpdd convert` left it.
        repo_id: "user/name"; made if it does not exist.
        private: Of a new repository; None: as the account has it.
        token: Default: that of `hf auth login` or HF_TOKEN.
        revision: Branch. create_pr: A pull request instead of a commit.
        results: Folders of `hf-vpdd eval`, for the card; those inside `folder` are found by themselves.
        licence: Identifier as the Hub knows it, e.g. "apache-2.0". data_licence: Of the training data, in words.
        datasets, base_model: Hub names for the card; an adapter needs `base_model` if its own names a folder.
        render_card: Make the card anew even where the folder has one that somebody wrote.
        keep_card: Leave the repository's card alone, if it has one.
        dry_run: Check everything and send nothing; needs neither token nor network.

    Raises:
        InputError: A malformed name, no token or one that may not write, a folder that is not whole; before anything
            is sent.
    """
    check_repo_id(repo_id)
    if not dry_run:
        token = require_token(token)
    contents = look_into(Path(folder), base_model)
    if contents.kind == "adapter" and not dry_run:
        place_on_base(contents, _commit_of_base(HfApi(token=token), contents))
    repo_type = "dataset" if contents.kind == "dataset" else "model"
    card, rendered, extra = card_text(
        contents, repo_id, results, licence, data_licence, datasets, base_model, render_card
    )
    files: dict[str, Path | bytes] = {**contents.files, **extra, "README.md": card.encode()}
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    prefix = "datasets/" if repo_type == "dataset" else ""
    push = Push(repo_id, repo_type, sizes, card, rendered, f"{constants.ENDPOINT}/{prefix}{repo_id}")
    if dry_run:
        return push
    tag = str(contents.config["codebase_version"]) if repo_type == "dataset" else None
    push.commit = _send(HfApi(token=token), push, files, private, revision, create_pr, commit_message, keep_card, tag)
    return push


def push_saved(
    save: Callable[[str], None],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    **options,
) -> str:
    """What pipelines push: `save(folder)` writes it, then as `push_to_hub`. A card that the repository has is kept.

    Args:
        repo_id: "user/name", or "name" in the user's own name space.
        options: transformers' and diffusers' others: `max_shard_size` goes to `save`; None is left out.

    Returns:
        The address of the commit.
    """
    given = {name: value for name, value in options.items() if value is not None and name not in ("tags", "variant")}
    check_repo_id(repo_id if "/" in repo_id else f"me/{repo_id}")
    token = require_token(token)
    if "/" not in repo_id:
        repo_id = f"{_whoami(token)}/{repo_id}"
    with tempfile.TemporaryDirectory() as folder:
        save(folder, **given)
        push = push_to_hub(
            folder, repo_id, private=private, token=token, revision=revision, create_pr=create_pr,
            commit_message=commit_message, keep_card=True,
        )  # fmt: skip
    return push.commit or push.url


def card_text(
    contents: Contents,
    repo_id: str,
    results: Iterable[str | os.PathLike] = (),
    licence: str | None = None,
    data_licence: str | None = None,
    datasets: Iterable[str] = (),
    base_model: str | None = None,
    render: bool = False,
) -> tuple[str, bool, dict[str, bytes]]:
    """(README.md, whether it was rendered, files that it speaks of). A card that somebody wrote is taken as it is."""
    from .dataset_card import render_dataset_card
    from .evaluations import find_results, to_json
    from .model_card import is_rendered, render_model_card

    results = list(results)
    if not render and not is_rendered(contents.card):
        if results or licence or data_licence:
            raise InputError(
                f"{contents.folder}/README.md was written by hand, so results and licence do not go into it. Leave "
                "these options out, or render it anew: --render-card"
            )
        return contents.card, False, {}
    if contents.kind == "dataset":
        if results:
            raise InputError("--results: these are for the card of a model; this is a dataset.")
        return str(render_dataset_card(contents, repo_id, licence)), True, {}
    found = find_results(contents, results)
    card = render_model_card(contents, repo_id, found, licence, data_licence, datasets, base_model)
    return str(card), True, {"evaluations.json": to_json(found)} if found else {}


def check_repo_id(repo_id: str) -> None:
    """Raises an `InputError` unless this is "user/name" in the Hub's spelling."""
    try:
        validate_repo_id(repo_id)
        valid = repo_id.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise InputError(
            f"{repo_id!r} is no name of a repository. Give USER/NAME, or ORGANISATION/NAME: letters, digits, '-', '_' "
            "and '.', at most 96 of them, not at an end and no '--' or '..'."
        )


def _whoami(token: str) -> str:
    try:
        return HfApi(token=token).whoami()["name"]
    except HfHubHTTPError as error:
        raise _refused("the token", error) from error
    except Exception as error:
        if not _of_the_network(error):
            raise
        raise InputError(f"The Hub ({constants.ENDPOINT}) cannot be reached: {error}") from error


def _commit_of_base(api: HfApi, contents: Contents) -> str:
    """The commit of an adapter's base as it is now, after a look whether its weights are those of training."""
    known = (contents.base_record or {}).get("revision")
    if known and contents.base_record.get("name") == contents.base:
        return known  # trained from the Hub
    try:
        info = api.model_info(contents.base, files_metadata=True)
    except RepositoryNotFoundError as error:
        raise InputError(
            f"--base-model {contents.base}: there is no such repository, or the token may not see it. Push the base "
            "first."
        ) from error
    except HfHubHTTPError as error:
        raise _refused(contents.base, error) from error
    except Exception as error:
        if not _of_the_network(error):
            raise
        raise InputError(f"The Hub ({constants.ENDPOINT}) cannot be reached: {error}") from error
    there = {one.rfilename: one.lfs.sha256 for one in info.siblings or [] if one.lfs is not None}
    for name, expected in ((contents.base_record or {}).get("weights") or {}).items():
        if name in there and there[name] != expected:
            raise InputError(
                f"--base-model {contents.base}: its {name} is not the one this adapter was trained on (another "
                "SHA-256). Push that model, or name the right one."
            )
    return info.sha


def _send(api, push, files, private, revision, create_pr, message, keep_card, tag) -> str:
    """One commit: new files in, weights of an older model out, the rest of the repository untouched."""
    _whoami(api.token)
    kind = {"repo_id": push.repo_id, "repo_type": push.repo_type}
    try:
        api.create_repo(**kind, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(**kind, branch=revision, exist_ok=True)
        there = set(api.list_repo_files(**kind, revision=None if create_pr else revision))
        if keep_card and "README.md" in there and _own_card(api, kind, revision):
            files = {name: file for name, file in files.items() if name != "README.md"}
        operations = [
            CommitOperationAdd(name, file if isinstance(file, bytes) else str(file)) for name, file in files.items()
        ]
        operations += [CommitOperationDelete(name) for name in sorted(there - set(files)) if is_weight(name)]
        commit = api.create_commit(
            **kind, operations=operations, revision=revision, create_pr=create_pr,
            commit_message=message or f"Pushed with hf_vpdd {__version__}",
        )  # fmt: skip
        if tag is not None and not create_pr:  # LeRobot looks for the tag of its format
            api.create_tag(**kind, tag=tag, revision=commit.oid, exist_ok=True)
    except HfHubHTTPError as error:
        raise _refused(push.repo_id, error) from error
    except Exception as error:
        if not _of_the_network(error):
            raise
        raise InputError(f"The Hub ({constants.ENDPOINT}) cannot be reached: {error}") from error
    return commit.commit_url


def _own_card(api, kind: dict, revision: str | None) -> bool:
    """Whether the card there is somebody's own, not the stock one of transformers or diffusers."""
    from ..modeling.saved_files import has_own_card

    return kind["repo_type"] == "dataset" or has_own_card(kind["repo_id"], api.token, revision)


def _of_the_network(error: Exception) -> bool:
    """Which library huggingface_hub talks with depends on its version."""
    library = type(error).__module__.split(".")[0]
    known = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
    return library in known or isinstance(error, (ConnectionError, TimeoutError))


def _refused(what: str, error: HfHubHTTPError) -> InputError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None) or str(error).strip().splitlines()[0]
    hint = {
        401: "the token is not valid. " + TOKEN_HELP.format(endpoint=constants.ENDPOINT),
        403: "the token may not write there: it needs write access, and the name must be yours or your "
        "organisation's.",
        404: "there is no such repository, or the token may not see it.",
    }.get(status, "try again later.")
    return InputError(f"The Hub refuses {what} ({said}): {hint}")
