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
from dozan.world.watch import Watch

if TYPE_CHECKING:
    from torch.distributed import Store

    from dozan.world.group import World

WAIT = "DOZAN_WAIT_SECONDS"
"""The environment's name for how long ranks wait for each other; 10 seconds without it."""
_LOCAL = ("localhost", "127.0.0.1", "::1", socket.gethostname())
_POLL = 0.05
_NEWEST, _ALL = "dozan/newest", "all"
_COLLECTIVE = timedelta(hours=2)
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
    if not dist.is_initialized():
        seconds = _wait_seconds(environment)
        store = _together(_store(place, environment, seconds), place, seconds)
        _require_same_code(store, place)
        if place.address in _LOCAL and place.local_size == place.size:
            # Else the host's own name decides, which may not resolve.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=dist.PrefixStore("group", store), rank=place.rank,
            world_size=place.size, timeout=_COLLECTIVE,
        )  # fmt: skip
    elif "gloo" not in str(dist.get_backend_config()):
        raise InputError(f"the process group that is there has {dist.get_backend_config()}; dozan decides on the host: "
                         "begin it with backend 'cpu:gloo,cuda:nccl', or leave it to dozan")  # fmt: skip
    watch = Watch(_watch_store(place, world), place.rank, place.size)
    watch.begin()
    return world, watch


def _wait_seconds(environment: Mapping[str, str]) -> float:
    text = environment.get(WAIT, "10")
    with suppress(ValueError):
        if float(text) > 0:
            return float(text)
    raise InputError(f"{WAIT} is {text!r}: seconds that ranks wait for each other, such as 60")


def _store(place: Place, environment: Mapping[str, str], seconds: float) -> Store:
    """Where ranks meet: torchrun's own store if it has one, else the first rank's."""
    import torch.distributed as dist

    held = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    where = f"{place.address}:{place.port}"
    try:
        store = dist.TCPStore(
            place.address, place.port, None, is_master=place.rank == 0 and not held,
            timeout=timedelta(seconds=seconds), wait_for_workers=False,
        )  # fmt: skip
    except RuntimeError as error:
        if place.rank == 0 and not held and "address already in use" in str(error).lower():
            raise InputError(f"port {place.port} of {place.address} (MASTER_PORT) is in use by another process; wait "
                             f"for it, or give every rank another one, such as {_free_port()}") from None  # fmt: skip
        raise InputError(f"rank {place.rank} of {place.size}: nobody answers at {where} (MASTER_ADDR, MASTER_PORT) "
                         f"within {seconds:g} s: is rank 0 started, is the port open? {WAIT}=60 waits longer"
                         ) from None  # fmt: skip
    return store


def _free_port() -> int:
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


def _watch_store(place: Place, world: World) -> Store:
    """A store of the watch's own: its calls must wait for nobody else's."""
    import torch.distributed as dist

    if place.rank == 0:
        held = dist.TCPStore(place.address, 0, None, is_master=True, wait_for_workers=False)
    port = world.from_first(lambda: held.port)
    if place.rank:
        held = dist.TCPStore(place.address, port, None, is_master=False, wait_for_workers=False)
    return held
