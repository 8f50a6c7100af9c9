"""Secrets kept out of what is written: tokens of the environment and of the hub's file, by value and by form."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

HIDDEN = "***"
_SHORTEST = 8
_NAMED = re.compile(r"TOKEN|API_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_NO_SECRET = re.compile(r"[/~].*|\d+|true|false|[A-Za-z]+", re.IGNORECASE)
"""Values that variables such as TOKENIZERS_PARALLELISM and HF_TOKEN_PATH have."""
_FORMS = (
    re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}"),
    re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}"),
    re.compile(r"\b(?:gh[opsu]|github_pat|glpat)[_-][A-Za-z0-9_-]{16,}"),
    re.compile(r"\bAKIA[A-Z0-9]{16}\b"),
    re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"),
    re.compile(r"(?<=://)[^/\s:@]{8,}(?=@)"),
    re.compile(r"(?i)(?<=[?&])((?:access_)?token|api_?key|key|secret|password|signature|x-amz-signature)=[^&\s\"']+"),
    re.compile(r"(?i)(?<=\bbearer )[A-Za-z0-9._~+/-]{8,}=*"),
)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with every secret replaced by ***.

    A secret is the value of a variable of the environment whose name says so (HF_TOKEN, WANDB_API_KEY, …_SECRET …), the
    hub's stored token, and whatever has the form of a token or stands in a URL as one. Rows are never passed through.
    """
    for secret in secrets(os.environ if environment is None else environment):
        text = text.replace(secret, HIDDEN)
    for form in _FORMS:
        text = form.sub(lambda match: f"{match[1]}={HIDDEN}" if match.re.groups else HIDDEN, text)
    return text


def secrets(environment: Mapping[str, str]) -> list[str]:
    """The secrets that are known by value, the longest first."""
    named = {value for name, value in environment.items() if _NAMED.search(name) and not _NO_SECRET.fullmatch(value)}
    stored = Path(environment.get("HF_TOKEN_PATH") or _home(environment) / "token")
    if stored.is_file() and os.access(stored, os.R_OK):
        named.add(stored.read_text(encoding="utf-8", errors="replace").strip())
    return sorted((value for value in named if len(value) >= _SHORTEST), key=len, reverse=True)


def _home(environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environment.get("HF_HOME") or f"{cache}/huggingface").expanduser()
