"""The benchmarks' own tests: each can be called, at a size at which its figures mean nothing."""

import importlib.util
from pathlib import Path

import click
import pytest
import toy
from click.testing import CliRunner

FOLDER = Path(__file__).parents[1] / "scripts" / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> click.Group:
    """What ``python scripts/benchmarks`` calls."""
    monkeypatch.syspath_prepend(str(FOLDER))  # as Python does where a folder is run
    spec = importlib.util.spec_from_file_location("benchmarks", FOLDER / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    group: click.Group = module.main
    return group


def run(benchmarks: click.Group, line: str) -> str:
    result = CliRunner().invoke(benchmarks, line.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_each_subject_is_a_command_of_its_file(benchmarks: click.Group) -> None:
    subjects = {path.stem for path in FOLDER.glob("*.py") if "\ndef main(" in path.read_text()} - {"__main__"}
    listed = run(benchmarks, "--help")
    assert set(benchmarks.list_commands(click.Context(benchmarks))) == subjects
    for subject in subjects:
        assert f"  {subject}  " in listed
        assert "Usage" in run(benchmarks, f"{subject} --help")


def test_the_stack_has_the_gradients_of_packed_lstms(benchmarks: click.Group) -> None:
    said = run(benchmarks, "encoder --layers 2 --hidden 8 --batch 3 --frames 7 --repeats 1 --device cpu")
    assert float(said.split("between gradients: ")[1].split()[0]) < 1e-4
    assert "times as fast as packed nn.LSTM: " in said


def test_training_is_told_apart_into_loader_and_steps(benchmarks: click.Group, tmp_path: Path) -> None:
    toy.write_corpus(tmp_path, 6, name="train")
    toy.write_corpus(tmp_path, 2, name="dev")
    recipe = toy.write_recipe(tmp_path / "recipe.yaml")
    said = run(benchmarks, f"train {recipe} --data {tmp_path} --batches 2 --repeats 1 --device cpu")
    for part in ("whole loop", "loader alone", "steps alone"):
        assert f"  {part}" in said
    assert "audio hours a core-hour" in said
    share = float(said.split("recurrent kernels: ")[1].split("%")[0])
    assert 0 < share < 100
    assert "times as fast as packed nn.LSTM" in said
