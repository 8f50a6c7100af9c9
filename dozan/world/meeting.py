"""How ranks meet: all of them there within seconds, with the same code and versions, or an error that names which."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from dozan.errors import InputError
from dozan.world.environment import Place, place_of, require_devices
from dozan.world.status import clear_status
from dozan.world.watch import Watch

if TYPE_CHECKING:
    from torch.distributed import Store

    from dozan.world.group import World

WAIT = "DOZAN_WAIT_SECONDS"
"""The environment's name for how long ranks wait for each other; 10 seconds without it."""
_LOCAL = ("localhost", "127.0.0.1", "::1", socket.gethostname())
_POLL, _ANSWER_SECONDS, _LONGEST = 0.05, 1.0, 86_400
_NEWEST, _ALL = "dozan/newest", "all"
COLLECTIVE = timedelta(hours=2)
"""A rank may compile or write for long; one that is gone is noticed by the watch."""


def meet(environment: Mapping[str, str]) -> tuple[World, Watch] | None:
    """The world that an environment tells of, joined; None where it tells of none. Raises InputError."""
    place = place_of(environment)
    if place is None:
        return None
    import torch
    import torch.distributed as dist

    from dozan.world.group import World

    world = World(place.rank, place.size, place.local_rank, place.local_size)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        require_devices(place, torch.cuda.device_count())
        torch.cuda.set_device(place.local_rank)
    if dist.is_initialized() and "gloo" not in str(dist.get_backend_config()):
        raise InputError(f"the process group that is there has {dist.get_backend_config()}; dozan decides on the host: "
                         "begin it with backend 'cpu:gloo,cuda:nccl', or leave it to dozan")  # fmt: skip
    store = None if dist.is_initialized() else _met(place, environment)
    # Before the process group: it would wait for hours for a rank that is lost meanwhile.
    watch = Watch(_watch_store(place, world, store), place.rank, place.size)
    watch.begin()
    if store is not None:
        if place.address in _LOCAL and place.local_size == place.size:
            # Else the host's own name decides, which may not resolve.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=dist.PrefixStore("group", store), rank=place.rank,
            world_size=place.size, timeout=COLLECTIVE,
        )  # fmt: skip
    return world, watch


def _met(place: Place, environment: Mapping[str, str]) -> Store:
    """The store of this start of the ranks, when all of them are there with the same code."""
    seconds = _wait_seconds(environment)
    store = _together(_store(place, environment, seconds), place, seconds)
    try:
        _require_same_code(store, place)
    except RuntimeError:
        raise InputError("a rank has ended while the ranks met: look at what it says, and start all of them again"
                         ) from None  # fmt: skip
    return store


def _wait_seconds(environment: Mapping[str, str]) -> float:
    text = environment.get(WAIT, "10")
    with suppress(ValueError):
        if 0 < float(text) <= _LONGEST:
            return float(text)
    raise InputError(f"{WAIT} is {text!r}: seconds that ranks wait for each other, at most {_LONGEST}, such as 60")


def _store(place: Place, environment: Mapping[str, str], seconds: float) -> Store:
    """Where ranks meet: torchrun's own store if it has one, else the first rank's."""
    import torch.distributed as dist

    holds = place.rank == 0 and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    end = time.monotonic() + seconds
    while not holds and not _answers(place.address, place.port):
        if time.monotonic() > end:
            raise InputError(
                f"rank {place.rank} of {place.size}: nobody answers at {place.address}:{place.port} (MASTER_ADDR, "
                f"MASTER_PORT) within {seconds:g} s: is rank 0 started, is the port open? {WAIT}=60 waits longer"
            )
        time.sleep(_POLL)
    try:
        # Its own holder reaches it whatever MASTER_ADDR says.
        address = "localhost" if holds else place.address
        return dist.TCPStore(address, place.port, None, is_master=holds, timeout=timedelta(seconds=seconds),
                             wait_for_workers=False)  # fmt: skip
    except RuntimeError as error:
        if not holds or "address already in use" not in str(error).lower():
            raise
        raise InputError(f"port {place.port} of {place.address} (MASTER_PORT) is in use by another process; wait "
                         f"for it, or give every rank another one, such as {free_port()}") from None  # fmt: skip


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=_ANSWER_SECONDS):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as held:
        held.bind(("", 0))
        port: int = held.getsockname()[1]
        return port


def _together(store: Store, place: Place, seconds: float) -> Store:
    """A part of the store for this start of the ranks alone, once all of them are there. Raises InputError that names
    those that have not come.

    torchrun's store outlives the ranks, and its count of restarts is each machine's own. So the first rank opens a part
    under a new name, and says there whom it has seen: who finds himself not among them has met an earlier start's.
    """
    import torch.distributed as dist

    own, name, end = uuid.uuid4().hex, "", time.monotonic() + seconds
    if place.rank == 0:
        name = own
        store.set(_NEWEST, name)
    part = dist.PrefixStore(f"dozan/{name}", store)
    while True:
        if place.rank and store.check([_NEWEST]) and (newest := store.get(_NEWEST).decode()) != name:
            name, part = newest, dist.PrefixStore(f"dozan/{newest}", store)
            part.set(f"here/{place.rank}", own)
        missing = [rank for rank in range(1, place.size) if not part.check([f"here/{rank}"])]
        if place.rank == 0 and not missing:
            clear_status()
            part.set(_ALL, " ".join(part.get(f"here/{rank}").decode() for rank in range(1, place.size)))
            return part
        if place.rank and part.check([_ALL]):
            if own in part.get(_ALL).decode().split():
                return part
            missing = [0]
        if time.monotonic() > end:
            time.sleep(10 * _POLL * (place.rank == 0))  # the store is in this process: let the others see it too
            names = ", ".join(map(str, missing if name and missing else [0]))
            raise InputError(
                f"rank {names} of {place.size} did not come within {seconds:g} s: look at what it says, start as many "
                "processes as WORLD_SIZE says, and give all of them the same MASTER_ADDR and MASTER_PORT; "
                f"{WAIT}=60 waits longer"
            )
        time.sleep(_POLL)


def _require_same_code(store: Store, place: Place) -> None:
    """Raises InputError on every rank when one has other code or versions than the first."""
    own = {"dozan's code": _code(), "python": platform.python_version()}
    own |= {name: metadata.version(name) for name in ("torch", "tokenizers", "safetensors")}
    store.set(f"code/{place.rank}", json.dumps(own))
    given = [json.loads(store.get(f"code/{rank}")) for rank in range(place.size)]
    lines = [f"  {key}: rank 0 has {given[0][key][:16]}, rank {rank} has {each[key][:16]}"
             for rank, each in enumerate(given) for key in own if each[key] != given[0][key]]  # fmt: skip
    store.set(f"compared/{place.rank}", "")
    if place.rank == 0:  # the store may be in this process
        store.wait([f"compared/{rank}" for rank in range(place.size)])
    if lines:
        raise InputError("the ranks run different code:\n" + "\n".join(lines) + "\ninstall the same everywhere, and "
                         "start again")  # fmt: skip


def _code() -> str:
    """SHA-256 of the package's own files."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def _watch_store(place: Place, world: World, store: Store | None) -> Store:
    """A store of the watch's own: its calls must wait for nobody else's. store: where its port is told; None: by way of
    the process group that is there."""
    import torch.distributed as dist

    if place.rank == 0:
        held = dist.TCPStore("localhost", 0, None, is_master=True, wait_for_workers=False)
        if store is not None:
            store.set("watch", str(held.port))
    port = world.from_first(lambda: held.port) if store is None else int(store.get("watch"))
    if place.rank:
        held = dist.TCPStore(place.address, port, None, is_master=False, wait_for_workers=False)
    return held
