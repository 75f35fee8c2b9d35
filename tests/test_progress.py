"""Progress is told on a narrow terminal and in a pipe."""

from __future__ import annotations

import io
import time

import pytest
import toy
from rich.console import Console
from rich.progress import MofNCompleteColumn, TextColumn

from asr.cli import options
from asr.recipe.reading import validate_recipe
from asr.train.monitor import Monitor, shown
from asr.train.picture import draw_training
from asr.train.state import Progress

FIGURES = {"loss": 1.234, "dev_wer": 0.4567, "blank_rate": 0.8, "gradient_norm": 12.3, "audio_hours_per_hour": 61.2}


def test_the_line_of_a_run_fits_80_columns_and_keeps_step_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    raw = toy.recipe()
    settings = validate_recipe({**raw, "training": {**raw["training"], "epochs": 50}}, "toy").training
    monitor = Monitor(tmp_path, Progress(epoch=12, batch=345), settings, batches=1000)
    monitor._show(FIGURES)
    drawn = io.StringIO()
    Console(file=drawn, width=80, force_terminal=True, color_system=None).print(monitor._bar.get_renderable())
    [line] = drawn.getvalue().splitlines()
    assert len(line) <= 80
    assert line.startswith("epoch  13/50 ")
    assert "12345/50000" in line
    assert line.rstrip().endswith("-:--:--")  # no speed is known yet
    assert "loss 1.234" in line
    assert "…" not in line


@pytest.mark.parametrize(
    ("room", "said"),
    [(9, ""), (10, "loss 1.234"), (30, "loss 1.234  WER 45.67%"), (None, "61 hours of audio an hour")],
)
def test_figures_are_left_out_whole_where_there_is_no_room(room, said):
    assert shown(FIGURES, room) == said or (room is None and said in shown(FIGURES, room))


def test_in_a_pipe_progress_is_a_plain_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(options, "PLAIN_SECONDS", 0.0)
    with options.progress_bar(TextColumn("{task.description}"), MofNCompleteColumn()) as progress:
        task = progress.add_task("decoding", total=10)
        progress.advance(task)
        monkeypatch.setattr(options, "PLAIN_SECONDS", 60.0)
        progress.advance(task)
        progress.advance(task)
    assert [line.split() for line in capsys.readouterr().err.splitlines()] == [
        ["decoding", "1/10"],
        ["decoding", "2/10"],
    ]


def test_what_is_slow_is_announced_and_what_is_quick_is_not(capsys):
    with options.said_if_slow("compiling", seconds=60):
        pass
    with options.said_if_slow("compiling", seconds=0.0):
        time.sleep(0.05)
    assert capsys.readouterr().err == "compiling\n"


def test_the_curves_say_whose_they_are(tmp_path):
    history = [{"kind": "step", "step": 10, "loss": 1.0, "blank_rate": 0.5, "gradient_norm": 1.0}]
    pictures = []
    for name in ("digits", "an4"):
        (tmp_path / name).mkdir()
        draw_training(history, tmp_path / name / "training.png")
        pictures.append((tmp_path / name / "training.png").read_bytes())
    assert pictures[0] != pictures[1]
