"""Who may ask `dozan serve`: Host, Origin, token and size; and what the playground page may do."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_fixtures import Server, embedded_gguf, messages, serving

from dozan.html.playground import playground
from dozan.ship.serve_guard import Guard, is_loopback

ASK = {"model": "embedded", "messages": messages("x"), "max_tokens": 2}
SECRET = "ش-secret-of-mine"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_gguf(tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="module")
def server(gguf: Path) -> Iterator[Server]:
    with serving(gguf, "--parallel", 1, "--max-body", 20_000, "--allow-host", "Phone.example") as found:
        yield found


@pytest.fixture(scope="module")
def secret(gguf: Path) -> Iterator[Server]:
    with serving(gguf, "--parallel", 1, "--token-env", "DOZAN_TEST_TOKEN", DOZAN_TEST_TOKEN="plain-secret") as found:
        yield found


@pytest.mark.parametrize("path", ["/", "/v1/models", "/playground.json", "/health", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "0.0.0.0", "192.168.1.5", "", None,
             "localhost@evil.example", "localhost/evil", "[::1", "127.0.0.1:99999"]  # fmt: skip
)
def test_names_that_could_be_rebound_are_refused(server: Server, path: str, host: str | None) -> None:
    status, answer = server.ask(path=path, host=host)
    assert status in (400, 403), "no Host at all is refused by the HTTP parser"
    assert status == 400 or answer["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]:80", "phone.example"])
def test_this_machine_and_allowed_names_are_answered(server: Server, host: str) -> None:
    assert server.ask(host=host)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost", "", "file://"])
def test_pages_of_others_are_refused(server: Server, origin: str) -> None:
    status, answer = server.ask("POST", "/v1/chat/completions", ASK, origin=origin)
    assert status == 403 and answer["error"]["code"] == "origin_not_allowed"


def test_the_servers_own_page_is_answered(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}"
    assert server.ask("POST", "/v1/chat/completions", ASK, origin=own, sec_fetch_site="same-origin")[0] == 200
    assert server.ask("POST", "/v1/chat/completions", ASK, sec_fetch_site="cross-site")[0] == 403
    assert server.ask(path="/playground.json", sec_fetch_site="cross-site")[0] == 403
    assert server.ask(path="/", sec_fetch_site="cross-site")[0] == 200, "a link to the page may be followed"


def test_what_a_form_can_send_is_refused(server: Server) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", None):
        assert server.ask("POST", "/v1/chat/completions", ASK, content_type=kind)[0] == 415


def test_large_bodies_are_refused_told_or_not(server: Server) -> None:
    big = b'{"model": "' + b"x" * 30_000 + b'"}'
    status, answer = server.ask("POST", "/v1/chat/completions", raw=big)
    assert status == 413 and answer["error"]["code"] == "request_too_large"
    head = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(head + b"7530\r\n" + big[:30_000] + b"\r\n0\r\n\r\n")
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def test_without_the_token_nothing_is_told(secret: Server) -> None:
    for path in ("/v1/models", "/playground.json", "/v1/models/embedded", "/nothing"):
        for header in (None, "Bearer wrong", "Bearer", "Basic plain-secret", "plain-secret", f"Bearer {'x' * 12}"):
            status, answer = secret.ask(path=path, authorization=header)
            assert status == 401 and answer["error"]["code"] == "invalid_api_key"
    assert secret.ask("POST", "/v1/chat/completions", ASK)[0] == 401
    assert secret.ask(authorization="Bearer plain-secret")[0] == 200
    assert secret.ask("POST", "/v1/chat/completions", ASK, authorization="bearer plain-secret")[0] == 200
    assert secret.ask(path="/")[0] == 200, "the page itself holds nothing"
    assert "plain-secret" not in secret.said


def test_other_machines_need_a_token_that_was_told(gguf: Path) -> None:
    with serving(gguf, "--parallel", 1, "--host", "0.0.0.0") as wide:
        token = re.search(r"^token: +(\S+)$", wide.said, re.MULTILINE)
        assert token is not None and len(token[1]) >= 32 and f"#token={token[1]}" in wide.said
        assert wide.ask()[0] == 401
        assert wide.ask(authorization=f"Bearer {token[1]}")[0] == 200
        assert wide.ask(authorization=f"Bearer {token[1]}", host="192.168.1.5:8000")[0] == 200
        assert wide.ask(authorization=f"Bearer {token[1]}", host="evil.example")[0] == 403


def test_loopback_is_told_apart() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.1.2.3")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.0.1", "example.org")] == [False] * 4


def test_a_token_with_letters_of_any_script_is_compared() -> None:
    guard = Guard(None, SECRET, (), True, 1)  # type: ignore[arg-type]
    assert guard._may(f"Bearer {SECRET}") and not guard._may(f"Bearer {SECRET[1:]}")


def test_the_page_loads_nothing_and_its_policy_names_its_own_script(server: Server) -> None:
    html, policy = playground()
    assert server.ask(path="/")[1] == html
    assert not re.search(r"""(?:src|href|action)\s*=|@import|url\(|https?://|innerHTML|eval\(|style="|\son\w+=""", html)
    assert "unsafe" not in policy and policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy
    assert html.count("<script>") == html.count("<style>") == 1
    assert 'lang="ar" dir="rtl"' in html and 'name="viewport"' in html
    labelled = set(re.findall(r'<label for="(\w+)"', html))
    assert labelled == set(re.findall(r'<(?:input|textarea) id="(\w+)"', html))
