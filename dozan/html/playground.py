"""The playground page of `dozan serve`: one document that loads nothing from elsewhere and runs its own script only."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from pathlib import Path

from dozan.html.page import STYLE


@lru_cache(maxsize=1)
def playground() -> tuple[str, str]:
    """The document, and the content security policy it needs: the very style and script in it, and its own server."""
    source = Path(__file__).with_name("playground.html").read_text(encoding="utf-8")
    html = source.replace("/* common */", STYLE)
    style, script = (f"'sha256-{_hash(html, tag)}'" for tag in ("style", "script"))
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _hash(html: str, tag: str) -> str:
    """Of what stands between the only `<tag>` and its end, as a policy names it."""
    inside = html.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    assert inside, f"the page has no <{tag}>"
    return base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
