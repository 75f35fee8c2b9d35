"""asr warm-up."""

from __future__ import annotations

from pathlib import Path

import click

from asr.cli.options import model_directory, model_option
from asr.cli.terminal import say


@click.command("warm-up")
@model_option
def warm_up(model: Path | None) -> None:
    """Compile, once on this machine, what transcribe, listen, align and evaluate would wait for with a model."""
    import contextlib
    import time

    import numpy as np

    from asr.errors import TextError
    from asr.transcribe.recogniser import Recogniser

    began = time.perf_counter()
    recogniser = Recogniser.load(model_directory(model), device="cpu")
    recogniser.warm_up()
    noise = np.random.default_rng(0).normal(0, 0.1, recogniser.network.sample_rate).astype(np.float32)
    if hasattr(recogniser.network, "stream"):
        stream = recogniser.stream()
        stream.feed(noise)
        stream.finish()
    for text in recogniser.tokeniser.tokens[1:]:
        with contextlib.suppress(TextError):  # a sign that is no word by itself
            recogniser.align(noise, text.strip(), sample_rate=recogniser.network.sample_rate)
            break
    say(f"ready after {time.perf_counter() - began:.1f} s", err=True)
