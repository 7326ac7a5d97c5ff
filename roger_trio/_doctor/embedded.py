"""What the facts about an embedded broker's file mean."""

from __future__ import annotations

from typing import Final

from .._brokers.embedded.probe import FileFacts
from .findings import Finding, error, ok, size, warning

_LITTLE: Final = 1024**3
"""Free bytes below which the disk may be full some day soon."""
_TOO_LITTLE: Final = 64 * 1024**2
"""Free bytes below which there is no room for the write-ahead log."""
_PRIVATE: Final = 0o077
"""Permission bits that let others at the file."""
_REMOTE: Final = frozenset(
    (
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "virtiofs",
    )
)
"""File systems that several machines share: their locks and shared memory do not reach SQLite."""
_FLEETING: Final = {
    "tmpfs": "is in memory, and gone with the next start of the machine",
    "ramfs": "is in memory, and gone with the next start of the machine",
    "overlay": "is a container's own layer, and gone with the container",
}


def judge(facts: FileFacts) -> list[Finding]:
    """Judge all facts."""
    findings = [_access(facts)]
    if facts.exists and not facts.problem:
        findings += [
            _lock(facts),
            _journal(facts),
            _integrity(facts),
            _mode(facts),
            _processes(facts),
        ]
    if facts.free or facts.file_system:
        findings += [_disk(facts), _file_system(facts)]
    return findings


def _access(facts: FileFacts) -> Finding:
    id = "file.access"
    if facts.problem:
        return error(
            id,
            f"{facts.path!r}: {facts.problem}",
            "make the folder, or change its owner or mode, or name another path in Config(broker="
            "'sqlite:PATH'); a file that is not ours has to be moved away",
        )
    if not facts.exists:
        return ok(id, f"{facts.path!r} is not there yet; the first node or client makes it")
    return ok(id, f"{facts.path!r}, {size(facts.size)}, SQLite {facts.sqlite}")


def _lock(facts: FileFacts) -> Finding:
    id = "file.lock"
    if facts.is_locked:
        return error(
            id,
            "another process keeps the write lock: no job can be enqueued, started or settled",
            "let that process go on if it was stopped (SIGCONT), or end it; this may tell which it "
            f"is: fuser -v {facts.path}",
        )
    return ok(id, "no process keeps others from writing")


def _journal(facts: FileFacts) -> Finding:
    id = "file.journal"
    if facts.journal != "wal":
        return error(
            id,
            f"the file has journal mode {facts.journal!r}, and needs 'wal'",
            "stop what uses it besides roger_trio; the next node sets it, where the file system "
            "bears it",
        )
    return ok(id, "a write-ahead log, synced with each commit")


def _integrity(facts: FileFacts) -> Finding:
    id = "file.integrity"
    if facts.damage is None:
        return warning(
            id,
            "not checked to the end: the file is large",
            f"when nothing uses it, run: sqlite3 {facts.path} 'PRAGMA integrity_check'",
        )
    if facts.damage:
        return error(
            id,
            f"SQLite finds damage: {facts.damage}",
            "stop all nodes, keep a copy of the file and those beside it, and recover what can be "
            f"with: sqlite3 {facts.path} .recover",
        )
    return ok(id, "SQLite finds no damage")


def _mode(facts: FileFacts) -> Finding:
    id = "file.mode"
    if facts.mode & _PRIVATE:
        return warning(
            id,
            f"mode {facts.mode:04o}: other users may read the jobs, or write them",
            f"chmod 600 {facts.path}",
        )
    return ok(id, f"mode {facts.mode:04o}: its owner's alone")


def _processes(facts: FileFacts) -> Finding:
    id, count = "file.processes", facts.processes
    use = "no process uses it" if not count else f"{count} process{'es' if count > 1 else ''}"
    if facts.dead and not count:
        return ok(id, f"{use}; what {facts.dead} dead ones had is taken back by the next that does")
    verb = "uses" if count == 1 else "use"
    return ok(id, use if not count else f"{use} {verb} it now")


def _disk(facts: FileFacts) -> Finding:
    id, free = "file.disk", size(facts.free)
    if facts.free < _TOO_LITTLE:
        return error(id, f"{free} free: jobs cannot be kept", "make room on the disk")
    if facts.free < _LITTLE:
        return warning(id, f"{free} free", "make room on the disk, or watch it")
    return ok(id, f"{free} free")


def _file_system(facts: FileFacts) -> Finding:
    id, kind = "file.system", facts.file_system
    if kind in _REMOTE:
        return error(
            id,
            f"{kind!r} may be used by several machines, and SQLite's locks do not reach that far: "
            "the file can be damaged",
            "put it on a disk of this machine; for nodes on several machines use RabbitMQ",
        )
    if kind in _FLEETING:
        return warning(
            id, f"{kind!r} {_FLEETING[kind]}", "put the file on a disk, or on a volume that stays"
        )
    return ok(id, f"{kind!r}" if kind else "of a type that this system does not tell")
