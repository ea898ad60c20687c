"""The critic's recall is counted by the pipeline's prompt and parser, on passages of both kinds."""

import json
from pathlib import Path
from typing import Any

import pytest
from endpoint_server import Server, chat, error, http

from sft.filters.visible import find_foreign
from tools.critic_recall import main, measure, read_passages


def test_the_passages_are_of_both_kinds_and_fit_their_prompts() -> None:
    passages, prompts = read_passages()
    leaks = sum(one["leak"] for one in passages)
    assert len(passages) >= 60
    assert 2 * leaks == len(passages) == len({one["reasoning"] for one in passages})
    for one, prompt in zip(passages, prompts, strict=True):
        _, pert, _ = one["item_id"].split("|")
        assert f"\n{pert} is knocked down by CRISPRi in" in prompt[-1]["content"]
        assert find_foreign(one["reasoning"]) is None


def test_replies_are_counted_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A critic who misses one leak in two, calls the first honest passage one, and cannot say on the last of each."""
    passages, _ = read_passages()
    kinds = {leak: [one["reasoning"] for one in passages if one["leak"] == leak] for leak in (True, False)}

    async def critic(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        text = request["messages"][-1]["content"]
        leak, number = next(
            (leak, number) for leak, texts in kinds.items() for number, one in enumerate(texts) if one in text
        )
        if number == len(kinds[leak]) - 1:
            return http(200, chat("I cannot say."))
        given = "yes" if (number % 2 == 0 if leak else number == 0) else "no"
        return http(200, chat(f"<verdict>good</verdict><given>{given}</given><reason>r</reason>"))

    out = tmp_path / "recall.json"
    with Server(critic) as server:
        assert main(["--base-url", server.url, "--model", "c", "--json", str(out)]) == 0
        assert len(server.requests) == len(passages) + 2  # those who could not say were asked again
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("17 of 33 leaks are found (52%, 95 % 35% to 67%); 1 replies unreadable")
    assert told[1].startswith("1 of 33 honest passages are called a leak (3%, 95 % 1% to 15%); 1 replies unreadable")
    stored = json.loads(out.read_text(encoding="utf-8"))
    assert (stored["model"], stored["recall"]["found"], stored["false_alarms"]["of"]) == ("c", 17, 33)
    assert [one["given"] for one in stored["passages"]].count(None) == 2


def test_without_a_readable_reply_there_is_no_share() -> None:
    nothing = {"found": 0, "of": 0, "unreadable": 1}
    assert measure([True, False], [None, None]) == {"recall": nothing, "false_alarms": nothing}


def test_a_request_that_fails_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(request: dict[str, Any], headers: dict[str, str]) -> bytes:
        return error(400, "no")

    with Server(refuse) as server:
        assert main(["--base-url", server.url, "--model", "c"]) == 1
    assert "a request failed: HTTP 400" in capsys.readouterr().err
