#!/usr/bin/env python
"""Benchmarks, a subcommand a subject. Each compares its sides in one run, alternating, and prints the ratio last.

scripts/benchmark.py encoder    our recurrent stack against nn.LSTM(bidirectional=True) on packed sequences
scripts/benchmark.py loader     the training loop against the same loop fed with batches already in memory
scripts/benchmark.py step       a training step's parts by criterion: the network, and CTC or CTC-CRF after it
scripts/benchmark.py decode     our CTC decoder against others (extra `peers`) on the same emissions
scripts/benchmark.py peers      transcripts of other recognisers (extra `peers`), for asr score
scripts/benchmark.py align      word starts against pocketsphinx's aligner; wrong words; a recording of an hour
scripts/benchmark.py long       a long recording made of clips, against the clips one by one: errors, drift, memory
scripts/benchmark.py speed      a recording's real-time factor and errors beside other recognisers' (extra `peers`)
scripts/benchmark.py silence    error rate of clips with silence around them and at other levels; words that align loses
scripts/benchmark.py live       error rate against latency; memory and time a chunk over a long stream
"""

from __future__ import annotations

import dataclasses
import functools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from asr import files, recipe, runtime
from asr.recipe import reading
from asr.records import Emissions
from asr.text.tokenise import Tokeniser


def alternate(
    sides: dict[str, Callable[[], Any]],
    repeats: int,
    on: torch.device | None = None,
    clock: Callable[[], Any] = time.perf_counter,
    turn: float = 0.0,
) -> dict[str, list[float]]:
    """Seconds of each side, run in turn so that a busy machine is busy for all.

    A turn is a run, or as many as fill ``turn`` seconds: after another side's a short one would measure the caches. The
    clock is read when the device ``on`` has done what it was given; without turns it may be several clocks, an array.
    """
    synchronise = functools.partial(torch.cuda.synchronize, on) if on and on.type == "cuda" else lambda: None
    runs = dict.fromkeys(sides, 1)
    for name, run in sides.items():
        run()
        if turn:
            started = clock()
            run()
            runs[name] = max(1, round(turn / max(clock() - started, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            synchronise()
            started = clock()
            for _ in range(runs[name]):
                run()
            synchronise()
            times[name].append((clock() - started) / runs[name])
    return times


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def report(figures: dict[str, Any], ratio: float | None, label: str, path: Path | None) -> None:
    """``ratio`` is None where there was nothing to compare with."""
    if path:
        with files.replacing(path) as file:
            json.dump({**figures, "ratio": ratio}, file, indent=1)
    click.echo(f"{label}: {'no peer is installed' if ratio is None else f'{ratio:.2f}'}")


def run_asr(*arguments: str | Path) -> dict[str, float]:
    """What `asr` with these arguments takes, in a process of its own, the only child of this one."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from asr.cli import main; main()", *arguments], check=True)
    seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


@click.group()
def main() -> None:
    """Side-by-side measurements; the ratio is printed last."""


@main.command()
@click.option("--layers", default=3, show_default=True)
@click.option("--hidden", default=256, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--frames", default=250, show_default=True)
@click.option("--shortest", default=0.9, show_default=True, help="Of the lengths, as a share of the longest.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def encoder(
    layers: int, hidden: int, batch: int, frames: int, shortest: float, repeats: int, device: str, path: Path | None
) -> None:
    """A training step (forward, backward) of the recurrent stack, on the same weights, input and lengths.

    Padding is work that packed sequences save; a bucket of the loader holds lengths within a tenth of each other.
    """
    from asr.model.encoder import RecurrentStack

    on = runtime.pick_device(device)
    torch.manual_seed(0)
    settings = recipe.Lstm(layers=layers, hidden=hidden, layer_norm=False, dropout=0.0)
    ours = RecurrentStack(settings, 2 * hidden).to(on)
    theirs = nn.LSTM(2 * hidden, hidden, layers, batch_first=True, bidirectional=True).to(on)
    pairs = []
    for i, layer in enumerate(ours.layers):
        for suffix, cell in (("", layer.forwards), ("_reverse", layer.backwards)):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                pair = (getattr(cell, f"{name}_l0"), getattr(theirs, f"{name}_l{i}{suffix}"))
                pair[1].data.copy_(pair[0].data)
                pairs.append(pair)
    values = torch.randn(batch, frames, 2 * hidden, device=on)
    lengths = torch.linspace(shortest * frames, frames, batch).long()
    on_device = lengths.to(on)
    real = (torch.arange(frames)[None, :] < lengths[:, None]).to(on)[:, :, None]

    def step_ours() -> None:
        ours.zero_grad()
        outputs, _ = ours(values, on_device)
        (outputs * real).square().sum().backward()

    def step_theirs() -> None:
        theirs.zero_grad()
        packed = nn.utils.rnn.pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
        outputs.square().sum().backward()

    times = alternate({"ours": step_ours, "packed": step_theirs}, repeats, on)
    difference = max(float((a.grad - b.grad).abs().max() / b.grad.abs().max()) for a, b in pairs)
    click.echo(f"{layers}x{hidden}, batch {batch} x {frames} frames, {on}, {torch.get_num_threads()} threads")
    for name, values_s in times.items():
        click.echo(f"  {name:8} {spread(values_s)} s a step")
    click.echo(f"  largest relative difference between gradients: {difference:.1e}")
    ratio = statistics.median(b / a for a, b in zip(times["ours"], times["packed"], strict=True))
    report({**times, "gradient_difference": difference}, ratio, "times as fast as packed nn.LSTM", path)


@main.command()
@click.argument("recipe_path", default="recipes/an4.yaml", metavar="[RECIPE]")
@click.option("--data", metavar="DIR", help="Where relative corpus paths start; else $ASR_DATA, else the recipe's.")
@click.option("--batches", default=40, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--augment/--no-augment", default=False, help="With the recipe's speed perturbation, noise and reverberation."
)
@click.option("--json", "path", type=click.Path(path_type=Path))
def loader(
    recipe_path: str, data: str | None, batches: int, repeats: int, device: str, augment: bool, path: Path | None
) -> None:
    """Audio hours per hour of the training loop on the real loader, against the same batches held in memory."""
    import itertools
    import tempfile

    from asr.model.acoustic import AcousticModel
    from asr.records import Batch
    from asr.train.acoustic import loss_of
    from asr.train.prepare import prepare
    from asr.train.step import Trainer

    on = runtime.pick_device(device)
    overrides = [] if augment else ["augment.speed=[1.0]", "augment.noise=null", "augment.reverb=null"]
    settings = reading.load_recipe(Path(recipe_path), overrides)
    with tempfile.TemporaryDirectory() as folder:
        corpora = prepare(settings, Path(folder), root=files.data_root(data, settings.data), resume=False)
        model = AcousticModel(settings, len(corpora.tokeniser.tokens)).to(on).train()
    trainer = Trainer(model, loss_of, settings.training)

    def loaded() -> Iterator[Batch]:
        return itertools.islice(corpora.train(0), batches)

    cached = list(loaded())
    seconds = sum(int(b.waveform_lengths.sum()) for b in cached) / settings.features.sample_rate

    def run(source: Callable[[], Iterator[Batch]]) -> None:
        for batch in source():
            trainer.step([batch], settings.training.learning_rate)

    times = alternate({"loader": lambda: run(loaded), "memory": lambda: run(lambda: iter(cached))}, repeats, on)
    click.echo(f"{recipe_path}, {len(cached)} batches, {seconds:.0f} s of audio, {on}")
    for name, values in times.items():
        click.echo(f"  {name:8} {spread([seconds / v for v in values])} audio hours an hour")
    ratio = statistics.median(m / r for m, r in zip(times["memory"], times["loader"], strict=True))
    report({**times, "audio_seconds": seconds}, ratio, "share of the throughput with batches in memory", path)


@main.command()
@click.argument("recipe_path", default="recipes/mini_librispeech.yaml", metavar="[RECIPE]")
@click.option("--utterances", default=10, show_default=True)
@click.option("--seconds", default=12.0, show_default=True, help="Of noise in each.")
@click.option("--tokens", default=40, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key.")
@click.option("--json", "path", type=click.Path(path_type=Path))
def step(
    recipe_path: str,
    utterances: int,
    seconds: float,
    tokens: int,
    repeats: int,
    device: str,
    overrides: tuple[str, ...],
    path: Path | None,
) -> None:
    """Milliseconds of a training step on RECIPE's network, forward and backward, and of each criterion alone."""
    from asr.model.acoustic import AcousticModel
    from asr.model.criterion import Criterion, CtcCrf, ctc_loss, estimate_ngram
    from asr.records import Batch

    on = runtime.pick_device(device)
    settings = reading.load_recipe(Path(recipe_path), overrides)
    torch.manual_seed(1)
    model = AcousticModel(settings, tokens).to(on).train()
    samples, labels = round(seconds * settings.features.sample_rate), round(10 * seconds)
    batch = Batch(
        ids=("",) * utterances,
        texts=("",) * utterances,
        speakers=("",) * utterances,
        waveforms=torch.randn(utterances, samples),
        waveform_lengths=torch.full((utterances,), samples),
        tokens=torch.randint(1, tokens, (utterances, labels)),
        token_lengths=torch.full((utterances,), labels),
    )
    transcripts = batch.tokens.tolist()
    criteria: dict[str, Criterion] = {
        "ctc": ctc_loss,
        "ctc-crf, order 2": CtcCrf(estimate_ngram(transcripts, tokens, 2), ctc=0.1),
        "ctc-crf, order 3": CtcCrf(estimate_ngram(transcripts, tokens, 3), ctc=0.1),
    }
    with runtime.autocast(on, settings.training.precision):
        emissions = model(batch)
    held = emissions._replace(log_probs=emissions.log_probs.detach().requires_grad_())

    def whole(criterion: Criterion) -> None:
        with runtime.autocast(on, settings.training.precision):
            loss = criterion(model(batch), batch.tokens, batch.token_lengths)
        (loss / batch.labels).backward()
        model.zero_grad(set_to_none=True)

    def alone(criterion: Criterion) -> None:
        torch.autograd.grad(criterion(held, batch.tokens, batch.token_lengths), held.log_probs)

    sides: dict[str, Callable[[], Any]] = {}
    for name, criterion in criteria.items():
        sides[f"step, {name}"] = functools.partial(whole, criterion)
        sides[name] = functools.partial(alone, criterion)
    times = alternate(sides, repeats, on, time.process_time if on.type == "cpu" else time.perf_counter)
    click.echo(f"{recipe_path}, {utterances} utterances of {seconds:g} s, {on}, {torch.get_num_threads()} threads")
    for name, values in times.items():
        click.echo(f"  {name:22} {spread([1000 * value for value in values])} ms")
    shares = [a / b for a, b in zip(times["ctc-crf, order 2"], times["step, ctc-crf, order 2"], strict=True)]
    report(times, statistics.median(shares), "share of a step that CTC-CRF of bigrams takes", path)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
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
@click.option("--repeats", default=7, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def decode(
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
    import peers

    from asr.decode.beam import BeamDecoder
    from asr.decode.decoder import gather_knowledge
    from asr.score.edits import word_errors
    from asr.text.tokenise import PhoneTokeniser

    tokeniser, emissions, references, seconds = emissions_of(model, manifest, data)
    unknown = -10.0
    chosen = recipe.Beam(language_model=lm and str(lm.absolute()), alpha=alpha, beta=beta, unknown=unknown)
    knowledge = gather_knowledge(chosen, tokeniser, root=Path(), form="none")
    pronunciations = None
    if isinstance(tokeniser, PhoneTokeniser):
        if lm is None:
            raise click.UsageError("phones spell words through a lexicon and a language model: name one with --lm")
        pronunciations = {word: tokeniser.pronounce(word) for word in knowledge.words or ()}
    matrices = [np.ascontiguousarray(m[:n]) for e in emissions for m, n in zip(e.log_probs, e.lengths, strict=True)]
    passing = np.concatenate([(m > token_threshold).sum(axis=1) for m in matrices])
    search = peers.Search(
        tokens=tokeniser.tokens,
        space=tokeniser.space,
        beam=0,
        token_threshold=token_threshold,
        token_limit=int(np.quantile(passing, 0.999)),
        score_threshold=score_threshold,
        arpa=lm,
        alpha=alpha,
        beta=beta,
        unknown=unknown,
        pronunciations=pronunciations,
    )
    click.echo(
        f"{len(references)} utterances, {seconds:.0f} s of audio, {len(passing)} frames, {lm or 'no language model'}"
    )
    click.echo(
        f"{passing.mean():.2f} tokens a frame pass {token_threshold}, {search.token_limit} at most in 99.9 % of them"
    )
    present = {}
    for name, peer in peers.PEERS.items():
        reason = peers.missing(peer.modules) or (
            "it takes no language model"
            if lm and not peer.language_model
            else "it takes no pronunciations"
            if pronunciations and not peer.phones
            else None
        )
        if reason:
            click.echo(f"  {name:18} left out: {reason}")
        else:
            present[name] = peer

    texts: dict[str, list[str]] = {}

    def ours(name: str, beam: int, threads: int) -> Callable[[], None]:
        settings = recipe.Beam(width=beam, token_threshold=token_threshold, score_threshold=score_threshold)
        decoder = BeamDecoder(tokeniser, settings, knowledge, threads=threads)

        def run() -> None:
            texts[name] = [best.text for e in emissions for best, *_ in decoder(e)]

        return run

    def theirs(name: str, peer: peers.Peer, beam: int) -> Callable[[], None]:
        wanted = dataclasses.replace(search, beam=beam)
        decoder, inputs = peer.build(wanted), [peer.reads(m, wanted) for m in matrices]

        def run() -> None:
            texts[name] = [decoder(each) for each in inputs]

        return run

    figures: dict[str, Any] = {}
    ratios = []
    for beam in map(int, beams.split(",")):
        sides = {"ours": ours("ours", beam, 1), **{n: theirs(n, p, beam) for n, p in present.items()}}
        times = alternate(sides, repeats, clock=time.process_time, turn=0.1)
        every = f"ours, {runtime.cores()} threads"
        times |= alternate({every: ours(every, beam, 0)}, repeats, turn=0.1)
        click.echo(f"beam {beam}")
        for name, values in times.items():
            costs, wer = [1e3 * v / seconds for v in values], word_errors(references, texts[name]).rate
            figures[f"{name}, beam {beam}"] = {"ms_per_second": costs, "wer": wer}
            click.echo(f"  {name:18} {spread(costs):>28} ms a second of audio  WER {wer:.2%}")
        if present:
            fastest = min(present, key=lambda name: statistics.median(times[name]))
            ratios.append(statistics.median(t / o for t, o in zip(times[fastest], times["ours"], strict=True)))
            click.echo(f"  {ratios[-1]:.2f} times as fast as {fastest}")
    report(
        figures, min(ratios, default=None), "times as fast as the fastest peer, at the beam that suits us worst", path
    )


def emissions_of(
    model: Path, manifest: Path | None, data: str | None
) -> tuple[Tokeniser, list[Emissions], list[str], float]:
    """A model's tokeniser, and of a set its emissions, references and seconds."""
    from asr.data.corpora import manifest_source, open_corpora, sources_of
    from asr.decode.greedy import GreedyDecoder
    from asr.transcribe.corpus import plain_batches
    from asr.transcribe.recogniser import Recogniser, recognise

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
    return recogniser.tokeniser, emissions, references, samples / settings.features.sample_rate


@main.command("peers")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--lm", type=click.Path(path_type=Path), metavar="ARPA", help="For pocketsphinx, besides its own.")
def transcribe_by_peers(manifest: Path, out: Path, lm: Path | None) -> None:
    """Other recognisers' transcripts of MANIFEST's clips, for `asr score`: a file OUT/NAME.jsonl each."""

    import peers
    from recordings import read_clips

    clips = read_clips([manifest])
    recognisers = dict(peers.RECOGNISERS)
    if lm:
        recognisers[f"pocketsphinx-{lm.stem}"] = dataclasses.replace(
            recognisers["pocketsphinx"], build=functools.partial(peers.pocketsphinx, language_model=lm)
        )
    for name, peer in recognisers.items():
        if reason := peers.missing(peer.modules):
            click.echo(f"{name} left out: {reason}")
            continue
        listen = peer.build(torch.get_num_threads())
        texts = [listen(clip.samples) for clip in clips]
        with files.replacing(out / f"{name}.jsonl") as file:
            for clip, text in zip(clips, texts, strict=True):
                file.write(json.dumps({"id": clip.id, "hyp": text}, ensure_ascii=False) + "\n")
        click.echo(f"{out / f'{name}.jsonl'}: {len(texts)} clips")


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--hours", default=1.0, show_default=True, help="Of the long recording: the clips, again and again.")
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def align(model: Path, manifest: Path, hours: float, device: str, path: Path | None) -> None:
    """Word starts on the clips of MANIFEST and on all of them in one long recording, against pocketsphinx's aligner
    (extra `peers`) on the clips; words put in, exchanged and taken out; time and memory of the long recording."""
    import os
    import random
    import tempfile

    import numpy as np
    import peers
    import soundfile
    from recordings import RATE, read_clips

    import asr

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    if reason := peers.missing(("pocketsphinx",)):
        raise click.UsageError(f"this measures against pocketsphinx, of the extra `peers`: {reason}")
    from pocketsphinx import Decoder

    peer = Decoder(lm=None, loglevel="FATAL")
    recogniser = asr.load(model, device=device)
    known = [clip for clip in read_clips([manifest]) if all(peer.lookup_word(word) for word in clip.text.split())]
    texts, clips = [clip.text for clip in known], [clip.samples for clip in known]

    def starts_of_peer(clip: np.ndarray, text: str) -> list[float]:
        peer.set_align_text(text)
        peer.start_utt()
        peer.process_raw((clip * 32767).astype(np.int16).tobytes(), full_utt=True)
        peer.end_utt()
        return [segment.start_frame / 100 for segment in peer.seg() if segment.word[0] not in "<["]

    def starts_of_ours(clip: np.ndarray, text: str) -> list[float | None]:
        return [word.start for word in recogniser.align(clip, text, sample_rate=RATE).words]

    def compare(name: str, found: list[float | None], expected: list[float]) -> dict[str, float]:
        errors = np.array([f - e for f, e in zip(found, expected, strict=True) if f is not None])
        figures = {
            "words": len(found),
            "not_found": len(found) - len(errors),
            "bias": float(np.median(errors)),
            "median": float(np.median(abs(errors))),
            "percentile_95": float(np.percentile(abs(errors), 95)),
        }
        click.echo(
            f"  {name}: {len(found)} word starts, median error {figures['median'] * 1000:.0f} ms, 95th percentile "
            f"{figures['percentile_95'] * 1000:.0f} ms, bias {figures['bias'] * 1000:+.0f} ms, "
            f"{figures['not_found']} not found"
        )
        return figures

    starts_of_ours(clips[0], texts[0])  # compiled, warm
    times: dict[str, list[float]] = {"ours": [], "pocketsphinx": []}
    ours, theirs = [], []
    for clip, text in zip(clips, texts, strict=True):
        began = time.perf_counter()
        ours.append(starts_of_ours(clip, text))
        between = time.perf_counter()
        theirs.append(starts_of_peer(clip, text))
        times["ours"].append(between - began)
        times["pocketsphinx"].append(time.perf_counter() - between)
    aligned = [i for i, text in enumerate(texts) if len(theirs[i]) == len(text.split())]
    click.echo(f"{model}, {manifest}: {len(aligned)} of {len(clips)} clips that pocketsphinx aligns too")
    figures: dict[str, Any] = {
        **times,
        "clips": compare(
            "clip by clip",
            [start for i in aligned for start in ours[i]],
            [start for i in aligned for start in theirs[i]],
        ),
    }

    draw = random.Random(0)
    vocabulary = sorted({word for text in texts for word in text.split()})
    wrong: dict[str, list[bool]] = {"put in": [], "exchanged": []}
    right: list[bool] = []
    moved: list[float] = []
    for i in aligned:
        words = texts[i].split()
        for change in ("put in", "exchanged", "taken out"):
            k = draw.randrange(len(words))
            other = draw.choice([word for word in vocabulary if word not in words])
            tail = words[k if change == "put in" else k + 1 :]
            changed = words[:k] + [other] * (change != "taken out") + tail
            if len(words) < 3:
                continue
            found = starts_of_ours(clips[i], " ".join(changed))
            if change != "taken out":
                wrong[change].append(found.pop(k) is None)
            before = ours[i][:k] + ours[i][len(words) - len(tail) :]
            right += [start is None for start in found]
            moved += [abs(a - b) for a, b in zip(found, before, strict=True) if a is not None and b is not None]
    figures["wrong_words"] = {
        **{f"{change}, not found": statistics.mean(flags) for change, flags in wrong.items()},
        "right, not found": statistics.mean(right),
        "right, moved by more than 0.1 s": statistics.mean(m > 0.1 for m in moved),
    }
    click.echo("  a wrong word a clip: " + ", ".join(f"{k} {v:.1%}" for k, v in figures["wrong_words"].items()))

    with tempfile.TemporaryDirectory() as folder:
        long, joins, length = [], [], 0
        while length < hours * 3600 * RATE:
            i = aligned[len(long) % len(aligned)]
            joins.append(length / RATE)
            long.append(i)
            length += len(clips[i])
        recording, text, output = (Path(folder) / name for name in ("long.flac", "long.txt", "long.json"))
        soundfile.write(recording, np.concatenate([clips[i] for i in long]), RATE)
        text.write_text("\n".join(texts[i] for i in long))
        spent = run_asr(
            "align", recording, text, "--model", model, "--format", "json", "-o", output, "--device", device
        )
        found = [word["start"] for word in json.loads(output.read_text())["words"]]
    expected = [join + start for join, i in zip(joins, long, strict=True) for start in theirs[i]]
    figures["long"] = {
        **compare(f"{length / RATE / 3600:.2f} h in one piece", found, expected),
        "characters": sum(len(texts[i]) + 1 for i in long),
        **spent,
    }
    click.echo(
        f"    asr align: {figures['long']['characters']:,} characters, {spent['seconds']:.0f} s, "
        f"{spent['processor_seconds']:.0f} s of a processor, peak memory {spent['peak_bytes'] / 1e9:.2f} GB"
    )
    report(figures, sum(times["pocketsphinx"]) / sum(times["ours"]), "times as fast as pocketsphinx on clips", path)


def pauses(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say how a long recording is made of clips."""
    for option in (
        click.option("--level", default=-60.0, show_default=True, help="Of the noise, dB; AN4's own is -67."),
        click.option("--noise", type=click.Path(path_type=Path), help="Noises for every other pause; else white."),
        click.option("--pause", default=3.0, show_default=True, help="The longest between two clips, seconds."),
        click.option("--minutes", default=10.0, show_default=True),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MANIFEST...")
@pauses
@click.option("--options", default="", help="More for asr transcribe: --no-vad.")
@click.option("--json", "path", type=click.Path(path_type=Path))
def long(
    model: Path,
    manifests: tuple[Path, ...],
    minutes: float,
    pause: float,
    noise: Path | None,
    level: float,
    options: str,
    path: Path | None,
) -> None:
    """A recording of the MANIFESTs' clips, again and again, with silence or noise between them, by `asr transcribe` in
    a process of its own: word errors beside those of the clips one by one, drift, time, memory.

    Words are compared clip by clip: those that begin between the middles of the pauses around it. The interval is a
    bootstrap's over clips, all of whose occurrences are drawn together.
    """
    import bisect
    import tempfile

    from recordings import RATE, concatenate, read_clips

    import asr
    from asr.records import ErrorCounts
    from asr.score.edits import word_errors

    clips = read_clips(manifests)
    recogniser = asr.load(model)
    alone = [recogniser.transcribe(clip.samples, sample_rate=RATE) for clip in clips]
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "long.flac"
        made = concatenate(clips, recording, minutes=minutes, pause=pause, noise=noise, level=level)
        spent = run_asr(
            "transcribe", recording, "--model", model, "--format", "json", "--out", folder, *options.split()
        )
        document = json.loads((Path(folder) / "long.json").read_text())

    heard: list[list[dict[str, Any]]] = [[] for _ in made.chosen]
    for word in document["words"]:
        heard[max(0, bisect.bisect(made.middles, word["start"]) - 1)].append(word)
    joined = [
        word_errors([clips[i].text], [" ".join(word["text"] for word in words)])
        for i, words in zip(made.chosen, heard, strict=True)
    ]
    each_clip = [word_errors([clip.text], [transcript.text]) for clip, transcript in zip(clips, alone, strict=True)]
    one_by_one = [each_clip[i] for i in made.chosen]
    words_of = np.bincount(made.chosen, [errors.reference_length for errors in one_by_one])
    more_of = np.bincount(made.chosen, [a.errors - b.errors for a, b in zip(joined, one_by_one, strict=True)])
    drawn = np.random.default_rng(0).integers(len(words_of), size=(2000, len(words_of)))
    low, high = np.quantile(more_of[drawn].sum(axis=1) / words_of[drawn].sum(axis=1), [0.025, 0.975])
    drift = [
        words[0]["start"] - begin - alone[i].words[0].start
        for words, begin, i in zip(heard, made.begins, made.chosen, strict=True)
        if words and alone[i].words and words[0]["text"] == alone[i].words[0].text
    ]
    tenth = max(1, len(drift) // 10)
    figures: dict[str, Any] = {
        "seconds_of_audio": made.seconds,
        "clips": len(made.chosen),
        "segments": len(document["segments"]),
        "difference_95": [float(low), float(high)],
        "drift_first_tenth": [float(np.median(drift[:tenth])), float(np.max(np.abs(drift[:tenth])))],
        "drift_last_tenth": [float(np.median(drift[-tenth:])), float(np.max(np.abs(drift[-tenth:])))],
        **spent,
    }
    click.echo(f"{model}, {len(made.chosen)} clips, {made.seconds / 60:.1f} minutes")
    for manifest in dict.fromkeys(clip.manifest for clip in clips):
        for name, counts in (("in one recording", joined), ("one by one", one_by_one)):
            own = (errors for i, errors in zip(made.chosen, counts, strict=True) if clips[i].manifest == manifest)
            total = sum(own, ErrorCounts())
            figures[f"{manifest}, {name}"] = {"words": total.reference_length, "wer": total.rate}
            click.echo(
                f"  {manifest}, {name}: WER {total.rate:.2%}, {total.errors} errors in {total.reference_length} "
                f"words: {total.substitutions} substituted, {total.deletions} deleted, {total.insertions} inserted"
            )
    click.echo(f"  more errors in one recording: 95 % interval [{low:+.2%}, {high:+.2%}] of the words")
    for name in ("first", "last"):
        median, worst = figures[f"drift_{name}_tenth"]
        click.echo(
            f"  {name} tenth: clips' first words off by {median * 1000:+.0f} ms median, {worst * 1000:.0f} at most"
        )
    click.echo(
        f"  {figures['segments']} segments: {spent['seconds']:.1f} s, {spent['processor_seconds']:.1f} s of a "
        f"processor, peak memory {spent['peak_bytes'] / 1e6:.0f} MB"
    )
    report(figures, made.seconds / spent["seconds"], "times as fast as real time", path)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MANIFEST...")
@pauses
@click.option("--threads", default=2, show_default=True, help="Of each that can use them: pocketsphinx has one.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def speed(
    model: Path,
    manifests: tuple[Path, ...],
    minutes: float,
    pause: float,
    noise: Path | None,
    level: float,
    threads: int,
    repeats: int,
    path: Path | None,
) -> None:
    """One recording of the MANIFESTs' clips, from file to text, by our model and by other recognisers (extra `peers`),
    in turn in one process: seconds and processor seconds a second of audio, and errors. Loading is told apart.

    Texts are normalised as Whisper's are and digits then parted, so that "39" and "three nine" are the same; "one" is a
    digit everywhere, of which that normaliser is of two minds.
    """
    import re
    import tempfile

    import peers
    from recordings import concatenate, read_clips

    from asr import audio
    from asr.score.edits import character_errors, word_errors
    from asr.text.normalise import normalise
    from asr.transcribe.recogniser import Recogniser

    torch.set_num_threads(threads)
    sides: dict[str, Callable[[Path], str]] = {}
    recognisers: dict[str, dict[str, Any]] = {}

    def load(name: str, loaded: Callable[[], Callable[[Path], str]]) -> None:
        began = time.perf_counter()
        sides[name] = loaded()
        recognisers[name] = {"load_seconds": time.perf_counter() - began}

    def ours(decoding: list[str]) -> Callable[[Path], str]:
        recogniser = Recogniser.load(model, decoding=decoding)
        return lambda file: recogniser.transcribe(file).text

    load("ours, greedy", lambda: ours(["decoder={kind: greedy}"]))
    if not isinstance(Recogniser.load(model).recipe.decoder, recipe.Greedy):
        load("ours, as tuned", lambda: ours([]))
    decodings = list(sides)

    def theirs(build: Callable[[int], peers.Listener]) -> Callable[[Path], str]:
        listen = build(threads)
        return lambda file: listen(audio.read(file, sample_rate=16000).samples)

    for name, peer in peers.QUICK_RECOGNISERS.items():
        if reason := peers.missing(peer.modules):
            click.echo(f"  {name:28} left out: {reason}")
        else:
            load(name, functools.partial(theirs, peer.build))

    def spelled(text: str) -> str:
        digits = re.sub(r"(\d)", r" \1 ", normalise(text, "english"))
        return re.sub(r"\bone\b", "1", digits)

    texts: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "speed.flac"
        clips = read_clips(manifests)
        made = concatenate(clips, recording, minutes=minutes, pause=pause, noise=noise, level=level)
        reference = spelled(" ".join(clips[i].text for i in made.chosen))

        def run(name: str) -> None:
            texts[name] = sides[name](recording)

        def clocks() -> Any:
            return np.array([time.perf_counter(), time.process_time()])

        click.echo(f"{model}, {len(made.chosen)} clips, {made.seconds:.0f} s of audio, {threads} threads")
        times = alternate({name: lambda name=name: run(name) for name in sides}, repeats, clock=clocks)

    for name, runs in times.items():
        walls, processors = (np.array(runs) / made.seconds).T.tolist()
        words = word_errors([reference], [spelled(texts[name])])
        letters = character_errors(["".join(reference.split())], ["".join(spelled(texts[name]).split())])
        recognisers[name] |= {"seconds": walls, "processor_seconds": processors, "wer": words.rate, "cer": letters.rate}
        click.echo(
            f"  {name:28} loaded in {recognisers[name]['load_seconds']:.1f} s, a second of audio in {spread(walls)} s, "
            f"{spread(processors)} s of a processor; WER {words.rate:.2%}, CER without spaces {letters.rate:.2%}"
        )
    ratios = []
    for decoding in decodings:
        for peer_name in (name for name in sides if name not in decodings):
            quotients = np.array(times[peer_name]) / np.array(times[decoding])  # (repeats, wall and processor)
            wall, processor = (spread(column.tolist()) for column in quotients.T)
            ratios.append(float(np.median(quotients[:, 0])))
            click.echo(f"  {decoding} against {peer_name}: {wall} times as fast, {processor} by processor time")
    report(recognisers, min(ratios, default=None), "times as fast as the fastest peer, ours at its slowest", path)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def silence(model: Path, manifest: Path, device: str, path: Path | None) -> None:
    """The clips of MANIFEST as they are, at other levels, and with silence or a room's noise around them, read whole
    and as streams; and aligned with their own text, as they are and with ten seconds more."""
    import os

    from recordings import read_clips

    import asr
    from asr.score.edits import word_errors

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    recogniser = asr.load(model, device=device)
    rate = recogniser.recipe.features.sample_rate
    clips = read_clips([manifest], rate)
    random = np.random.default_rng(0)

    def around(clip: np.ndarray, before: float, after: float, decibels: float | None = None) -> np.ndarray:
        """With seconds of digital silence, or of noise so far below the clip's own level."""
        level = 0.0 if decibels is None else clip.std() * 10 ** (decibels / 20)
        parts = [level * random.standard_normal(round(seconds * rate)) for seconds in (before, after)]
        return np.concatenate([parts[0], clip, parts[1]]).astype(np.float32)

    def whole(samples: np.ndarray) -> str:
        return recogniser.transcribe(samples, sample_rate=rate).text

    def streamed(samples: np.ndarray) -> str:
        stream = recogniser.stream()
        pieces = np.split(samples, range(rate // 10, len(samples), rate // 10))
        return " ".join(word.text for heard in (*map(stream.feed, pieces), stream.finish()) for word in heard.final)

    changes: dict[str, tuple[Callable[[np.ndarray], str], Callable[[np.ndarray], np.ndarray]]] = {
        "clean": (whole, lambda clip: clip),
        "10 s of silence on both sides": (whole, lambda clip: around(clip, 10, 10)),
        "30 s of silence on both sides": (whole, lambda clip: around(clip, 30, 30)),
        "0.5 s before, 3 s after": (whole, lambda clip: around(clip, 0.5, 3)),
        "-20 dB": (whole, lambda clip: clip * np.float32(0.1)),
        "-40 dB": (whole, lambda clip: clip * np.float32(0.01)),
        "+10 dB": (whole, lambda clip: clip * np.float32(10**0.5)),
        "-40 dB, in 16 bits": (whole, lambda clip: np.round(clip * 327.68).astype(np.int16)),
        "+10 dB, clipped in 16 bits": (whole, lambda clip: np.clip(clip * 103621, -32768, 32767).astype(np.int16)),
        "10 s of noise at -50 dB": (whole, lambda clip: around(clip, 10, 10, -50)),
        "10 s of noise at -30 dB": (whole, lambda clip: around(clip, 10, 10, -30)),
        "stream": (streamed, lambda clip: clip),
        "stream after 60 s of silence": (streamed, lambda clip: around(clip, 60, 0)),
        "stream after 60 s of noise at -30 dB": (streamed, lambda clip: around(clip, 60, 0, -30)),
        "stream, 10 s of silence on both sides": (streamed, lambda clip: around(clip, 10, 10)),
    }
    figures: dict[str, Any] = {}
    for name, (read, change) in changes.items():
        errors = word_errors([clip.text for clip in clips], [read(change(clip.samples)) for clip in clips])
        figures[name] = {"wer": errors.rate, "errors": errors.errors, "words": errors.reference_length}
        click.echo(
            f"  {name:38} WER {errors.rate:6.2%}  {errors.substitutions:3} {errors.deletions:3} {errors.insertions:3}"
        )

    plain = [recogniser.align(clip.samples, clip.text, sample_rate=rate).words for clip in clips]
    missing = sum(not word.found for words in plain for word in words)
    click.echo(f"  aligned: {missing} of {sum(map(len, plain))} words not found")
    for before, after in ((0, 10), (10, 0)):
        lost, shifts, ends = 0, [], []
        for clip, words in zip(clips, plain, strict=True):
            found = recogniser.align(around(clip.samples, before, after), clip.text, sample_rate=rate).words
            for word, again in zip(words, found, strict=True):
                if word.start is None or again.start is None or word.end is None or again.end is None:
                    lost += word.found and not again.found
                    continue
                shifts.append(abs(again.start - before - word.start))
                ends.append(abs(again.end - before - word.end))
        figures[f"align, {before} s before and {after} s after"] = {"lost": lost, "shifts": shifts}
        click.echo(
            f"  aligned with {before} s before and {after} s after: {lost} words lost; starts moved by "
            f"{1e3 * statistics.mean(shifts):.1f} ms on average, {np.mean(np.array(shifts) > 0.05):.1%} by more than "
            f"50 ms, ends by {1e3 * statistics.mean(ends):.1f} ms"
        )
    worst = max(row["wer"] for row in figures.values() if "wer" in row)
    report(figures, worst / max(figures["clean"]["wer"], 1e-9), "the worst error rate over the clean one", path)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--settings",
    default="0.2:0 0.2:0.2 0.2:0.4 0.4:0.4 0.4:0.8 0.8:0.8 1.6:1.6 3:3",
    show_default=True,
    help="Chunk and context of each row, in seconds.",
)
@click.option("--minutes", type=click.FloatRange(min=2), default=30.0, show_default=True, help="Of the long stream.")
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def live(model: Path, manifest: Path, settings: str, minutes: float, device: str, path: Path | None) -> None:
    """Each clip of MANIFEST as a stream of its own, against the clips read whole; then all of them in one long stream,
    fed 0.1 s at a time with the default chunk and context."""
    import itertools
    import os

    from recordings import read_clips

    import asr
    from asr.score.edits import word_errors
    from asr.transcribe import live as defaults

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    recogniser = asr.load(model, device=device)
    rate = recogniser.recipe.features.sample_rate
    whole = read_clips([manifest], rate)
    texts, clips = [clip.text for clip in whole], [clip.samples for clip in whole]
    seconds = sum(map(len, clips)) / rate

    def score(name: str, latency: float | None, read: Callable[[np.ndarray], str]) -> dict[str, Any]:
        began = time.perf_counter()
        errors = word_errors(texts, [read(clip) for clip in clips])
        factor = (time.perf_counter() - began) / seconds
        late = "" if latency is None else f"{latency:.2f} s"
        click.echo(
            f"  {name:14} {late:>7}  WER {errors.rate:6.2%}  {errors.substitutions:3} {errors.deletions:3} "
            f"{errors.insertions:3}  {factor:.3f}"
        )
        return {"latency": latency, "wer": errors.rate, "real_time_factor": factor}

    def streamed(chunk: float, context: float) -> Callable[[np.ndarray], str]:
        def read(clip: np.ndarray) -> str:
            stream = recogniser.stream(chunk=chunk, context=context)
            return " ".join(word.text for heard in (stream.feed(clip), stream.finish()) for word in heard.final)

        return read

    click.echo(f"{model}, {manifest}: {len(clips)} clips, {seconds:.0f} s")
    click.echo("  chunk:context  latency at most, substituted, deleted, inserted, real-time factor")
    figures: dict[str, Any] = {
        "whole": score("whole", None, lambda clip: recogniser.transcribe(clip, sample_rate=rate).text)
    }
    for name in settings.split():
        chunk, context = map(float, name.split(":"))
        latency = recogniser.stream(chunk=chunk, context=context).latency
        figures[name] = score(name, latency, streamed(chunk, context))

    def resident() -> float:
        """Megabytes."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    stream, piece = recogniser.stream(), round(0.1 * rate)
    pieces_a_chunk = max(1, round(defaults.CHUNK_SECONDS / 0.1))
    times, memory, segments, found = [], [], 0, []
    length = 0
    expected = []
    for clip, text in itertools.cycle(zip(clips, texts, strict=True)):
        expected.append(text)
        for start in range(0, len(clip), piece):
            began = time.process_time()
            heard = stream.feed(clip[start : start + piece])
            times.append(time.process_time() - began)
            segments += len(heard.segments)
            found += [word.text for word in heard.final]
            if len(times) % 600 == 0:
                memory.append(resident())
        length += len(clip)
        if length >= minutes * 60 * rate:
            break
    found += [word.text for word in stream.finish().final]
    errors = word_errors([" ".join(expected)], [" ".join(found)])
    tenth = len(times) // 10
    first, last = (1e3 * pieces_a_chunk * statistics.mean(part) for part in (times[:tenth], times[-tenth:]))
    figures["stream"] = {
        "minutes": length / rate / 60,
        "wer": errors.rate,
        "memory": memory,
        "milliseconds_a_chunk": [first, last],
        "segments": segments,
    }
    click.echo(
        f"  {length / rate / 60:.1f} min in one stream, chunk {defaults.CHUNK_SECONDS} s, context "
        f"{defaults.CONTEXT_SECONDS} s: WER {errors.rate:.2%}, {segments} utterances"
    )
    click.echo(
        f"    resident memory after 1 min {memory[0]:.0f} MB, in the middle {memory[len(memory) // 2]:.0f} MB, at the "
        f"end {memory[-1]:.0f} MB; processor time a chunk {first:.1f} ms in the first tenth, {last:.1f} ms in the last"
    )
    report(figures, last / first, "time a chunk in the last tenth over that in the first", path)


if __name__ == "__main__":
    main()
