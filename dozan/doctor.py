"""Whether this machine can train: each thing that a run needs, what was found, and one fix where it will not do."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib import error, request

from dozan.redact import redact

Verdict = Literal["ok", "warn", "fail"]
HUB = "https://huggingface.co"
_TESTED = {"torch": ((2, 11), (2, 14))}
_NEEDED = ("torch", "tokenizers", "sentencepiece", "safetensors", "numpy", "pydantic", "gguf", "xllamacpp")
_LEAST_PYTHON = (3, 11)
_FREE_BYTES, _FEW_BYTES = 2**30, 10 * 2**30
_SLOW, _PROBE_BYTES = 20 * 2**20, 32 * 2**20
_YOUNGEST = time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, 0))
_APART_SECONDS, _HUB_SECONDS = 300.0, 10.0
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One thing: what was found, and what to do where it is not ok."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""

    def text(self) -> str:
        """As one or two lines."""
        line = f"{self.verdict:<4}  {self.name}: {self.found}"
        return redact(f"{line}\n      fix: {self.fix}" if self.fix else line)

    def to_dict(self) -> dict[str, str]:
        """As JSON values."""
        return {key: redact(value) for key, value in asdict(self).items()}


def doctor(out: str | Path = "output", model: str | None = None, port: int = 8000) -> list[Check]:
    """Look at GPU, memory, disk, versions, clock and the port of `dozan serve`. out: where runs will be written.

    model: a hub id to ask the hub about, with HF_TOKEN; None asks nobody, and nothing leaves the machine.
    """
    folder = nearest(Path(out))
    found = [check_python(), *check_packages(), *check_gpu(), check_memory(), check_disk(folder), check_speed(folder)]
    found += [check_clock(time.time()), check_port(port)]
    if model is not None:
        found += check_hub(model)
    return found


def exit_status(found: list[Check]) -> int:
    """1 when something fails, else 0."""
    return int(any(check.verdict == "fail" for check in found))


def nearest(path: Path) -> Path:
    """A folder, or the nearest one above it that is there."""
    absolute = path.expanduser().absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def check_python() -> Check:
    """Python itself."""
    found = platform.python_version()
    if sys.version_info < _LEAST_PYTHON:
        return Check("Python", "fail", found, "install Python 3.11 or newer, then: make PYTHON=python3.12 install")
    return Check("Python", "ok", f"{found} on {platform.system()} {platform.machine()}")


def check_packages(version: Callable[[str], str] = metadata.version) -> Iterator[Check]:
    """What dozan imports."""
    for name in _NEEDED:
        try:
            found = version(name)
        except metadata.PackageNotFoundError:
            yield Check(name, "fail", "is not installed", f"pip install {name}")
            continue
        low, high = _TESTED.get(name, ((0,), (10**9,)))
        parts = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdigit())
        if low <= parts < high:
            yield Check(name, "ok", found)
        else:
            wanted = f"{'.'.join(map(str, low))} up to below {'.'.join(map(str, high))}"
            yield Check(name, "warn", f"{found} is untested", f"install {name} {wanted}")


def check_gpu() -> Iterator[Check]:
    """Each GPU: capability, what it multiplies in, memory, driver."""
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        if built and Path("/proc/driver/nvidia/version").is_file():
            yield Check("GPU", "fail", f"there is one, but PyTorch (CUDA {built}) cannot use it",
                        "update the NVIDIA driver, or install the PyTorch for its CUDA version")  # fmt: skip
            return
        yield Check("GPU", "warn", "none; runs are computed on the CPU",
                    "for 270M that will do; for 1B and up use a machine with an NVIDIA GPU")  # fmt: skip
        return
    driver = Path("/proc/driver/nvidia/version")
    if driver.is_file():
        yield Check("driver", "ok", driver.read_text(encoding="utf-8").splitlines()[0].partition("Module")[2].strip())
    for index in range(torch.cuda.device_count()):
        yield gpu_check(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index),
                        *torch.cuda.mem_get_info(index))  # fmt: skip


def gpu_check(name: str, capability: tuple[int, int], free: int, total: int) -> Check:
    """What a GPU comes to. bf16 counts from capability 8.0: older ones only imitate it, whatever PyTorch says."""
    dtype = "bfloat16" if capability >= (8, 0) else "float16 (no bfloat16 in hardware)"
    memory = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    found = f"{name}, capability {capability[0]}.{capability[1]}: {dtype}; {memory}"
    if capability < (7, 0):
        return Check("GPU", "fail", found, "use a GPU of capability 7.0 or newer (V100, T4, RTX 20 and later)")
    if free < total * 0.8:
        return Check("GPU", "warn", found, "end what else runs on it (nvidia-smi lists it)")
    return Check("GPU", "ok", found)


def check_memory() -> Check:
    """The machine's own memory."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else ""
    usable = min(total, int(text)) if text.isdigit() else total
    found = f"{usable / _GIB:.1f} GiB" + (" (a limit of its container)" if usable < total else "")
    if usable < 4 * _GIB:
        return Check("memory", "warn", found, "4 GiB or more are better; dozan plan says what a run takes")
    return Check("memory", "ok", found)


def check_disk(folder: Path) -> Check:
    """Room where runs are written."""
    free = shutil.disk_usage(folder).free
    found = f"{free / _GIB:.1f} GiB free in {folder}"
    if free < _FREE_BYTES:
        return Check("disk", "fail", found, "free some space (dozan clean says what runs leave), or use another disk")
    if free < _FEW_BYTES:
        return Check("disk", "warn", found, "a merged 4B takes 8 GiB, a 12B 24 GiB; dozan clean frees leftovers")
    return Check("disk", "ok", found)


def check_speed(folder: Path, size: int = _PROBE_BYTES) -> Check:
    """How fast a checkpoint is written there, synced."""
    probe = folder / f".dozan-doctor-{os.getpid()}"
    try:
        began = time.perf_counter()
        with probe.open("wb") as file:
            file.write(os.urandom(size))
            file.flush()
            os.fsync(file.fileno())
        speed = size / max(1e-9, time.perf_counter() - began)
    except OSError as problem:
        return Check("writing", "fail", f"{folder}: {problem.strerror}", "give another folder with --out")
    finally:
        probe.unlink(missing_ok=True)
    found = f"{speed / 2**20:,.0f} MiB/s to {folder}"
    if speed < _SLOW:
        return Check("writing", "warn", found, "write runs to a local disk, and mirror them with train.mirror")
    return Check("writing", "ok", found)


def check_clock(now: float, there: float | None = None) -> Check:
    """The clock, by itself or against the hub's (both in seconds)."""
    shown = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now)) + " UTC"
    if now < _YOUNGEST:
        return Check("clock", "fail", f"{shown} is in the past", "set the clock (timedatectl set-ntp true)")
    if there is not None and abs(now - there) > _APART_SECONDS:
        return Check("clock", "warn", f"{shown} is {abs(now - there) / 60:.0f} minutes off", "timedatectl set-ntp true")
    return Check("clock", "ok", shown)


def check_port(port: int) -> Check:
    """Whether `dozan serve` can listen on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as problem:
            found = f"{port} on 127.0.0.1: {problem.strerror}"
            return Check("port", "warn", found, "dozan serve --port 0 takes a free one")
    return Check("port", "ok", f"{port} on 127.0.0.1 is free")


def check_hub(model: str) -> list[Check]:
    """Whether a model of the hub can be downloaded with HF_TOKEN; and the clock against the hub's."""
    token = os.environ.get("HF_TOKEN", "").strip()
    endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    asked = request.Request(f"{endpoint}/{model}/resolve/main/config.json", method="HEAD",
                            headers={"Authorization": f"Bearer {token}"} if token else {})  # fmt: skip
    date: str | None = None
    try:
        with request.urlopen(asked, timeout=_HUB_SECONDS) as answer:
            date, found = answer.headers.get("Date"), hub_check(model, answer.status, bool(token))
    except error.HTTPError as refused:
        date, found = refused.headers.get("Date"), hub_check(model, refused.code, bool(token))
    except (error.URLError, OSError, ValueError) as problem:
        found = Check("hub", "fail", f"{endpoint} cannot be reached ({problem})",
                      "check the network and HTTPS_PROXY, or give a model folder")  # fmt: skip
    clock = [] if date is None else [check_clock(time.time(), parsedate_to_datetime(date).timestamp())]
    return [found, *(check for check in clock if check.verdict != "ok")]


def hub_check(model: str, status: int, token: bool) -> Check:
    """What the hub's answer means: 401 is about the token, 403 about the licence."""
    if status == 200:
        return Check("hub", "ok", f"{model} can be downloaded")
    if status == 401 and token:
        return Check("hub", "fail", f"{model}: 401, HF_TOKEN is not valid",
                     "make a new token with read access on huggingface.co/settings/tokens")  # fmt: skip
    if status == 401:
        return Check("hub", "fail", f"{model}: 401, no token was given, and it is gated or not there",
                     "accept the licence on the model's page and set HF_TOKEN")  # fmt: skip
    if status == 403:
        return Check("hub", "fail", f"{model}: 403, the token is valid but has no access",
                     "accept the licence on the model's page with the account of that token")  # fmt: skip
    if status == 404:
        return Check("hub", "fail", f"{model}: 404, no such model or no config.json", "check the spelling")
    return Check("hub", "fail", f"{model}: the hub answered {status}", "try again later")
