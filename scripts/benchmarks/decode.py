"""CTC decoders on the same emissions: ours beside others'."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from asr import files, recipe, runtime
from asr.data.corpora import manifest_source, open_corpora, sources_of
from asr.decode.beam import BeamDecoder, Knowledge
from asr.decode.decoder import gather_knowledge
from asr.decode.greedy import GreedyDecoder
from asr.records import Emissions
from asr.score.edits import word_errors
from asr.text.tokenise import PhoneTokeniser, Tokeniser
from asr.transcribe.corpus import plain_batches
from asr.transcribe.recogniser import Recogniser, recognise
from ctc_decoders import DECODERS, Decoder, Search
from recognisers import missing
from timing import Times, alternate, json_option, model_argument, ratios, repeats_option, report, spread

UNKNOWN = -10.0
"""What a word outside the language model's vocabulary earns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """What is decoded: an utterance's ``references`` and seconds of audio, of all ``emissions`` in batches."""

    tokeniser: Tokeniser
    emissions: list[Emissions]
    references: list[str]
    seconds: float

    @property
    def matrices(self) -> list[np.ndarray]:
        """Of each utterance (T', V)."""
        return [
            np.ascontiguousarray(m[:n]) for e in self.emissions for m, n in zip(e.log_probs, e.lengths, strict=True)
        ]


@click.command()
@model_argument
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@click.option(
    "--data", help="Data folder of the model's recipe, whose test split is decoded where no manifest is named."
)
@click.option("--lm", type=click.Path(path_type=Path), metavar="ARPA", help="Language model over words; default: none.")
@click.option("--alpha", default=0.5, show_default=True, help="Weight of its natural-log probabilities.")
@click.option("--beta", default=1.5, show_default=True, help="Earned by each word.")
@click.option("--beams", default="16,64,100", show_default=True)
@click.option("--token-threshold", default=-5.0, show_default=True, help="Tokens below it in a frame are not tried.")
@click.option("--score-threshold", default=10.0, show_default=True, help="Prefixes further behind are dropped.")
@repeats_option(default=7)
@json_option
def main(
    model: Path,
    manifest: Path | None,
    data: str | None,
    lm: Path | None,
    alpha: float,
    beta: float,
    beams: str,
    token_threshold: float,
    score_threshold: float,
    repeats: int,
    path: Path | None,
) -> None:
    """CTC decoders on the same emissions and beams, single-threaded, in processor time a second of audio; ours on every
    core besides. Thresholds are in nats, and everybody's."""
    read = read_set(model, manifest, data)
    chosen = recipe.Beam(
        language_model=lm and str(lm.absolute()),
        alpha=alpha,
        beta=beta,
        unknown=UNKNOWN,
        token_threshold=token_threshold,
        score_threshold=score_threshold,
    )
    knowledge = gather_knowledge(chosen, read.tokeniser, root=Path(), form="none")
    search = _search(read, chosen, knowledge, lm)
    peers = _present(search)
    figures: dict[str, Any] = {}
    leads = []
    for beam in map(int, beams.split(",")):
        times, texts = _measure(read, chosen, knowledge, search, peers, beam, repeats)
        click.echo(f"beam {beam}")
        for name, side in times.items():
            costs, wer = [1e3 * value / read.seconds for value in side], word_errors(read.references, texts[name]).rate
            figures[f"{name}, beam {beam}"] = {"ms_per_second": costs, "wer": wer}
            click.echo(f"  {name:18} {spread(costs):>28} ms a second of audio  WER {wer:.2%}")
        if peers:
            fastest = min(peers, key=lambda name: statistics.median(times[name]))
            lead = ratios(times[fastest], times["ours"])
            leads.append(statistics.median(lead))
            click.echo(f"  {spread(lead)} times as fast as {fastest}")
    report(
        figures, min(leads, default=None), "times as fast as the fastest peer, at the beam that suits us worst", path
    )


def read_set(model: Path, manifest: Path | None, data: str | None) -> Set:
    """A model's emissions of a manifest or, without one, of its recipe's test split."""
    recogniser = Recogniser.load(model)
    settings = recogniser.recipe
    sources = (manifest_source(manifest),) if manifest else sources_of(settings, "test")
    root = Path() if manifest else files.data_root(data, settings.data)
    emissions, references, samples = [], [], 0
    batches = plain_batches(settings, open_corpora(sources, root).whole())
    for batch, each, _ in recognise(recogniser.network, GreedyDecoder(recogniser.tokeniser), batches):
        if len(batch):
            emissions.append(each)
            references += batch.texts
            samples += int(batch.waveform_lengths.sum())
    return Set(
        tokeniser=recogniser.tokeniser,
        emissions=emissions,
        references=references,
        seconds=samples / settings.features.sample_rate,
    )


def _search(read: Set, chosen: recipe.Beam, knowledge: Knowledge, lm: Path | None) -> Search:
    """What others are given; and says how hard the emissions are to prune."""
    tokeniser = read.tokeniser
    pronunciations = None
    if isinstance(tokeniser, PhoneTokeniser):
        if lm is None:
            raise click.UsageError("phones spell words through a lexicon and a language model: name one with --lm")
        pronunciations = {word: tokeniser.pronounce(word) for word in knowledge.words or ()}
    passing = np.concatenate([(matrix > chosen.token_threshold).sum(axis=1) for matrix in read.matrices])
    limit = int(np.quantile(passing, 0.999))
    click.echo(
        f"{len(read.references)} utterances, {read.seconds:.0f} s of audio, {len(passing)} frames, "
        f"{lm or 'no language model'}"
    )
    click.echo(f"{passing.mean():.2f} tokens a frame pass {chosen.token_threshold}, {limit} at most in 99.9 % of them")
    return Search(
        tokens=tokeniser.tokens,
        space=tokeniser.space,
        beam=0,
        token_threshold=chosen.token_threshold,
        token_limit=limit,
        score_threshold=chosen.score_threshold,
        arpa=lm,
        alpha=chosen.alpha,
        beta=chosen.beta,
        unknown=chosen.unknown,
        pronunciations=pronunciations,
    )


def _present(search: Search) -> dict[str, Decoder]:
    """The others' decoders that are installed and can do what is searched."""
    present = {}
    for name, peer in DECODERS.items():
        reason = missing(peer.modules)
        if search.arpa and not peer.language_model:
            reason = reason or "it takes no language model"
        if search.pronunciations and not peer.phones:
            reason = reason or "it takes no pronunciations"
        if reason:
            click.echo(f"  {name:18} left out: {reason}")
        else:
            present[name] = peer
    return present


def _measure(
    read: Set,
    chosen: recipe.Beam,
    knowledge: Knowledge,
    search: Search,
    peers: dict[str, Decoder],
    beam: int,
    repeats: int,
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Seconds of each side's runs: of the processor, but those of all our threads together by the wall clock; and each
    side's texts."""
    texts: dict[str, list[str]] = {}

    def ours(name: str, threads: int) -> Callable[[], None]:
        decoder = BeamDecoder(read.tokeniser, chosen.model_copy(update={"width": beam}), knowledge, threads=threads)

        def run() -> None:
            texts[name] = [best.text for each in read.emissions for best, *_ in decoder(each)]

        return run

    def theirs(name: str, peer: Decoder) -> Callable[[], None]:
        wanted = dataclasses.replace(search, beam=beam)
        decoder, inputs = peer.build(wanted), [peer.reads(matrix, wanted) for matrix in read.matrices]

        def run() -> None:
            texts[name] = [decoder(each) for each in inputs]

        return run

    sides = {"ours": ours("ours", 1), **{name: theirs(name, peer) for name, peer in peers.items()}}
    single: dict[str, Times] = alternate(sides, repeats, turn=0.1)
    every = f"ours, {runtime.cores()} threads"
    threaded = alternate({every: ours(every, 0)}, repeats, turn=0.1)
    return {**{name: side.processor for name, side in single.items()}, every: threaded[every].wall}, texts
