"""`python -m scripts.lock`: write requirements.lock and requirements-torch.lock, every package's files by SHA-256.

What dozan itself brings, at the versions of constraints.txt, for Linux on x86-64 with Python 3.11 to 3.13. PyTorch and
what it alone brings stand in a file of their own: its builds for a CPU and for each CUDA have other hashes. Hashes come
from the registry that uv is set up with (`pip install uv`); no address of one is written.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK, TORCH, CONSTRAINTS = ROOT / "requirements.lock", ROOT / "requirements-torch.lock", ROOT / "constraints.txt"
_HEADS = {
    LOCK: "# Every package of `make install` but torch's own, by SHA-256 (scripts/lock.py; make install-locked).\n",
    TORCH: "# PyTorch for CUDA and what it alone brings, by SHA-256 (scripts/lock.py; make install-locked).\n",
}
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?:\s*;[^\\]*)?\s*\\?$")
PLATFORM, OLDEST, NEWEST = "x86_64-manylinux_2_28", "3.11.7", "3.13"
_ALWAYS = "setuptools"
"""Builds the editable package; newer Pythons bring none."""


def entries(text: str) -> dict[str, tuple[str, list[str]]]:
    """The version and the lines of each entry of a lock, by the package's normalised name."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in text.splitlines():
        match = _ENTRY.match(line)
        if match:
            name = normalised(match[1])
            found[name] = (match[2], [line])
        elif line.startswith("    --hash=") and name:
            found[name][1].append(line)
    return found


def normalised(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(text: str) -> dict[str, str]:
    """Versions by normalised name, of a constraints file."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return {normalised(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def resolved(python: str) -> dict[str, tuple[str, list[str]]]:
    """What uv finds for a Python version."""
    uv = shutil.which("uv")
    if uv is None:
        raise SystemExit("uv is not there: pip install uv")
    done = subprocess.run(
        [uv, "pip", "compile", "pyproject.toml", "-", "-c", "constraints.txt", "--generate-hashes", "--no-header",
         "--no-annotate", "--no-emit-index-url", "--python-version", python, "--python-platform", PLATFORM, "-q"],
        cwd=ROOT, input=f"{_ALWAYS}\n", capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr.strip()[-2000:])
    return entries(done.stdout)


def main() -> int:
    """0 when both files were written."""
    oldest, newest = resolved(OLDEST), resolved(NEWEST)
    differing = {name for name in {*oldest, *newest} if oldest.get(name, ("",))[0] != newest.get(name, ("",))[0]}
    if differing - {_ALWAYS}:
        print(f"not the same for Python {OLDEST} and {NEWEST}: {', '.join(sorted(differing))}", file=sys.stderr)
        return 1
    known = pinned(CONSTRAINTS.read_text(encoding="utf-8"))
    own = {name for name in oldest if name in known or name == _ALWAYS} - {"torch"}
    for path, names in ((LOCK, own), (TORCH, set(oldest) - own)):
        lines = [line for name in sorted(names) for line in oldest[name][1]]
        path.write_text(_HEADS[path] + "\n".join(lines) + "\n", encoding="utf-8")
        print(f"{path.name}: {len(names)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
