"""Which file system a path is on, for the ones that SQLite's locks and shared memory do not work on. No third party.

Linux and other systems that have ``/proc/self/mounts``; elsewhere nothing is known.
"""

from __future__ import annotations

import re
from pathlib import Path

_NETWORK = frozenset(
    ("afs", "beegfs", "ceph", "cifs", "coda", "davfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb2",
     "smb3", "smbfs", "fuse.ceph", "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs",
     "fuse.sshfs")
)  # fmt: skip
_MOUNTS = Path("/proc/self/mounts")


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    r"""The type of the network file system that a path is on; None if it is on none, or nothing is known.

    Args:
        mounts: the mount table in the form of ``/proc/self/mounts``; None for that of this process.

    >>> network_file_system(Path("/home/me/q.db"), "/dev/a / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0")
    'nfs4'
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    found = Path(path).resolve()
    best = (0, "")
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = Path(_unescaped(fields[1]))
        # Of two mounts at one place the later one hides the earlier.
        if found.is_relative_to(place) and len(place.parts) >= best[0]:
            best = len(place.parts), fields[2]
    return best[1] if best[1] in _NETWORK else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
