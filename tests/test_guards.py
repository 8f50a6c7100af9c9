"""Guards of runs, files, secrets and the server, each taken out of the source in memory: what it is for is not kept.

What needs a whole run to be seen missing stands in test_torture, test_keeper, test_kept, test_islands and
test_template_limits.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from oracles.mutants import mutant

from dozan.errors import InputError
from dozan.model import sealed
from dozan.recipe import Recipe
from dozan.redact import HIDDEN
from dozan.train import checkpoint

Check = Callable[[ModuleType, Path], bool]
"""Whether what a guard is for is kept, with a module that has it or has not."""


def refused(act: Callable[[], object], kind: type[BaseException] = InputError, words: str = "") -> bool:
    try:
        act()
    except kind as error:
        return words in str(error)
    return False


def folder_of(root: Path) -> Path:
    """A sealed folder of two files."""
    folder = root / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_text(f"{name} has some bytes")
    sealed.seal(folder)
    return folder


def harmed(harm: Callable[[Path], object]) -> Check:
    """A sealed folder is found to be damaged after this."""

    def check(module: ModuleType, root: Path) -> bool:
        folder = folder_of(root)
        harm(folder)
        return bool(module.verify(folder))

    return check


def flipped(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def hides(text: str, **environment: str) -> Check:
    return lambda module, root: HIDDEN in module.redact(text, {"HF_HOME": str(root), **environment})


def stored(module: ModuleType, root: Path) -> bool:
    (root / "token").write_text("stored-token-1\n")
    return bool(module.redact("a stored-token-1", {"HF_HOME": str(root)}) == f"a {HIDDEN}")


FORMS = ["hf_abcdefghijklmnop1", "sk-abcdefghijklmnop1", "ghp_abcdefghijklmnop1", "AKIAABCDEFGHIJKLMNOP",
         "https://me:pass@host/x", "https://abcdefghij@host/x", "https://host/x?api_key=abc",
         "Bearer abcdefgh.ijk"]  # fmt: skip


def asked(wanted: int, method: str = "GET", token: str | None = None, **headers: str) -> Check:
    """The server's answer to a request has this status; 200 is the application's own."""

    def check(module: ModuleType, root: Path) -> bool:
        statuses: list[int] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            statuses.append(200)

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if message["type"] == "http.response.start" else [])

        given = {"host": "127.0.0.1:1", **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope = {"type": "http", "method": method, "path": "/v1/models",
                 "headers": [(name.encode(), value.encode()) for name, value in given.items()]}  # fmt: skip
        asyncio.run(module.Guard(application, token, (), True, 100)(scope, None, send))
        return statuses == [wanted]

    return check


def written(name: str) -> Check:
    """A secret is not in a file of the run."""

    def check(module: ModuleType, root: Path) -> bool:
        module.write_run(root, {"given": {"data": FORMS[0]}}, Recipe(name=FORMS[0]))
        return FORMS[0] not in (root / name).read_text()

    return check


def told(module: ModuleType, root: Path) -> bool:
    lines: list[str] = []
    module.PlainLines(lines.append)({"event": "note", "text": FORMS[0]})
    return FORMS[0] not in lines[0]


def locked(module: ModuleType, root: Path) -> bool:
    with module.locked(root):
        return refused(lambda: module.locked(root).__enter__(), words=f"in use by process {os.getpid()}")


def cut_metrics(module: ModuleType, root: Path) -> bool:
    (root / "m").write_text("".join(json.dumps({"step": n}) + "\n" for n in (1, 2, 3)) + '{"step": ')
    module.keep_metrics(root / "m", 2)
    return (root / "m").read_text().count("\n") == 2


def saved(module: ModuleType, root: Path, *steps: int, spare: int | None = None) -> list[int]:
    for number in steps:
        module.save_checkpoint(root, number, lambda f: (f / "a").write_text("x") and None, 2,
                               lambda: None if spare is None else root / f"step-{spare:06d}")  # fmt: skip
    return [number for number, _ in module.checkpoints(root)]


def left_over(module: ModuleType, root: Path) -> bool:
    (root / ".staging-step-000001").mkdir()
    saved(module, root, 2)
    return not (root / ".staging-step-000001").exists()


def put_back(module: ModuleType, root: Path) -> bool:
    saved(checkpoint, root, 1)
    os.rename(root / "step-000001", root / ".replaced-step-000001")
    return bool(module.newest_valid(root).step == 1)


def failing_write(module: ModuleType, root: Path) -> bool:
    """A full disk in the middle of a checkpoint leaves nothing of it, and says how to go on."""

    def fill(folder: Path) -> None:
        (folder / "a").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    told = refused(lambda: module.save_checkpoint(root, 1, fill, 2), words="free some space")
    return told and not list(root.iterdir())


def outside(module: ModuleType, root: Path) -> bool:
    """A staged file appears whole or not at all."""

    def fails() -> None:
        with module.staged([root / "rows"]) as (file,):
            file.write(b"half")
            raise KeyError

    return refused(fails, KeyError) and not list(root.iterdir())


def no_overwriting(module: ModuleType, root: Path) -> bool:
    (root / "rows").write_text("mine")
    first = refused(lambda: module.refuse_existing([root / "rows"], []), words="exists already")
    return first and refused(lambda: module.refuse_existing([root / "rows"], [root / "rows"]), words="is read from")


def copied(harm: str) -> Check:
    """A copy that differs from what was read, or of a damaged folder, is no copy."""

    def check(module: ModuleType, root: Path) -> bool:
        folder, real = folder_of(root), shutil.copyfile
        if harm == "source":
            flipped(folder / "a")
        module.shutil = type("Lossy", (), {"copyfile": staticmethod(
            lambda a, b: (real(a, b), flipped(Path(b)) if harm == "way" and Path(a).name == "a" else None))})  # type: ignore[attr-defined]
        return refused(lambda: module.copy_sealed(folder, root / "there"), OSError)

    return check


def marker_last(module: ModuleType, root: Path) -> bool:
    """A copy over an older one has no marker while it is on its way."""
    folder = folder_of(root)
    module.copy_sealed(folder, root / "there")
    seen: list[bool] = []
    module.sync = lambda path: seen.append((root / "there" / "manifest.json").exists())  # type: ignore[attr-defined]
    module.copy_sealed(folder, root / "there")
    return not any(seen[:2])


def no_room(name: str) -> Check:
    def check(module: ModuleType, root: Path) -> bool:
        module.shutil = type("Full", (), {"disk_usage": staticmethod(lambda path: type("U", (), {"free": 2**20})())})  # type: ignore[attr-defined]
        if name == "require_room":
            return refused(lambda: module.require_room(root, 1), OSError, "are needed")
        return refused(lambda: module.require_space(root, 2**20, 2), words="are free and the run needs")

    return check


SEALED, GUARD, RUN = "dozan.model.sealed", "dozan.ship.serve_guard", "dozan.train.run"
CHECKPOINT = "dozan.train.checkpoint"
MUTATIONS: list[tuple[str, str, str, Check]] = [
    (SEALED, "if found != size:", "if False:", lambda m, r: "bytes instead of" in str(cut_verdict(m, r))),
    (SEALED, "if sha256(path) == digest else", "if True else", harmed(lambda f: flipped(f / "a"))),
    (SEALED, 'f"{name} is missing" if name not in present else', 'None if name not in present else',
     harmed(lambda f: (f / "a").unlink())),
    (SEALED, "if strict else []", "if False else []", harmed(lambda f: (f / "extra").write_text("x"))),
    (SEALED, 'return [f"{MANIFEST} is missing"]', "return []", harmed(lambda f: (f / "manifest.json").unlink())),
    (SEALED, 'if content.decode("utf-8", "replace") != _text(manifest):', "if False:",
     harmed(lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text() + " "))),
    ("dozan.redact", "secrets(os.environ if environment is None else environment)", "()",
     hides("a v4lue-123", HF_TOKEN="v4lue-123")),
    ("dozan.redact", "if stored.is_file()", "if False", stored),
    *[("dozan.redact", "for form in _FORMS:", f"for form in _FORMS[:{i}] + _FORMS[{i + 1}:]:", hides(text))
      for i, text in enumerate(FORMS)],
    (RUN, "redact(json.dumps(plain, ensure_ascii=False))", "json.dumps(plain)", written("run.json")),
    (RUN, "redact(dump(recipe))", "dump(recipe)", written("recipe.yaml")),
    ("dozan.train.live", "self.write(redact(line))", "self.write(line)", told),
    (GUARD, "if len(hosts) != 1 or not self._is_ours(hosts[0]):", "if not hosts:", asked(403, host="evil.example")),
    (GUARD, "return address.is_loopback or not self._local", "return True", asked(403, host="192.168.1.5")),
    (GUARD, 'or "@" in host or', "or", asked(403, host="localhost@127.0.0.1")),
    (GUARD, "if not _same(origin, hosts[0]):", "if False:", asked(403, origin="http://evil.example")),
    (GUARD, 'if headers.get("sec-fetch-site") in', "if None in", asked(403, sec_fetch_site="cross-site")),
    (GUARD, "if self._token is not None and", "if False and", asked(401, token="secret")),
    (GUARD, 'return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())',
     "return True", asked(401, token="secret", authorization="Bearer wrong")),
    (GUARD, 'if method == "POST" and', "if False and", asked(415, "POST", content_type="text/plain")),
    (GUARD, "int(length) > self._most", "False",
     asked(413, "POST", content_type="application/json", content_length="101")),
    (RUN, "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", locked),
    (RUN, 'if record["step"] > step:', "if False:", cut_metrics),
    (RUN, "    if free < needed:", "    if False:", no_room("require_space")),
    ("dozan.train.disk", "if free < needed + _SPARE:", "if False:", no_room("require_room")),
    (CHECKPOINT, "[*root.glob(f\"{_STAGING}*\"), *root.glob(f\"{_REPLACED}*\")]", "[]", left_over),
    (CHECKPOINT, "    recover(root)\n    skipped", "    skipped", put_back),
    (CHECKPOINT, "        shutil.rmtree(staging, ignore_errors=True)\n        raise", "        raise", failing_write),
    (CHECKPOINT, "checkpoints(root)[keep:])", "checkpoints(root)[99:])", lambda m, r: saved(m, r, 1, 2, 3) == [3, 2]),
    (CHECKPOINT, "for kept in [spare()] if kept is not None", "for kept in [spare()] if False",
     lambda m, r: saved(m, r, 1, 2, 3, spare=1) == [3, 2, 1]),
    ("dozan.rows.staged", "name.unlink(missing_ok=True)", "pass", outside),
    ("dozan.rows.staged", "if path.resolve() in read]", "if False]", no_overwriting),
    ("dozan.rows.staged", "if path.exists() and path.resolve() not in read]", "if False]", no_overwriting),
    ("dozan.train.mirror", "if sha256(staging) != sha256(source):", "if False:", copied("way")),
    ("dozan.train.mirror", "    problems = verify(source)\n", "    problems: list[str] = []\n", copied("source")),
    ("dozan.train.mirror", "    (place / MANIFEST).unlink(missing_ok=True)\n    for file", "    for file", marker_last),
]  # fmt: skip


def cut_verdict(module: ModuleType, root: Path) -> list[str]:
    folder = folder_of(root)
    (folder / "a").write_text("x")
    verdict: list[str] = module.verify(folder)
    return verdict


NAMES = [f"{module}: {old[:40]}" for module, old, *_ in MUTATIONS]


@pytest.mark.parametrize(("module", "old", "new", "check"), MUTATIONS, ids=NAMES)
def test_a_guard_that_is_gone_is_missed(
    module: str, old: str, new: str, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    whole = mutant(module, old, old, monkeypatch)
    assert check(whole, tmp_path / "with"), "the check fails with the guard"
    assert not check(mutant(module, old, new, monkeypatch), tmp_path / "without"), "nobody sees that the guard is gone"
