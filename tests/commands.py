"""`asr` commands, each in a process of its own, without the seconds that importing torch takes each time.

They are forked from a process that has imported what a command imports and run nothing. To a test they are what a shell
starts: arguments, a working directory, three streams, signals, an exit code.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "asr.cli",
        "asr.evaluate",
        "asr.report",
        "asr.train.acoustic",
        "asr.train.check",
        "asr.transcribe.alignment",
        "asr.transcribe.live",
        "asr.tune",
        "lhotse",
        "matplotlib.figure",
        "torch.utils.tensorboard",
        "torchaudio",
    ]
)


@dataclass(frozen=True)
class Done:
    """As ``subprocess.CompletedProcess`` has it."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Command:
    """A command that runs, in a session of its own."""

    def __init__(self, *arguments: object, cwd: Path | None = None, stdin: bytes = b"", pictures: bool = True) -> None:
        """``pictures``: whether a training draws training.png, which takes more than a tiny one's steps."""
        self._folder = tempfile.TemporaryDirectory()
        streams = [str(Path(self._folder.name) / name) for name in ("stdin", "stdout", "stderr")]
        Path(streams[0]).write_bytes(stdin)
        words = [str(argument) for argument in arguments]
        self._process = SERVER.Process(target=_run, args=(words, str(cwd or Path.cwd()), streams, pictures))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, minus the signal where one ended it."""
        return self._process.exitcode

    def stderr(self) -> str:
        """What it has said until now."""
        path = Path(self._folder.name) / "stderr"
        return path.read_text() if path.exists() else ""

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signals the command and the processes it started, as a terminal and a batch system do."""
        os.killpg(self.pid, number)

    def wait(self, seconds: float = 240.0) -> Done:
        """Its end, or an AssertionError after ``seconds``."""
        self._process.join(seconds)
        if self.returncode is None:
            self._process.kill()
            raise AssertionError(f"still running after {seconds:g} s: {self.stderr()}")
        stdout, stderr = ((Path(self._folder.name) / name).read_bytes() for name in ("stdout", "stderr"))
        self._folder.cleanup()
        return Done(self.returncode, stdout, stderr)


def run(*arguments: object, cwd: Path | None = None, stdin: bytes | None = None, pictures: bool = True) -> Done:
    return Command(*arguments, cwd=cwd, stdin=stdin or b"", pictures=pictures).wait()


def _run(arguments: list[str], cwd: str, streams: list[str], pictures: bool = True) -> None:
    """In the forked process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, path in enumerate(streams):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - multiprocessing closed the one there was
    os.chdir(cwd)
    sys.argv = ["asr", *arguments]
    if not pictures:
        from asr.train.monitor import Monitor

        Monitor._draw = lambda _monitor: None  # type: ignore[method-assign]
    from asr.cli import main

    main()
