"""One process at a time trains into a run folder, and a dead one's claim is nobody's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy

from asr import files
from asr.errors import TrainingError
from asr.recipe.reading import validate_recipe
from asr.train.acoustic import train_acoustic_model
from asr.train.claim import LOCK, claimed

HOLD = """
import os, sys
from pathlib import Path
from asr.train.claim import claimed
with claimed(Path(sys.argv[1])):
    if sys.argv[2] == "worker":  # as a loader's process, which outlives its parent for some seconds
        if os.fork() == 0:
            os.close(1)
            sys.stdin.read()
            os._exit(0)
    print("held", flush=True)
    if sys.argv[2] == "die":
        os._exit(9)
    sys.stdin.read()
"""


def hold(folder: Path, how: str = "stay") -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_training_says_which_process_on_which_host_has_the_folder(tmp_path):
    with hold(tmp_path) as holder:
        message = rf"being trained into by process {holder.pid} on {os.uname().nodename} since "
        with pytest.raises(TrainingError, match=message):
            train_acoustic_model(validate_recipe(toy.recipe(), "toy"), tmp_path, root=tmp_path)
        assert (tmp_path / LOCK).is_file()  # it is still the holder's
        holder.stdin.close()
    with claimed(tmp_path):
        pass


def test_a_dead_process_holds_nothing(tmp_path):
    with hold(tmp_path, "die") as holder:
        holder.wait(timeout=20)
        assert (tmp_path / LOCK).is_file()
        with claimed(tmp_path):
            assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()


def test_a_killed_runs_loader_processes_do_not_hold_its_folder(tmp_path):
    with hold(tmp_path, "worker") as holder:
        holder.kill()
        holder.wait(timeout=20)
        with claimed(tmp_path):
            pass
        holder.stdin.close()  # ends the orphan


def test_one_process_does_not_train_twice_into_a_folder_by_whatever_name(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    again = claimed(tmp_path / "link")
    with claimed(tmp_path / "run"), pytest.raises(TrainingError, match="by this process already"), again:
        pass


def test_nothing_is_left_of_a_claim_on_a_folder_that_was_not_there(tmp_path):
    with claimed(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_file_system_without_locks_is_trained_into_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "lockf", refuse)
    with claimed(tmp_path):
        pass
