"""Benchmarks: `.venv/bin/python scripts/benchmarks SUBJECT …`, a file a subject.

Each compares its sides in one run, in turn, and prints the ratio last.
"""

from __future__ import annotations

import importlib

import click

from asr import runtime

SUBJECTS = {
    "align": "word starts against pocketsphinx's aligner; wrong words; a recording of an hour",
    "decode": "our CTC decoder against others (extra `peers`) on the same emissions",
    "encoder": "our recurrent stack against nn.LSTM(bidirectional=True) on packed sequences",
    "faults": "what becomes of a server under floods, full queues and disks, malformed and aborted requests",
    "live": "error rate against latency; memory and time a chunk over a long stream",
    "long": "a long recording made of clips, against the clips one by one: errors, drift, memory",
    "peers": "transcripts of other recognisers (extra `peers`), for asr score",
    "serve": "how many live streams and how many files a second a server carries; its memory over many requests",
    "silence": "error rate of clips with silence around them and at other levels; words that align loses",
    "speed": "a recording's real-time factor and errors beside other recognisers' (extra `peers`)",
    "step": "a training step's parts by criterion: the network, and CTC or CTC-CRF after it",
    "train": "audio hours a GPU-hour of the training loop, its loader and its steps alone; time in LSTM kernels",
}
"""A subject SUBJECT is the command ``main`` in SUBJECT.py."""


class _Subjects(click.Group):
    """Imports a subject only where it is called: most of them import torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (named by click)
        return list(SUBJECTS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (named by click)
        if cmd_name not in SUBJECTS:
            return None
        runtime.use_threads(watch=False)  # as asr's short commands do
        command: click.Command = importlib.import_module(cmd_name).main
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Subjects"):
            formatter.write_dl(list(SUBJECTS.items()))


@click.command(cls=_Subjects)
def main() -> None:
    """Side-by-side measurements; the ratio is printed last."""


if __name__ == "__main__":
    main(prog_name="scripts/benchmarks")
