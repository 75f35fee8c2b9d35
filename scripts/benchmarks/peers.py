"""Other recognisers' transcripts, for `asr score`."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import click

from asr import files, runtime
from recognisers import RECOGNISERS, missing, pocketsphinx
from recordings import read_clips
from timing import manifest_argument


@click.command()
@manifest_argument
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--lm", type=click.Path(path_type=Path), metavar="ARPA", help="For pocketsphinx, besides its own.")
def main(manifest: Path, out: Path, lm: Path | None) -> None:
    """Other recognisers' transcripts of MANIFEST's clips, for `asr score`: a file OUT/NAME.jsonl each."""
    clips = read_clips([manifest])
    recognisers = dict(RECOGNISERS)
    if lm:
        recognisers[f"pocketsphinx-{lm.stem}"] = dataclasses.replace(
            recognisers["pocketsphinx"], build=functools.partial(pocketsphinx, language_model=lm)
        )
    for name, peer in recognisers.items():
        if reason := missing(peer.modules):
            click.echo(f"{name} left out: {reason}")
            continue
        listen = peer.build(runtime.cores())
        texts = [listen(clip.samples) for clip in clips]
        with files.replacing(out / f"{name}.jsonl") as file:
            for clip, text in zip(clips, texts, strict=True):
                file.write(json.dumps({"id": clip.id, "hyp": text}, ensure_ascii=False) + "\n")
        click.echo(f"{out / f'{name}.jsonl'}: {len(texts)} clips")
