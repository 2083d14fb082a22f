"""Network file systems are told from the mount table."""

from __future__ import annotations

from pathlib import Path

import pytest

from qgraph.errors import StoreError
from qgraph.store import database
from qgraph.store.file_systems import network_file_system

# Recorded on a workstation with home directories on NFS and a Windows share.
MOUNTS = """\
/dev/nvme0n1p2 / ext4 rw,relatime,errors=remount-ro 0 0
proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0
tmpfs /run tmpfs rw,nosuid,nodev,size=1631300k,mode=755 0 0
/dev/nvme0n1p1 /boot/efi vfat rw,relatime,fmask=0077 0 0
auto.home /home autofs rw,relatime,fd=7,pgrp=1177,timeout=300 0 0
filer.example.net:/vol/home/me /home/me nfs4 rw,relatime,vers=4.2,rsize=1048576,wsize=1048576,hard 0 0
/dev/mapper/scratch /home/me/scratch xfs rw,relatime 0 0
//winserver/models /mnt/models\\040and\\040data cifs rw,relatime,vers=3.1.1,cache=strict 0 0
me@cluster:/data /media/cluster fuse.sshfs rw,nosuid,nodev,relatime 0 0
overlay /srv/container overlay rw,relatime 0 0
server:/old /mnt/hidden nfs rw 0 0
/dev/sdb1 /mnt/hidden ext4 rw 0 0
a line that is no mount
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/q.db", "nfs4"),
        ("/home/me", "nfs4"),
        ("/home/me/deep/inside/q.db", "nfs4"),
        ("/home/me/scratch/q.db", None),
        ("/home/meander/q.db", None),
        ("/tmp/q.db", None),
        ("/mnt/models and data/q.db", "cifs"),
        ("/media/cluster/q.db", "fuse.sshfs"),
        ("/srv/container/q.db", None),
        ("/mnt/hidden/q.db", None),
    ],
)
def test_the_nearest_mount_decides(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "share")
    mounts = f"/dev/a / ext4 rw 0 0\nserver:/share {tmp_path / 'share'} nfs rw 0 0\n"
    assert network_file_system(tmp_path / "link" / "q.db", mounts) == "nfs"
    assert network_file_system(tmp_path / "q.db", mounts) is None


def test_no_database_is_made_on_a_network_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "network_file_system", lambda path: "nfs4")
    with pytest.raises(StoreError, match=r"cannot share a file over a network: .*\(nfs4\); keep it on a local disk"):
        database.open_database(tmp_path / "q.db", create=True)
    assert list(tmp_path.iterdir()) == []
