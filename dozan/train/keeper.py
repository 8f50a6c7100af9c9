"""Keeps a run: its checkpoints, on a GPU written behind its back, when they are due or asked for; and their mirror."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from dozan.train.live import OnEvent
from dozan.train.mirror import Mirror
from dozan.train.signals import StopRequest
from dozan.train.state import Progress, Snapshot, SnapshotMemory, Trainee, snapshot, write_snapshot
from dozan.world import current

ASK = "SAVE"
"""A file of this name in the run folder asks for a checkpoint; it is taken away when there is one."""

MIRROR_SECONDS = 300.0


class Keeper:
    """A context that writes checkpoints of the run in `out`, which began at step `started`.

    background: whether they are written by a thread while the run goes on; None: on a GPU. At most one is on its way,
    and what went wrong with it is raised by the next call. Of several ranks the first writes, and those that hold a
    part of what is trained; the rest only ask.
    """

    def __init__(
        self, trainee: Trainee, out: Path, report: OnEvent, stop: StopRequest, started: Progress,
        background: bool | None = None,
    ) -> None:  # fmt: skip
        self._trainee, self.out, self._report, self._stop = trainee, out, report, stop
        world = current()
        self._first, self._writes = world.first, world.first or trainee.is_sharded
        behind = self._writes and (trainee.model.device.type == "cuda" if background is None else background)
        self._pool = ThreadPoolExecutor(1, "dozan-writer") if behind else None
        self._memory = SnapshotMemory() if behind else None
        if trainee.is_sharded:
            trainee.writers = world.aside()
        self._saved = (started.step, started.owed) if started.step else (-1, False)
        self._writing: Future[None] | None = None
        if self._pool is not None and self._memory is not None:
            held = {**trainee.trained(), **trainee.optimizer.moments()}
            self._writing = self._pool.submit(self._memory.reserve, held)
        train = trainee.recipe.train
        mirrored = train.mirror if self._first else None
        self._mirror = None if mirrored is None else Mirror(out, Path(mirrored), train.keep_checkpoints)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        if self._mirror is not None:
            self._mirror.close()
            self._tell()
        if error is None:
            self.wait()

    def asked(self) -> bool:
        """Whether a checkpoint was asked for on this rank, by SIGUSR1 or a file."""
        return self._stop.save or (self._first and (self.out / ASK).exists())

    def save(self, progress: Progress) -> None:
        """Have a checkpoint written, unless there is this very one. Raises InputError for it, or for the one before."""
        asked = self.asked()
        if not self._writes:
            self._stop.save = False
            return
        self.wait()
        if (progress.step, progress.owed) != self._saved:
            taken = snapshot(self._trainee, self.out, progress, self._memory)
            if self._pool is None:
                self._write(taken)
            else:
                self._writing = self._pool.submit(self._write, taken)
            self._saved = (progress.step, progress.owed)
        if asked:
            self._stop.save = False
            if self._first:
                (self.out / ASK).unlink(missing_ok=True)
            self._report({"event": "note", "text": f"saved after step {progress.step}, as asked"})

    def forget(self, progress: Progress) -> None:
        """The run goes on from an earlier step, and nothing is on its way."""
        self._saved = (progress.step, progress.owed)
        if self._mirror is not None:
            self._mirror.back(progress.step)

    def poll(self) -> None:
        """Raises what went wrong with a checkpoint that is no longer on its way; tells what the mirror has to say."""
        if self._writing is not None and self._writing.done():
            self.wait()
        self._tell()

    def wait(self) -> None:
        """Wait until nothing is on its way; raises what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def finish(self) -> None:
        """After the run was written: have the mirror take what is left."""
        self.wait()
        if self._mirror is not None:
            self._mirror.finish(MIRROR_SECONDS)
            self._tell()

    def _write(self, taken: Snapshot) -> None:
        folder = write_snapshot(self._trainee, self.out, taken)
        if self._mirror is not None:
            self._mirror.offer(folder)

    def _tell(self) -> None:
        if self._memory is not None and self._memory.said:
            self._report({"event": "note", "text": self._memory.said})
            self._memory.said = ""
        for text in self._mirror.notes() if self._mirror is not None else ():
            self._report({"event": "note", "text": text})
