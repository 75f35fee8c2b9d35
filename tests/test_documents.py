"""README and guides: links lead somewhere, and the commands in them are commands. No command is run here: that
there is such a command, which takes such options and arguments, is what is checked."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from asr.cli import main

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "recipes" / "guides").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "recipes" / "README.md", *GUIDES]
CODE = re.compile(r"^```.*?\n(.*?)^```|((?:^    .*\n)+)", re.MULTILINE | re.DOTALL)
"""A block between fences, or one of indented lines."""

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def shown(path: Path) -> str:
    """What a reader sees: comments are not shown."""
    return re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL)


def prose(path: Path) -> str:
    return CODE.sub("", shown(path))


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(text: str) -> Iterator[str]:
    """The lines of code blocks that call ``asr``, and such parts of pipes, without prompts. A line that ends with a
    backslash goes on."""
    for block in CODE.finditer(text):
        code = (block[1] or block[2]).replace("\\\n", " ")
        for line in map(str.strip, code.splitlines()):
            for part in line.removeprefix("$ ").split(" | "):
                if re.match(r"asr [a-z]", part):
                    yield part


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield from commands(command) if isinstance(command, click.Group) else [command]


@pytest.fixture
def refusal(monkeypatch):
    """What ``asr`` says of a command line that it does not take, or nothing. Commands do nothing."""
    monkeypatch.setattr("asr.runtime.use_threads", lambda _number, **_watch: None)
    for command in commands(main):
        monkeypatch.setattr(command, "callback", lambda **_arguments: None)

    def refusal(line: str) -> str:
        result = CliRunner().invoke(main, shlex.split(line, comments=True)[1:])
        return result.output if result.exit_code else ""

    return refusal


def test_readme_is_a_front_door():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@each_document
def test_every_relative_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not target.startswith(("http://", "https://")):
            file, _, anchor = target.partition("#")
            place = path.parent / file if file else path
            assert place.exists(), target
            assert not anchor or anchor in anchors(place), target


def test_readme_names_every_guide():
    assert {path.name for path in GUIDES} == set(re.findall(r"recipes/guides/([a-z-]+\.md)", shown(ROOT / "README.md")))


@each_document
def test_every_command_line_is_one_that_asr_takes(path, refusal):
    said = {line: refusal(line) for line in command_lines(shown(path))}
    assert not {line: why for line, why in said.items() if why}


@each_document
def test_every_command_named_in_a_sentence_exists_with_its_options(path, refusal):
    """``--help`` stands in for the arguments that a sentence leaves out."""
    named = [" ".join(line.split()) for line in re.findall(r"`(asr [a-z][^`]*)`", prose(path))]
    said = {line: refusal(f"{line} --help") for line in named}
    assert not {line: why for line, why in said.items() if why}


@each_document
def test_every_script_that_is_named_exists(path):
    for script in re.findall(r"(?<![\w/])scripts/[\w./]*\w", shown(path)):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize(
    "line",
    ["asr transcrib a", "asr align a --modle m", "asr info", "asr info a b", "asr lm x", "asr score a b --format x"],
)
def test_a_command_line_with_a_mistake_is_refused(line, refusal):
    assert refusal(line)


def test_the_main_jobs_output_is_that_of_the_run_that_is_recorded():
    run = json.loads((ROOT / "recipes" / "results" / "digits.json").read_text())
    meta, [decoding] = run["meta"], run["decoders"]
    training, results, scores = meta["training"], meta["results"], decoding["scores"]
    dev, text = results["dev"], (ROOT / "README.md").read_text()
    low, high = scores["wer_interval"]
    assert (
        f"models/digits: dev WER {dev['wer']:.2%}, CER {dev['cer']:.2%} at epoch {results['best_epoch']} "
        f"of {training['epochs']}, {meta['parameters'] / 1e6:.2f} M parameters, {training['minutes']:.1f} min\n"
    ) in text
    assert (
        f"held-out voices: WER {scores['wer']:.2%} [{low:.2%}, {high:.2%}]  CER {scores['cer']:.2%}  "
        f"{scores['words']} words in {scores['utterances']} utterances: {scores['substitutions']} substituted, "
        f"{scores['deletions']} deleted, {scores['insertions']} inserted\n"
    ) in text
