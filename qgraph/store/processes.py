"""Which process holds something, and whether it still lives. Linux and other Unix systems; no third party."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_START_TIME_FIELD = 19  # of /proc/PID/stat, counted after the command's name; the state is field 0
_DEAD = ("Z", "X", "x")


@dataclass(frozen=True, slots=True)
class Process:
    """A process that others can recognise, also after its pid was given to another one.

    Attributes:
        host: for people.
        space: where the pid means something: this start of this machine, this pid namespace (a container has its own).
        start: when it started, in the kernel's ticks; None where the system does not say.
    """

    host: str
    space: str
    pid: int
    start: str | None


def current_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    _, start = _state_and_start(pid)
    return Process(socket.gethostname(), _pid_space(), pid, start)


def is_alive(process: Process) -> bool | None:
    """Whether a process still runs; None where that cannot be known from here."""
    if process.space != _pid_space() or os.name != "posix":  # elsewhere, os.kill would end the process
        return None
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's: it exists
    state, start = _state_and_start(process.pid)
    if start is None or process.start is None:
        return None
    return start == process.start and state not in _DEAD


def _pid_space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - the target is no path
    except OSError:
        return socket.gethostname()
    return f"{boot}/{namespace}"


def _state_and_start(pid: int) -> tuple[str | None, str | None]:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, None
    fields = status.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    return fields[0], fields[_START_TIME_FIELD]
