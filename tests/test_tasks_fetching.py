"""Fetching the LocBench archives, against a server on this machine that drops connections."""

import hashlib
import http.server
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

import fetch_locbench
import locbench_download
import make_synthetic
from locbench_download import (
    RemoteFile,
    changed_downloads,
    fetch,
    files_for,
    list_remote,
    record,
)
from locbench_unpacking import FetchLocbenchError, unpack
from tests.test_locbench import write_yfcc
from tslab._files import DamagedFileError, FolderInUseError, only_writer

CONTENT = bytes(range(256)) * 4000


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` with ranges; the first ``drops`` answers end after ``limit`` bytes."""

    files: dict[str, bytes]
    drops: int = 0
    limit: int = 131_072
    ranges: bool = True
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files[self.path.strip("/")]
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.split("=")[1].rstrip("-")) if wanted and self.server.ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if self.server.drops:
            self.server.drops -= 1
            body = body[: self.server.limit]
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.asked = {"birdsnap.tar": CONTENT}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def remote(server: Server, name: str = "birdsnap.tar") -> RemoteFile:
    content = server.files[name]
    url = f"http://127.0.0.1:{server.server_address[1]}/{name}"
    return RemoteFile(name, url, len(content), hashlib.md5(content).hexdigest())


def test_an_interrupted_download_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.drops = 1
    with pytest.raises(FetchLocbenchError, match=r"131,072 of 1,024,000 bytes are kept.*same command again"):
        fetch(remote(server), tmp_path, retries=0)
    assert [p.name for p in (tmp_path / ".downloads").iterdir()] == ["birdsnap.tar.part"]
    done: list[int] = []
    path = fetch(remote(server), tmp_path, progress=done.append)
    assert path.read_bytes() == CONTENT and server.asked == [None, "bytes=131072-"]
    assert sum(done) == len(CONTENT) and list(path.parent.iterdir()) == [path]
    fetch(remote(server), tmp_path)
    assert len(server.asked) == 2  # verified files are not fetched again


def test_lost_connections_are_tried_again(server: Server, tmp_path: Path) -> None:
    server.drops = 3
    assert fetch(remote(server), tmp_path, pause=0).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=393216-"


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.drops, server.ranges = 1, False
    done: list[int] = []
    assert fetch(remote(server), tmp_path, pause=0, progress=done.append).read_bytes() == CONTENT
    assert sum(done) == len(CONTENT)


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    file = remote(server)
    wrong = RemoteFile(file.name, file.url, file.size, "0" * 32)
    with pytest.raises(FetchLocbenchError, match="checksum does not agree"):
        fetch(wrong, tmp_path)
    assert list((tmp_path / ".downloads").iterdir()) == []


def test_too_little_space_is_seen_before_anything_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FetchLocbenchError, match=r"the disk is full: birdsnap.tar needs"):
        fetch(remote(server), tmp_path)
    assert server.asked == []


def test_a_disk_that_fills_up_leaves_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: requests.Response, size: int) -> Iterator[bytes]:
        yield b"some bytes"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(requests.Response, "iter_content", full)
    with pytest.raises(FetchLocbenchError, match="the disk is full"):
        fetch(remote(server), tmp_path, retries=0)
    assert list((tmp_path / ".downloads").iterdir()) == []


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tar_of(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo("link")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            archive.addfile(entry)
    return path


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("prefix", ["", "yfcc/", "data/yfcc/"])
def test_archives_unpack_with_or_without_a_folder_of_their_own(make: Any, prefix: str, tmp_path: Path) -> None:
    members = {f"{prefix}class_names.csv": b"id,name", f"{prefix}features_inception/a.npy": b"x"}
    folder = unpack(make(tmp_path / "yfcc.archive", members), tmp_path / "data", "yfcc")
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == [
        "class_names.csv",
        "features_inception/a.npy",
    ]
    again = make(tmp_path / "more.archive", {f"{prefix}train_test_split.csv": b"", f"{prefix}readme": b""})
    unpack(again, tmp_path / "data", "yfcc")
    assert len(list(folder.iterdir())) == 4 and [p.name for p in (tmp_path / "data").iterdir()] == ["yfcc"]


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:\\evil.txt"])
@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_archives_that_write_outside_are_refused(make: Any, name: str, tmp_path: Path) -> None:
    archive = make(tmp_path / "evil.archive", {"good.txt": b"", name: b"x"})
    with pytest.raises(FetchLocbenchError, match="outside its folder"):
        unpack(archive, tmp_path / "root", "yfcc")
    assert list((tmp_path / "root").iterdir()) == [] and not (tmp_path / "evil.txt").exists()


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchLocbenchError, match="link or device"):
        unpack(tar_of(tmp_path / "a.tar", {"x": b""}, link="/etc/passwd"), tmp_path / "root", "yfcc")
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        packed.writestr(entry, "/etc/passwd")
    with pytest.raises(FetchLocbenchError, match="link or device"):
        unpack(archive, tmp_path / "root", "yfcc")


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_truncated_archives_leave_nothing(make: Any, tmp_path: Path) -> None:
    suffix = ".zip" if make is zip_of else ".tar"
    archive = make(tmp_path / f"yfcc{suffix}", {"yfcc/a.bin": CONTENT, "yfcc/b.bin": CONTENT})
    archive.write_bytes(archive.read_bytes()[: len(CONTENT)])
    with pytest.raises(FetchLocbenchError, match="truncated or damaged"):
        unpack(archive, tmp_path / "root", "yfcc")
    assert list((tmp_path / "root").iterdir()) == []


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(tmp_path / "yfcc.zip", {"a.bin": CONTENT})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(FetchLocbenchError, match="the disk is full"):
        unpack(archive, tmp_path / "root", "yfcc")
    assert list((tmp_path / "root").iterdir()) == []


def test_files_are_found_by_dataset_folder() -> None:
    names = [
        "BirdSnap.tar",
        "iNat_2017.zip",
        "inat-2018.tar.gz",
        "sustainbench_dhs_labels.zip",
        "ocean_mask.npy",
    ]
    listed = [RemoteFile(name, "", 1, "") for name in names]
    assert [file.folder for file in listed] == ["birdsnap", "inat_2017", "inat_2018", "sustainbench", None]
    assert files_for(["birdsnap", "birdsnap_ebird"], listed) == listed[:1]
    with pytest.raises(FetchLocbenchError, match=r"no file .* named after fmow \(files: BirdSnap.tar"):
        files_for(["fmow"], listed)


def test_the_figshare_listing_is_read_through_pooch(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [{"name": "yfcc.zip", "download_url": "https://x/1", "size": 5, "computed_md5": "ab", "id": 1}]

    def answer(url: str, **_: Any) -> Any:
        if "doi.org" in url:
            return SimpleNamespace(
                url="https://figshare.com/articles/x/26026798", status_code=200, raise_for_status=int
            )
        body: Any = [{"id": 26026798}] if "?doi=" in url else {"files": files}
        return SimpleNamespace(json=lambda: body, raise_for_status=lambda: None)

    monkeypatch.setattr(requests, "get", answer)
    with pytest.warns(UserWarning, match="doesn't specify which version"):
        assert list_remote() == [RemoteFile("yfcc.zip", "https://x/1", 5, "ab")]


def test_no_connection_is_an_error_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(FetchLocbenchError, match=r"by hand from https://doi.org/"):
        list_remote()


class TestCommandLine:
    """The script from listing to conversion, with the archive of one dataset."""

    @pytest.fixture
    def published(self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = write_yfcc(tmp_path / "made")
        archive = zip_of(
            tmp_path / "YFCC.zip",
            {str(p.relative_to(folder.parent)): p.read_bytes() for p in folder.rglob("*") if p.is_file()},
        )
        server.files["YFCC.zip"] = archive.read_bytes()
        monkeypatch.setattr(fetch_locbench, "list_remote", lambda: [remote(server, "YFCC.zip")])
        return tmp_path / "root"

    def test_listing_shows_sizes_and_terms_and_fetches_nothing(
        self, published: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fetch_locbench.main(["--list", "--root", str(published)]) == 0
        shown = capsys.readouterr().out
        assert "GB" in shown and "YFCC.zip" in shown and "CC BY-NC 4.0" in shown and "DHS" in shown
        assert not published.exists()

    def test_terms_must_be_accepted(self, published: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert fetch_locbench.main(["--names", "yfcc", "--root", str(published)]) == 1
        assert "not accepted" in capsys.readouterr().err and not published.exists()

    def test_fetch_verify_convert(self, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--names", "yfcc", "--root", str(published), "--accept-terms", "--keep-archives"]
        assert fetch_locbench.main(arguments) == 1  # four rows are not the published counts, and it says so
        assert "train rows" in capsys.readouterr().out
        book = json.loads((published / "checksums.json").read_text())
        content = (published / ".downloads/YFCC.zip").read_bytes()
        assert book["YFCC.zip"]["sha256"] == hashlib.sha256(content).hexdigest()
        assert changed_downloads(published) == []
        (published / ".downloads/YFCC.zip").write_bytes(content + b"x")
        assert fetch_locbench.main(["--verify", "--root", str(published)]) == 1
        assert "no longer the one that was fetched" in capsys.readouterr().out
        assert fetch_locbench.main(["--convert", str(tmp_path / "out"), "--root", str(published)]) == 0
        assert (tmp_path / "out/yfcc/meta.json").is_file()

    def test_nothing_to_verify_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert fetch_locbench.main(["--verify", "--root", str(tmp_path)]) == 1
        assert "no dataset folder" in capsys.readouterr().err


def test_recording_keeps_earlier_entries(server: Server, tmp_path: Path) -> None:
    path = fetch(remote(server), tmp_path)
    record(remote(server), path, tmp_path)
    other = RemoteFile("other.zip", "", 1, "")
    record(other, path, tmp_path)
    assert sorted(json.loads((tmp_path / locbench_download.RECORD).read_text())) == [
        "birdsnap.tar",
        "other.zip",
    ]
    assert os.listdir(tmp_path / ".downloads") == ["birdsnap.tar"]


@pytest.mark.parametrize("name", ["../evil.zip", "/etc/evil.zip", "a/b.zip", "..", "", "a\\b.zip", "C:evil", "a\0b"])
def test_names_of_remote_files_stay_inside_the_root(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchLocbenchError, match="outside its folder"):
        RemoteFile(name, "https://x/1", 5, "ab")
    listed = [{"name": name, "download_url": "https://x/1", "size": 5, "computed_md5": "ab"}]
    monkeypatch.setattr(
        locbench_download, "doi_to_repository", lambda doi, timeout=None: SimpleNamespace(api_response=listed)
    )
    with pytest.raises(FetchLocbenchError, match="do not trust this list"):
        list_remote()


def test_older_pooch_knows_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [{"name": "a.zip", "download_url": "https://x/1", "size": 5, "computed_md5": "ab"}]
    monkeypatch.setattr(locbench_download, "doi_to_repository", lambda doi: SimpleNamespace(api_response=listed))
    assert [file.name for file in list_remote()] == ["a.zip"]


def test_no_more_is_written_than_was_announced(server: Server, tmp_path: Path) -> None:
    file = remote(server)
    short = RemoteFile(file.name, file.url, 200_000, file.md5)
    with pytest.raises(FetchLocbenchError, match="more than the 200,000 bytes"):
        fetch(short, tmp_path)
    assert os.listdir(tmp_path / ".downloads") == []


def test_addresses_that_cannot_be_fetched_are_named(tmp_path: Path) -> None:
    with pytest.raises(FetchLocbenchError, match="file:///etc/passwd"):
        fetch(RemoteFile("a.zip", "file:///etc/passwd", 5, "ab"), tmp_path)


@pytest.mark.parametrize("bad", [{"retries": -1}, {"timeout": 0}, {"timeout": float("nan")}, {"pause": -1.0}])
def test_bad_numbers_are_refused_before_anything_is_written(bad: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        fetch(RemoteFile("a.zip", "https://x/1", 5, "ab"), tmp_path, **bad)
    assert os.listdir(tmp_path) == []


def test_two_fetchers_of_one_file_are_refused(server: Server, tmp_path: Path) -> None:
    lock = tmp_path / ".downloads" / ".birdsnap.tar.lock"
    with only_writer(lock, hint=""), pytest.raises(FolderInUseError, match="is being fetched already"):
        fetch(remote(server), tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_archives_that_would_grow_out_of_proportion_are_refused(kind: str, tmp_path: Path) -> None:
    """Forty megabytes of zeros from forty kilobytes: a zip bomb in small."""
    zeros, path = bytes(40 << 20), tmp_path / f"bomb.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.bin", zeros)
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as archive:  # type: ignore[call-overload]
            entry = tarfile.TarInfo("a.bin")
            entry.size = len(zeros)
            archive.addfile(entry, io.BytesIO(zeros))
    with pytest.raises(FetchLocbenchError, match="do not trust this file"):
        unpack(path, tmp_path / "root", "yfcc")
    assert os.listdir(tmp_path / "root") == []


def test_archives_larger_than_the_disk_are_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar_of(tmp_path / "a.tar", {"a.bin": CONTENT})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(FetchLocbenchError, match="the disk is full"):
        unpack(archive, tmp_path / "root", "yfcc")


def test_unpacking_needs_no_filter_and_takes_no_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian 12's Python 3.11.2 has no ``extractall(filter=)``."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        entry = tarfile.TarInfo("./yfcc/a.bin")
        entry.size, entry.mode, entry.uid = len(CONTENT), 0o4777, 0
        archive.addfile(entry, io.BytesIO(CONTENT))
    monkeypatch.delattr(tarfile.TarFile, "extractall")
    monkeypatch.delattr(tarfile.TarFile, "extract")
    folder_path = unpack(path, tmp_path / "root", "yfcc")
    assert (folder_path / "a.bin").read_bytes() == CONTENT
    assert (folder_path / "a.bin").stat().st_mode & 0o7111 == 0


def test_encrypted_archives_are_named(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.bin": b"x" * 100})
    content = bytearray(path.read_bytes())
    content[6] |= 1
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(FetchLocbenchError, match=r"a\.zip is truncated or damaged .*encrypted"):
        unpack(path, tmp_path / "root", "yfcc")


def test_what_a_killed_unpacking_left_is_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / "root/.unpacking-yfcc-abcdefgh").mkdir(parents=True)
    unpack(zip_of(tmp_path / "a.zip", {"a.bin": b"x"}), tmp_path / "root", "yfcc")
    assert os.listdir(tmp_path / "root") == ["yfcc"]


@pytest.mark.parametrize("content", ["{", "[]", '{"a.zip": 5}', '{"a.zip": {}}', "\udcff"])
def test_a_damaged_record_of_checksums_names_itself(content: str, tmp_path: Path) -> None:
    (tmp_path / locbench_download.RECORD).write_bytes(content.encode(errors="surrogateescape"))
    (tmp_path / "a.zip").write_bytes(b"x")
    with pytest.raises(DamagedFileError, match=r"checksums\.json.*remove it and run"):
        changed_downloads(tmp_path)
    with pytest.raises(DamagedFileError, match=r"checksums\.json"):
        record(RemoteFile("a.zip", "", 1, ""), tmp_path / "a.zip", tmp_path)


class TestNothingOfTheReaderIsLost:
    """Converting and generating into a folder that holds downloaded data."""

    def test_converting_in_place_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = write_yfcc(tmp_path)
        before = sorted(path.name for path in folder.rglob("*"))
        assert fetch_locbench.main(["--convert", str(tmp_path), "--root", str(tmp_path)]) == 1
        assert "another folder" in capsys.readouterr().err
        assert sorted(path.name for path in folder.rglob("*")) == before

    def test_generating_over_an_archive_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = write_yfcc(tmp_path)
        before = sorted(path.name for path in folder.rglob("*"))
        names = ["--names", "fmow", "yfcc", "--scale", "tiny"]
        assert make_synthetic.main([str(tmp_path), *names]) == 1
        assert "did not write" in capsys.readouterr().err
        assert sorted(path.name for path in folder.rglob("*")) == before and os.listdir(tmp_path) == ["yfcc"]

    def test_a_damaged_dataset_does_not_block_the_others(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_yfcc(tmp_path / "root")
        (tmp_path / "root/fmow").mkdir()
        out = tmp_path / "out"
        assert fetch_locbench.main(["--convert", str(out), "--root", str(tmp_path / "root")]) == 1
        assert "fmow" in capsys.readouterr().err and os.listdir(out) == ["yfcc"]


def test_a_changed_byte_inside_a_compressed_tar_is_seen(tmp_path: Path) -> None:
    """tarfile stops before the end of the stream, where the checksum stands."""
    archive = tmp_path / "birdsnap.tar.gz"
    content = os.urandom(100_000)  # cannot be compressed, so that a changed byte breaks nothing but the checksum
    with tarfile.open(archive, "w:gz") as packed:
        member = tarfile.TarInfo("photo.bin")
        member.size = len(content)
        packed.addfile(member, io.BytesIO(content))
    changed = bytearray(archive.read_bytes())
    changed[40_000] ^= 1
    archive.write_bytes(changed)
    with pytest.raises(FetchLocbenchError, match=r"birdsnap\.tar\.gz"):
        unpack(archive, tmp_path, "birdsnap")
    assert not (tmp_path / "birdsnap").exists()
