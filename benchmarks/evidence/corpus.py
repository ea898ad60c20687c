"""Labels under one split, with the evidence that their training part gives about each item: the input of all stages."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evidence.alike import PAIR_COLUMNS, LineLabels, line_labels, nearest_knockdowns, similar_pairs
from benchmarks.evidence.kin import Kin, fit_kin
from benchmarks.evidence.neighbours import EVIDENCE_COLUMNS, NeighbourModel, NeighbourSettings, fit_neighbours
from benchmarks.evidence.reference import Reference, reference_inputs
from benchmarks.files import file_sha256
from benchmarks.screens.labels import SAMPLE, data_source, load_screen
from benchmarks.screens.sample import EVIDENCE_PER_ITEM, load_sample
from benchmarks.screens.schema import SPLIT_DTYPE, digest, lines_of
from benchmarks.screens.screen import PERTURBQA, Screen
from benchmarks.screens.splits import HOLDOUT_FORMS, OFFICIAL, Split, apply_split, read_split
from benchmarks.screens.table import LabelTable, is_table, read_unlabelled, table_sha256, tests_unlabelled
from rewards import LABELS, InputError, Label
from rewards.functions import OFFICIAL_TRAIN_COUNTS

WITHHELD: Final = 5  # one of so many training perturbations per line goes to a rehearsal's test part


@dataclass(frozen=True)
class Corpus:
    """Labelled items under one split; made by `open_corpus`.

    Attributes:
        source: where the labels are, or `sample`.
        split: name of the split; see `benchmarks.screens.splits`.
        labels: `item_id, cell_line, pert, gene, label, split`; the sample also has the columns it carries.
        screen: what is known of the labels besides.
        left_out: number of rows that the split leaves out.
        reference: another screen, all of whose labels evidence and baselines may use; None for none.
    """

    source: str
    split: str
    labels: pd.DataFrame
    screen: Screen = PERTURBQA
    left_out: int = 0
    reference: Reference | None = None

    @property
    def train(self) -> pd.DataFrame:
        """Training items."""
        return self.labels[self.labels["split"] == "train"]

    @property
    def test(self) -> pd.DataFrame:
        """Test items."""
        return self.labels[self.labels["split"] == "test"]

    @cached_property
    def unlabelled(self) -> pd.DataFrame:
        """Test items without labels, which can be predicted but not scored: `item_id, cell_line, pert, gene, label`.

        The label is empty. There are some only under `official`, where the description of a table names them.

        Raises:
            InputError: their file is missing or cannot be used, or one of them has a label.
        """
        if self.split != OFFICIAL or not tests_unlabelled(self.source):
            return pd.DataFrame(columns=["item_id", "cell_line", "pert", "gene", "label"], dtype="str")
        found = read_unlabelled(self.source)
        known = found["item_id"].isin(self.labels["item_id"])
        if known.any():
            raise InputError(
                f"{self.source}: {found['item_id'][known].iloc[0]} is among the rows of unlabelled, but has a label; "
                "remove it from one of the two tables"
            )
        return found

    @cached_property
    def test_ids(self) -> frozenset[str]:
        """Ids of all test items, with and without labels."""
        return frozenset(self.test["item_id"].astype(str)) | frozenset(self.unlabelled["item_id"])

    @property
    def is_sample(self) -> bool:
        """Whether these are the rows that ship with the package."""
        return self.source == SAMPLE

    @property
    def is_perturbqa(self) -> bool:
        """Whether these are PerturbQA's full labels, whose published figures compare."""
        return self.screen == PERTURBQA and not self.is_sample

    @property
    def name(self) -> str:
        """What reports call the labels."""
        if self.is_sample:
            return SAMPLE
        return "PerturbQA, full files" if self.is_perturbqa else self.screen.name

    def facts(self) -> dict[str, str]:
        """Return what a manifest says of the labels of its run, which `data: null` does not name.

        `name`; `notice`, their licence and attribution, empty where they are not known; and `sha256`, see `digest`.
        """
        return {"name": self.name, "notice": self.screen.notice, "sha256": self.digest}

    def with_reference(self, reference: Reference | None) -> "Corpus":
        """Return the corpus with a reference screen; itself for None.

        Raises:
            InputError: the reference holds an item of the corpus, is a copy of it or has none of its symbols, or the
                corpus is the sample.
        """
        if reference is None:
            return self
        if self.is_sample:
            raise InputError(
                "evidence_from: the sample lacks most training rows; use the full labels (synthpert data fetch)"
            )
        screen = self.screen
        if screen.sets or reference.screen.sets:
            # What a knockdown did to the genes of a set, in the same cells, is nearly the answer; and the other way.
            there = len(reference.labels)
            reference = reference.without_lines(self.lines)
            if left := there - len(reference.labels):
                lines = ", ".join(self.lines)
                told = f"{left:,} rows of {reference.screen.name} are not used as evidence: they are of {lines}, too."
                screen = replace(screen, notes=(*screen.notes, told))
        for items in (self.labels, self.unlabelled):
            reference.refuse_items(items)
        reference.refuse_copy(self.labels)
        reference.refuse_strangers(self.labels)
        return replace(self, screen=screen, reference=reference)

    @cached_property
    def lines(self) -> list[str]:
        """The cell lines, in the order of reports."""
        return lines_of(self.labels)

    @cached_property
    def line_names(self) -> dict[str, str]:
        """From each cell line in lower case to its name."""
        return {line.casefold(): line for line in self.lines}

    @cached_property
    def _held_out(self) -> dict[str, frozenset[str]]:
        """By column that is disjoint between training and test: the symbols of the test items."""
        return {column: frozenset(self.test[column].astype(str)) for column in read_split(self.split).columns}

    @cached_property
    def unseen_columns(self) -> tuple[str, ...]:
        """Of `pert` and `gene`: those in which no test item, with or without label, has a training row.

        A training item is asked as a test item is. So evidence about it uses no row that has its symbol there, and
        judges who is similar by the reference alone. Otherwise a model would learn to read what no test prompt has.
        """
        tested = [items for items in (self.test, self.unlabelled) if len(items)]
        if self.is_sample or not tested:
            return ()
        known = {column: set(self.train[column].unique()) for column in ("pert", "gene")}
        return tuple(
            column
            for column, trained in known.items()
            if all(trained.isdisjoint(items[column].unique()) for items in tested)
        )

    def holds_out(self, item_id: str) -> bool:
        """Tell whether an item has a perturbation or gene of the test items that the split keeps out of training."""
        pert, _, gene = item_id.partition("|")[2].partition("|")
        own = {"pert": pert, "gene": gene}
        return any(own[column] in symbols for column, symbols in self._held_out.items())

    @cached_property
    def digest(self) -> str:
        """SHA-256 over items, labels and splits; for other screens than PerturbQA over what prompts call them, too."""
        of_items = digest(self.labels)
        if self.screen.lines == PERTURBQA.lines:
            return of_items
        words: dict[str, object] = {line: self.screen.words(line) for line in self.lines}
        if self.screen.sets:
            words["sets"] = {name: list(genes) for name, genes in self.screen.sets.items()}
        return hashlib.sha256(f"{of_items} {json.dumps(words, sort_keys=True)}".encode()).hexdigest()

    @cached_property
    def train_counts(self) -> dict[Label, int]:
        """How often each label occurs in the training split; for the sample, in the full split it was drawn from."""
        if self.is_sample:
            return dict(OFFICIAL_TRAIN_COUNTS)
        counts = self.train["label"].value_counts()
        return {label: int(counts.get(str(label), 0)) for label in LABELS}

    @cached_property
    def _neighbours(self) -> NeighbourModel:
        return fit_neighbours(self.train)

    @cached_property
    def _rate_model(self) -> NeighbourModel:
        """A neighbour model used for its rates alone; the settings skip its costly parts, which do not affect rates."""
        if "_neighbours" in self.__dict__:
            return self._neighbours
        return fit_neighbours(self.train, NeighbourSettings(components=1, least_similar=2.0))

    @cached_property
    def rehearsals(self) -> tuple["Corpus", ...]:
        """The split repeated inside its training part, to learn there how far forecasts can be trusted.

        Each rehearsal is a corpus of training items only. Its test part is withheld from its training part:

        - `official`: one rehearsal, which withholds every fifth training perturbation of each line in a random order.
        - `holdout:LINE`: one rehearsal per training line, which withholds all of that line. With a single training
          line, it is as for `official`.
        - perturbations or genes held out: one rehearsal, which withholds as many again in the same way.
        - both held out: five rehearsals by fold, since one withholds but a twenty-fifth of the rows.
        """
        train, split = self.train, read_split(self.split)
        if split.columns:
            again = (
                _by_folds(train, split) if len(split.columns) > 1 else [apply_split(train, replace(split, file=None))]
            )
            return tuple(replace(self, labels=labels, left_out=len(train) - len(labels)) for labels in again)
        lines = lines_of(train)
        if split.line is None or len(lines) < 2:
            masks = [_every_fifth_perturbation(train)]
        else:
            masks = [(train["cell_line"].astype(str) == name).to_numpy() for name in lines]
        splits = [pd.Categorical(np.where(mask, "test", "train"), dtype=SPLIT_DTYPE) for mask in masks]
        return tuple(replace(self, labels=train.assign(split=split)) for split in splits)

    def rates(self, items: pd.DataFrame) -> pd.DataFrame:
        """Return `item_id, p_up, p_down, p_none`: the label shares of each item's gene in its line's training items.

        An item's own label never counts.

        Args:
            items: rows with `item_id`, `cell_line`, `pert`, `gene`.

        Raises:
            InputError: the corpus is the sample and does not hold an item.
        """
        if self.is_sample:
            return self._carried(items, {"p_up": "rate_up", "p_down": "rate_down"})
        rate_NL = self._rate_model.rates(items)
        return pd.DataFrame({"item_id": items["item_id"].to_numpy()}).assign(
            p_up=rate_NL[:, 0], p_down=rate_NL[:, 1], p_none=rate_NL[:, 2]
        )

    def has_rate(self, items: pd.DataFrame) -> npt.NDArray[np.bool_]:
        """Return which items have a rate that a prompt can tell, (N,): their gene has training rows besides their own.

        Where genes are held out, no item has one. PerturbQA's own splits and `holdout:LINE` tell the shares of all
        training labels for genes without training rows. Their prompts stay as they were.

        Args:
            items: N rows with `item_id`, `gene`.
        """
        if "gene" in self.unseen_columns:
            return np.zeros(len(items), dtype=bool)
        if self.is_sample or (self.screen == PERTURBQA and not self.unseen_columns):
            return np.ones(len(items), dtype=bool)
        own_N = items["item_id"].isin(self.train["item_id"])
        rows_N = items["gene"].astype(str).map(self._rows_of_gene).fillna(0)
        return np.asarray(rows_N > own_N)

    @cached_property
    def _rows_of_gene(self) -> pd.Series:
        """How many training rows each gene has."""
        return self.train["gene"].astype(str).value_counts()

    def neighbour_forecast(self, items: pd.DataFrame) -> pd.DataFrame:
        """Return `item_id, p_up, p_down, p_none` of the cross-line neighbour model.

        Args:
            items: rows with `item_id`, `cell_line`, `pert`, `gene`.

        Raises:
            InputError: the corpus is the sample and does not hold an item.
        """
        if self.is_sample:
            return self._carried(items, {"p_up": "p_up", "p_down": "p_down"})
        return self._neighbours.predict(items)

    def kin(self, line: str) -> Kin:
        """Return which perturbations and genes are alike by the other lines' training rows and by the reference.

        Args:
            line: the cell line that is asked about, none of whose labels is used.

        Raises:
            InputError: the corpus is the sample, which lacks most training rows.
        """
        if self.is_sample:
            raise InputError("kin: the sample lacks most training rows; load the full labels (synthpert data fetch)")
        if line not in self._kin_by_line:
            self._kin_by_line[line] = fit_kin(self.train, line, self.reference)
        return self._kin_by_line[line]

    @cached_property
    def _kin_by_line(self) -> dict[str, Kin]:
        return {}

    def _kin_of_items(self, line: str) -> Kin:
        """The kin that evidence about an item of a line uses; see `unseen_columns`."""
        kin = self.kin(line)
        if not self.unseen_columns:
            return kin
        by_reference = fit_kin(self.train.head(0), line, self.reference)
        if "pert" in self.unseen_columns:
            kin = replace(kin, perts=by_reference.perts, vector_PK=by_reference.vector_PK, known_P=by_reference.known_P)
        if "gene" in self.unseen_columns:
            kin = replace(kin, genes=by_reference.genes, vector_GK=by_reference.vector_GK, known_G=by_reference.known_G)
        return kin

    def evidence(self, items: pd.DataFrame, k: int, labels: Sequence[Label] = LABELS) -> pd.DataFrame:
        """Return `item_id, rank, pert, similarity, label`: what the k most similar knockdowns did to the gene.

        Similar are knockdowns that do alike in the other lines and, where there is one, in the reference. Where
        perturbations are held out, the reference alone tells who is similar. Where genes are, there is no evidence of
        this kind (`unseen_columns`).

        Args:
            items: rows with `item_id`, `cell_line`, `pert`, `gene`.
            k: knockdowns per item, at least 1.
            labels: only knockdowns that did one of these to the gene. Of the sample, which carries the most similar
                ones of all labels, those of them.

        Raises:
            InputError: the corpus is the sample, which carries fewer than `k` knockdowns or does not hold an item.
        """
        if "gene" in self.unseen_columns:
            return pd.DataFrame(columns=EVIDENCE_COLUMNS)
        if self.reference is not None or self.unseen_columns:
            return self._in_lines(
                items, EVIDENCE_COLUMNS, lambda rows, group: nearest_knockdowns(rows, group, k, labels)
            )
        if not self.is_sample:
            return self._neighbours.evidence(items, k, labels)
        rows = self._sample_rows(items)
        found = [
            (item_id, rank, *entry)
            for item_id, entries in zip(rows["item_id"], rows["evidence"], strict=True)
            for rank, entry in enumerate(_first([one for one in entries if one[2] in labels], k), start=1)
        ]
        return pd.DataFrame(found, columns=EVIDENCE_COLUMNS)

    def similar_pairs(self, items: pd.DataFrame, k: int) -> pd.DataFrame:
        """Return `item_id, rank, pert, gene, similarity, label`: what kin of the knockdown did to kin of the gene.

        Args:
            items: rows with `item_id`, `cell_line`, `pert`, `gene`.
            k: pairs of training rows per item, at least 1; see `benchmarks.evidence.alike`.

        Raises:
            InputError: the corpus is the sample, which lacks most training rows.
        """
        return self._in_lines(items, PAIR_COLUMNS, lambda rows, group: similar_pairs(rows, group, k))

    def _in_lines(
        self, items: pd.DataFrame, columns: list[str], find: Callable[[LineLabels, pd.DataFrame], pd.DataFrame]
    ) -> pd.DataFrame:
        """Return what is found for the items of each line, in the order of the items."""
        lines = items["cell_line"].astype(str)
        parts = []
        for line in lines.unique():
            if line not in self._labels_by_line:
                self._labels_by_line[line] = line_labels(self.train, line, self._kin_of_items(line))
            parts.append(find(self._labels_by_line[line], items[lines == line]))
        filled = [part for part in parts if len(part)]
        found: pd.DataFrame = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=columns)
        order = pd.Series(np.arange(len(items)), index=items["item_id"].astype(str))
        at = order.reindex(found["item_id"].astype(str)).to_numpy()
        found = found.iloc[np.lexsort((found["rank"].to_numpy(dtype=np.int64), at))]
        return found.reset_index(drop=True)

    @cached_property
    def _labels_by_line(self) -> dict[str, LineLabels]:
        return {}

    def _sample_rows(self, items: pd.DataFrame) -> pd.DataFrame:
        at = pd.Index(self.labels["item_id"]).get_indexer(items["item_id"])
        if (at < 0).any():
            missing = items["item_id"].to_numpy()[at < 0][0]
            raise InputError(f"{missing}: not among the sample's rows; load the full labels (synthpert data fetch)")
        rows: pd.DataFrame = self.labels.iloc[at]
        return rows

    def _carried(self, items: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
        rows = self._sample_rows(items)
        frame = pd.DataFrame({name: rows[carried].to_numpy() for name, carried in columns.items()})
        frame.insert(0, "item_id", rows["item_id"].to_numpy())
        return frame.assign(p_none=1.0 - frame["p_up"] - frame["p_down"])


def _every_fifth_perturbation(train: pd.DataFrame) -> npt.NDArray[np.bool_]:
    pair_N, pairs = pd.factorize(train["cell_line"].astype(str) + "|" + train["pert"].astype(str), sort=True)
    line = pd.Series(pairs).str.partition("|")[0]
    shuffled = pd.Series(np.random.default_rng(0).permutation(len(pairs)))
    rank_in_line = shuffled.groupby(line).rank(method="first").to_numpy()
    return np.asarray((rank_in_line % WITHHELD == 1)[pair_N])


def _by_folds(train: pd.DataFrame, split: Split) -> list[pd.DataFrame]:
    """Return training rows under each fold of a split that leaves training and test rows."""
    folds = min(WITHHELD, *(train[column].nunique() for column in split.columns))
    found = []
    for fold in range(1, folds + 1):
        with suppress(InputError):  # a fold of a small table may leave no row
            found.append(apply_split(train, replace(split, fold=(fold, folds))))
    if not found:
        raise InputError(f"split: {split.name!r}: the training rows are too few to hold out such rows again; add rows")
    return found


def _first(entries: list[tuple[str, float, str]], k: int) -> list[tuple[str, float, str]]:
    if k < 1:
        raise InputError(f"k: {k} similar knockdowns; use at least 1")
    if k > EVIDENCE_PER_ITEM:
        raise InputError(
            f"evidence: {k} is more than the sample carries ({EVIDENCE_PER_ITEM}); use the full labels "
            "(synthpert data fetch)"
        )
    return entries[:k]


def open_corpus(
    source: str | Path | LabelTable | None = None, split: str = OFFICIAL, reference: Reference | None = None
) -> Corpus:
    """Load labels and apply a split.

    Args:
        source: a folder with PerturbQA's files, a label table or what describes one (`benchmarks.screens.table`), or
            `sample` for the rows that ship with the package; None as in `data_source`.
        split: name of a split; see `benchmarks.screens.splits`.
        reference: another screen (`benchmarks.evidence.reference.open_reference`); None for none. Where readouts of
            either are sets of genes, its rows of the same cell lines are left out.

    Returns:
        The corpus.

    Raises:
        InputError: the labels are missing or inconsistent, or the split is unknown, or the reference holds an item of
            the corpus. The sample has only the split `official`, for which its evidence was computed, and no reference.
    """
    read_split(split)
    named = source.file if isinstance(source, LabelTable) else data_source(source)
    if named == SAMPLE:
        if split != OFFICIAL:
            raise InputError(f"split: {split!r} needs the full labels; the sample carries the official split only")
        return Corpus(SAMPLE, split, load_sample()).with_reference(reference)
    screen, labels = load_screen(source)
    if split == OFFICIAL and not screen.has_split:
        raise InputError(
            f"split: {named} has no column split, which {OFFICIAL!r} means; map one, or use {HOLDOUT_FORMS}"
        )
    kept = apply_split(labels, split)
    return Corpus(named, split, kept, screen, left_out=len(labels) - len(kept)).with_reference(reference)


def label_inputs(
    source: str | Path | None,
    split: str,
    evidence_from: str | Path | None = None,
    orthologs: str | Path | None = None,
) -> dict[str, str]:
    """Return the digests of the files of label tables, of symbols and of a split's list of symbols, for `open_run`.

    There are none for PerturbQA's files and the sample, which never change.
    """
    named, listed = data_source(source), read_split(split).file
    inputs = {"data": table_sha256(named)} if is_table(named) else {}
    if listed is not None and listed.is_file():
        inputs["split"] = file_sha256(listed)
    return inputs | reference_inputs(evidence_from, orthologs)


def draw_items(items: pd.DataFrame, n: int, *, seed: int, balance: bool, key: str = "items") -> pd.DataFrame:
    """Draw items at random; the same seed gives the same items.

    Args:
        items: rows of one split.
        n: number of items; 0 for all of them, in a random order.
        seed: seed of the draw, 0 to 2^32 - 1.
        balance: True draws equal numbers of each label (the first labels get a remainder), in a mixed order.
        key: what error messages call `n`: the key of a configuration that it stands in.

    Returns:
        The rows drawn.

    Raises:
        InputError: there are too few items, or too few of one label to balance them; or the seed is out of range.
    """
    if n < 0:
        raise InputError(f"{key}: {n}; use 0 for all, or more")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: {seed}; use a whole number from 0 to 2^32 - 1")
    shuffled = items.sample(frac=1.0, random_state=seed)
    if not balance:
        if n > len(items):
            raise InputError(f"{key}: {n}, but there are only {len(items)}; ask for {len(items)} at most")
        return shuffled if n == 0 else shuffled.head(n)
    labels = [str(label) for label in LABELS if (items["label"] == str(label)).any()]
    available = {label: int((items["label"] == label).sum()) for label in labels}
    wanted = n or len(labels) * min(available.values())
    quota = {label: wanted // len(labels) + (i < wanted % len(labels)) for i, label in enumerate(labels)}
    for label in labels:
        if quota[label] > available[label]:
            raise InputError(
                f"{key}: {n} with each label equally often need {quota[label]} {label}, but there are "
                f"{available[label]}; ask for {len(labels) * min(available.values())} at most, or set balance: false"
            )
    drawn = pd.concat([shuffled[shuffled["label"] == label].head(quota[label]) for label in labels])
    return drawn.sample(frac=1.0, random_state=seed)
