"""The inside of the sandbox: gives up what it may do, then runs a program and its tests. Only the standard library.

Run as a script by `judge.sandbox` with -I. Standard input is one JSON object: code, tests, token, folder and limits;
argv[1] is the descriptor that each finished stage is written to, after the token. Nothing is caught: what the program
raises ends the process, and the exception hook tells of it.

Four guards, each told by name. limits: CPU, memory, size and number of files, no core dump. seccomp (Linux on x86-64
and ARM64): no process, program, signal, socket, tracing or namespace; capabilities are dropped. landlock (Linux from
5.13): nothing is changed outside the folder. audit: the same in Python's own audit events, for systems without them.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import struct
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

_MOST_FILES = 64
_SECCOMP: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "socket": 41, "kill": 62, "tkill": 200, "tgkill": 234,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "unshare": 272, "setns": 308, "mount": 165, "bpf": 321, "keyctl": 250, "shmget": 29,
        "msgget": 68, "semget": 64, "memfd_create": 319, "chmod": 90, "fchmod": 91, "fchmodat": 268, "chown": 92,
        "fchown": 93, "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
        "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "setrlimit": 160, "prlimit64": 302, "setpriority": 141,
        "setsid": 112, "setpgid": 109, "io_uring_setup": 425, "pidfd_send_signal": 424, "clone": 56,
    }),
    "aarch64": (0xC00000B7, {
        "execve": 221, "execveat": 281, "socket": 198, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
        "rt_tgsigqueueinfo": 240, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "unshare": 97,
        "setns": 268, "mount": 40, "bpf": 280, "keyctl": 219, "shmget": 194, "msgget": 186, "semget": 190,
        "memfd_create": 279, "fchmod": 52, "fchmodat": 53, "fchown": 55, "fchownat": 54, "utimensat": 88, "setxattr": 5,
        "lsetxattr": 6, "fsetxattr": 7, "setrlimit": 164, "prlimit64": 261, "setpriority": 140, "setsid": 157,
        "setpgid": 154, "io_uring_setup": 425, "pidfd_send_signal": 424, "clone": 220,
    }),
}  # fmt: skip
_CLONE3, _CLONE_THREAD = 435, 0x10000
_REFUSED = (
    "socket.", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system", "os.spawn", "subprocess.", "os.kill",
    "os.killpg", "pty.", "ctypes.", "resource.setrlimit", "os.chmod", "os.chown", "os.utime", "os.setxattr",
    "os.chflags", "signal.pthread_kill", "sys.addaudithook", "os.truncate", "fcntl.ioctl", "shutil.chown",
)  # fmt: skip
_PATHS = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "shutil.rmtree", "shutil.move")


def limit(seconds: int, memory_bytes: int, file_bytes: int) -> None:
    """CPU seconds, address space, the size of a file, open files; a core dump has no bytes."""
    for name, most in (
        ("RLIMIT_CPU", seconds), ("RLIMIT_AS", memory_bytes), ("RLIMIT_FSIZE", file_bytes), ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
    ):  # fmt: skip
        what = getattr(resource, name)
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def landlock(libc: ctypes.CDLL, folder: str) -> bool:
    """Allow changes to the file system in `folder` alone; False where the kernel has no Landlock."""
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    # Write, remove and make, then refer (2) and truncate (3), which came with these versions.
    handled = 0x1FF2 | (0x2000 if version >= 2 else 0) | (0x4000 if version >= 3 else 0)
    rules = libc.syscall(444, struct.pack("Q", handled), ctypes.c_size_t(8), 0)
    _require(rules >= 0, "landlock_create_ruleset")
    for path, allowed in ((folder, handled), (os.devnull, handled & 0x4002)):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _require(libc.syscall(445, rules, 1, struct.pack("=Qi", allowed, opened), 0) == 0, "landlock_add_rule")
        os.close(opened)
    _require(libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs")
    _require(libc.syscall(446, rules, 0) == 0, "landlock_restrict_self")
    os.close(rules)
    return True


def seccomp(libc: ctypes.CDLL) -> bool:
    """Refuse the calls of `_SECCOMP` and drop capabilities; False where there is no table or no seccomp."""
    if platform.machine() not in _SECCOMP or libc.prctl(21, 0, 0, 0, 0) != 0:
        return False
    architecture, refused = _SECCOMP[platform.machine()]
    allow, refuse, absent = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
    load, equal, at_least, has_bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    filters = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, 0x80000000), (load, 0, 0, 0)]
    # x32 numbers; on ARM64 nothing is so high.
    filters += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse), (equal, 0, 1, _CLONE3), (give, 0, 0, absent)]
    for name, number in refused.items():
        if name != "clone":
            filters += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    filters += [(equal, 0, 3, refused["clone"]), (load, 0, 0, 16), (has_bits, 1, 0, _CLONE_THREAD)]
    filters += [(give, 0, 0, refuse), (give, 0, 0, allow)]
    code = b"".join(struct.pack("=HBBI", *each) for each in filters)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(filters), ctypes.addressof(buffer))
    _require(libc.prctl(38, 1, 0, 0, 0) == 0, "no_new_privs")
    _require(libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)) == 0, "capset")
    _require(libc.prctl(22, 2, program, 0, 0) == 0, "seccomp")
    return True


def audit(folder: str) -> None:
    """Refuse in Python's audit events what the program has no use for; changes of files outside `folder` too."""
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    home, opened = folder + os.sep, 0

    def inside(path: Any) -> bool:
        return isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(home)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if event.startswith(_REFUSED):
            raise PermissionError(errno.EPERM, f"{event} is not allowed in the sandbox")
        if event == "open" and arguments[2] & writes and not isinstance(arguments[0], int):
            opened += 1
            if opened > _MOST_FILES or not (inside(arguments[0]) or arguments[0] == os.devnull):
                raise PermissionError(errno.EPERM, "writing there, or so often, is not allowed in the sandbox")
        if event in _PATHS and not all(inside(path) for path in arguments[:2] if isinstance(path, (str, bytes))):
            raise PermissionError(errno.EPERM, f"{event} outside its folder is not allowed in the sandbox")

    sys.addaudithook(hook)


def _require(done: bool, what: str) -> None:
    if not done:
        raise OSError(ctypes.get_errno(), f"the sandbox cannot be closed: {what}")


def main() -> None:
    """Close the sandbox, run the code, then each test in its names; tell of each stage."""
    task = json.loads(sys.stdin.buffer.read())
    tell = _teller(int(sys.argv[1]), task["token"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    folder = os.path.realpath(task["folder"])
    guards = ["limits", "audit"]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        guards += [name for name, given in (("landlock", landlock(libc, folder)),) if given]
        limit(task["seconds"], task["memory_bytes"], task["file_bytes"])
        guards += [name for name, given in (("seccomp", seccomp(libc)),) if given]
    else:
        limit(task["seconds"], task["memory_bytes"], task["file_bytes"])
    tell("guards", " ".join(guards))
    stage = "code"

    def failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        tell("error", f"{stage}\t{kind.__name__}: {str(error)[:300]}".replace("\n", " "))

    sys.excepthook = failed
    audit(folder)
    names: dict[str, Any] = {"__name__": "__answer__", "__builtins__": __builtins__}
    exec(compile(task["code"], "<answer>", "exec"), names)
    tell("stage", stage)
    for i, test in enumerate(task["tests"]):
        stage = f"test {i + 1}"
        exec(compile(test, f"<{stage}>", "exec"), names)
        tell("stage", stage)
    sys.stdout.flush()
    os._exit(0)


def _teller(descriptor: int, token: str) -> Callable[[str, str], None]:
    write = os.write  # the program may put another function in its place

    def tell(kind: str, text: str) -> None:
        write(descriptor, f"{token}\t{kind}\t{text}\n".encode(errors="replace"))

    return tell


if __name__ == "__main__":
    main()
