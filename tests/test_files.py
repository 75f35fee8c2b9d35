"""Files appear whole or not at all, whoever else writes them, is killed, or finds the disk full."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from asr import files
from asr.errors import AsrError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_writers_at_once_do_not_mix(tmp_path):
    with files.replacing(tmp_path / "file") as first, files.replacing(tmp_path / "file") as second:
        first.write("first" * 1000)
        first.flush()
        second.write("second")
        second.flush()
    assert (tmp_path / "file").read_text() == "first" * 1000  # the last to finish
    assert names(tmp_path) == ["file"]


def test_a_reader_never_sees_a_torn_file_while_many_write(tmp_path):
    file, stop, failures = tmp_path / "file", threading.Event(), []
    file.write_text("0" * 5000)

    def write(digit: str) -> None:
        try:
            while not stop.is_set():
                with files.replacing(file) as handle:
                    for _ in range(50):
                        handle.write(digit * 100)
                        handle.flush()
        except AsrError as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(digit,)) for digit in "1234"]
    for writer in writers:
        writer.start()
    seen = [file.read_text() for _ in range(300)]
    stop.set()
    for writer in writers:
        writer.join()
    assert not failures
    assert all(len(text) == 5000 and len(set(text)) == 1 for text in seen)
    assert names(tmp_path) == ["file"]


def test_what_killed_writers_left_aside_is_gone_after_the_next_write(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from asr.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as one, replacing(Path(sys.argv[1])) as two:\n"
        "    one.write('half'); one.flush(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "file")], check=False, timeout=60)
    assert len(names(tmp_path)) == 2
    with files.replacing(tmp_path / "file") as handle:
        handle.write("whole")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "whole"


def test_an_aside_of_a_live_writer_is_left_to_it(tmp_path):
    with files.replacing(tmp_path / "file") as slow:
        slow.write("slow")
        with files.replacing(tmp_path / "file") as quick:
            quick.write("quick")
        assert (tmp_path / "file").read_text() == "quick"
    assert (tmp_path / "file").read_text() == "slow"


def test_a_file_system_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with files.replacing(tmp_path / "file") as first, files.replacing(tmp_path / "file") as second:
        first.write("first")
        second.write("second")
    assert (tmp_path / "file").read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_a_link_put_where_the_aside_would_be_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".file.0.partial").symlink_to("precious")
    with pytest.raises(AsrError, match="file cannot be written"), files.replacing(tmp_path / "file") as handle:
        handle.write("text")
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_full_disk_is_a_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files.os, "fsync", full)
    message = r"file cannot be written: No space left on device$"
    with pytest.raises(AsrError, match=message), files.replacing(tmp_path / "file") as handle:
        handle.write("new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_disk_that_fills_while_torch_saves_is_the_same_sentence(tmp_path, size):
    (tmp_path / "state.pt").symlink_to("/dev/full")
    message = r"state.pt cannot be written: No space left on device$"
    with pytest.raises(AsrError, match=message), files.replacing(tmp_path / "state.pt", "wb") as handle:
        torch.save({"weights": torch.zeros(size)}, handle)


def test_other_errors_of_a_writer_are_not_taken_for_the_disk(tmp_path):
    with pytest.raises(RuntimeError, match="ours"), files.replacing(tmp_path / "file"):
        raise RuntimeError("ours")
