"""Nothing leaves the machine, no secret is written, nothing is unpickled, and no shell is asked."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ship_models import make_folder
from test_bad_input import TOOL, conversation, write_rows

import dozan
from dozan.redact import HIDDEN, redact, secrets

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "dozan").rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
TOKEN, KEY = "hf_PlantedSecretPlantedSecretPla", "0123456789abcdef0123456789abcdef01234567"
PASSWORD = "s3cr3t-Pass!word"
PIPES = {"dozan/check/worker.py"}
"""Pickles pass between a process and its own child there, and never reach a file."""

BLOCKED = '''
import os, socket
real = socket.socket.connect
def refused(name):
    def call(self, *args, **more):
        if name != "getaddrinfo" and self.family == socket.AF_UNIX:
            return real(self, *args)
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{name} {args}\\n")
        raise OSError("the network is not to be asked")
    return call
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refused(name))
socket.getaddrinfo = lambda *args, **more: refused("getaddrinfo")(None, *args)
socket.create_connection = lambda *args, **more: refused("create_connection")(socket.socket(), *args)
'''
VERBS = """
import json, os, sys
from dozan.cli import main
from dozan.ship import parity_export
parity_export.ANSWER_TOKENS = 8
statuses = []
for arguments in json.loads(sys.argv[1]):
    print("$", *arguments, flush=True)
    try:
        main(arguments)
        statuses.append(0)
    except SystemExit as left:
        statuses.append(left.code or 0)
open(sys.argv[2], "w").write(json.dumps(statuses))
"""


class Ran:
    """The whole command line, run in a machine without a network and with secrets in its environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        base, run = make_folder(root / "base"), root / "runs" / "run"
        said = ["مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5"]
        numbered = [{"id": str(i), **conversation(said=text)} for i, text in enumerate(said)]
        rows = write_rows(root / "rows.jsonl", *numbered)
        (root / "tools.json").write_text(json.dumps([TOOL]), encoding="utf-8")
        (root / "text.jsonl").write_text(json.dumps({"text": "يبدأ الدوام في الثامنة."}) + "\n", encoding="utf-8")
        short = ["--set", "train.max_steps=2", "--set", "train.batch_size=2", "--set", "data.holdout=0.3"]
        self.verbs = [
            ["train", "--model", base, "--data", rows, "--out", run, *short,
             "--set", f"train.mirror={root / 'mirror'}"],
            ["resume", run], ["runs", run.parent], ["clean", run.parent, "--yes"], ["doctor", "--out", root],
            ["plan", rows, "--model", base], ["data", "check", rows], ["data", "stats", rows],
            ["eval", "--model", run, "--data", rows, "--json", root / "scores.json", "--max-new-tokens", 4],
            ["compare", base, run, "--data", rows, "--max-new-tokens", 4, "--html", root / "compare.html"],
            ["merge", run, "--out", root / "merged"], ["export", run, "--gguf", "f32", "--out", root / "gguf"],
            ["run", "--model", run, "--tools", root / "tools.json", "--max-new-tokens", 4, "مؤقت"],
            ["grammar", "--tools", root / "tools.json"],
            ["data", "rules"], ["data", "show", rows, "--model", base],
            ["data", "check", rows, "--model", base, "--shard", "1/1", "--json", root / "part.json"],
            ["join", root / "part.json", "--json", root / "whole.json"],
            ["data", "fix", rows, "--out", root / "fixed.jsonl"],
            ["data", "prepare", rows, "--out", root / "prepared", "--holdout", 0.3],
            ["data", "split", rows, "--out", root / "split", "--holdout", 0.3],
            ["push", run, "someone/model", "--dry-run", root / "pushed"],
            ["init", root / "project", "--yes"],
            ["forget", base, run, "--rows", f"domain={root / 'text.jsonl'}", "--limit", 1],
        ]  # fmt: skip
        self.refused = [
            ["train", "--model", f"https://me:{PASSWORD}@example.com/{TOKEN}", "--data", rows, "--out", root / "x"],
            ["train", "--model", base, "--data", f"{root}/{KEY}.jsonl", "--out", root / "y"],
            ["train", "--model", base, "--data", rows, "--out", root / "z", "--set", f"train.seed={TOKEN}"],
        ]
        commands = [[str(word) for word in verb] for verb in (*self.verbs, *self.refused)]
        (root / "blocked").mkdir()
        (root / "home").mkdir()
        (root / "blocked" / "sitecustomize.py").write_text(BLOCKED)
        environment = {
            **os.environ, "HOME": str(root / "home"), "PYTHONPATH": f"{root / 'blocked'}:{ROOT}",
            "OMP_NUM_THREADS": "1", "ASKED": str(root / "asked"), "HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY,
            "MY_PASSWORD": PASSWORD, "TMPDIR": str(root / "tmp"),
        }  # fmt: skip
        (root / "tmp").mkdir()
        alone = ["unshare", "-rn"] if can_be_alone() else []
        done = subprocess.run(
            [*alone, sys.executable, "-c", VERBS, json.dumps(commands), str(root / "statuses.json")],
            cwd=root, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        self.said = done.stdout + done.stderr
        self.statuses = json.loads((root / "statuses.json").read_text()) if (root / "statuses.json").is_file() else []


def can_be_alone() -> bool:
    """Whether the system lets a process have a network of its own, in which there is none."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("security"))


def test_the_whole_command_line_needs_no_network(ran: Ran) -> None:
    assert ran.statuses[: len(ran.verbs)] == [0] * len(ran.verbs), ran.said[-3000:]
    assert not (ran.root / "asked").exists(), (ran.root / "asked").read_text()
    assert (ran.root / "mirror" / "adapter" / "manifest.json").is_file()


ELSEWHERE = {
    "serve": "listens until it is stopped; that it listens on the loopback alone: test_serve_guard",
    "render-diff": "asks llama.cpp's server, its own child, on the loopback",
    "demo": "trains for minutes; the verbs that it calls are here",
    "sweep": "trains for minutes, through the same loop",
    "reproduce": "trains for minutes, through the same loop",
    "data generate": "reads and writes files alone: its module imports nothing that could connect",
}
"""Verbs that are not run here, and why."""


def test_every_verb_is_run_or_has_a_reason(ran: Ran) -> None:
    import typer

    from dozan.cli import app

    command = typer.main.get_command(app)
    names = set(command.commands) - {"data"} | {f"data {name}" for name in command.commands["data"].commands}  # type: ignore[attr-defined]
    done = {" ".join(map(str, verb[:2] if verb[0] == "data" else verb[:1])) for verb in ran.verbs}
    assert names - done <= set(ELSEWHERE), f"run them, or say why not: {names - done - set(ELSEWHERE)}"
    assert not done & set(ELSEWHERE)


def test_the_block_itself_is_seen(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    code = "import urllib.request as r\ntry:\n    r.urlopen('http://127.0.0.1:9')\nexcept OSError as e:\n    print(e)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "ASKED": str(tmp_path / "asked")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "not to be asked" in done.stdout and (tmp_path / "asked").read_text()


def test_a_planted_secret_is_in_no_byte(ran: Ran) -> None:
    assert all(status == 2 for status in ran.statuses[len(ran.verbs) :]), ran.said[-2000:]
    assert HIDDEN in ran.said
    planted = [secret.encode() for secret in (TOKEN, KEY, PASSWORD)]
    echoed = "\n".join(line for line in ran.said.splitlines() if not line.startswith("$ "))
    assert not [secret for secret in planted if secret in echoed.encode()]
    files = [path for path in ran.root.rglob("*") if path.is_file() and path.name != "asked"]
    assert len(files) > 30
    assert not [path for path in files if any(secret in path.read_bytes() for secret in planted)]


def test_secrets_are_hidden_by_value_and_by_form() -> None:
    environment = {"HF_TOKEN": "plainvalue123", "WANDB_API_KEY": KEY, "TOKENIZERS_PARALLELISM": "false",
                   "PATH": "/usr/bin", "HF_TOKEN_PATH": "/nowhere/token", "AWS_SECRET_ACCESS_KEY": "abc/def+ghi123",
                   "HF_HOME": "/nowhere"}  # fmt: skip
    assert set(secrets(environment)) == {"plainvalue123", KEY, "abc/def+ghi123"}
    for text, hidden in {
        "a plainvalue123 b": f"a {HIDDEN} b",
        f"https://me:{PASSWORD}@host/x": f"https://{HIDDEN}@host/x",
        "https://host/x?token=abc&b=1": f"https://host/x?token={HIDDEN}&b=1",
        "Authorization: Bearer abcdefgh.ijk": f"Authorization: Bearer {HIDDEN}",
        TOKEN: HIDDEN, "sk-abcdefghijklmnop1234": HIDDEN, "ghp_abcdefghijklmnop1234": HIDDEN,
    }.items():  # fmt: skip
        assert redact(text, environment) == hidden
    for text in ("https://huggingface.co/google/gemma-3-1b-it", "false", "hf_short", "a token=b", "step 3: /usr/bin"):
        assert redact(text, environment) == text


def test_the_hub_s_stored_token_is_a_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("stored-token-1\n")
    assert secrets({"HF_HOME": str(tmp_path)}) == ["stored-token-1"]


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def imported(path: Path) -> set[str]:
    tree, names = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def unsafe(path: Path) -> list[str]:
    """What a file of ours must not do."""
    bad = imported(path) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pickletools"}
    found = [f"imports {name}" for name in bad] if str(path.relative_to(ROOT)) not in PIPES else []
    for name, call in calls(path):
        given = {word.arg: word.value for word in call.keywords}
        if name in ("torch.load", "torch.save", "os.system", "os.popen", "eval") or name.startswith("os.spawn"):
            found.append(f"line {call.lineno}: {name}")
        shell, allowed = given.get("shell"), given.get("allow_pickle")
        if any(isinstance(word, ast.Constant) and word.value for word in (shell, allowed) if word is not None):
            found.append(f"line {call.lineno}: {name} with a shell or pickles")
        if name.startswith("subprocess.") and call.args and isinstance(call.args[0], ast.Constant | ast.JoinedStr):
            found.append(f"line {call.lineno}: {name} of a line of text")
        if "trust_remote_code" in given:
            found.append(f"line {call.lineno}: remote code")
    return found


@each_file
def test_no_pickle_no_shell_no_remote_code(path: Path) -> None:
    assert unsafe(path) == []


def test_the_check_sees_what_it_forbids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "bad.py").write_text(
        "import pickle\nimport subprocess, torch, os, numpy\nsubprocess.run('ls')\nsubprocess.run(['ls'], shell=True)\n"
        "torch.load('x')\nos.system('ls')\nnumpy.load('x', allow_pickle=True)\nload('x', trust_remote_code=True)\n"
    )
    assert len(unsafe(tmp_path / "bad.py")) == 7
    assert dozan.__version__
