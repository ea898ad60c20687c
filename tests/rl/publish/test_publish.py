"""A run is published whole or not at all, without secrets or paths, and comes back as it was."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from publications import HOME, strings_in, write_evaluation, write_grpo, write_sft

from benchmarks.evidence.corpus import Corpus, open_corpus
from benchmarks.files import file_sha256
from benchmarks.models.folders import adapter_sha256, read_json
from benchmarks.report.collect import collect_runs
from benchmarks.report.summarize import summarize
from benchmarks.report.wording import count_of, format_interval, format_number
from benchmarks.runs import read_manifest, require_done
from rewards import InputError
from rl.publish.card import METRICS, Labels, labels_of, summarise, write_data_card, write_model_card
from rl.publish.content import Data, Evaluation, TrainingRun, read_training
from rl.publish.run import publish, pull
from rl.rollout_files import read_rollouts
from sft.traces import read_traces


@pytest.fixture(scope="module", autouse=True)
def without_login() -> Iterator[None]:
    """No token of the machine that runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setattr("huggingface_hub.get_token", lambda: None)
        yield


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


@pytest.fixture(scope="module")
def runs(sample: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages beside evaluations of the base model, of both adapters, and of another model; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    sft = write_sft(folder / "sft", sample)
    grpo = write_grpo(folder / "grpo", sample, sft)
    write_evaluation(folder / "eval-base", sample, "base", None)
    write_evaluation(folder / "eval-grpo", sample, "GRPO", grpo)
    write_evaluation(folder / "eval-sft", sample, "SFT", sft)
    write_evaluation(folder / "eval-other", sample, "other", "0" * 64)
    return folder


@pytest.fixture(scope="module")
def published(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GRPO run, published; not to be changed."""
    out = tmp_path_factory.mktemp("published") / "my-adapter"
    assert publish(runs / "grpo", str(out)).new
    return out


@pytest.fixture
def sft_alone(sample: Corpus, tmp_path: Path) -> Path:
    """A run of SFT without evaluations."""
    write_sft(tmp_path / "runs" / "sft", sample)
    return tmp_path / "runs" / "sft"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def front(card: Path) -> dict[str, object]:
    _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
    read: dict[str, object] = yaml.safe_load(head)
    return read


def test_what_is_published(published: Path) -> None:
    evaluation = ("config.yaml", "manifest.json", "predictions.parquet")
    assert files(published) == {
        "README.md", "SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "synthpert.json", "items.txt",
        "run/config.yaml", "run/manifest.json", "data/README.md", "data/SHA256SUMS",
        "data/rollouts/rollouts.parquet",
        *(f"data/evaluations/{name}/{file}" for name in ("eval-base", "eval-sft", "eval-grpo") for file in evaluation),
    }  # fmt: skip
    assert pq.read_table(published / "data/rollouts/rollouts.parquet")["step"].to_pylist() == [1, 1, 2, 2]
    listed = dict(reversed(line.split("  ")) for line in (published / "SHA256SUMS").read_text().splitlines())
    assert listed == {name: file_sha256(published / name) for name in files(published) - {"SHA256SUMS"}}


def test_the_cards_heads_are_what_the_hub_reads(published: Path) -> None:
    head = front(published / "README.md")
    assert (head["library_name"], head["license"]) == ("peft", "cc-by-4.0")
    assert {"lora", "grpo", "perturbqa"} <= set(head["tags"])  # type: ignore[call-overload]
    assert "base_model" not in head  # a folder is no model of the Hub
    configs = front(published / "data" / "README.md")["configs"]
    assert isinstance(configs, list)
    assert [one["config_name"] for one in configs] == [
        "rollouts", "predictions-eval-base", "predictions-eval-sft", "predictions-eval-grpo"
    ]  # fmt: skip
    assert all((published / "data" / one["data_files"][0]["path"]).is_file() for one in configs)


def test_the_card_tells_the_report_s_own_numbers_with_the_shortcuts_and_the_protocol(
    published: Path, runs: Path
) -> None:
    card = (published / "README.md").read_text(encoding="utf-8")
    evaluations = [runs / f"eval-{name}" for name in ("base", "sft", "grpo")]
    systems, told = collect_runs([*evaluations, runs / "grpo"], command="", pairwise=True)
    summary = summarize(systems, title="", pairwise=True, **told)
    assert {"GRPO", "base", "cross-line neighbours"} <= summary.systems.keys()
    for name in summary.systems:
        scores = [summary.score(name, metric) for metric in METRICS["three_class"]]
        cells = [f"{format_number(one.value)} ({format_interval(one.low, one.high)})" for one in scores]
        for at, one in enumerate(scores):  # a mean over genes says over how many
            assert at == 0 or one.n_genes or name != "GRPO"
            cells[at] += f", {one.n} items in {count_of(one.n_genes, 'gene')}" if one.n_genes is not None else ""
        mark = {"GRPO": " (this adapter)", "base": "", "SFT": ""}.get(name, " (shortcut)")
        assert f"| {name}{mark} | {scores[0].n} | {' | '.join(cells)} |" in card
    fingerprint = summary.systems["GRPO"].fingerprint
    assert fingerprint is not None
    assert f"`{fingerprint}`" in card
    assert "other" not in summary.systems and "| other" not in card
    for said in ("CC BY 4.0", "Wu et al.", "PeftModel.from_pretrained", "sample"):
        assert said in card


def test_the_data_card_names_each_evaluation_on_a_line_of_its_own(published: Path) -> None:
    lines = (published / "data" / "README.md").read_text(encoding="utf-8").splitlines()
    assert "- predictions-eval-sft: SFT" in lines and "- predictions-eval-grpo: GRPO (the adapter)" in lines
    assert "- All items are training items of split official." in lines


def test_labels_of_another_screen_are_not_called_perturbqa_s(runs: Path, tmp_path: Path) -> None:
    run = read_training(runs / "sft")
    assert labels_of(run, None).are_perturbqa
    own = before_screens_were_stored(run, "screens/my *own*.csv")
    data = Data(3, None, (), (), ())
    write_data_card(own, None, data, tmp_path, place="x")
    write_model_card(own, (), None, data, tmp_path / "model", place="x")
    for card in (tmp_path / "README.md", tmp_path / "model" / "README.md"):
        text = card.read_text(encoding="utf-8")
        assert "PerturbQA" not in text and "CC BY" not in text and front(card)["license"] == "unknown"
        assert r"those of my \*own\*.csv" in text and "perturbqa" not in str(front(card)["tags"])


def before_screens_were_stored(run: TrainingRun, data: str | None) -> TrainingRun:
    """A run as earlier versions made it, on the labels that the key `data` names."""
    manifest = {key: value for key, value in run.manifest.items() if key != "screen"}
    return replace(run, manifest=manifest, config={**run.config, "data": data})


def test_labels_are_those_that_the_run_used_or_said_to_be_unknown(runs: Path, tmp_path: Path) -> None:
    run = read_training(runs / "sft")
    assert run.config.get("data") is None and labels_of(run, None).name == "sample"  # its manifest says so
    screen = {"name": "BioReasoning Challenge", "notice": "no licence is stated", "sha256": "0" * 64}
    other = replace(run, manifest={**run.manifest, "screen": screen})
    assert labels_of(other, None) == Labels("BioReasoning Challenge", "no licence is stated")
    for data, name in {
        "bioreasoning": "bioreasoning",
        "sample": "sample",
        "/labels/perturbqa": "PerturbQA, full files",
    }.items():
        assert labels_of(before_screens_were_stored(run, data), None).name == name
    unknown = before_screens_were_stored(run, None)
    for at, one in enumerate((other, unknown)):
        write_model_card(one, (), None, Data(None, None, (), (), ()), tmp_path / str(at), place="x")
        card = tmp_path / str(at) / "README.md"
        assert "Wu et al." not in card.read_text(encoding="utf-8") and front(card)["license"] == "unknown"
    assert (
        "those of BioReasoning Challenge. Their notice: no licence is stated." in (tmp_path / "0/README.md").read_text()
    )
    assert "does not say which labels it learnt from" in (tmp_path / "1/README.md").read_text()


def test_the_card_s_numbers_say_what_they_are_of(published: Path, runs: Path, tmp_path: Path) -> None:
    card = (published / "README.md").read_text(encoding="utf-8")
    manifest = read_manifest(runs / "grpo")
    assert f"- SHA-256 of the tensors and settings of the adapter: {manifest['adapter_sha256']}" in card
    assert "`run/items.txt` those of this stage" in card
    data = (published / "data" / "README.md").read_text(encoding="utf-8")
    assert "4 completions that the policy wrote to training prompts" in data
    assert "the adapter my-adapter, which lies in the folder above this one," in data and "../" not in data
    assert "- completions: 4\n" in card  # all to training prompts
    run = read_training(runs / "grpo")
    for rollouts, told in (
        ({"completions": 9}, "9: 4 to training prompts, 5 to held-out prompts"),
        ({"completions": 9, "from_step": 0}, "9: 4 to training prompts, 5 to held-out prompts"),
        ({"completions": 9, "from_step": 7}, "9 after step 7, where the run was resumed"),
    ):
        other = replace(run, manifest={**run.manifest, "rollouts": rollouts})
        write_model_card(other, (), None, Data(None, 4, (), (), ()), tmp_path, place="x")
        assert f"- completions: {told}" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_the_card_of_a_model_that_was_asked_the_direction_is_about_it(
    runs: Path, sample: Corpus, tmp_path: Path
) -> None:
    run = read_training(runs / "grpo")
    sha = str(run.manifest["adapter_sha256"])
    path = write_evaluation(tmp_path / "eval", sample, "GRPO", sha, {"tasks": ["dir"]})
    summary = summarise(run, [Evaluation(path, "GRPO", True)], given=True)
    assert summary is not None and summary.task == "dir"
    asked = replace(run, config={**run.config, "template": "direction"})
    write_model_card(asked, (), summary, Data(None, 4, (), (), ()), tmp_path, place="x")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "is it upregulated or downregulated?" in card and "one of these two" in card
    assert (
        "| System | Items | Accuracy (direction) | Balanced accuracy (direction) | Per-gene AUROC (direction) |" in card
    )
    assert "(DE)" not in card and "differentially expressed" not in card


def test_no_path_and_no_server_of_the_run_s_machine_is_published(published: Path, runs: Path) -> None:
    texts = {name: strings_in(published / name) for name in files(published)}
    for name, text in texts.items():
        for private in (HOME, "/home/", "gpu17", str(runs), str(Path.cwd()), "HUB_TOKEN"):
            assert private not in text, name
    config = yaml.safe_load(texts["run/config.yaml"])
    assert config["sft_run"] == "sft" and config["output_dir"] == "grpo"
    assert config["rewards"] == ["accuracy", "mine.py:pay"]
    assert read_json(published / "adapter_config.json")["base_model_name_or_path"] == "tiny"


def test_sft_is_published_with_its_traces(runs: Path, tmp_path: Path) -> None:
    done = publish(runs / "sft", str(tmp_path / "out"))
    assert done.data.traces == 3 and [one.name for one in done.evaluations] == ["base", "SFT"]
    assert (tmp_path / "out/run/traces.jsonl").read_bytes() == (runs / "my-traces.jsonl").read_bytes()
    rows = pq.read_table(tmp_path / "out/data/traces.parquet").to_pylist()
    for row, trace in zip(rows, read_traces(runs / "my-traces.jsonl"), strict=True):
        assert {**row, "protocol": json.loads(row["protocol"])} == asdict(trace)


def test_changed_traces_and_no_evaluation_are_told_not_published(sft_alone: Path, tmp_path: Path) -> None:
    with (sft_alone.parent / "my-traces.jsonl").open("a") as file:
        file.write("\n")
    done = publish(sft_alone, str(tmp_path / "out"))
    assert done.data.empty and not (tmp_path / "out" / "data").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "traces: my-traces.jsonl is gone or has changed" in card and "Nothing is known of its scores" in card
    assert [line for line in done.lines() if "not published" in line] != []


def refuse_to_work(*args: object, **keys: object) -> None:
    raise AssertionError("the folder is looked at before any work is done")


def test_the_same_again_changes_nothing_and_anything_else_is_refused(
    sft_alone: Path, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert publish(sft_alone, str(out)).new
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    again = publish(sft_alone, str(out))
    assert not again.new and "already there" in again.lines()[0]
    assert {name: (out / name).stat().st_mtime_ns for name in files(out)} == before
    (out / "items.txt").write_text("k562|A|B\n")
    with pytest.raises(InputError, match=r"items.txt has changed since it was published"):
        publish(sft_alone, str(out))
    log = sft_alone / "log.jsonl"
    log.write_text(log.read_text() * 2)
    with pytest.raises(InputError, match=r"holds another publication \(run/log.jsonl differs\); choose another folder"):
        publish(sft_alone, str(out))
    (out / "SHA256SUMS").unlink()
    monkeypatch.setattr("rl.publish.run.summarise", refuse_to_work)
    with pytest.raises(InputError, match="holds other files; choose another folder with --to"):
        publish(sft_alone, str(out))
    shutil.copytree(published, tmp_path / "grpo")
    with pytest.raises(InputError, match=r"holds another publication \(adapter_model.safetensors differs\)"):
        publish(sft_alone, str(tmp_path / "grpo"))
    assert not list(tmp_path.rglob("*.partial"))


def test_an_interrupted_publish_leaves_nothing_under_the_name(
    sft_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **keys: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rl.publish.run.write_model_card", stop)
    with pytest.raises(KeyboardInterrupt):
        publish(sft_alone, str(tmp_path / "deep" / "out"))
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("place", ["config", "manifest", "traces", "adapter"])
def test_a_file_with_a_secret_is_refused_by_name(
    place: str, sft_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "correct-horse-battery"
    monkeypatch.setenv("MY_API_KEY", secret)
    named = {"config": "config.yaml", "manifest": "manifest.json", "traces": "../my-traces.jsonl"}
    file = sft_alone / named.get(place, "adapter/synthpert.json")
    text = file.read_text()
    if place == "config":
        file.write_text(f"{text}run_name: {secret}\n")
    elif place == "traces":
        file.write_text(text.replace("What happens", f"What {secret} happens"))
        manifest = json.loads((sft_alone / "manifest.json").read_text())
        manifest["inputs"]["traces"] = file_sha256(file)
        (sft_alone / "manifest.json").write_text(json.dumps(manifest))
    else:
        file.write_text(text.replace("{", f'{{"x": "{secret}", ', 1))
    with pytest.raises(InputError, match=r"would hold the value of MY_API_KEY, so nothing is published") as error:
        publish(sft_alone, str(tmp_path / "out"))
    assert secret not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("where", ["facts", "completion"])
def test_a_secret_within_a_table_is_found(where: str, sample: Corpus, sft_alone: Path, tmp_path: Path) -> None:
    token = "hf_" + "x" * 34
    path = sft_alone.parent / "eval"
    sha = read_manifest(sft_alone)["adapter_sha256"]
    write_evaluation(path, sample, "SFT", sha, {"note": token if where == "facts" else ""})
    if where == "completion":
        table = pq.read_table(path / "predictions.parquet")
        told = table.schema.metadata
        frame = table.to_pandas()
        frame.loc[3, "completion"] = f"my token is {token}"
        pq.write_table(
            type(table).from_pandas(frame, table.schema, preserve_index=False).replace_schema_metadata(told),
            path / "predictions.parquet",
        )
    with pytest.raises(InputError, match=r"predictions.parquet: would hold a token of the Hub"):
        publish(sft_alone, str(tmp_path / "out"))


def test_a_path_of_the_home_folder_in_a_trace_is_refused(
    sft_alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    file = sft_alone.parent / "my-traces.jsonl"
    file.write_text(file.read_text().replace("What happens", "In /home/ada/notes, what happens"))
    manifest = json.loads((sft_alone / "manifest.json").read_text())
    manifest["inputs"]["traces"] = file_sha256(file)
    (sft_alone / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"run/traces.jsonl: would hold the path of your home folder"):
        publish(sft_alone, str(tmp_path / "out"))


def test_what_cannot_be_published_is_refused(runs: Path, sft_alone: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match=r"holds several runs; give the one to publish, such as .*grpo"):
        publish(runs, out)
    with pytest.raises(InputError, match="a run of eval, which made no adapter"):
        publish(runs / "eval-sft", out)
    with pytest.raises(InputError, match="none of the evaluations given is of its adapter"):
        publish(runs / "grpo", out, [runs / "eval-sft"])
    with pytest.raises(InputError, match="give the folders of evaluations after the run"):
        publish(runs / "grpo", out, [runs / "sft"])
    shutil.copy(runs / "grpo/adapter/adapter_model.safetensors", sft_alone / "adapter")
    with pytest.raises(InputError, match="is no longer the adapter that the run made"):
        publish(sft_alone, out)
    (sft_alone / "adapter/adapter_model.safetensors").rename(sft_alone / "adapter/adapter_model.bin")
    with pytest.raises(InputError, match="only safetensors are published"):
        publish(sft_alone, out)
    manifest = json.loads((sft_alone / "manifest.json").read_text())
    (sft_alone / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    with pytest.raises(InputError, match="is not finished"):
        publish(sft_alone, out)
    assert not Path(out).exists()


def test_evaluations_can_be_named(runs: Path, tmp_path: Path) -> None:
    done = publish(runs / "grpo", str(tmp_path / "out"), [runs / "eval-grpo"])
    assert [one.name for one in done.evaluations] == ["GRPO"]


def test_what_is_pulled_is_a_run_folder_again(published: Path, runs: Path, tmp_path: Path) -> None:
    run = pull(str(published), tmp_path / "pulled").run
    assert run == tmp_path / "pulled" / "grpo"
    manifest = require_done(run, "grpo")
    assert adapter_sha256(run / "adapter") == manifest["adapter_sha256"] == adapter_sha256(runs / "grpo/adapter")
    assert (run / "adapter/items.txt").read_bytes() == (runs / "grpo/adapter/items.txt").read_bytes()
    assert len(read_rollouts(run)) == 4
    systems, _ = collect_runs([tmp_path / "pulled" / "eval-grpo", run], command="")
    assert systems[0].name == "GRPO"
    # Published again, it is the same to the byte.
    publish(run, str(tmp_path / published.name))
    assert (tmp_path / published.name / "SHA256SUMS").read_bytes() == (published / "SHA256SUMS").read_bytes()


def test_a_pulled_run_of_sft_is_one_that_grpo_starts_from(runs: Path, tmp_path: Path) -> None:
    publish(runs / "sft", str(tmp_path / "out"))
    run = pull(str(tmp_path / "out"), tmp_path / "pulled").run
    assert require_done(run, "sft")["prompt"]["evidence"] == 3
    assert (run / "items.txt").read_bytes() == (runs / "sft" / "items.txt").read_bytes()
    assert len(read_traces(tmp_path / "pulled" / "traces.jsonl")) == 3
    assert publish(run, str(tmp_path / "again")).data.traces == 3


@pytest.mark.parametrize("kind", ["changed", "missing", "extra", "outside", "none"])
def test_a_publication_that_was_tampered_with_is_not_pulled(kind: str, published: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(published, copy)
    name = "data/rollouts/rollouts.parquet"
    problem = f"{name} is missing"
    if kind == "changed":
        with (copy / name).open("r+b") as file:
            file.seek(10)
            file.write(b"\0\1\2\3")
        problem = f"{name} has changed since it was published"
    elif kind == "missing":
        (copy / name).unlink()
    elif kind == "extra":
        (copy / "data" / "more.txt").write_text("more")
        problem = "data/more.txt is not in SHA256SUMS"
    elif kind == "outside":
        with (copy / "SHA256SUMS").open("a") as file:
            file.write(f"{'0' * 64}  ../secret\n")
        problem = "names no file of it once"
    else:
        (copy / "SHA256SUMS").unlink()
        problem = "so it is no publication"
    with pytest.raises(InputError, match=problem):
        pull(str(copy), tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    assert sorted(os.listdir(tmp_path)) == ["copy"]


def test_a_folder_with_files_is_not_pulled_into(published: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files; choose a new folder with --to"):
        pull(str(published), tmp_path)
    with pytest.raises(InputError, match=r"mine.txt: is a file; choose another folder for --to"):
        pull(str(published), tmp_path / "mine.txt")
    with pytest.raises(InputError, match="no such folder"):
        pull(str(tmp_path / "nowhere"), tmp_path / "new")


def test_a_folder_that_holds_the_same_is_checked_and_left(published: Path, tmp_path: Path) -> None:
    to = tmp_path / "pulled"
    first = pull(str(published), to)
    before = {name: (to / name).stat().st_mtime_ns for name in files(to)}
    again = pull(str(published), to)
    assert (first.new, again.new, again.run) == (True, False, first.run)
    assert "is already there, every file as it was published" in again.lines()[0]
    assert {name: (to / name).stat().st_mtime_ns for name in files(to)} == before
    (to / "notes.txt").write_text("mine")
    with pytest.raises(
        InputError, match=r"something else than this publication \(notes.txt is not of it\); choose a new"
    ):
        pull(str(published), to)
    (to / "notes.txt").unlink()
    (to / "grpo" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match=r"\(grpo/manifest.json differs\)"):
        pull(str(published), to)
    (to / "grpo" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"\(grpo/manifest.json is missing\)"):
        pull(str(published), to)


def test_the_data_alone_is_not_pulled_and_told_where_the_whole_is(published: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"is the data set of a publication; give the folder above it, {published}$"):
        pull(str(published / "data"), tmp_path / "new")
    shutil.copytree(published / "data", tmp_path / "data")
    with pytest.raises(InputError, match="is the data set of a publication; give the folder of its adapter"):
        pull(str(tmp_path / "data"), tmp_path / "new")
