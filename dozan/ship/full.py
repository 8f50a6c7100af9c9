"""What `merge` means for a run that trained every weight: a copy of its model, each byte checked, with a manifest."""

from __future__ import annotations

from pathlib import Path

from dozan.errors import InputError
from dozan.model.stored import weight_files
from dozan.model.weights import write_checkpoint
from dozan.ship.manifest import file_sha256, full_run, write_manifest
from dozan.ship.parity import ExportFailed
from dozan.ship.source import Source


def is_full(source: Source) -> bool:
    """Whether a source is a run that trained every weight."""
    return full_run(source) is not None


def copy_full(source: Source, run: str | Path, out: Path, onto: str | Path | None) -> Path:
    """Write the folder `out` from the run's model. Raises InputError as `merge`, and for any `onto`; ExportFailed (the
    folder renamed to `.FAILED`) when a file was read back otherwise than it is in the run."""
    if onto is not None:
        raise InputError(f"--onto {onto}: {run} trained every weight, there is no adapter to merge; leave --onto out")
    folder = source.bundle.base_folder
    write_checkpoint(folder, (), out)
    names = [path.name for path in weight_files(folder)[0]]
    unequal = [name for name in names if file_sha256(out / name) != file_sha256(folder / name)]
    if unequal:
        failed = out.rename(out.with_name(out.name + ".FAILED"))
        raise ExportFailed(f"{failed}: {', '.join(unequal)} was read back otherwise than it is in {folder}")
    write_manifest(out, source, {"weights": "full", "tensors": {"merged": 0, "copied": len(source.stored)}})
    return out
