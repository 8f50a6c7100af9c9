"""`python -m bench.wheels DEST`: the peers' packages as one small DEST/peers.tar.gz for a GPU machine without network.

For Python 3.12 on x86-64 Linux with torch 2.11 (CUDA 13.0), transformers 5.17, peft, accelerate, pandas and pyarrow
installed. There: `tar -xzf peers.tar.gz -C SITE` and `export PYTHONPATH=SITE`. A wheel's files that no training on
CUDA 13.0 loads are left out, and its list of files follows.
"""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGES = (
    "unsloth==2026.10.9", "unsloth_zoo==2026.10.9", "trl==1.15.0", "datasets==4.8.5", "bitsandbytes==0.50.2",
    "liger-kernel==0.8.5", "dill==0.4.1", "multiprocess==0.70.19", "cut-cross-entropy==25.1.1", "msgspec==0.22.0",
    "nest-asyncio==1.6.0", "tyro==1.0.17", "docstring-parser==0.18.0", "typeguard==4.6.0",
    "axolotl==0.19.0", "addict==2.4.0",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64",
             "manylinux2014_x86_64", "manylinux1_x86_64")  # fmt: skip
CUDA = "130"
LARGEST_BYTES = 45_000_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.wheels", description=__doc__)
    parser.add_argument("dest", type=Path)
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME==VERSION", help="what that machine lacks too")
    options = parser.parse_args()
    options.dest.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        download([*PACKAGES, *options.also], Path(folder))
        bundle(sorted(Path(folder).glob("*.whl")), options.dest / "peers.tar.gz")


def download(packages: list[str], folder: Path) -> None:
    """The wheels of exactly these packages for the other machine."""
    platforms = [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    target = ["--python-version", "3.12", "--implementation", "cp", *platforms, "-d", str(folder)]
    subprocess.run([*command, *target, *packages], check=True)


def bundle(wheels: list[Path], target: Path) -> None:
    """One archive of the wheels' kept files; prints what each wheel weighs. Raises ValueError over LARGEST_BYTES."""
    with tarfile.open(target, "w:gz", compresslevel=9) as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as files:
                kept = [file for file in files.infolist() if is_kept(file.filename) and not file.is_dir()]
                for file in kept:
                    content = files.read(file)
                    if file.filename.endswith(".dist-info/RECORD"):
                        content = _kept_records(content)
                    _add(out, file.filename, content)
                size = sum(file.compress_size for file in kept)
            print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, kept {size / 1e6:.2f}")
    size = target.stat().st_size
    print(f"{target}: {size / 1e6:.2f} MB")
    if size > LARGEST_BYTES:
        raise ValueError(f"{target}: {size} bytes, more than {LARGEST_BYTES}; leave a package out")


def is_kept(name: str) -> bool:
    """Whether a wheel's file travels: not Unsloth's applications, of Axolotl what its kernels import, and bitsandbytes
    for one CUDA version and the CPU."""
    folder, _, rest = name.partition("/")
    if folder in ("studio", "unsloth_cli") or ".data/" in name:
        return False
    if folder == "axolotl":
        return rest == "__init__.py" or rest.startswith(("kernels/", "monkeypatch/", "utils/"))
    library = folder == "bitsandbytes" and rest.startswith("libbitsandbytes")
    return not library or rest in (f"libbitsandbytes_cuda{CUDA}.so", "libbitsandbytes_cpu.so")


def _kept_records(record: bytes) -> bytes:
    """A wheel's list of files without those left out: importlib.metadata reads a package's modules from it."""
    out = io.StringIO()
    rows = csv.reader(io.StringIO(record.decode("utf-8")))
    csv.writer(out, lineterminator="\n").writerows(row for row in rows if row and is_kept(row[0]))
    return out.getvalue().encode("utf-8")


def _add(out: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    out.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    main()
