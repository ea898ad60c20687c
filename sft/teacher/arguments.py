"""The keys of a trace configuration for a teacher behind an endpoint."""

import os
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from benchmarks.endpoint.budget import Budget
from benchmarks.endpoint.settings import EndpointSettings, check_base_url, read_extra_body
from rewards import InputError

Thinking = Literal["strip", "keep"]
Mode = Literal["blind", "rationalize"]

# Keys that may change when a run is resumed, because none of them shapes a teacher's reply. Completions are assembled
# from the log. A critic's question is named by all that shapes its reply. `rows` may grow. A server may move, since
# the model's name tells who answers.
FREE: Final = frozenset(
    (
        "output", "rows", "thinking", "base_url", "critics", "critic_base_url", "critic_max_tokens",
        "critic_extra_body", "retry_failed", "max_in_flight", "timeout", "attempts", "max_wait", "max_reply_bytes",
        "max_requests", "max_total_tokens", "max_cost", "price_in", "price_out", "api_key_env", "critic_api_key_env",
    )
)  # fmt: skip


@dataclass
class EndpointArguments:
    """The keys of a trace configuration for a teacher behind an endpoint and its critics."""

    base_url: str | None = field(default=None, metadata={"help": "the teacher's endpoint, with its /v1"})
    mode: Mode = field(
        default="blind", metadata={"help": "blind, or rationalize: the teacher is given the label (needs critics)"}
    )
    thinking: Thinking = field(default="strip", metadata={"help": "the teacher's own thinking: strip or keep"})
    api_key_env: str = field(default="OPENAI_API_KEY", metadata={"help": "environment variable that holds the key"})
    max_tokens: int = field(default=2048, metadata={"help": "longest completion in tokens"})
    max_tokens_key: str = field(default="max_tokens", metadata={"help": "or max_completion_tokens"})
    temperature: float | None = field(default=0.0, metadata={"help": "null leaves it to the server"})
    extra_body: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "further keys of the request: a mapping, or JSON"}
    )
    critics: list[str] = field(
        default_factory=list, metadata={"help": "models that grade the reasoning of right answers"}
    )
    critic_base_url: str | None = field(
        default=None, metadata={"help": "the critics' endpoint; the teacher's by default"}
    )
    critic_api_key_env: str | None = field(
        default=None, metadata={"help": "variable of the critics' key; the teacher's by default"}
    )
    critic_max_tokens: int = field(default=1024, metadata={"help": "longest reply of a critic in tokens"})
    critic_extra_body: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "further keys of its request: a mapping, or JSON"}
    )
    retry_failed: bool = field(default=False, metadata={"help": "ask again what failed for good in an earlier run"})
    max_in_flight: int = field(default=64, metadata={"help": "questions under way at a time"})
    timeout: float = field(default=600.0, metadata={"help": "seconds per attempt"})
    attempts: int = field(default=6, metadata={"help": "tries per question"})
    max_wait: float = field(default=600.0, metadata={"help": "longest Retry-After that is waited for, in seconds"})
    max_reply_bytes: int = field(default=4 * 1024 * 1024, metadata={"help": "longest reply that is read"})
    max_requests: int = field(default=0, metadata={"help": "budget: requests in all; 0 for no limit"})
    max_total_tokens: int = field(default=0, metadata={"help": "budget: tokens in all; 0 for no limit"})
    max_cost: float = field(default=0.0, metadata={"help": "budget: money in all, at the prices given; 0 for no limit"})
    price_in: float = field(default=0.0, metadata={"help": "price of a million prompt tokens"})
    price_out: float = field(default=0.0, metadata={"help": "price of a million completion tokens"})

    def __post_init__(self) -> None:
        self.extra_body = read_extra_body(self.extra_body, "extra_body")
        self.critic_extra_body = read_extra_body(self.critic_extra_body, "critic_extra_body")
        if self.mode == "rationalize" and not self.critics:
            raise InputError(
                "mode: rationalize gives the teacher the answer, and only a critic can tell whether the reasoning "
                "treats it as given; name a model under critics, or use mode: blind"
            )
        if not all(isinstance(name, str) for name in self.critics) or len({*self.critics}) < len(self.critics):
            raise InputError(f"critics: {self.critics}; name each model once, since each has one vote")
        if listed := [name for name in self.critics if name.startswith("[") or "," in name]:
            raise InputError(f"critics: {listed[0]!r} is no model; on the command line write --critics A B")

    def teacher_settings(self, model: str) -> EndpointSettings:
        """Return how the teacher is asked."""
        assert self.base_url is not None
        return self._settings(self.base_url, model, self.api_key_env, self.max_tokens, self.extra_body)

    def critic_settings(self, model: str) -> EndpointSettings:
        """Return how a critic is asked."""
        url, key = self.critic_base_url or self.base_url, self.critic_api_key_env or self.api_key_env
        assert url is not None and self.base_url is not None
        check_base_url(url, "critic_base_url")
        elsewhere = urlsplit(url).netloc != urlsplit(self.base_url).netloc
        if elsewhere and self.critic_api_key_env is None and os.environ.get(key):
            raise InputError(
                f"critic_api_key_env: is not set, and {urlsplit(url).netloc} would be sent the teacher's key; name the "
                "variable of the critics' key, even if it is the same"
            )
        return self._settings(url, model, key, self.critic_max_tokens, self.critic_extra_body)

    def _settings(
        self, url: str, model: str, key: str, max_tokens: int, extra_body: dict[str, Any] | str | None
    ) -> EndpointSettings:
        return EndpointSettings(
            url, model, key, max_tokens, self.max_tokens_key, self.temperature, self.timeout, self.attempts,
            max_wait=self.max_wait, max_reply_bytes=self.max_reply_bytes, extra_body=read_extra_body(extra_body),
        )  # fmt: skip

    def budget(self) -> Budget:
        """Return the budget of a run that has spent nothing yet."""
        return Budget(self.max_requests, self.max_total_tokens, self.max_cost, self.price_in, self.price_out)
