"""Publishing to a Hub on loopback and pulling from it: what is sent, what is refused, and where the token goes."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import synthpert
from fake_hub import TOKEN, FakeHub
from publications import strings_in, write_evaluation, write_sft

from benchmarks.evidence.corpus import Corpus, open_corpus
from rewards import CheckError, InputError
from rl.publish.run import publish, pull

PLACE = "hub:lab/cells"


@pytest.fixture(scope="module")
def sample() -> Corpus:
    return open_corpus("sample")


@pytest.fixture(scope="module")
def run(sample: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SFT; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    write_sft(folder / "sft", sample)
    return folder / "sft"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A Hub that the client is pointed at, with a token that may write there and without waiting between tries."""
    with FakeHub() as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        address = served.url + "/{repo_id}/resolve/{revision}/{filename}"  # as the client makes it when it is imported
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-login"))
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def test_an_adapter_and_its_data_are_two_repositories_each_of_one_commit(run: Path, hub: FakeHub) -> None:
    done = publish(run, PLACE)
    assert done.new and done.place == PLACE
    assert [name for name, _ in hub.commits] == ["datasets/lab/cells-data", "models/lab/cells"]  # the data first
    assert hub.commits[0][1] == ["README.md", "SHA256SUMS", "traces.parquet"]
    assert "adapter_model.safetensors" in hub.commits[1][1]
    assert not any(name.startswith("data/") for name in hub.commits[1][1])
    card = hub.repositories["models/lab/cells"]["README.md"].decode()
    assert "datasets:\n- lab/cells-data" in card and 'tiny"), "lab/cells")' in card


def refuse_to_work(*args: object, **keys: object) -> None:
    raise AssertionError("the place is looked at before any work is done")


def test_the_same_again_sends_nothing_and_something_else_is_refused(
    run: Path, hub: FakeHub, sample: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(run, PLACE)
    hub.asked.clear()
    assert not publish(run, PLACE).new
    assert {method for method, *_ in hub.asked} <= {"GET", "HEAD"}
    hub.repositories["models/lab/cells"]["SHA256SUMS"] = b"another publication"
    with pytest.raises(InputError, match=r"hub:lab/cells: the model repository holds other files; choose another name"):
        publish(run, PLACE)
    hub.repositories["models/lab/cells"] = {".gitattributes": b""}  # made on the Hub's page, and empty
    assert publish(run, PLACE).new
    hub.repositories["models/lab/more"] = {"config.json": b"{}"}
    monkeypatch.setattr("rl.publish.run.summarise", refuse_to_work)
    with pytest.raises(InputError, match="hub:lab/more: the model repository holds other files"):
        publish(run, "hub:lab/more")
    assert "datasets/lab/more-data" not in hub.repositories  # both are looked at before anything is sent


def test_an_upload_that_was_cut_off_goes_on(run: Path, hub: FakeHub) -> None:
    hub.fail = {"models/lab/cells/commit": 503}
    with pytest.raises(CheckError, match=r"hub:lab/cells: the Hub fails \(503\); run the same command again later"):
        publish(run, PLACE)
    assert set(hub.repositories["models/lab/cells"]) == {".gitattributes"}
    hub.fail = {}
    assert publish(run, PLACE).new
    assert [name for name, _ in hub.commits] == ["datasets/lab/cells-data", "models/lab/cells"]


@pytest.mark.parametrize("part", ["objects/batch", "/upload/", "repos/create", "preupload", "api/datasets"])
def test_a_hub_that_fails_is_one_line(part: str, run: Path, hub: FakeHub) -> None:
    hub.fail = {part: 500}
    with pytest.raises(CheckError, match=r"hub:lab/cells(-data)?: the Hub fails \(500\)") as error:
        publish(run, PLACE)
    assert "\n" not in str(error.value) and TOKEN not in str(error.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_may_not_write_is_refused(status: int, run: Path, hub: FakeHub) -> None:
    hub.fail = {"repos/create": status}
    with pytest.raises(
        InputError, match=rf"the Hub refuses the token \({status}\); set HF_TOKEN to one that may write"
    ):
        publish(run, PLACE)
    assert hub.commits == []


def test_a_wrong_token_and_none_are_refused(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "0" * 34)
    with pytest.raises(InputError, match=r"the Hub refuses the token \(401\)"):
        publish(run, PLACE)
    monkeypatch.delenv("HF_TOKEN")
    hub.asked.clear()
    with pytest.raises(InputError, match="there is no token; set HF_TOKEN"):
        publish(run, PLACE)
    assert hub.asked == []


def test_a_hub_out_of_reach_is_one_line(run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckError, match="the Hub cannot be reached .*check the network and HF_ENDPOINT"):
        publish(run, PLACE)
    with pytest.raises(CheckError, match="the Hub cannot be reached"):
        pull(PLACE, run.parent / "new")
    assert not (run.parent / "new").exists()


@pytest.mark.parametrize("place", ["hub:cells", "hub:lab/cells/more", "hub:../x", "hub:lab/a b"])
def test_what_is_no_repository_is_refused(place: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no repository; give hub:ORG/NAME"):
        publish(run, place)
    with pytest.raises(InputError, match="is no repository; give hub:ORG/NAME"):
        pull(place, tmp_path / "new")


def test_what_is_pulled_from_the_hub_was_checked(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    publish(run, PLACE)
    pulled = pull(PLACE, tmp_path / "pulled").run
    assert (pulled / "adapter/adapter_model.safetensors").read_bytes() == (
        run / "adapter/adapter_model.safetensors"
    ).read_bytes()
    assert (tmp_path / "pulled/traces.jsonl").is_file()
    assert not [path for path in (tmp_path / "pulled").rglob("*") if path.name.startswith(".")]
    data = hub.repositories["datasets/lab/cells-data"]
    data["traces.parquet"] = data["traces.parquet"].replace(b"PAR1", b"PAR2")
    with pytest.raises(InputError, match=r"hub:lab/cells: data/traces.parquet has changed since it was published"):
        pull(PLACE, tmp_path / "new")
    with pytest.raises(InputError, match="hub:lab/cells-data: is the data set of a publication; pull hub:lab/cells, "):
        pull(f"{PLACE}-data", tmp_path / "new")
    del hub.repositories["datasets/lab/cells-data"]
    with pytest.raises(InputError, match="hub:lab/cells-data: the Hub has no such repository"):
        pull(PLACE, tmp_path / "new")
    with pytest.raises(InputError, match="hub:lab/none: the Hub has no such repository"):
        pull("hub:lab/none", tmp_path / "new")
    hub.repositories["models/lab/none"] = {"config.json": b"{}", "model.safetensors": b"large"}
    hub.asked.clear()
    with pytest.raises(InputError, match="hub:lab/none: holds no SHA256SUMS, so it is no publication"):
        pull("hub:lab/none", tmp_path / "new")
    assert not any("/resolve/" in path for _, path, _, _ in hub.asked)
    assert not (tmp_path / "new").exists()


def test_the_token_is_sent_and_nowhere_else(
    run: Path, sample: Corpus, hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    out = synthpert("publish", run, "--to", PLACE, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    back = synthpert("pull", PLACE, "--to", "pulled", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    assert any(headers.get("authorization") == f"Bearer {TOKEN}" for _, _, headers, _ in hub.asked)
    assert not any(TOKEN in path or TOKEN.encode() in body for _, path, _, body in hub.asked)
    assert TOKEN not in out.stdout + out.stderr + back.stdout + back.stderr + caplog.text
    for path in (*tmp_path.rglob("*"), *run.parent.rglob("*")):
        assert not path.is_file() or TOKEN not in strings_in(path), path


def test_a_run_that_holds_the_token_is_not_uploaded(sample: Corpus, hub: FakeHub, tmp_path: Path) -> None:
    sha = write_sft(tmp_path / "sft", sample)
    write_evaluation(tmp_path / "eval", sample, "SFT", sha, {"note": TOKEN})
    with pytest.raises(InputError, match="predictions.parquet: would hold the value of HF_TOKEN") as error:
        publish(tmp_path / "sft", PLACE)
    assert TOKEN not in str(error.value) and hub.commits == []
    assert {method for method, *_ in hub.asked} <= {"GET", "HEAD"}
