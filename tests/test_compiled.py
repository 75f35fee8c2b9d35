"""The inner loops run wherever the package is installed, be there no folder at all that can be written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import asr
from asr.decode import compiled as module
from asr.decode.compiled import compiled


def twice(number):
    return 2 * number


@pytest.fixture
def nowhere(monkeypatch):
    """numba finds no folder of its own to write to."""
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")


@pytest.mark.usefixtures("nowhere")
def test_where_numba_finds_no_folder_the_packages_own_cache_keeps_what_is_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("ASR_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(twice)
    assert compiled(twice)(21) == 42
    assert list(tmp_path.glob("compiled/**/*.nbi"))
    assert numba.config.CACHE_DIR == ""


@pytest.mark.usefixtures("nowhere")
def test_where_nothing_can_be_written_it_is_compiled_in_memory(monkeypatch):
    monkeypatch.setenv("ASR_CACHE", os.devnull + "/asr")
    assert compiled(fastmath=True)(twice)(21) == 42


@pytest.mark.usefixtures("nowhere")
def test_a_disk_that_is_full_costs_time_and_not_the_command(monkeypatch, tmp_path):
    monkeypatch.setenv("ASR_CACHE", str(tmp_path))
    monkeypatch.setattr(module.FunctionCache, "save_overload", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert compiled(twice)(21) == 42


@pytest.mark.usefixtures("nowhere")
def test_a_torn_file_in_the_cache_is_compiled_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("ASR_CACHE", str(tmp_path))
    compiled(twice)(21)
    for file in tmp_path.glob("compiled/**/*.nb?"):
        file.write_bytes(file.read_bytes()[:-9])
    assert compiled(twice)(21) == 42


def test_all_that_numba_compiles_goes_through_one_door():
    for file in (Path(asr.__file__).parent).rglob("*.py"):
        if file.name != "compiled.py":
            assert not re.search(r"njit|cache=True|import numba", file.read_text()), file


def test_a_change_of_any_file_of_the_room_makes_what_is_kept_stale(monkeypatch):
    def kept() -> object:
        return module._Cache(arithmetic)._cache_file._source_stamp

    before = kept()
    assert before == kept()
    assert "ngram.py" in {name for name, _, _ in before}
    monkeypatch.setattr(module, "_stamp", lambda: before[1:])
    assert kept() != before


def arithmetic(x: int) -> int:
    return x + 1


KERNEL = """
import numpy as np
from numba.core.cpu import CPUContext
from asr.decode.compiled import compiled

made_ready = []
CPUContext.load_additional_registries, make_ready = (
    lambda self: made_ready.append(make_ready(self)), CPUContext.load_additional_registries
)

@compiled
def sums(numbers):
    found = np.empty(len(numbers))
    total = 0.0
    for i in range(len(numbers)):
        total += numbers[i]
        found[i] = total
    return found

print(sums(np.array([3.0, 1.0, 2.0])), sum(sums.stats.cache_hits.values()), len(made_ready) > 0)
"""


def test_what_is_compiled_already_runs_without_numba_made_ready_to_compile(tmp_path):
    """It allocates, for which alone such code needs numba while it runs."""
    (tmp_path / "kernel.py").write_text(KERNEL)
    command = [sys.executable, tmp_path / "kernel.py"]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == "[3. 4. 6.] 0 True\n"
    assert second == "[3. 4. 6.] 1 False\n"
