"""The recogniser: one engine from audio to hypotheses, for files, arrays, corpora and the trainer's dev set alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from asr import audio, checkpoint, recipe
from asr.audio import Recording
from asr.audio.loudness import Meter
from asr.decode.decoder import Decoder, build_decoder
from asr.decode.greedy import GreedyDecoder
from asr.decode.rescore import TextModel, TokenModel
from asr.errors import AsrError, AudioError, LanguageModelError
from asr.recipe.reading import validate_recipe
from asr.records import AlignedText, Batch, Emissions, Hypothesis, Network, Streaming, Transcript, Waveform, blanks
from asr.text.normalise import normalise
from asr.text.tokenise import PhoneTokeniser, Tokeniser
from asr.transcribe.emissions import emissions_of, frame_samples
from asr.transcribe.live import CHUNK_SECONDS, CONTEXT_SECONDS, ENDPOINT_SECONDS, LiveRecogniser
from asr.transcribe.recordings import Channels, Source, Transcription

Audible: TypeAlias = str | PathLike[str] | bytes | np.ndarray
"""A file, the bytes of one, or an array of samples: (S,) or (channels, S), floats in [-1, 1] or 16-bit integers."""


def recognise(
    network: Network, decoder: Decoder, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, Emissions, list[tuple[Hypothesis, ...]]]]:
    """Emissions and n-best lists of a loader's batches, one by one."""
    for batch in batches:
        lengths = batch.waveform_lengths.tolist()
        emissions = network.emit([row[:length] for row, length in zip(batch.waveforms.numpy(), lengths, strict=True)])
        yield batch, emissions, decoder(emissions) if len(batch) else []


def load_lstm(settings: recipe.Decoder, tokeniser: Tokeniser, root: Path) -> TokenModel | TextModel | None:
    """The LSTM language model that decoder settings name, on the CPU, where the search is.

    Raises CheckpointError where it spells otherwise than the recogniser, unless that one's tokens are phones: then the
    LSTM reads text, and LanguageModelError says that it can take no part in the search.
    """
    if not isinstance(settings, recipe.Beam) or settings.lstm is None:
        return None
    loaded = checkpoint.load_language_model(root / settings.lstm.path, device="cpu")
    if not isinstance(tokeniser, PhoneTokeniser):
        loaded.check_spells_as(tokeniser)
        return loaded.model
    if settings.lstm.mode == "fuse":
        raise LanguageModelError(
            f"the language model {loaded.directory} cannot take part in a search over phones, whose tokens it does not "
            "spell: let it rescore the readings (lstm.mode: rescore)"
        )
    return TextModel(loaded.model, loaded.tokeniser)


class Recogniser:
    """A trained model, ready to transcribe. ``asr.load`` makes one. Threads may share it, each with its own streams."""

    def __init__(
        self,
        network: Network,
        tokeniser: Tokeniser,
        settings: recipe.Recipe,
        meta: dict[str, Any],
        decoder: Decoder | None = None,
        build: Callable[[recipe.Decoder, Sequence[str] | None], Decoder] | None = None,
    ) -> None:
        """``build`` makes a decoder of settings and, None being all, of the words that it may find."""
        self.network = network
        self.tokeniser = tokeniser
        self.recipe = settings
        self.meta = meta
        self.decoder = decoder or GreedyDecoder(tokeniser)
        self._build = build
        self._decoder_knowing = functools.lru_cache(maxsize=8)(self._made_for)
        self._shared: Streaming | None = None

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        device: str = "auto",
        engine: checkpoint.Engine = "auto",
        weights: str = checkpoint.WEIGHTS,
        decoding: Sequence[str] = (),
        nbest: int = 1,
        encoder: type[Any] | None = None,
    ) -> Recogniser:
        """``decoding`` overrides the directory's own decoder (``decoder.kind=beam``), as ``--set`` does a recipe.
        ``encoder`` is the class of a torch module, where the model was trained with one of the user's own.

        Raises CheckpointError, RecipeError, LanguageModelError, TextError.
        """
        loaded = checkpoint.load_network(directory, engine=engine, device=device, weights=weights, encoder=encoder)
        checkpoint.check_paths(directory, loaded.recipe.decoder, decoding)
        settings = validate_recipe(loaded.recipe.model_dump(mode="json"), "decoding", decoding)
        lstm = load_lstm(settings.decoder, loaded.tokeniser, directory)

        def build(decoder: recipe.Decoder, words: Sequence[str] | None) -> Decoder:
            form = settings.text.form
            return build_decoder(
                decoder, loaded.tokeniser, root=directory, form=form, lstm=lstm, nbest=nbest, words=words
            )

        decoder = build(settings.decoder, None)
        return cls(loaded.network, loaded.tokeniser, settings, loaded.meta, decoder, build)

    def decoder_for(self, hotwords: Mapping[str, float] | None, lexicon: Iterable[str] | None) -> Decoder:
        """The decoder, with other ``hotwords`` (phrases and their weights in nats), and only the words of ``lexicon``,
        where they are given: then it is a beam. Raises LanguageModelError, TextError."""
        if hotwords is None and lexicon is None:
            return self.decoder
        return self._decoder_knowing(
            None if hotwords is None else tuple(hotwords.items()), None if lexicon is None else tuple(lexicon)
        )

    def _made_for(self, hotwords: tuple[tuple[str, float], ...] | None, lexicon: tuple[str, ...] | None) -> Decoder:
        if self._build is None:
            raise AsrError("this recogniser was not loaded from a model directory, so its decoder cannot be made anew")
        own = self.recipe.decoder
        settings = own if isinstance(own, recipe.Beam) else recipe.Beam()
        if hotwords is not None:
            settings = recipe.Beam.model_validate({**settings.model_dump(), "hotwords": dict(hotwords)})
        if hotwords is not None and lexicon is None and hasattr(self.decoder, "favouring"):
            form = self.recipe.text.form
            phrases = {normalise(phrase, form): weight for phrase, weight in settings.hotwords.items()}
            favouring: Decoder | None = self.decoder.favouring(phrases)
            if favouring is not None:
                return favouring
        return self._build(settings, lexicon)

    def warm_up(self) -> None:
        """Decodes two frames, so that the search is compiled, or read from where it is kept, before it is needed."""
        frames = blanks(2, len(self.tokeniser.tokens))
        self.decoder(Emissions(log_probs=frames[None], lengths=np.array([2]), frame_shift=self.network.frame_shift))

    def transcribe(
        self,
        recording: Audible,
        *,
        sample_rate: int | None = None,
        channels: Channels = "mix",
        track: int = 1,
        vad: bool | None = None,
        hotwords: Mapping[str, float] | None = None,
        lexicon: Iterable[str] | None = None,
    ) -> Transcript:
        """What is said in a recording of any length; an array's ``sample_rate`` is in Hz.

        ``channels`` are mixed, taken apart ("split"), or one of them, counted from 1, as is a file's audio ``track``.
        ``vad`` leaves out what is no speech, which None does for what is longer than a window. ``hotwords`` and
        ``lexicon`` are as in ``decoder_for``. Raises AudioError.
        """
        rate = self.network.sample_rate
        source = source_of(recording, sample_rate, rate, track)
        reader = (self.network, self.decoder_for(hotwords, lexicon), self.tokeniser)
        [outcome] = Transcription(*reader, channels=channels, vad=vad)([source])
        if isinstance(outcome, AudioError):
            raise outcome
        return outcome

    def transcribe_all(
        self,
        recordings: Iterable[Recording | Source],
        *,
        channels: Channels = "mix",
        track: int = 1,
        vad: bool | None = None,
        hotwords: Mapping[str, float] | None = None,
        lexicon: Iterable[str] | None = None,
        advance: Callable[[float], None] = lambda _seconds: None,
    ) -> Iterator[Transcript | AudioError]:
        """As ``transcribe``, of many recordings, the pieces of several in one batch: a transcript for each in order, or
        what is wrong with it. ``advance`` hears of the seconds of audio that were worked off."""
        rate = self.network.sample_rate
        sources = (
            recording if isinstance(recording, Source) else source_of(recording, None, rate, track)
            for recording in recordings
        )
        reader = (self.network, self.decoder_for(hotwords, lexicon), self.tokeniser)
        return Transcription(*reader, channels=channels, vad=vad, advance=advance)(sources)

    def align(
        self, recording: Audible, text: str, *, sample_rate: int | None = None, skip_unknown: bool = False
    ) -> AlignedText:
        """Where each word of ``text`` is said in a recording of any length. A word that does not fit is not found.

        Raises AudioError; TextError for a text that is empty, that holds more than the recording has room for or,
        unless ``skip_unknown``, what the model's alphabet cannot spell.
        """
        from asr.transcribe.alignment import align_text, spell  # numba's import takes a second

        spelling = spell(text, self.tokeniser, self.recipe.text.form, skip_unknown=skip_unknown)
        emissions, meter = self._measured(recording, sample_rate)
        loudness = meter.loudness()
        return align_text(emissions, spelling, self.tokeniser, duration=meter.seconds, loudness=loudness)

    def stream(
        self,
        *,
        sample_rate: int | None = None,
        chunk: float = CHUNK_SECONDS,
        context: float = CONTEXT_SECONDS,
        endpoint: float = ENDPOINT_SECONDS,
        hotwords: Mapping[str, float] | None = None,
        lexicon: Iterable[str] | None = None,
    ) -> LiveRecogniser:
        """Live speech: feed it samples at ``sample_rate`` Hz (None: the model's own), and it tells words.

        It reads ``chunk`` seconds at a time and, where the model is bidirectional, ``context`` seconds beyond them;
        ``endpoint`` seconds without a word end an utterance. Raises AudioError.
        """
        return LiveRecogniser(
            self.streaming(),
            self.tokeniser,
            self.decoder_for(hotwords, lexicon),
            sample_rate=sample_rate,
            chunk=chunk,
            context=context,
            endpoint=endpoint,
        )

    def streaming(self) -> Streaming:
        """The network, or what ``share`` put in its place, where it can read live. Raises AsrError where it cannot."""
        if self._shared is not None:
            return self._shared
        if not hasattr(self.network, "stream"):
            raise AsrError(
                "this network does not read live speech: export a one-directional model, or use --engine torch"
            )
        return cast(Streaming, self.network)

    def share(self, through: Callable[[Streaming], Streaming]) -> None:
        """Streams that begin from now on are ``through(network)``'s: a server's, say, which reads many together. Raises
        AsrError as ``streaming`` does."""
        self._shared = through(self.streaming())

    def emit(self, recording: Audible, *, sample_rate: int | None = None) -> tuple[Emissions, float]:
        """A recording's emissions, a batch of one, and its duration in seconds, whatever that is. Raises AudioError."""
        emissions, meter = self._measured(recording, sample_rate)
        return emissions, meter.seconds

    def _measured(self, recording: Audible, sample_rate: int | None) -> tuple[Emissions, Meter]:
        """A recording's emissions, a batch of one, and what has measured it."""
        rate = self.network.sample_rate
        meter = Meter(rate=rate, frame=frame_samples(self.network))
        blocks = meter.through(source_of(recording, sample_rate, rate).blocks(None))
        return emissions_of(self.network, blocks, tokens=len(self.tokeniser.tokens)), meter


def source_of(recording: Audible | Recording, sample_rate: int | None, rate: int, track: int = 1) -> Source:
    """A recording's samples at ``rate`` Hz, block by block; an array is given at ``sample_rate`` Hz."""
    if not isinstance(recording, np.ndarray):
        file = Path(recording) if isinstance(recording, str | PathLike) else recording
        return Source(
            channels=lambda: audio.outline(file, track=track).channels,
            blocks=lambda channel: audio.stream(file, sample_rate=rate, channel=channel, track=track),
        )
    if not isinstance(sample_rate, int) or sample_rate <= 0:
        raise AudioError(
            f"an array needs its sample rate, transcribe(samples, sample_rate=16000); found {sample_rate!r}"
        )
    samples, given = audio.as_floats(recording), sample_rate

    def blocks(channel: int | None) -> Iterator[np.ndarray]:
        if channel is not None and not 1 <= channel <= len(samples):
            raise AudioError(f"the array has no channel {channel}: it has {len(samples)}")
        own = samples.mean(axis=0) if channel is None else samples[channel - 1]
        yield audio.prepare(Waveform(samples=own, sample_rate=given), rate).samples

    return Source(channels=lambda: len(samples), blocks=blocks)
