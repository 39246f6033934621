"""The cache of fetched files: bounded, shared by processes, in a folder that others may use too."""

import errno
import hashlib
import threading
import time
from pathlib import Path

import pytest

from rectiflow.data.file_cache import FileCache
from rectiflow.data.manifest import FileEntry


def written(path: Path, content: bytes) -> FileEntry:
    path.write_bytes(content)
    return FileEntry(
        path=path.name, num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )


def test_processes_that_share_a_cache_fetch_a_file_once(tmp_path):
    """Two caches of one folder know no more of each other than two processes do."""
    entry, fetched = written(tmp_path / "source", b"abc"), []

    def download(path: Path) -> None:
        fetched.append(path)
        time.sleep(0.05)
        path.write_bytes(b"abc")

    caches = [FileCache(tmp_path / "cache", 10) for _ in range(4)]
    found: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda c=cache: found.append(c.read(entry, download, Path.read_bytes))
        )
        for cache in caches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"abc"] * 4
    assert len(fetched) == 1


def test_what_a_killed_process_left_takes_no_room(tmp_path):
    folder = tmp_path / "cache"
    entry = written(tmp_path / "source", b"abc")
    folder.mkdir()
    for name in (entry.sha256, "0" * 64):
        (folder / f"{name}.3.partial").write_bytes(b"a")
    cache = FileCache(folder, 3)
    assert cache.read(entry, lambda path: path.write_bytes(b"abc"), Path.read_bytes) == b"abc"
    assert [path.name for path in folder.iterdir() if path.is_file()] == [entry.sha256]
    large = FileEntry(path="large", num_bytes=4, sha256="1" * 64)
    with pytest.raises(
        ValueError, match=r"data.cache_bytes must hold the largest file, 4 b.* got 3"
    ):
        cache.read(large, lambda path: None, Path.read_bytes)


def test_a_cache_on_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    entry = written(tmp_path / "source", b"abc")
    with pytest.raises(ValueError, match=r"must have locks, .* \(Function not.* data.cache_dir"):
        FileCache(tmp_path, 9).read(entry, lambda path: None, Path.read_bytes)


def test_files_of_others_in_the_folder_of_a_cache_are_left_alone(tmp_path):
    others = ["thesis.pdf", "thesis.pdf.partial", "a.1.partial", "0" * 63]
    for name in others:
        (tmp_path / name).write_bytes(b"x" * 100)
    entries = [written(tmp_path / f"source-{k}", bytes([k]) * 3) for k in range(4)]
    cache = FileCache(tmp_path, 6)
    for k, entry in enumerate(entries):
        content = bytes([k]) * 3
        assert cache.read(entry, lambda p, c=content: p.write_bytes(c), Path.read_bytes) == content
    (tmp_path / f"{entries[0].sha256[:3]}.partial").touch()
    cache.read(entries[0], lambda path: path.write_bytes(bytes(3)), Path.read_bytes)
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    cached = {entry.sha256 for entry in (entries[0], entries[3])}
    mine = {*(f"source-{k}" for k in range(4)), f"{entries[0].sha256[:3]}.partial"}
    assert names == {*others, *cached, *mine}


def test_a_file_on_its_way_keeps_its_room(tmp_path):
    """Two files of 3 bytes do not fit into 5: the second waits until the first can make room."""
    entries = [written(tmp_path / name, name.encode() * 3) for name in ("a", "b")]
    cache, begun, go_on = FileCache(tmp_path / "cache", 5), threading.Event(), threading.Event()

    def slowly(path: Path) -> None:
        begun.set()
        assert go_on.wait(20)
        path.write_bytes(b"aaa")

    first = threading.Thread(target=lambda: cache.fetch(entries[0], slowly))
    first.start()
    assert begun.wait(20)
    taken: list[bytes] = []
    second = threading.Thread(
        target=lambda: taken.append(
            cache.read(entries[1], lambda path: path.write_bytes(b"bbb"), Path.read_bytes)
        )
    )
    second.start()
    second.join(0.15)
    assert taken == []
    go_on.set()
    first.join()
    second.join(20)
    assert taken == [b"bbb"]
    assert [p.name for p in cache.folder.iterdir() if p.is_file()] == [entries[1].sha256]
