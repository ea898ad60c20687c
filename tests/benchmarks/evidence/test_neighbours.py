"""The cross-line neighbour model: its figures on the full data, and that no item ever sees its own label."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from benchmarks import NeighbourModel, fit_neighbours, per_gene_auroc
from benchmarks.evidence.neighbours import NeighbourSettings
from benchmarks.screens.schema import CELL_LINES
from rewards import LABELS, InputError

UP, DOWN, NONE = map(str, LABELS)
SEEDS = [0, 1]
Said = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[tuple[object, ...]]]
MakeLabels = Callable[[int], pd.DataFrame]

# Mean per-gene AUROC on the official test splits, differential expression and direction: what a plain neighbour model
# reaches, and what this one does.
PLAIN = {"k562": (0.687, 0.813), "rpe1": (0.666, 0.760), "hepg2": (0.661, 0.793), "jurkat": (0.653, 0.807)}
MEASURED = {"k562": (0.740, 0.905), "rpe1": (0.692, 0.799), "hepg2": (0.735, 0.857), "jurkat": (0.722, 0.884)}


def train_of(labels: pd.DataFrame) -> pd.DataFrame:
    return labels[labels["split"] == "train"]


def outputs_of(model: NeighbourModel, items: pd.DataFrame, k: int = 4) -> Said:
    """Return rates (N, 3), forecasts (N, 3) and evidence (without similarities, exact only to rounding)."""
    evidence = model.evidence(items, k)
    quoted = list(evidence[["item_id", "rank", "pert", "label"]].itertuples(index=False, name=None))
    return model.rates(items), model.predict(items)[["p_up", "p_down", "p_none"]].to_numpy(), quoted


@pytest.mark.slow
@pytest.mark.parametrize("line", CELL_LINES)
def test_per_gene_auroc_on_the_official_test_split(
    full_frame: pd.DataFrame, full_neighbours: NeighbourModel, line: str
) -> None:
    items = full_frame[(full_frame["split"] == "test") & (full_frame["cell_line"] == line)]
    forecast = full_neighbours.predict(items)
    assert forecast["item_id"].tolist() == items["item_id"].tolist()
    changed = (items["label"] != NONE).to_numpy()
    moved, seen = items[changed], forecast[changed]
    score = (seen["p_up"] / (seen["p_up"] + seen["p_down"])).fillna(0.5)  # neither was ever seen: no preference
    found = (
        per_gene_auroc(changed, 1 - forecast["p_none"], items["gene"]),
        per_gene_auroc(moved["label"] == UP, score, moved["gene"]),
    )
    assert found == pytest.approx(MEASURED[line], abs=0.002)
    assert found[0] > PLAIN[line][0]
    assert found[1] > PLAIN[line][1]


@pytest.mark.slow
def test_a_training_perturbation_is_forecast_as_a_test_one_on_the_full_data(
    full_frame: pd.DataFrame, full_neighbours: NeighbourModel
) -> None:
    train = train_of(full_frame)
    here = train[train["cell_line"] == "k562"]
    known = here["pert"].isin(train.loc[train["cell_line"] != "k562", "pert"])
    mine = here[here["pert"] == here.loc[known, "pert"].value_counts().index[0]]
    assert len(mine) > 100
    before, after = (
        outputs_of(model, mine) for model in (full_neighbours, fit_neighbours(train.drop(index=mine.index)))
    )
    np.testing.assert_allclose(before[0], after[0], atol=1e-9)
    np.testing.assert_allclose(before[1], after[1], atol=1e-9)
    assert before[2] == after[2]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_training_perturbation_is_forecast_as_a_test_one(make_labels: MakeLabels, seed: int) -> None:
    train = train_of(make_labels(seed))
    model = fit_neighbours(train)
    for line in CELL_LINES:
        here = train[train["cell_line"] == line]
        for pert in {*here["pert"].unique()[::3], *{"Psolo"}.intersection(here["pert"])}:
            mine = here[here["pert"] == pert]
            as_test = fit_neighbours(train.drop(index=mine.index))
            rates, forecast, evidence = outputs_of(model, mine)
            test_rates, test_forecast, test_evidence = outputs_of(as_test, mine)
            np.testing.assert_allclose(rates, test_rates, atol=1e-9, err_msg=f"{line} {pert}")
            np.testing.assert_allclose(forecast, test_forecast, atol=1e-9, err_msg=f"{line} {pert}")
            assert evidence == test_evidence


@pytest.mark.parametrize("seed", SEEDS)
def test_an_items_own_label_never_matters(make_labels: MakeLabels, seed: int) -> None:
    train = train_of(make_labels(seed))
    model = fit_neighbours(train)
    alone = train.index[train["pert"] == "Psolo"][::4]  # all alike: a gene each, in one line
    rare = [*train.index[train["gene"].isin(["Grare", "Gonly"])], *alone]
    some = train.sample(8, random_state=seed).index
    for row in [*rare, *some]:
        item = train.loc[[row]]
        before = outputs_of(model, item)
        for other in {UP, DOWN, NONE} - {str(item["label"].iloc[0])}:
            flipped = train.copy()
            flipped.loc[row, "label"] = other
            after = outputs_of(fit_neighbours(flipped), item)
            name = f"{item['item_id'].iloc[0]} as {other}"
            np.testing.assert_allclose(after[0], before[0], atol=1e-9, err_msg=name)
            np.testing.assert_allclose(after[1], before[1], atol=1e-9, err_msg=name)
            assert after[2] == before[2], name


def test_flipping_another_items_label_does_matter(make_labels: MakeLabels) -> None:
    """The two tests above would pass on a model that looks at nothing."""
    train = train_of(make_labels(0))
    item = train.iloc[[0]]
    gene = (train["gene"] == item["gene"].iloc[0]) & (train["cell_line"] == item["cell_line"].iloc[0])
    flipped = train.copy()
    flipped.loc[gene & (train["item_id"] != item["item_id"].iloc[0]), "label"] = DOWN
    before, after = outputs_of(fit_neighbours(train), item), outputs_of(fit_neighbours(flipped), item)
    assert np.abs(after[0] - before[0]).max() > 0.1
    assert np.abs(after[1] - before[1]).max() > 0.1
    assert after[2] != before[2]


@pytest.mark.parametrize("seed", SEEDS)
def test_test_labels_are_never_used(make_labels: MakeLabels, seed: int) -> None:
    labels = make_labels(seed)
    test = labels[labels["split"] == "test"]
    model = fit_neighbours(train_of(labels))
    blind = test.drop(columns=["label", "split"])
    assert outputs_of(model, test)[2] == outputs_of(model, blind)[2]
    np.testing.assert_array_equal(outputs_of(model, test)[1], outputs_of(model, blind)[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_evidence_quotes_other_knockdowns_training_labels_in_the_same_line(make_labels: MakeLabels, seed: int) -> None:
    labels = make_labels(seed)
    train = train_of(labels)
    truth = dict(zip(train["item_id"], train["label"].astype(str), strict=True))
    evidence = fit_neighbours(train).evidence(labels, 3)
    assert list(evidence.columns) == ["item_id", "rank", "pert", "similarity", "label"]
    assert len(evidence) > len(labels)
    for row in evidence.itertuples():
        line, pert, gene = str(row.item_id).split("|")
        assert row.pert != pert
        assert truth[f"{line}|{row.pert}|{gene}"] == row.label
        assert -1 - 1e-9 <= row.similarity <= 1 + 1e-9
    groups = evidence.groupby("item_id", sort=False)
    assert all(group["rank"].tolist() == list(range(1, len(group) + 1)) for _, group in groups)
    assert all(group["similarity"].is_monotonic_decreasing for _, group in groups)
    order = labels["item_id"][labels["item_id"].isin(evidence["item_id"])].tolist()
    assert evidence["item_id"].drop_duplicates().tolist() == order


@pytest.mark.slow
def test_evidence_on_the_full_data_never_quotes_the_items_own_perturbation(
    full_frame: pd.DataFrame, full_neighbours: NeighbourModel
) -> None:
    items = full_frame.sample(4000, random_state=0)
    own = dict(zip(items["item_id"], items["pert"], strict=True))
    evidence = full_neighbours.evidence(items, 5)
    assert (evidence["pert"] != evidence["item_id"].map(own)).all()
    train = train_of(full_frame).set_index("item_id")["label"].astype(str)
    quoted = (
        evidence["item_id"].str.split("|").str[0]
        + "|"
        + evidence["pert"]
        + "|"
        + evidence["item_id"].str.split("|").str[2]
    )
    assert train.loc[quoted].tolist() == evidence["label"].tolist()


def test_forecasts_are_probabilities(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    model = fit_neighbours(train_of(labels))
    forecast = model.predict(labels)[["p_up", "p_down", "p_none"]].to_numpy()
    for numbers in (forecast, model.rates(labels)):
        assert np.isfinite(numbers).all()
        assert numbers.min() >= 0
        np.testing.assert_allclose(numbers.sum(axis=1), 1.0, atol=1e-12)


def test_a_gene_rate_is_counted_without_the_item_itself() -> None:
    """Five knockdowns of one gene: up, up, down, none, none."""
    train = pd.DataFrame({"pert": list("ABCDE"), "label": [UP, UP, DOWN, NONE, NONE]})
    train = train.assign(cell_line="k562", gene="G", split="train", item_id="k562|" + train["pert"] + "|G")
    model = fit_neighbours(train)
    new = train.head(1).assign(pert="Z", item_id="k562|Z|G")
    np.testing.assert_allclose(model.rates(new), [[0.4, 0.2, 0.4]])
    np.testing.assert_allclose(model.rates(train.head(1)), [[0.25, 0.25, 0.5]])
    np.testing.assert_allclose(model.rates(train.tail(1)), [[0.5, 0.25, 0.25]])


def test_the_forecast_of_a_hand_made_case() -> None:
    """P and Q act alike in RPE1, R the other way round; K562's labels of G are averaged for P. No gene is like G."""
    rows = [("rpe1", p, f"X{i}", UP if (p != "R") else DOWN) for p in "PQR" for i in range(3)]
    rows += [("k562", "Q", "G", UP), ("k562", "R", "G", DOWN), ("k562", "S", "G", NONE)]
    train = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label"])
    train["item_id"] = train["cell_line"] + "|" + train["pert"] + "|" + train["gene"]
    item = pd.DataFrame({"item_id": ["k562|P|G"], "cell_line": ["k562"], "pert": ["P"], "gene": ["G"]})
    forecast = fit_neighbours(train).predict(item)[["p_up", "p_down", "p_none"]].to_numpy()[0]
    seen = np.array([np.exp(6.0), np.exp(-6.0), 0.0])  # cosines 1 and -1; S is unknown elsewhere and has no vote
    rate = (np.ones(3) + 3 * np.array([7, 4, 1]) / 12) / (3 + 3)
    np.testing.assert_allclose(forecast, (seen + 100 * rate) / (seen.sum() + 100), atol=1e-9)


SMALL = NeighbourSettings(
    components=5, sharpness=2.0, least_similar=0.3, pseudo_counts=4.0, ratio_counts=1.5, rate_counts=2.0
)


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, least_similar=2.0), NeighbourSettings()])
def test_the_forecast_is_the_formula_written_out(make_labels: MakeLabels, settings: NeighbourSettings) -> None:
    """Loops over dictionaries and NumPy's own SVD give the same numbers, for training and test items."""
    labels = make_labels(2)
    train = train_of(labels)
    asked = labels.sample(120, random_state=0)
    forecast = fit_neighbours(train, settings).predict(asked)[["p_up", "p_down", "p_none"]].to_numpy()
    truth = {
        (str(row.cell_line), str(row.pert), str(row.gene)): LABELS.index(str(row.label)) for row in train.itertuples()
    }
    checked = 0
    for line in CELL_LINES:
        pert_vector, gene_vector = written_out_vectors(truth, line, settings.components)
        for found, row in zip(forecast, asked.itertuples(), strict=True):
            known = np.linalg.norm(pert_vector.get(str(row.pert), 0)) > 1e-9
            trained = any(key[0] == line and key[2] == row.gene for key in truth)
            if row.cell_line != line or not known or not trained:
                continue
            checked += 1
            expected = written_out(truth, line, str(row.pert), str(row.gene), pert_vector, gene_vector, settings)
            np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=str(row.item_id))
    assert checked > 90


Truth = dict[tuple[str, str, str], int]
Vectors = dict[str, npt.NDArray[np.float64]]


def written_out_vectors(truth: Truth, line: str, components: int) -> tuple[Vectors, Vectors]:
    there = {key: label for key, label in truth.items() if key[0] != line}
    perts = sorted({pert for _, pert, _ in truth})
    genes = sorted({gene for (_, _, gene), label in there.items() if label != 2})
    knockdowns = {(where, pert) for where, pert, _ in there}
    matrix = np.zeros((len(perts), len(genes)))
    for (_, pert, gene), label in there.items():
        if label != 2:
            matrix[perts.index(pert), genes.index(gene)] += 1 if label == 0 else -1
    for column, gene in enumerate(genes):
        changing = sum(key[2] == gene and label != 2 for key, label in there.items())
        matrix[:, column] *= np.log(1 + len(knockdowns) / changing)
    left, scale, right = np.linalg.svd(matrix, full_matrices=False)
    k = min(components, min(matrix.shape) - 1)
    units = []
    for vectors in (left[:, :k] * scale[:k], right[:k].T * scale[:k]):
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        units.append(np.where(length > 1e-9, vectors / np.maximum(length, 1e-9), 0))
    return dict(zip(perts, units[0], strict=True)), dict(zip(genes, units[1], strict=True))


def written_out(
    truth: Truth, line: str, pert: str, gene: str, pert_vector: Vectors, gene_vector: Vectors,
    settings: NeighbourSettings,
) -> npt.NDArray[np.float64]:  # fmt: skip
    usable = {key: label for key, label in truth.items() if key[:2] != (line, pert)}
    here = {key[1:]: label for key, label in usable.items() if key[0] == line}
    share = np.bincount(list(usable.values()), minlength=3) / len(usable)
    weight = {q: float(np.exp(settings.sharpness * pert_vector[pert] @ pert_vector[q])) for q, _ in here
              if np.linalg.norm(pert_vector[q]) > 1e-9}  # fmt: skip

    def rate(name: str) -> npt.NDArray[np.float64]:
        counts = np.bincount([label for (_, h), label in here.items() if h == name], minlength=3)
        return (counts + settings.rate_counts * share) / (counts.sum() + settings.rate_counts)

    observed, expected, seen = np.zeros(3), np.zeros(3), np.zeros(3)
    for (q, h), label in here.items():
        if q not in weight:
            continue
        if h == gene:
            seen[label] += weight[q]
        elif gene in gene_vector and h in gene_vector:
            cosine = float(gene_vector[gene] @ gene_vector[h])
            if cosine >= settings.least_similar:
                observed[label] += cosine**2 * weight[q]
                expected += cosine**2 * weight[q] * rate(h)
    corrected = rate(gene) * (observed + settings.ratio_counts) / (expected + settings.ratio_counts)
    corrected /= corrected.sum()
    return np.asarray((seen + settings.pseudo_counts * corrected) / (seen.sum() + settings.pseudo_counts))


def test_what_a_knockdown_did_to_similar_genes_counts() -> None:
    """Q acts as P does in RPE1, and G1 answers as G does there: in K562, Q on G1 tells of P on G."""
    effects = {"P": (UP, UP, DOWN), "Q": (UP, UP, DOWN), "R": (DOWN, DOWN, DOWN), "S": (UP, UP, UP)}
    rows = [("rpe1", p, g, e) for p, said in effects.items() for g, e in zip(["G", "G1", "X"], said, strict=True)]
    rows += [("k562", "Q", "G1", UP), ("k562", "R", "G1", NONE), ("k562", "S", "X", NONE), ("k562", "R", "G", NONE)]
    rows += [("k562", "T", "G", DOWN), ("k562", "T", "X", NONE)]
    train = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label"])
    train["item_id"] = train["cell_line"] + "|" + train["pert"] + "|" + train["gene"]
    item = pd.DataFrame({"item_id": ["k562|P|G"], "cell_line": ["k562"], "pert": ["P"], "gene": ["G"]})
    flipped = train.assign(label=train["label"].where(train["item_id"] != "k562|Q|G1", DOWN))
    up, down = (fit_neighbours(labels).predict(item)["p_up"].iloc[0] for labels in (train, flipped))
    assert up > down + 0.05
    # Evidence is about the gene itself.
    assert set(fit_neighbours(train).evidence(item, 9)["pert"]) == {"R"}


def test_unknown_perturbations_and_genes_fall_back_to_rates(make_labels: MakeLabels) -> None:
    train = train_of(make_labels(0))
    model = fit_neighbours(train)
    items = pd.DataFrame(
        {"cell_line": ["k562", "k562", "k562"], "pert": ["new", "P0", "new"], "gene": ["G0", "Gnew", "Gnew"]}
    )
    items.insert(0, "item_id", items["cell_line"] + "|" + items["pert"] + "|" + items["gene"])
    forecast = model.predict(items)[["p_up", "p_down", "p_none"]].to_numpy()
    np.testing.assert_allclose(forecast, model.rates(items))
    here = train[(train["cell_line"] == "k562") & (train["gene"] == "G0")]
    np.testing.assert_allclose(forecast[0], [(here["label"] == str(x)).mean() for x in LABELS])
    others = train[(train["cell_line"] != "k562") | (train["pert"] != "P0")]
    assert len(others) < len(train)
    np.testing.assert_allclose(forecast[1], [(others["label"] == str(x)).mean() for x in LABELS])
    np.testing.assert_allclose(forecast[2], [(train["label"] == str(x)).mean() for x in LABELS])
    evidence = model.evidence(items, 3)
    assert evidence.empty
    assert list(evidence.columns) == ["item_id", "rank", "pert", "similarity", "label"]


def test_a_line_held_out_of_training_has_rates_of_the_others_and_no_evidence(make_labels: MakeLabels) -> None:
    labels = make_labels(0).drop(columns="split")
    train, held = (
        labels[labels["cell_line"] != "rpe1"],
        labels[(labels["cell_line"] == "rpe1") & (labels["gene"] == "G3")],
    )
    model = fit_neighbours(train)
    expected = [(train.loc[train["gene"] == "G3", "label"] == str(x)).mean() for x in LABELS]
    np.testing.assert_allclose(model.predict(held)[["p_up", "p_down", "p_none"]].to_numpy(), [expected] * len(held))
    assert model.evidence(held, 2).empty


def test_the_order_of_items_is_kept(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    model = fit_neighbours(train_of(labels))
    mixed = labels.sample(frac=1.0, random_state=1)
    forward = model.predict(labels).set_index("item_id")
    shuffled = model.predict(mixed)
    assert shuffled["item_id"].tolist() == mixed["item_id"].tolist()
    pd.testing.assert_frame_equal(shuffled.set_index("item_id"), forward.loc[mixed["item_id"]])


def test_the_same_labels_give_the_same_model(make_labels: MakeLabels) -> None:
    labels = make_labels(1)
    first, second = (outputs_of(fit_neighbours(train_of(labels)), labels, 6) for _ in range(2))
    np.testing.assert_allclose(first[0], second[0], atol=1e-12)
    np.testing.assert_allclose(first[1], second[1], atol=1e-9)  # the last bits of an SVD are not reproducible
    assert first[2] == second[2]


def test_knockdowns_that_are_equally_similar_come_in_the_order_of_their_names() -> None:
    """All of Q0 to Q9 act alike in RPE1: rounding must not decide which of them are quoted."""
    names = [f"Q{i}" for i in range(10)]
    rows = [("rpe1", p, f"X{i}", UP if i % 3 else DOWN) for p in ["P", *names] for i in range(7)]
    rows += [("rpe1", f"R{p}", f"X{i}", UP if (p + i) % 2 else DOWN) for p in range(5) for i in range(p, 7)]
    rows += [("k562", p, "G", NONE) for p in reversed(names)]
    train = pd.DataFrame(rows, columns=["cell_line", "pert", "gene", "label"])
    train["item_id"] = train["cell_line"] + "|" + train["pert"] + "|" + train["gene"]
    item = pd.DataFrame({"item_id": ["k562|P|G"], "cell_line": ["k562"], "pert": ["P"], "gene": ["G"]})
    evidence = fit_neighbours(train).evidence(item, 4)
    assert evidence["pert"].tolist() == names[:4]
    np.testing.assert_allclose(evidence["similarity"], 1.0)


def test_the_order_of_training_rows_does_not_matter(make_labels: MakeLabels) -> None:
    labels = make_labels(1)
    train = train_of(labels)
    forecasts = [
        fit_neighbours(rows).predict(labels)[["p_up", "p_down", "p_none"]].to_numpy()
        for rows in (train, train.sample(frac=1.0, random_state=3))
    ]
    np.testing.assert_allclose(forecasts[0], forecasts[1], atol=1e-9)


def test_wrong_input_is_refused(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    train = train_of(labels)
    model = fit_neighbours(train)
    with pytest.raises(InputError, match="no rows"):
        fit_neighbours(train.head(0))
    with pytest.raises(InputError, match="test row"):
        fit_neighbours(labels)
    with pytest.raises(InputError, match="at least 1"):
        model.evidence(labels, 0)
    for column in ("cell_line", "pert", "gene", "label"):
        with pytest.raises(InputError, match=f"train: no column '{column}'"):
            fit_neighbours(train.drop(columns=column))
    for column in ("item_id", "cell_line", "pert", "gene"):
        with pytest.raises(InputError, match=f"items: no column '{column}'"):
            model.predict(labels.drop(columns=column))
    with pytest.raises(InputError, match="unknown label"):
        fit_neighbours(train.assign(label=train["label"].astype(str).replace(UP, "up")))


def test_the_names_of_lines_do_not_matter(make_labels: MakeLabels) -> None:
    labels = make_labels(0)
    named = labels["cell_line"].astype(str).replace({"rpe1": "h1-esc", "k562": "BMDM (mouse)"})
    renamed = labels.assign(cell_line=named)
    ours, theirs = fit_neighbours(train_of(labels)), fit_neighbours(train_of(renamed))
    pd.testing.assert_frame_equal(ours.predict(labels), theirs.predict(renamed))
    pd.testing.assert_frame_equal(ours.evidence(labels, 3), theirs.evidence(renamed, 3))


def test_a_line_without_training_rows_has_the_rates_of_all_lines(make_labels: MakeLabels) -> None:
    train = train_of(make_labels(0))
    one = train.head(1).assign(cell_line="hela", pert="Pnew")
    same_gene = train.loc[train["gene"] == one["gene"].iloc[0], "label"]
    forecast = fit_neighbours(train).predict(one)
    assert forecast["p_up"].iloc[0] == pytest.approx((same_gene == UP).mean())


@pytest.mark.parametrize(
    "wrong",
    [{"components": 0}, {"sharpness": -1.0}, {"least_similar": 0.0}, {"pseudo_counts": 0.0}, {"ratio_counts": -2.0},
     {"rate_counts": float("nan")}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        replace(NeighbourSettings(), **wrong)


@pytest.mark.filterwarnings("error")
def test_unknown_labels_are_refused_without_a_warning(make_labels: MakeLabels) -> None:
    train = train_of(make_labels(0))
    broken = train.assign(label=train["label"].astype(str).where(train.index != train.index[3], "up"))
    for labels in (broken, broken.astype({"label": "category"})):
        with pytest.raises(InputError, match=f"row {train.index[3]} has an unknown label"):
            fit_neighbours(labels)
