"""asr adapt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import FOLDER, MODEL
from asr.cli.terminal import say

if TYPE_CHECKING:
    from asr.decode.ngram import NgramModel

NAMED = 10
"""Words named in a sentence about many."""


@click.command()
@click.argument("model", type=MODEL)
@click.option(
    "--text", "texts", multiple=True, required=True, metavar="FILE...", help='One sentence a line, plain or .gz; "-".'
)
@click.argument("more", nargs=-1, metavar="")
@click.option("-o", "--out", type=FOLDER, required=True, metavar="DIR", help="The model directory to write.")
@click.option(
    "--weight",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="X",
    help="The text's share in the language model; default: what suits parts of the text that are held out.",
)
def adapt(model: Path, texts: tuple[str, ...], more: tuple[str, ...], out: Path, weight: float | None) -> None:
    """Copy MODEL, english or a model directory, to DIR, and teach the copy the words and the phrases of a text.

    Nothing is trained: new words are pronounced as the model's were, and its language model is mixed with the text's.
    Decoder settings stay as they are; asr tune fits them anew.
    """
    from asr import adapt as adapting
    from asr.checkpoint import load_description
    from asr.text.sentences import read_sentences
    from asr.train.mix import find_share, mix

    settings, _ = load_description(model)
    sentences = read_sentences([*texts, *more], settings.text.form)
    share = weight or (lambda own, lines: find_share(own, lines, lambda rest: _estimate(rest, adapting.ORDER)))
    learnt = adapting.adapt(model, sentences, out, share=share, estimate=_estimate, mix=mix)
    if learnt.lacking:
        say(f"asr: {len(learnt.lacking)} words cannot be written by this model{_named(learnt.lacking)}", err=True)
    how = f"{learnt.weight:.0%} of its language model" if learnt.weight else "a language model, which it lacked,"
    say(
        f"{out}: {len(learnt.new)} new words{_named(learnt.new)}; {how} from {learnt.sentences} sentences of "
        f"{learnt.words} different words"
    )


def _estimate(sentences: Iterable[Sequence[str]], order: int) -> NgramModel:
    from asr.decode.ngram import NgramModel
    from asr.train.kneser_ney import estimate, read_text

    return NgramModel.from_arpa(estimate(read_text(sentences), order=order).model)


def _named(words: Sequence[str]) -> str:
    """The first of ``words``, and how many more there are."""
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return f" ({', '.join(words[:NAMED])}{more})" if words else ""
