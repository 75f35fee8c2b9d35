"""Live speech: samples in as they come, words out, partial first and then final.

An utterance ends where no word is said for a while, by the model's own silence; the search is then concluded and begun
anew. The network's recurrent state is carried on through such endpoints; it begins from zero where the network did not
read at all, in long silence (``audio.utterances``). Speech without a pause is cut before its newest word, so that
memory is flat over an endless stream.
"""

from __future__ import annotations

import numpy as np

from asr.audio import Resampling, as_floats
from asr.decode.decoder import Decoder
from asr.decode.words import TAIL, last_sound, spellings, words_of
from asr.errors import AudioError
from asr.records import BLANK, Heard, Hypothesis, Segment, Streaming, Word
from asr.text.tokenise import Tokeniser

CHUNK_SECONDS = 0.4
CONTEXT_SECONDS = 0.4
"""With ``CHUNK_SECONDS``, the quickest that reads AN4's test clips no worse than whole: recipes/guides/live.md."""
ENDPOINT_SECONDS = 0.8
LONGEST_SECONDS = 30.0


class LiveDecoder:
    """Emissions to words as they come.

    An utterance ends after ``endpoint`` seconds in which the likeliest token is no part of a word, and is cut after
    ``longest`` seconds. State: the utterance's ``search`` and ``emissions`` (T', V), the frame of the stream that it
    ``begins`` with, how many of its words are ``settled`` and which are ``partial``, and how many frames of ``silence``
    it ends with so far.
    """

    def __init__(
        self, decoder: Decoder, tokeniser: Tokeniser, *, frame_shift: float, endpoint: float, longest: float
    ) -> None:
        self.decoder = decoder
        self.tokeniser = tokeniser
        self.frame_shift = frame_shift
        self.endpoint = max(1, round(endpoint / frame_shift))
        self.longest = max(2, round(longest / frame_shift))
        self._quiet = np.array([i == BLANK or token == tokeniser.space for i, token in enumerate(tokeniser.tokens)])
        self.begins = self.silence = self.settled = 0
        self.partial: tuple[Word, ...] = ()
        self._begin(np.zeros((0, len(tokeniser.tokens)), np.float32))

    def feed(self, log_probs: np.ndarray, *, last: bool = False) -> Heard:
        """Reads (T', V) emissions more; after the ``last``, every word is final."""
        if not len(log_probs) and not last:
            return Heard(final=(), partial=self.partial, segments=())
        final: list[Word] = []
        segments: list[Segment] = []

        def close(words: tuple[Word, ...], remark: str) -> None:
            final.extend(words[self.settled :])
            if words:
                text = " ".join(word.text for word in words)
                segments.append(Segment(text=text, start=words[0].start, end=words[-1].end, words=words))
            elif remark:
                start, end = (round(frame * self.frame_shift, 3) for frame in self._extent())
                segments.append(Segment(text="", start=start, end=end, words=(), remark=remark))

        begin = 0
        for frame, quiet in enumerate(self._quiet[log_probs.argmax(axis=1)].tolist(), start=1):
            self.silence = self.silence + 1 if quiet else 0
            ended = self.silence >= self.endpoint
            if ended or len(self.emissions) + frame - begin >= self.longest:
                self._read(log_probs[begin:frame])
                begin = frame
                reading = self.search.conclude()
                words = self._words(reading)
                # Of speech without a pause, the newest word may go on: it is read again.
                keep = len(words) if ended or len(words) == 1 else max(self.settled, len(words) - 1)
                close(words[:keep], reading.remark)
                self._begin_after(reading, keep)
        self._read(log_probs[begin:])
        if last:
            reading = self.search.conclude()
            words = self._words(reading)
            close(words, reading.remark)
            self._begin_after(reading, len(words))
        hypothesis = self.search.best()
        words = self._words(hypothesis)
        settled = self._settled(hypothesis, words)
        final += words[self.settled : settled]
        self.settled, self.partial = settled, words[settled:]
        return Heard(final=tuple(final), partial=self.partial, segments=tuple(segments))

    def _begin(self, emissions: np.ndarray) -> None:
        """A new utterance, of which ``emissions`` have been heard already."""
        self.search = self.decoder.begin()
        self.search.feed(emissions)
        self.emissions = emissions
        self.settled = 0

    def _begin_after(self, reading: Hypothesis, kept: int) -> None:
        """A new utterance after so many words of this one: with those that are left, or else with what comes."""
        first = len(self.emissions)
        spelled = spellings(reading, self.tokeniser)
        if kept < len(spelled):
            after, until = spelled[kept - 1][-1][1] + 1, spelled[kept][0][1]
            between = self.emissions[after:until, self._quiet].max(axis=1)  # cut between words in the quietest frame
            first = after + int(between.argmax()) if len(between) else until
        else:
            self.silence = 0
        self.begins += first
        self._begin(self.emissions[first:].copy())

    def _read(self, log_probs: np.ndarray) -> None:
        self.search.feed(log_probs)
        self.emissions = np.concatenate([self.emissions, log_probs])

    def _words(self, hypothesis: Hypothesis) -> tuple[Word, ...]:
        begin = self.begins * self.frame_shift
        return words_of(hypothesis, self.tokeniser, self.frame_shift, begin, self.decoder.calibration)

    def _extent(self) -> tuple[int, int]:
        """The utterance's frames of the stream, from the first to the last that is not silent."""
        loud = np.flatnonzero(~self._quiet[self.emissions.argmax(axis=1)])
        first, last = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(self.emissions))
        return self.begins + first, self.begins + last

    def _settled(self, hypothesis: Hypothesis, words: tuple[Word, ...]) -> int:
        """How many of the words no later frame can change: with a search that does not revise, those before a boundary,
        the last of them once it cannot go on, and none whose end is the beginning of a word that has yet to peak."""
        if self.search.revises or not words:
            return 0
        newest, heard = spellings(hypothesis, self.tokeniser)[-1], (len(self.emissions) - 1) * self.frame_shift
        if self.tokeniser.tokens[hypothesis.tokens[-1]].endswith(self.tokeniser.space):
            return len(words) if last_sound(newest, self.frame_shift) + TAIL <= heard else len(words) - 1
        peaks = len(newest) == 1 and int(self.emissions[-1].argmax()) == hypothesis.tokens[-1]
        return max(self.settled, len(words) - 1 - peaks)


class LiveRecogniser:
    """A stream of samples to words. ``Recogniser.stream`` makes one; each stream needs its own.

    ``emissions`` and ``words`` hold all of its state. A word is shown ``latency`` seconds after it is said at the most.
    """

    def __init__(
        self,
        network: Streaming,
        tokeniser: Tokeniser,
        decoder: Decoder,
        *,
        sample_rate: int | None = None,
        chunk: float = CHUNK_SECONDS,
        context: float = CONTEXT_SECONDS,
        endpoint: float = ENDPOINT_SECONDS,
        longest: float = LONGEST_SECONDS,
    ) -> None:
        """``sample_rate`` in Hz, None being the network's; the rest in seconds. Raises AudioError."""
        rate = network.sample_rate
        sample_rate = rate if sample_rate is None else sample_rate
        if min(sample_rate, chunk, endpoint, longest) <= 0 or context < 0:
            raise AudioError(
                "a stream needs a sample rate, a chunk, an endpoint and a longest utterance above 0 and a context of 0 "
                f"or more; found {sample_rate} Hz and {chunk}, {endpoint}, {longest} and {context} s"
            )
        self.sample_rate = sample_rate
        self.heard = 0.0
        """Seconds."""
        self.resampling = Resampling(sample_rate, rate)
        self.emissions = network.stream(chunk=chunk, context=context)
        self.words = LiveDecoder(
            decoder, tokeniser, frame_shift=network.frame_shift, endpoint=endpoint, longest=longest
        )

    @property
    def latency(self) -> float:
        return self.emissions.latency

    def feed(self, samples: np.ndarray) -> Heard:
        """Hears samples more: (S,) or (channels, S), floats in [-1, 1] or 16-bit integers. Raises AudioError."""
        return self._hear(as_floats(samples).mean(axis=0) if samples.size else np.zeros(0, np.float32), last=False)

    def finish(self) -> Heard:
        """The end of the stream: every word becomes final. What is fed after it is another stream's."""
        return self._hear(np.zeros(0, np.float32), last=True)

    def _hear(self, samples: np.ndarray, *, last: bool) -> Heard:
        self.heard += len(samples) / self.sample_rate
        samples = self.resampling.feed(samples.copy(), last=last)
        return self.words.feed(self.emissions.feed(samples, last=last), last=last)
