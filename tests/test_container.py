"""The container of the server's guide: what its Dockerfile names is there, and is not kept from it by .dockerignore. No
container is built here."""

import ast
import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from asr.cli import main
from asr.serve.app import OPEN

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "recipes" / "guides" / "serving.md").read_text()
DOCKERFILE = re.search(r"```dockerfile\n(.*?)```", GUIDE, re.DOTALL)[1]
STEPS = [line.split(" ", 1) for line in DOCKERFILE.splitlines()]


def step(kind):
    """What is said after its only step of a kind."""
    [found] = [rest for name, rest in STEPS if name == kind]
    return found


def is_sent(path):
    """Whether .dockerignore lets ``path`` through: the last line that fits it or a folder above decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        names = [path, *map(str, Path(path).parents), *(Path(path).parts if "**/" in line else [])]
        if line and not line.startswith("#") and any(fnmatch.fnmatch(name, pattern) for name in names):
            sent = line.startswith("!")
    return sent


@pytest.mark.parametrize(
    "path",
    ["pyproject.toml", "README.md", "LICENSE", "asr/cli/serve.py", "asr/english/english.lm", "models/an4/recipe.yaml"],
)
def test_what_the_image_is_built_of_is_sent(path):
    assert path.startswith("models/") or (ROOT / path).exists()
    assert is_sent(path)


@pytest.mark.parametrize(
    "path",
    [".venv/bin/python", ".git/config", "key.txt", "data/an4/a.flac", "asr/__pycache__/x.pyc", "models/an4/training/x"],
)
def test_what_is_large_or_secret_is_not_sent(path):
    assert not is_sent(path)


def test_the_install_is_one_that_there_is():
    [line] = [rest for name, rest in STEPS if name == "RUN" and "pip" in rest]
    extras = re.search(r"/src\[(.*?)\]", line)[1].split(",")
    assert (
        set(extras) <= tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    )
    pins = re.search(r"/src/(\S+\.txt)", line)[1]
    assert (ROOT / pins).exists()
    assert is_sent(pins)


def test_what_the_image_runs_are_commands_of_asr():
    """With ``--help`` in place of doing it."""
    [model] = [rest.split()[1] for name, rest in STEPS if name == "COPY" and rest.startswith("models/")]
    command = json.loads(step("ENTRYPOINT")) + json.loads(step("CMD"))
    [warm_up] = [shlex.split(rest) for name, rest in STEPS if name == "RUN" and rest.startswith("asr ")]
    for words in (command, warm_up):
        assert words[0] == "asr"
        assert model in words
        result = CliRunner().invoke(main, [*words[1:], "--help"])
        assert result.exit_code == 0, result.output


def test_its_health_is_asked_of_a_path_that_needs_no_key():
    python = json.loads(step("HEALTHCHECK").split(" CMD ")[1])
    assert python[:2] == ["python", "-c"]
    [url] = [node.value for node in ast.walk(ast.parse(python[2])) if isinstance(node, ast.Constant)]
    assert url.removeprefix(f"http://127.0.0.1:{step('EXPOSE')}") in OPEN


def test_it_runs_as_nobody_in_particular_and_writes_to_its_volume_alone():
    assert f"useradd --create-home {step('USER')} " in DOCKERFILE
    assert step("ENV") == f"XDG_CACHE_HOME={step('VOLUME')}"
    names = [name for name, _ in STEPS]
    assert names.index("USER") < names.index("VOLUME") < names.index("ENTRYPOINT")
