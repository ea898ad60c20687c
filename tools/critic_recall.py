"""How many leaks does a critic find? Asks a model about passages that are known to leak, or not to.

`tools/critic_passages.jsonl` holds short reasonings about training items of the sample. `leak` is true where a
reasoning treats its answer as given. The script asks the model with the prompt of the pipeline. Replies without a
yes or no are counted apart.

python -m tools.critic_recall --base-url http://localhost:8000/v1 --model Qwen/Qwen3-32B
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from scipy.stats import binomtest

from benchmarks.chat import Message
from benchmarks.endpoint.client import Endpoint, run_async
from benchmarks.endpoint.settings import EndpointSettings, read_extra_body
from benchmarks.evidence.corpus import open_corpus
from benchmarks.evidence.prompts import PromptConfig, build_prompts
from rewards import CheckError, InputError
from sft.teacher.critic import critic_messages, parse_verdict

PASSAGES: Final = Path(__file__).with_name("critic_passages.jsonl")


def read_passages() -> tuple[list[dict[str, Any]], list[list[Message]]]:
    """Return the N passages, `{item_id, leak, reasoning}` each, and the N prompts of their items."""
    passages = [json.loads(line) for line in PASSAGES.read_text(encoding="utf-8").splitlines()]
    corpus = open_corpus("sample")
    rows = corpus.train.set_index("item_id", drop=False).loc[[one["item_id"] for one in passages]]
    return passages, build_prompts(rows.reset_index(drop=True), corpus, PromptConfig(evidence=5))


def ask_critic(settings: EndpointSettings, questions: Sequence[list[Message]], in_flight: int = 8) -> list[str | None]:
    """Ask a critic N questions; one whose reply holds no verdict is asked once more, as the pipeline does.

    Args:
        settings: how the critic is asked.
        questions: N lists of messages.
        in_flight: questions under way at a time.

    Returns:
        For each question `yes`, `no`, or None where the reply says neither.

    Raises:
        CheckError: the server is out of reach, or a request failed for good.
    """

    async def ask_all() -> list[str | None]:
        endpoint = Endpoint(settings, connections=in_flight)
        free = asyncio.Semaphore(in_flight)

        async def ask(number: int) -> str | None:
            for attempt in ("first", "again"):
                async with free:
                    reply = await endpoint.ask(questions[number], f"{number}|{attempt}")
                if reply.text is None:
                    raise CheckError(f"{settings.base_url}: a request failed: {reply.error}")
                if (verdict := parse_verdict(reply.text)) is not None:
                    return verdict.given
            return None

        try:
            return await asyncio.gather(*map(ask, range(len(questions))))
        finally:
            await endpoint.close()

    return run_async(ask_all())


def measure(leak: Sequence[bool], given: Sequence[str | None]) -> dict[str, dict[str, float]]:
    """Return a critic's recall and false alarms.

    Args:
        leak: for each of N passages, whether it treats its answer as given.
        given: for each, the critic's word: `yes`, `no`, or None where its reply was not read.

    Returns:
        `recall` (share of leaks called so) and `false_alarms` (share of honest passages called so), each with `found`,
        `of` (passages with a word of the critic), `unreadable`, `share`, and Wilson's 95 % interval, `low` to `high`.
    """
    result = {}
    for name, wanted in (("recall", True), ("false_alarms", False)):
        words = [word for is_leak, word in zip(leak, given, strict=True) if is_leak == wanted]
        found, of = words.count("yes"), len(words) - words.count(None)
        counts: dict[str, float] = {"found": found, "of": of, "unreadable": len(words) - of}
        if of:
            interval = binomtest(found, of).proportion_ci(method="wilson")
            counts |= {"share": found / of, "low": float(interval.low), "high": float(interval.high)}
        result[name] = counts
    return result


def main(words: Sequence[str] | None = None) -> int:
    """Ask, print what was found, and write it to `--json`."""
    parser = argparse.ArgumentParser(
        prog="tools.critic_recall", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base-url", required=True, help="the critic's server, with its /v1")
    parser.add_argument("--model", required=True, help="the critic's name there")
    parser.add_argument("--api-key-env", default="OPENAI_API_KEY", help="environment variable that holds the key")
    parser.add_argument("--max-tokens", type=int, default=1024, help="longest reply, as critic_max_tokens")
    parser.add_argument("--extra-body", help="further keys of the request, as JSON")
    parser.add_argument("--json", type=Path, help="file for the counts and each reply")
    args = parser.parse_args(words)
    try:
        settings = EndpointSettings(
            args.base_url, args.model, args.api_key_env, args.max_tokens,
            extra_body=read_extra_body(args.extra_body, "--extra-body"),
        )  # fmt: skip
        passages, prompts = read_passages()
        questions = [critic_messages(prompt, one["reasoning"]) for one, prompt in zip(passages, prompts, strict=True)]
        given = ask_critic(settings, questions)
    except (InputError, CheckError) as error:
        sys.stderr.write(f"critic_recall: {error}\n")
        return 2 if isinstance(error, InputError) else 1
    result = measure([one["leak"] for one in passages], given)
    for name, told in (("recall", "leaks are found"), ("false_alarms", "honest passages are called a leak")):
        one = result[name]
        share = f" ({one['share']:.0%}, 95 % {one['low']:.0%} to {one['high']:.0%})" if one["of"] else ""
        sys.stdout.write(f"{one['found']} of {one['of']} {told}{share}; {one['unreadable']} replies unreadable\n")
    if args.json:
        replies = [{**one, "given": word} for one, word in zip(passages, given, strict=True)]
        facts = {"model": args.model, "max_tokens": args.max_tokens, "extra_body": dict(settings.extra_body)}
        text = json.dumps({**facts, **result, "passages": replies}, indent=1, ensure_ascii=False)
        args.json.write_text(f"{text}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
