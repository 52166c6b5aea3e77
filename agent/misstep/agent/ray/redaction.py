"""Secrets are taken out on the machine where they are, before anything travels.

Ray ships `runtime_env.env_vars` in clear with every task; its own dashboard hides them from browsers.
"""

from __future__ import annotations

import json
import re
from typing import Any

HIDDEN = "***"

_SECRET = re.compile(
    r"token|secret|passw(?:or)?d|passphrase|credential|api[_-]?key|access[_-]?key|private[_-]?key|auth(?:orization)?$|(?:^|[_-])key$",
    re.IGNORECASE,
)
_IN_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE)
_IN_COMMAND = re.compile(
    r"((?:--?|\b)[\w-]*(?:token|secret|passw(?:or)?d|credential|api[_-]?key|access[_-]?key)[\w-]*(?:=|\s+))(\"[^\"]*\"|'[^']*'|\S+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}")
_ENVIRONMENT_KEYS = ("env_vars", "envVars")
_REMEMBERED: dict[str, str] = {}
_REMEMBER = 64


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value is nobody's business."""
    return _SECRET.search(key) is not None


def redacted(value: Any) -> Any:
    """A decoded JSON value without secrets: by the names of keys, all `env_vars`, and user:password in URLs."""
    if isinstance(value, dict):
        held: dict[str, Any] = {}
        for key, one in value.items():
            if key in _ENVIRONMENT_KEYS and isinstance(one, dict):
                held[key] = dict.fromkeys(one, HIDDEN)
            elif is_secret(str(key)) and one not in (None, "", False, True):
                held[key] = HIDDEN
            else:
                held[key] = redacted(one)
        return held
    if isinstance(value, list):
        return [redacted(one) for one in value]
    if isinstance(value, str):
        return url(value)
    return value


def runtime_environment(text: str) -> str:
    """A `serializedRuntimeEnv` without secrets. What is not JSON is hidden whole.

    The same text comes with every task of a job, so the last few answers are kept.
    """
    if text in ("", "{}"):
        return text
    known = _REMEMBERED.get(text)
    if known is None:
        try:
            known = json.dumps(redacted(json.loads(text)), separators=(",", ":"))
        except ValueError:
            known = HIDDEN
        if len(_REMEMBERED) >= _REMEMBER:
            _REMEMBERED.clear()
        _REMEMBERED[text] = known
    return known


def url(text: str) -> str:
    """Text without the user:password of URLs in it."""
    return _IN_URL.sub(rf"\1{HIDDEN}@", text) if "@" in text else text


def command(text: str) -> str:
    """A command line without the values of options and variables whose names say that they are secret."""
    return _BEARER.sub(rf"\1 {HIDDEN}", _IN_COMMAND.sub(rf"\1{HIDDEN}", url(text)))
