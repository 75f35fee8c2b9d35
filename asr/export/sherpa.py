"""A folder that sherpa-onnx runs, on phones, in browsers, from C++, C#, Java, Swift and more.

A model of 16 kHz that is normalised by utterance reads the samples themselves, as sherpa-onnx gives them to Omnilingual
ASR's CTC models: all of our front end is in the graph. sherpa-onnx takes the mean off a recording and divides it by its
deviation. The level changes nothing, by our own normalisation; the mean, a recording's offset, is all that differs.

Any other is run as a NeMo CTC model, on sherpa-onnx's log-mel energies: 25 ms windows every 10 ms, Slaney's filters,
but pre-emphasised, and its frames are centred half a frame later than ours. Pre-emphasis is taken out again bin by bin,
and each two frames are averaged to the one between them. So its texts are near the model's own, and not the same to the
letter.

A one-directional model is written for live speech too: ``live_graph`` says how.

In either, features are normalised and long silence is not read, as in ``asr.model.features`` and ``silence``. What
sherpa-onnx offers for searching (no beam with our language models) and for units (no lexicon) it cannot carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.nn import functional

from asr import checkpoint, files, recipe
from asr.audio.levels import (
    DECIBEL,
    INAUDIBLE,
    LEVEL_SECONDS,
    MARGIN_SECONDS,
    PAUSE_SECONDS,
    SILENT_DECIBELS,
)
from asr.errors import ExportError
from asr.export.directory import Comparison, Exported, check_furthest, check_quantises, compare, compare_all, noise
from asr.export.graphs import Interface, Normalised, describe, in_8_bits, to_onnx
from asr.export.live_graph import LiveSamples, live_graph
from asr.export.sherpa_live import RATE, LiveNetwork, session, why_not_live
from asr.export.spectra import LogMelEnergies
from asr.model.acoustic import AcousticModel
from asr.model.emitted import Emitted
from asr.model.features import frame_loudness, frame_mask
from asr.model.network import TorchNetwork
from asr.model.silence import Audible
from asr.onnx.features import FrontEnd, mel_filters
from asr.recipe.frames import window_samples
from asr.records import BLANK, Emissions, Features
from asr.text.tokenise import PhoneTokeniser, Tokeniser, lm_symbols

if TYPE_CHECKING:
    from onnx import ModelProto

WINDOW_SECONDS, SHIFT_SECONDS = 0.025, 0.010
PRE_EMPHASIS = 0.97
"""What sherpa-onnx subtracts of the sample before, in each window (kaldi-native-fbank's default)."""
NEVER = 1 << 20
"""In frames: more than any distance."""
SAMPLES_RATE, SAMPLES_SHIFT = 16000, 0.02
"""What sherpa-onnx takes for granted of a model that reads samples: their rate in Hz, and seconds an emission frame."""


def export_sherpa(directory: Path, out: Path, *, int8: bool = False, clip: np.ndarray | None = None) -> Exported:
    """Writes model.onnx (or model.int8.onnx) and tokens.txt to ``out``, as ``export_onnx`` does, and streaming.onnx (or
    streaming.int8.onnx) of a model that reads live speech as it comes (``why_not_live``).

    Raises CheckpointError, MissingExtraError, and ExportError where sherpa-onnx cannot do as the model does.
    """
    loaded = checkpoint.load_checkpoint(directory, device="cpu")
    check_carried(directory, loaded.recipe, loaded.tokeniser)
    check_quantises(directory, loaded.recipe, int8=int8)
    if checkpoint.is_described(out):
        raise ExportError(f"{out} is a model directory: name a folder of its own with -o")
    write = [_offline] if why_not_live(loaded.recipe) else [_offline, _live]
    written = [each(directory, loaded, int8, clip) for each in write]
    with files.replacing(out / "tokens.txt") as file:
        file.write(tokens_text(loaded.tokeniser))
    graphs = {f"{kind}{'.int8' if int8 else ''}.onnx": graph for kind, graph, _ in written}
    for name, graph in graphs.items():
        with files.replacing(out / name, "wb") as file:
            file.write(graph)
    for kind in ("model", "streaming"):
        for name in {f"{kind}.onnx", f"{kind}.int8.onnx"} - set(graphs):
            (out / name).unlink(missing_ok=True)  # of another export, perhaps of other weights
    return Exported(
        sizes={path: (out / path).stat().st_size for path in (*graphs, "tokens.txt")},
        comparisons=[comparison for *_, comparisons in written for comparison in comparisons],
    )


Written = tuple[str, bytes, list[Comparison]]
"""What kind of graph, its file, and how it compares."""


def _offline(directory: Path, loaded: checkpoint.Checkpoint, int8: bool, clip: np.ndarray | None) -> Written:
    by_samples = reads_samples(loaded.recipe)
    module = FromSamples(loaded.model) if by_samples else FromEnergies(loaded.model)
    traced = to_onnx(module, module.example(), module.interface)
    graph = _finished(traced, int8, metadata(loaded.recipe, loaded.tokeniser, loaded.model))
    emulated = _EmulatedSamples if by_samples else _EmulatedEnergies
    network = emulated(graph, loaded.model)
    heard = noise(network.sample_rate)
    comparisons = compare_all(TorchNetwork(loaded.model), network, loaded.tokeniser, heard, clip)
    if not int8:
        check_furthest(directory, _furthest(module, network))
    return "model", graph, comparisons


def _live(directory: Path, loaded: checkpoint.Checkpoint, int8: bool, clip: np.ndarray | None) -> Written:
    """Of a stream, compared with the model's own."""
    tokens = loaded.tokeniser.tokens
    space = tokens.index(loaded.tokeniser.space) if loaded.tokeniser.space in tokens else BLANK
    module = LiveSamples(loaded.model, space=space)
    graph = _finished(
        live_graph(module), int8, {"frame_length_ms": "300", "state_dim": str(module.size), "sample_rate": str(RATE)}
    )
    network = LiveNetwork(loaded.model, graph)
    joined = [np.concatenate(noise(network.sample_rate))]
    comparisons = compare_all(LiveNetwork(loaded.model), network, loaded.tokeniser, joined, clip, kind="live ")
    if not int8:
        exact = LiveNetwork(loaded.model, exact=True)
        check_furthest(directory, compare(exact, network, loaded.tokeniser, joined, "live noise").largest)
    return "streaming", graph, comparisons


def _finished(graph: ModelProto, int8: bool, described: dict[str, str]) -> bytes:
    graph = in_8_bits(graph) if int8 else graph
    describe(graph, described)
    file: bytes = graph.SerializeToString()
    return file


def check_carried(directory: Path, settings: recipe.Recipe, tokeniser: Tokeniser) -> None:
    """Raises ExportError naming what of the model sherpa-onnx has no place for."""
    features, rate = settings.features, settings.features.sample_rate
    _, window, hop = window_samples(features)
    missing = []
    if isinstance(features, recipe.Mfcc):
        missing.append("MFCCs (features.kind: mfcc)")
    if (window, hop) != (round(WINDOW_SECONDS * rate), round(SHIFT_SECONDS * rate)):
        missing.append(f"windows of {features.window:g} s every {features.shift:g} s (it has 0.025 and 0.01)")
    if isinstance(tokeniser, PhoneTokeniser):
        missing.append("phones and their lexicon (text.tokeniser.kind: phones)")
    if isinstance(settings.decoder, recipe.Beam):
        knowledge = " with a language model" if settings.decoder.language_model or settings.decoder.lstm else ""
        missing.append(f"our beam search{knowledge} (decoder.kind: beam; with greedy in recipe.yaml it exports)")
    if isinstance(settings.decoder, recipe.Phrases):
        missing.append("a grammar of phrases (decoder.kind: phrases; with greedy in recipe.yaml it exports)")
    if missing:
        raise ExportError(f"sherpa-onnx cannot carry {' nor '.join(missing)}, which {directory} needs")


def reads_samples(settings: recipe.Recipe) -> bool:
    """Whether sherpa-onnx hands the graph of such a model samples, and not energies."""
    features = settings.features
    shift = features.shift * (settings.encoder.conv.subsampling if settings.encoder.conv else 1)
    steps = shift / SAMPLES_SHIFT
    timed = steps >= 1 and abs(steps - round(steps)) < 1e-6
    return features.sample_rate == SAMPLES_RATE and features.normalise == "utterance" and timed


def metadata(settings: recipe.Recipe, tokeniser: Tokeniser, model: AcousticModel) -> dict[str, str]:
    """What sherpa-onnx asks a graph for. By ``normalize_type`` NA it leaves features as they are."""
    return {
        "model_type": "EncDecCTCModelBPE",
        "vocab_size": str(len(tokeniser.tokens)),
        "subsampling_factor": str(model.encoder.subsampling),
        "normalize_type": "NA",
        "sample_rate": str(settings.features.sample_rate),
        "feature_dim": str(settings.features.mels),
    }


def tokens_text(tokeniser: Tokeniser) -> str:
    """tokens.txt: a token and its id a line; the blank is <blk>, and what stands for a space is ▁."""
    symbols = ["<blk>", *lm_symbols(tokeniser)[1:]]
    return "".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols))


def pre_emphasis_gain(settings: recipe.FeatureSettings) -> np.ndarray:
    """What pre-emphasis adds to each log-mel energy (mels,) of a flat spectrum, which a bin's is nearly."""
    fft, _, _ = window_samples(settings)
    filters = mel_filters(fft, settings.mels, settings.sample_rate).astype(np.float64)
    angles = np.linspace(0, np.pi, fft // 2 + 1)
    gain = np.abs(1 - PRE_EMPHASIS * np.exp(-1j * angles)) ** 2
    # A filter narrower than two of the FFT's steps may hold none of them: it says nothing, and is left as it is.
    total = filters.sum(0)
    return np.log(np.where(total > 0, gain @ filters, 1.0) / np.where(total > 0, total, 1.0)).astype(np.float32)


class FromSamples(nn.Module):
    """Samples (B, S), of whatever level, to log probabilities (B, T', V), a frame every ``SAMPLES_SHIFT`` seconds."""

    interface = Interface(
        inputs=("samples",),
        outputs=("logprobs",),
        axes={"samples": {0: "batch", 1: "samples"}, "logprobs": {0: "batch", 1: "emission_frames"}},
    )

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.reader, self.energies = EnergyReader(model), LogMelEnergies(model.features)
        _, self.window, _ = window_samples(model.features.settings)
        self.repeats = round(model.frame_shift / SAMPLES_SHIFT)

    def forward(self, samples: Tensor) -> Tensor:
        around = self.window // 2
        values = self.energies(functional.pad(samples, (around, self.window - around)))
        lengths = torch.ones_like(values[:, :, 0], dtype=torch.int64).sum(1)  # traced, as a constant would not be
        log_probs: Tensor = self.reader(Features(values=values, lengths=lengths))
        return log_probs.repeat_interleave(self.repeats, dim=1)

    def example(self) -> tuple[Tensor, ...]:
        return (torch.randn(2, 40000),)


class FromEnergies(nn.Module):
    """Pre-emphasised log-mel energies (B, mels, T) and lengths (B,) to log probabilities (B, T', V)."""

    interface = Interface(
        inputs=("audio_signal", "length"),
        outputs=("logprobs",),
        axes={
            "audio_signal": {0: "batch", 2: "frames"},
            "length": {0: "batch"},
            "logprobs": {0: "batch", 1: "emission_frames"},
        },
    )

    gain: Tensor

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.reader = EnergyReader(model)
        self.register_buffer("gain", torch.from_numpy(pre_emphasis_gain(model.features.settings)))

    def forward(self, signal: Tensor, lengths: Tensor) -> Tensor:
        real = frame_mask(lengths, signal.shape[2])[:, :, None]
        values = torch.where(real, signal.transpose(1, 2) - self.gain, torch.zeros(()))
        log_probs: Tensor = self.reader(_half_a_frame_earlier(values, lengths))
        return log_probs

    def example(self) -> tuple[Tensor, ...]:
        return torch.randn(2, len(self.gain), 250), torch.tensor([250, 213])


class EnergyReader(nn.Module):
    """Log-mel energies to log probabilities (B, T', V), as ``AcousticModel`` does, in what can be traced."""

    def __init__(self, model: AcousticModel) -> None:
        super().__init__()
        self.extractor, self.encoder, self.head = model.features, model.encoder, model.head
        self.settings = model.features.settings
        self.front = Normalised(model)

    def forward(self, energies: Features) -> Tensor:
        lengths = energies.lengths
        if self.settings.normalise != "utterance":
            real = frame_mask(lengths, energies.values.shape[1])[:, :, None]
            floored = Features(values=self.front(self.extractor.shape(energies)) * real, lengths=lengths)
            return self._emitted(floored).log_probs
        level = self._level(energies)
        features = self.extractor.normalise(energies, self.extractor.measure(energies, level))
        kept = self._audible(energies, level)
        emitted = self._emitted(_moved_together(features, kept, self.encoder.subsampling))
        return Audible(kept=kept, step=self.encoder.subsampling).spread(emitted, lengths).log_probs

    def _emitted(self, features: Features) -> Emitted:
        encodings, lengths = self.encoder(features.values, features.lengths)
        return Emitted(log_probs=self.head(encodings).log_softmax(-1), lengths=lengths)

    def _level(self, energies: Features) -> Tensor:
        """As ``FeatureExtractor.level``, for utterances shorter than what is loudest too."""
        loudest = round(LEVEL_SECONDS / self.settings.shift)
        loudness = _loudness(energies)
        ranked = functional.pad(loudness, (0, loudest), value=-torch.inf).topk(loudest, dim=1).values
        return ranked.gather(1, (energies.lengths.clamp(1, loudest) - 1)[:, None])[:, 0]

    def _audible(self, energies: Features, level: Tensor) -> Tensor:
        """As ``asr.model.silence.audible``: which emission frames (B, T') are read."""
        step = self.encoder.subsampling
        margin, pause = round(MARGIN_SECONDS / self.settings.shift), round(PAUSE_SECONDS / self.settings.shift)
        quiet = (_loudness(energies) < level[:, None] - SILENT_DECIBELS * DECIBEL) | (level[:, None] < INAUDIBLE)
        sound = ~quiet
        since, until = _distance(sound, pause + 1), _distance(sound.flip(1), pause + 1).flip(1)
        kept = (since <= margin) | (until <= margin) | (since + until <= pause + 1)
        first = torch.arange(kept.shape[1]) == 0
        kept = kept | (first & ~(sound.to(torch.int64).sum(1, keepdim=True) > 0))
        steps = functional.max_pool1d(kept[:, None].float(), step, stride=step, ceil_mode=True)[:, 0] > 0
        return steps & frame_mask((energies.lengths - 1) // step + 1, steps.shape[1])


def _half_a_frame_earlier(energies: Tensor, lengths: Tensor) -> Features:
    """Log-mel energies (B, T + 1, mels) of frames before, between and after those given, means of their neighbours.

    Of the logarithms: on 40 clips of AN4 means of the powers leave 32 phones in 671 other than our own front end's
    energies do, these 25, and frames left as they are 43.
    """
    before = torch.cat([energies[:, :1], energies], dim=1)
    after = torch.cat([energies, energies[:, -1:]], dim=1)
    ends = (torch.arange(before.shape[1])[None, :] == lengths[:, None])[:, :, None]
    return Features(values=(before + torch.where(ends, before, after)) / 2, lengths=lengths + 1)


def _loudness(energies: Features) -> Tensor:
    real = frame_mask(energies.lengths, energies.values.shape[1])
    return frame_loudness(energies.values).masked_fill(~real, -torch.inf)


def _distance(sound: Tensor, furthest: int) -> Tensor:
    """(B, T): how many frames ago the last sound was, of the last ``furthest``, else more than any pause."""
    place = torch.arange(sound.shape[1])
    last = functional.pad(torch.where(sound, place, -NEVER).float(), (furthest, 0), value=-NEVER)
    return place - functional.max_pool1d(last[:, None], furthest + 1, stride=1)[:, 0].to(torch.int64)


def _moved_together(features: Features, kept: Tensor, step: int) -> Features:
    """As ``Audible.of``, left as long as it was: features (B, T, F) of what is kept, zeros after them."""
    frames = features.values.shape[1]
    each = kept[:, :, None].expand(-1, -1, step).flatten(1)[:, :frames] & frame_mask(features.lengths, frames)
    place = torch.arange(frames)
    order = torch.where(each, place, place + frames).sort(dim=1).indices
    lengths = each.to(torch.int64).sum(1)
    values = features.values.gather(1, order[:, :, None].expand(-1, -1, features.values.shape[2]))
    return Features(values=values * frame_mask(lengths, frames)[:, :, None], lengths=lengths)


class SherpaFrontEnd:
    """What sherpa-onnx computes before the graph, (S,) to (T, mels), but for what its frames see beyond the ends."""

    def __init__(self, settings: recipe.LogMel | recipe.Mfcc) -> None:
        self.front_end = FrontEnd(settings)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        front_end = self.front_end
        hop, length = front_end.hop, front_end.window_length
        frames = max(1, (len(samples) + hop // 2) // hop)
        before = (length - hop) // 2
        padded = np.zeros(max((frames - 1) * hop + length, before + len(samples)), np.float32)
        padded[before : before + len(samples)] = samples
        windows = sliding_window_view(padded, length)[::hop][:frames]
        emphasised = windows - PRE_EMPHASIS * np.concatenate([windows[:, :1], windows[:, :-1]], axis=1)
        spectra = np.fft.rfft((emphasised * front_end.window).astype(np.float32), front_end.fft)
        power = (spectra.real**2 + spectra.imag**2) @ front_end.filters
        return np.asarray(np.log(np.maximum(power, np.finfo(np.float32).eps)), np.float32)


class _EmulatedSamples:
    """A graph as sherpa-onnx runs it on samples: ``asr.records.Network``, to compare with torch's."""

    def __init__(self, graph: bytes, model: AcousticModel) -> None:
        self.sample_rate, self.frame_shift = SAMPLES_RATE, model.frame_shift
        self._session = session(graph)
        self._repeats = round(model.frame_shift / SAMPLES_SHIFT)

    def run(self, samples: np.ndarray) -> np.ndarray:
        """Log probabilities (B, T', V) of samples (B, S)."""
        return np.asarray(self._session.run(None, {"samples": samples})[0])

    def batches(self, waveforms: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Each waveform as sherpa-onnx scales it, alone."""
        return [(((s - s.mean()) / np.sqrt(s.var() + 1e-5)).astype(np.float32)[None],) for s in waveforms]

    def emit(self, waveforms: Sequence[np.ndarray]) -> Emissions:
        emitted = [self.run(*batch)[0, :: self._repeats] for batch in self.batches(waveforms)]
        lengths = np.array([len(each) for each in emitted], np.int64)
        log_probs = np.zeros((len(emitted), int(lengths.max()), emitted[0].shape[1]), np.float32)
        for row, each in zip(log_probs, emitted, strict=True):
            row[: len(each)] = each
        return Emissions(log_probs=log_probs, lengths=lengths, frame_shift=self.frame_shift)


class _EmulatedEnergies:
    """As ``_EmulatedSamples``, on the energies that sherpa-onnx computes."""

    def __init__(self, graph: bytes, model: AcousticModel) -> None:
        settings = model.features.settings
        self.sample_rate, self.frame_shift = settings.sample_rate, model.frame_shift
        self._session = session(graph)
        self._front_end, self._step = SherpaFrontEnd(settings), model.encoder.subsampling

    def run(self, signal: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Log probabilities (B, T', V) of energies (B, mels, T)."""
        return np.asarray(self._session.run(None, {"audio_signal": signal, "length": lengths})[0])

    def batches(self, waveforms: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """All in one: energies (B, mels, T), padded as sherpa-onnx pads, and lengths (B,)."""
        energies = [self._front_end(samples) for samples in waveforms]
        lengths = np.array([len(e) for e in energies], np.int64)
        signal = np.full((len(energies), energies[0].shape[1], lengths.max()), -23.0, np.float32)
        for row, values in zip(signal, energies, strict=True):
            row[:, : len(values)] = values.T
        return [(signal, lengths)]

    def emit(self, waveforms: Sequence[np.ndarray]) -> Emissions:
        [(signal, lengths)] = self.batches(waveforms)
        log_probs = self.run(signal, lengths)
        return Emissions(log_probs=log_probs, lengths=lengths // self._step, frame_shift=self.frame_shift)


def _furthest(module: nn.Module, network: _EmulatedSamples | _EmulatedEnergies) -> float:
    """The largest difference of real log probabilities between the graph and what it was traced from."""
    furthest = 0.0
    for batch in network.batches(noise(network.sample_rate)):
        with torch.inference_mode():
            expected = module(*map(torch.from_numpy, batch)).numpy()
        apart = np.abs(expected - network.run(*batch))
        ends = np.array([apart.shape[1]])
        if isinstance(network, _EmulatedEnergies):
            ends = batch[1] // network._step
        furthest = max(furthest, float(apart[np.arange(apart.shape[1]) < ends[:, None]].max()))
    return furthest
