"""What strangers wrote cannot steer a terminal, and what libraries print does not come before our sentence."""

import json
import logging
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import click
import pytest
import soundfile
import toy
from click.testing import CliRunner
from rich.table import Table
from rich.text import Text

from asr import cli
from asr.cli.terminal import console, say, write
from asr.errors import AsrError
from asr.text.printable import printable

EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\r\u202egpj.exe\u2066\x7f"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\u001b[31mred"),
        ("a\rb\x08\x7f\x9b", r"a\u000db\u0008\u007f\u009b"),
        ("abc\u202edef", r"abc\u202edef"),
        ("caf\udce9.wav", r"caf\udce9.wav"),  # a name in Latin-1, as Python reads it
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("naïve İstanbul שלום میخواهم می‌خواهم क्‍ष 日本 😀", "naïve İstanbul שלום میخواهم می‌خواهم क्‍ष 日本 😀"),
    ],
)
def test_what_a_terminal_obeys_is_written_out_and_what_people_read_stays(text, shown):
    assert printable(text) == shown
    shown.encode()


def test_a_name_in_a_list_stays_on_its_line():
    assert printable("a\nasr: all is well\tb", line=True) == r"a\u000aasr: all is well\u0009b"


def test_json_says_the_same_after_it(capsys):
    event = {"text": EVIL + "\u2028é\n", "name": "caf\udce9"}
    say(json.dumps(event, ensure_ascii=False))
    printed = capsys.readouterr().out
    assert json.loads(printed) == event
    assert not STEERS.search(printed)


def test_a_document_for_another_program_is_as_it_is_and_on_a_terminal_printable(capsys, monkeypatch):
    write(EVIL)
    assert capsys.readouterr().out == EVIL + "\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    write(EVIL)
    assert not STEERS.search(capsys.readouterr().out)


def test_tables_and_lines_of_reports_are_printable_and_no_markup(capsys):
    table = Table("split", EVIL)
    table.add_row(EVIL, "[red]x[/red]")
    made = console()
    made.print(table)
    made.print(Text(f"warning: {EVIL} [noise]"))
    made.print(f"{EVIL} [noise]")
    printed = capsys.readouterr().out
    assert not STEERS.search(printed)
    assert "[red]x[/red]" in printed
    assert printed.count("[noise]") == 2


@pytest.mark.parametrize("kind", [AsrError, click.UsageError, lambda text: OSError(2, "gone", text)])
def test_every_error_is_printable(kind):
    @click.group(cls=cli._Commands)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise kind(EVIL)

    result = CliRunner().invoke(group, ["fail"])
    assert result.exit_code == 1
    assert result.stderr.startswith("asr: ")
    assert not STEERS.search(result.stderr)


def test_libraries_are_silent_and_the_package_is_not():
    @click.group(cls=cli._Commands)
    def group() -> None: ...

    @group.command()
    def chat() -> None:
        warnings.showwarning("a library's warning", UserWarning, "x.py", 1)
        logging.warning("a library's log")
        logging.getLogger("lhotse").warning("lhotse's log")
        logging.getLogger("asr.audio").warning(f"our warning {EVIL}")

    result = CliRunner().invoke(group, ["chat"])
    assert result.stderr.splitlines() == [printable(f"asr: our warning {EVIL}")]


def test_all_commands_print_through_one_door():
    for file in Path(cli.__file__).parent.glob("*.py"):
        prints = [line for line in file.read_text().splitlines() if re.search(r"click\.s?echo|\bprint\(", line)]
        assert file.name == "terminal.py" or all("erase" in line or ".print(" in line for line in prints), (
            file,
            prints,
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A stranger's recordings, manifest and model: names, speakers, ids and tokens all try to steer."""
    folder = tmp_path_factory.mktemp("evil")
    toy.save_babbler(folder / "model", alphabet=" a\x1b\u202e")
    soundfile.write(folder / "good.wav", toy.speak("abc"), toy.RATE)
    shutil.copy(folder / "good.wav", folder / "a\x1b[31mb\u202ec.wav")
    shutil.copy(folder / "good.wav", os.fsencode(folder) + b"/caf\xe9.wav")
    (folder / "bad\x1b]0;x\x07.wav").write_bytes(b"no audio")
    row = {"audio_filepath": "good.wav", "text": "aa", "id": f"id{EVIL}", "speaker": f"speaker{EVIL}"}
    (folder / "set.jsonl").write_text(json.dumps(row) + "\n")
    for name, text in (("ref", "a b"), ("hyp", f"a c{EVIL}")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"id": f"id{EVIL}", "text": text}) + "\n")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe", ".", "--model", "model"],
        ["transcribe", "good.wav", "--model", "model", "--format", "json"],
        ["evaluate", "model", "set.jsonl"],
        ["score", "ref.jsonl", "hyp.jsonl"],
        ["align", "bad\x1b]0;x\x07.wav", "--text", "a", "--model", "model"],
        ["listen", "--from-file", "good.wav", "--speed", "0", "--model", "model"],
        ["transcribe", "good.wav", "--model", f"no{EVIL}model"],
    ],
    ids=lambda arguments: " ".join(arguments[:1]),
)
def test_no_command_lets_a_strangers_text_steer_the_terminal(home, arguments, monkeypatch):
    monkeypatch.chdir(home)
    result = CliRunner().invoke(cli.main, arguments)
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    assert not STEERS.search(result.stdout)
    assert not STEERS.search(result.stderr)
    assert result.output


def test_decoders_print_nothing_before_our_sentence(home, tmp_path, capfd):
    (tmp_path / "noise.mp3").write_bytes(b"\xff\xfb\x90\x64" + bytes(range(256)) * 40)
    (tmp_path / "cut.flac").write_bytes(b"fLaC\0\0\0\x22" + b"\x10\0" * 400)
    (tmp_path / "lie.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0" + b"\0\0\0\x08moov" * 20)
    (tmp_path / "page.ogg").write_bytes(b"OggS\0\2" + b"\0" * 300)
    result = CliRunner().invoke(cli.main, ["transcribe", str(tmp_path), "--model", str(home / "model")])
    assert result.exit_code == 1
    assert len([line for line in result.stderr.splitlines() if line.startswith("asr: ")]) >= 3
    assert capfd.readouterr() == ("", "")  # what libraries write to the descriptors, past Python
