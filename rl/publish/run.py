"""Publish a training run to a folder or the Hub, and pull it back as run folders."""

import filecmp
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Final

from benchmarks.files import PARTIAL, check_folder, disk_errors, file_sha256
from benchmarks.models.folders import adapter_sha256, read_json
from benchmarks.progress import Progress
from benchmarks.runs import MANIFEST
from rewards import InputError
from rl.publish.card import CARD, summarise, write_data_card, write_model_card
from rl.publish.content import (
    ADAPTER_FILES,
    DATA,
    EVALUATIONS,
    RUN,
    STAGES,
    TRACES,
    WEIGHTS,
    Data,
    Evaluation,
    TrainingRun,
    find_evaluations,
    read_training,
    write_adapter,
    write_data,
    write_run,
)
from rl.publish.hub import SCHEME, check_repositories, check_token, download, upload
from rl.publish.private import refuse_private
from rl.publish.sums import SUMS, check_sums, read_sums, write_sums
from rl.rollout_files import FOLDER as ROLLOUTS
from sft.training import ADAPTER

_REMEDY: Final = "choose another folder with --to, or remove that one"
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Published:
    """A publication.

    Attributes:
        place: the folder, or `hub:ORG/NAME`.
        new: False where all of it was there already.
        evaluations: those in it.
        data: its data set.
    """

    place: str
    new: bool
    evaluations: Sequence[Evaluation]
    data: Data

    def lines(self) -> list[str]:
        """Return what was published, a line each."""
        data = self.data
        told = [f"{self.place}: {'published' if self.new else 'is already there, and nothing was changed'}"]
        told.append(f"  evaluations: {', '.join(one.name for one in self.evaluations) or 'none'}")
        if data.traces is not None:
            told.append(f"  traces: {data.traces:,}")
        if data.rollouts is not None:
            told.append(f"  rollouts: {data.rollouts:,} completions")
        return told + [f"  not published: {reason}" for reason in data.missing]


def publish(run: Path, to: str, evaluations: Sequence[Path] = ()) -> Published:
    """Publish the adapter of a training run with its cards, its data and its evaluations.

    Args:
        run: folder of a finished run of SFT or GRPO; it is only read.
        to: a folder to write, or `hub:ORG/NAME`.
        evaluations: run folders of evaluations; by default those beside the run, see `find_evaluations`.

    Returns:
        What was published.

    Raises:
        InputError: the run or an evaluation cannot be published, a file would hold a secret, the place holds something
            else, or the Hub refuses it.
        CheckError: the disk is full, or the Hub cannot be reached.
    """
    repository = _repository(to)
    if repository is None:
        check_folder(Path(to), "--to")
    else:
        check_token(repository)
    with Progress("publication") as progress:
        progress.phase("reading the run")
        training = read_training(run)
        if repository is None:
            _check_target(Path(to), training)
        else:
            check_repositories(repository)
        found = find_evaluations(training, evaluations)
        place = repository or re.sub(r"[^\w.-]", "-", Path(to).resolve().name)
        with _unfinished(Path(to) if repository is None else None) as folder:
            progress.phase("scoring its evaluations and the shortcuts")
            summary = summarise(training, found, given=bool(evaluations))
            progress.phase("writing")
            write_adapter(training, folder)
            write_run(training, folder / RUN)
            data = write_data(training, found, folder / DATA)
            if not data.empty:
                write_data_card(training, summary, data, folder / DATA, place=place)
                write_sums(folder / DATA)
            write_model_card(training, found, summary, data, folder, place=place)
            refuse_private(folder, run)
            write_sums(folder)
            if repository is not None:
                progress.phase("uploading")
                return Published(to, upload(folder, repository), found, data)
            new = not _holds_same(Path(to), folder)
            if new:
                _put(folder, Path(to))
            return Published(to, new, found, data)


@dataclass(frozen=True)
class Pulled:
    """A publication that was pulled.

    Attributes:
        run: the run folder.
        new: False where all of it was there already.
    """

    run: Path
    new: bool

    def lines(self) -> list[str]:
        """Return what was pulled, a line each."""
        told = "pulled, and every file is as it was published"
        if not self.new:
            told = "is already there, every file as it was published, and nothing was changed"
        return [f"{self.run}: {told}", f"  its adapter, for eval --adapter: {self.run / ADAPTER}"]


def pull(source: str, to: Path) -> Pulled:
    """Fetch a publication, check every file of it, and lay it out as the folders that it was made from.

    Args:
        source: a folder that `publish` wrote, or `hub:ORG/NAME`.
        to: a new folder: it gets the run folder (`sft` or `grpo`), a run folder of each evaluation, the traces if there
            are any, and the model card. A folder that holds just that is checked, and left as it is.

    Returns:
        The run folder, and whether it is new.

    Raises:
        InputError: the source is no publication, a file of it is missing, changed or not listed, the folder holds
            something else, or the Hub refuses the token.
        CheckError: the disk is full, or the Hub cannot be reached.
    """
    check_folder(to, "--to")
    there = to.is_dir() and any(to.iterdir())
    if there and not (to / CARD).is_file():
        raise InputError(f"{to}: holds other files; choose a new folder with --to")
    repository = _repository(source)
    if repository is None and not Path(source).is_dir():
        raise InputError(f"{source}: no such folder; give a folder that `synthpert publish` wrote, or hub:ORG/NAME")
    with Progress("pull") as progress, _unfinished(to) as folder:
        publication = Path(source)
        if repository is not None:
            progress.phase("downloading")
            publication = folder.parent / "download"
            download(repository, publication)
        progress.phase("checking every file")
        _refuse_data(publication, source)
        check_sums(publication, source)
        stage = _lay_out(publication, folder, source)
        if there:
            _refuse_unless_same(to, folder)
        else:
            _put(folder, to)
    return Pulled(to / stage, new=not there)


def _refuse_unless_same(to: Path, folder: Path) -> None:
    """Refuse a folder that is not what a pull of this publication gives."""
    ours, theirs = (
        {path.relative_to(one).as_posix(): path for path in one.rglob("*") if not path.is_dir()} for one in (folder, to)
    )
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs or not filecmp.cmp(ours[name], theirs[name], shallow=False):
            problem = "is not of it" if name not in ours else "is missing" if name not in theirs else "differs"
            raise InputError(
                f"{to}: holds something else than this publication ({name} {problem}); choose a new folder with --to"
            )


def _refuse_data(publication: Path, source: str) -> None:
    """Refuse the data set of a publication, which is not whole without its adapter."""
    if not (publication / SUMS).is_file() or (publication / RUN).is_dir():
        return
    above = publication.resolve().parent
    where = f"the folder above it, {above}" if (above / SUMS).is_file() else "the folder of its adapter, which holds it"
    raise InputError(f"{source}: is the data set of a publication; give {where}")


def _repository(place: str) -> str | None:
    """The Hub's id in `hub:ORG/NAME`; None for a folder."""
    if not place.startswith(SCHEME):
        return None
    name = place.removeprefix(SCHEME)
    if not _REPOSITORY.fullmatch(name):
        raise InputError(f"{place}: is no repository; give hub:ORG/NAME, with letters, digits, dots and dashes")
    return name


@contextmanager
def _unfinished(final: Path | None) -> Iterator[Path]:
    """Make an empty folder on the disk of `final`, under a temporary name, and remove what is left of it in the end."""
    parent = None if final is None else final.resolve().parent
    if parent is not None:
        with disk_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
    prefix = "synthpert-" if final is None else f".{final.name}-"
    with disk_errors(parent or Path(gettempdir())):
        scratch = TemporaryDirectory(dir=parent, prefix=prefix, suffix=PARTIAL, ignore_cleanup_errors=True)
    with scratch as name:
        folder = Path(name) / "folder"  # with the user's own permissions, unlike the temporary one
        folder.mkdir()
        yield folder


def _check_target(final: Path, training: TrainingRun) -> None:
    """Refuse a folder that holds something else than a publication of this adapter, before any work is done."""
    if not final.is_dir() or not any(final.iterdir()):
        return
    if not (final / SUMS).is_file():
        raise InputError(f"{final}: holds other files; {_REMEDY}")
    weights = read_sums(final / SUMS, str(final)).get(WEIGHTS)
    if weights != file_sha256(training.path / ADAPTER / WEIGHTS):
        raise InputError(f"{final}: holds another publication ({WEIGHTS} differs); {_REMEDY}")


def _holds_same(final: Path, folder: Path) -> bool:
    """Whether a folder holds this publication already; False where it is new or empty.

    Raises:
        InputError: it holds something else, or this publication with a changed file.
    """
    if not final.is_dir() or not any(final.iterdir()):
        return False
    ours, there = (read_sums(one / SUMS, str(final)) for one in (folder, final))
    if differing := sorted(name for name in {*ours, *there} if ours.get(name) != there.get(name)):
        raise InputError(f"{final}: holds another publication ({differing[0]} differs); {_REMEDY}")
    check_sums(final, str(final))
    return True


def _put(folder: Path, final: Path) -> None:
    """Give a finished folder its name."""
    with disk_errors(final):
        os.replace(folder, final)  # takes the place of an empty folder


def _lay_out(publication: Path, out: Path, source: str) -> str:
    """Copy a publication's files to where a run, its evaluations and its traces lie; return the run's stage."""
    stage = read_json(publication / RUN / MANIFEST).get("stage") if (publication / RUN / MANIFEST).is_file() else None
    if stage not in STAGES:
        raise InputError(f"{source}: holds no run of sft or grpo; publish the run again")
    run, data = out / stage, publication / DATA
    with disk_errors(out):
        shutil.copytree(publication / RUN, run)
        (run / ADAPTER).mkdir()
        for name in ADAPTER_FILES:
            if (publication / name).is_file():
                shutil.copyfile(publication / name, run / ADAPTER / name)
        shutil.copyfile(publication / CARD, out / CARD)
        if (run / TRACES).is_file():
            os.replace(run / TRACES, out / TRACES)
        if (data / ROLLOUTS).is_dir():
            shutil.copytree(data / ROLLOUTS, run / ROLLOUTS)
        for one in sorted((data / EVALUATIONS).glob("*/")):
            shutil.copytree(one, out / one.name)
    if adapter_sha256(run / ADAPTER) != read_json(run / MANIFEST).get("adapter_sha256"):
        raise InputError(f"{source}: its adapter is not the one that its run made; publish the run again")
    return str(stage)
