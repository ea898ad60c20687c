"""Settings of an OpenAI-compatible endpoint. Anything that may be a secret is refused, since settings are stored."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from rewards import InputError

_SECRET: Final = re.compile(
    r"^x-|(keys?|token|secrets?|password|passwd|passphrase|credentials?|cookies?|auth|authorization|bearer|headers?)$",
    re.IGNORECASE,
)  # does not match `max_tokens` and `budget_tokens`
# These have their own settings. Set in `extra_body`, they would make the stored settings and the token budget wrong.
_OWN: Final = ("model", "messages", "n", "stream", "temperature", "max_tokens", "max_completion_tokens")
SHORTEST_KEY: Final = 8  # characters; a shorter key, such as "none", may occur in ordinary text


def check_base_url(base_url: str, key: str = "base_url") -> None:
    """Refuse what is no http(s) URL, and a URL that may hold a secret. The message does not repeat the URL.

    Args:
        base_url: the URL.
        key: what errors call it.

    Raises:
        InputError: it is not an http(s) URL, or has a user, password, query or fragment.
    """
    try:
        parts = urlsplit(base_url)
        host = parts.hostname
    except ValueError:
        raise InputError(f"{key}: is no URL; give one such as http://localhost:8000/v1") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{key}: is no http(s) URL; give one such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InputError(
            f"{key}: holds user, password, query or fragment, which may be secret; leave them out and set the key "
            "in the environment"
        )


def check_no_key(api_key_env: str, values: Mapping[str, Any]) -> None:
    """Refuse values that contain the API key itself, since configurations are stored.

    Args:
        api_key_env: environment variable of the key.
        values: by the key that errors name.

    Raises:
        InputError: a value contains the API key.
    """
    secret = os.environ.get(api_key_env, "")
    for key, value in values.items():
        if len(secret) >= SHORTEST_KEY and secret in json.dumps(value, default=str):
            raise InputError(
                f"{key}: holds the value of {api_key_env}, and configurations are stored; leave it out, since it is "
                "sent as the key anyway"
            )


def read_extra_body(value: Mapping[str, Any] | str | None, key: str = "extra_body") -> dict[str, Any]:
    """Return the further keys of a request.

    Args:
        value: a mapping, JSON text of one, or None for no keys.
        key: what errors call it.

    Returns:
        The mapping.

    Raises:
        InputError: the value is no JSON object, or has a key named like a secret, since configurations are stored. The
            message does not repeat the value.
    """
    if value is None:
        return {}
    try:
        body = json.loads(value if isinstance(value, str) else json.dumps(value, allow_nan=False))
    except (ValueError, TypeError) as error:
        raise InputError(f"{key}: no JSON ({error}); write an object such as '{{\"top_p\": 0.9}}'") from None
    if not isinstance(body, dict):
        raise InputError(f"{key}: is no JSON object; write one such as '{{\"top_p\": 0.9}}'")
    if (name := _secret_key(body)) is not None:
        raise InputError(
            f"{key}: {name!r} is named like a secret or a header, and configurations are stored; leave it out and set "
            "the key in the environment variable that api_key_env names"
        )
    return body


def _secret_key(value: Any) -> str | None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if _SECRET.search(str(name)):
                return str(name)
            if (found := _secret_key(inner)) is not None:
                return found
    if isinstance(value, list):
        return next((found for one in value if (found := _secret_key(one)) is not None), None)
    return None


@dataclass(frozen=True)
class EndpointSettings:
    """How requests are sent to an endpoint.

    Attributes:
        base_url: the server's URL, with its `/v1`; without credentials.
        model: the server's name of the model.
        api_key_env: environment variable that holds the key; servers without keys need none.
        max_tokens: longest completion, in tokens, at least 1.
        max_tokens_key: the server's name of that limit, `max_tokens` or `max_completion_tokens`.
        temperature: at least 0; None leaves it to the server.
        timeout: seconds per attempt, from sending to the last byte; above 0.
        attempts: tries per question, at least 1.
        backoff: seconds before the second try, doubled before each further one. Used where the server names no time.
        max_wait: seconds; the run stops if the server asks to wait longer.
        max_reply_bytes: a longer reply is not read to its end and fails; at least 1.
        extra_body: further keys of the request.

    Raises:
        InputError: a value is out of range, `extra_body` has a key with its own setting, or a value may be a secret.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    max_tokens: int = 2048
    max_tokens_key: str = "max_tokens"
    temperature: float | None = 0.0
    timeout: float = 600.0
    attempts: int = 6
    backoff: float = 0.5
    max_wait: float = 600.0
    max_reply_bytes: int = 4 * 1024 * 1024
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_base_url(self.base_url)
        if own := [name for name in _OWN if name in self.extra_body]:
            raise InputError(f"extra_body: {own[0]!r} is not taken from there; use its own key of the configuration")
        check_no_key(
            self.api_key_env, {"base_url": self.base_url, "model": self.model, "extra_body": dict(self.extra_body)}
        )
        for key in ("max_tokens", "attempts", "max_reply_bytes"):
            if getattr(self, key) < 1:
                raise InputError(f"{key}: is {getattr(self, key)}; it must be at least 1")
        if not self.timeout > 0:
            raise InputError(f"timeout: is {self.timeout}; it must be above 0 seconds")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature: is {self.temperature}; use 0 or more, or null to leave it to the server")
        if not self.api_key_env.isidentifier():  # it may be the key itself, which would be stored
            raise InputError("api_key_env: is no name of an environment variable; give one such as OPENAI_API_KEY")
        if self.max_tokens_key not in ("max_tokens", "max_completion_tokens"):
            raise InputError(f"max_tokens_key: {self.max_tokens_key!r}; use max_tokens or max_completion_tokens")
