"""A LibriSpeech split arrives whole or not at all, and goes on from where it was cut."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from asr import recipe
from asr.data import download
from asr.data.corpora import open_corpora
from asr.data.download import download_librispeech
from asr.errors import CorpusError, DownloadError

SPLIT = "dev-clean"


def archive(members: dict[str, bytes]) -> bytes:
    """A .tar.gz of the members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


GOOD = archive(
    {
        "LibriSpeech/README.TXT": b"about",
        f"LibriSpeech/{SPLIT}/84/121123/84-121123.trans.txt": b"84-121123-0000 GO ON\n",
        f"LibriSpeech/{SPLIT}/84/121123/84-121123-0000.flac": b"not really",
    }
)


@dataclass
class Mirror:
    """An HTTP server on this machine, and what it saw. ``cut_after`` bytes it closes the connection, once."""

    url: str = ""
    content: bytes = GOOD
    cut_after: int | None = None
    ranges: bool = True
    seen: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range header

    @property
    def checksums(self) -> dict[str, str]:
        return {SPLIT: hashlib.sha256(self.content).hexdigest()}


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    served = Mirror()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            served.seen.append((self.path, asked))
            if self.path != f"/12/{SPLIT}.tar.gz":
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and served.ranges else 0
            if start and start >= len(served.content):
                self.send_error(416)
                return
            body = served.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
            self.end_headers()
            self.wfile.write(body[: served.cut_after])
            served.cut_after = None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}/12"
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "corpora" / "LibriSpeech"


def contents(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ----------------------------------------------------------------------------------------------------- whole


def test_a_good_download_is_unpacked_to_its_split_and_leaves_nothing_else(mirror, folder):
    download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert contents(folder) == [SPLIT]
    transcript = folder / SPLIT / "84" / "121123" / "84-121123.trans.txt"
    assert transcript.read_text() == "84-121123-0000 GO ON\n"
    assert mirror.seen == [(f"/12/{SPLIT}.tar.gz", None)]


def test_a_split_that_is_there_is_not_asked_for(mirror, folder):
    (folder / SPLIT).mkdir(parents=True)
    download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert mirror.seen == []


def test_a_recipe_that_asks_for_the_download_opens_the_corpus(mirror, tmp_path, monkeypatch):
    monkeypatch.setitem(download.SHA256, SPLIT, mirror.checksums[SPLIT])
    source = recipe.LibriSpeechCorpus(kind="librispeech", splits=(SPLIT,), download=True, mirror=mirror.url + "/")
    cuts = list(open_corpora((source,), tmp_path).whole())
    assert [(cut.id, cut.supervisions[0].text) for cut in cuts] == [("84-121123-0000", "GO ON")]


# --------------------------------------------------------------------------------------------------- resumed


def test_a_cut_connection_keeps_what_came_and_the_next_call_goes_on_from_there(mirror, folder):
    mirror.cut_after = 100
    with pytest.raises(DownloadError, match=rf"cut at 100 of {len(GOOD)} bytes; 100 bytes are kept"):
        download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert contents(folder) == [f"{SPLIT}.tar.gz.part"]
    assert (folder / f"{SPLIT}.tar.gz.part").read_bytes() == GOOD[:100]

    download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert [asked for _, asked in mirror.seen] == [None, "bytes=100-"]
    assert contents(folder) == [SPLIT]


def test_a_server_without_ranges_sends_the_whole_again(mirror, folder):
    folder.mkdir(parents=True)
    (folder / f"{SPLIT}.tar.gz.part").write_bytes(GOOD[:100])
    mirror.ranges = False
    download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert contents(folder) == [SPLIT]


def test_a_part_that_is_already_whole_is_taken(mirror, folder):
    folder.mkdir(parents=True)
    (folder / f"{SPLIT}.tar.gz.part").write_bytes(GOOD)
    download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert [asked for _, asked in mirror.seen] == [f"bytes={len(GOOD)}-"]
    assert contents(folder) == [SPLIT]


# --------------------------------------------------------------------------------------------------- refused


def test_a_wrong_checksum_throws_the_file_away(mirror, folder):
    with pytest.raises(DownloadError, match="wrong checksum, expected SHA-256 0000") as caught:
        download_librispeech(folder, [SPLIT], mirror.url, {SPLIT: "0" * 64})
    assert mirror.checksums[SPLIT] in str(caught.value)
    assert contents(folder) == []


def test_a_spoilt_part_is_thrown_away_so_that_the_next_call_starts_afresh(mirror, folder):
    folder.mkdir(parents=True)
    (folder / f"{SPLIT}.tar.gz.part").write_bytes(b"x" * 100)
    with pytest.raises(DownloadError, match="wrong checksum"):
        download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert contents(folder) == [SPLIT]


def test_a_file_that_the_server_lacks_is_named(mirror, folder):
    with pytest.raises(DownloadError, match=r"/12/dev-other\.tar\.gz: the server answered 404 Not Found"):
        download_librispeech(folder, ["dev-other"], mirror.url, {"dev-other": "0" * 64})
    assert contents(folder) == []


def test_an_unknown_split_is_refused_with_the_known_ones(mirror, folder):
    with pytest.raises(CorpusError, match=r'"dev-cleen" has no known checksum; known: dev-clean, dev-other'):
        download_librispeech(folder, ["dev-cleen"], mirror.url)
    assert mirror.seen == []


def test_a_server_that_is_not_there_is_a_sentence(mirror, folder):
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:1/dev-clean\.tar\.gz: .*0 bytes are kept"):
        download_librispeech(folder, [SPLIT], "http://127.0.0.1:1", mirror.checksums)


@pytest.mark.parametrize("address", ["openslr.org/12", "", "/etc"])
def test_a_mirror_without_a_scheme_is_a_sentence(folder, address):
    with pytest.raises(DownloadError, match="is not an address"):
        download_librispeech(folder, [SPLIT], address)


def test_a_folder_that_cannot_be_made_is_a_sentence(mirror, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match=r"dev-clean cannot be stored in .*: Not a directory"):
        download_librispeech(tmp_path / "file" / "LibriSpeech", [SPLIT], mirror.url, mirror.checksums)


@pytest.mark.parametrize("name", ["../escaped.txt", "../../../escaped.txt", "LibriSpeech/../../../escaped.txt"])
def test_a_member_that_leaves_the_folder_is_refused_and_writes_nothing(mirror, folder, tmp_path, name):
    mirror.content = archive({f"LibriSpeech/{SPLIT}/84/1/84-1.trans.txt": b"84-1-0000 GO ON\n", name: b"gotcha"})
    with pytest.raises(DownloadError, match=r"dev-clean\.tar\.gz does not unpack: .*escaped\.txt"):
        download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert list(tmp_path.rglob("escaped.txt")) == []
    assert contents(folder) == [f"{SPLIT}.tar.gz"]


def test_a_member_with_an_absolute_name_writes_nothing_there(mirror, folder, tmp_path):
    mirror.content = archive({f"LibriSpeech/{SPLIT}/README": b"", f"{tmp_path}/escaped.txt": b"gotcha"})
    download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert list(tmp_path.rglob("escaped.txt")) == []
    assert contents(folder) == [SPLIT]


def test_a_link_that_leaves_the_folder_is_refused(mirror, folder):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo(f"LibriSpeech/{SPLIT}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    mirror.content = buffer.getvalue()
    with pytest.raises(DownloadError, match="does not unpack"):
        download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert not (folder / SPLIT).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive({"LibriSpeech/other/README": b""}), "holds no LibriSpeech/dev-clean"),
        (b"no archive at all", "does not unpack"),
        (GOOD[: len(GOOD) // 2], "does not unpack"),
    ],
    ids=["another split", "no archive", "cut archive"],
)
def test_an_archive_of_something_else_is_refused(mirror, folder, content, message):
    mirror.content = content
    with pytest.raises(DownloadError, match=message):
        download_librispeech(folder, [SPLIT], mirror.url, mirror.checksums)
    assert not (folder / SPLIT).exists()
