"""Live speech: words while they are said, each final once, the same for any cuts."""

import itertools

import numpy as np
import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import recipe
from asr.decode.beam import BeamDecoder
from asr.decode.greedy import GreedyDecoder, decode_greedy
from asr.decode.words import TAIL
from asr.errors import AudioError
from asr.model.acoustic import AcousticModel
from asr.model.network import TorchNetwork
from asr.recipe.reading import validate_recipe
from asr.records import Emissions, Heard, Word
from asr.text.tokenise import CharacterTokeniser
from asr.transcribe.live import LiveDecoder
from asr.transcribe.recogniser import Recogniser

TOKENISER = CharacterTokeniser(" abc")
DECODERS = {"greedy": GreedyDecoder(TOKENISER), "beam": BeamDecoder(TOKENISER, recipe.Beam(width=8), threads=1)}


def frames(path: str, sure: float = 0.97) -> np.ndarray:
    """Emissions (T', V) whose best path is ``path``, "-" for blank."""
    emissions = np.full((len(path), 5), (1 - sure) / 4, np.float32)
    emissions[range(len(path)), ["- abc".index(letter) for letter in path]] = sure
    return np.log(emissions)


def hear(decoder: LiveDecoder, pieces: list[np.ndarray]) -> list[Heard]:
    return [*(decoder.feed(piece) for piece in pieces), decoder.feed(np.zeros((0, 5), np.float32), last=True)]


def live(kind: str = "greedy", *, endpoint: float = 8, longest: float = 1000) -> LiveDecoder:
    """A decoder with frames of one second."""
    return LiveDecoder(DECODERS[kind], TOKENISER, frame_shift=1.0, endpoint=endpoint, longest=longest)


def cut(emissions: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    edges = [0, *sorted(c for c in cuts if c < len(emissions)), len(emissions)]
    return [emissions[a:b] for a, b in itertools.pairwise(edges)]


def texts(words: tuple[Word, ...]) -> list[str]:
    return [word.text for word in words]


def test_a_greedy_word_is_final_once_a_boundary_follows_it():
    decoder = live()
    first, second, third = (decoder.feed(frames(path)) for path in ("-ab", "b- -", "c"))
    assert (texts(first.final), texts(first.partial)) == ([], ["ab"])
    assert (texts(second.final), texts(second.partial)) == (["ab"], [])
    assert (texts(third.final), texts(third.partial)) == ([], ["c"])


def test_what_completes_no_frame_is_not_searched_and_leaves_the_words_as_they_were(monkeypatch):
    decoder = live("beam")
    before = decoder.feed(frames("-ab-"))
    monkeypatch.setattr(decoder, "search", None)
    after = decoder.feed(frames(""))
    assert (after.partial, after.final, after.segments) == (before.partial, (), ())


def test_a_searched_word_may_change_until_an_endpoint():
    decoder = live("beam")
    first, second = (decoder.feed(frames(path)) for path in ("-ab- -c-", "--------"))
    assert (texts(first.final), texts(first.partial)) == ([], ["ab", "c"])
    assert (texts(second.final), texts(second.partial)) == (["ab", "c"], [])
    assert [segment.text for segment in second.segments] == ["ab c"]


@pytest.mark.parametrize("kind", DECODERS)
def test_silence_ends_an_utterance_and_times_are_the_streams(kind):
    path = "-a-b-" + 12 * "-" + "  -c"
    final = [word for heard in hear(live(kind), [frames(path)]) for word in heard.final]
    assert [(word.text, word.start, word.end) for word in final] == [("ab", 1, 4 + TAIL), ("c", 20, 21)]


def test_a_greedy_word_is_final_once_its_end_is_known():
    """Which is that of the word after it, and that one's token may peak later than its first frame."""
    decoder = LiveDecoder(DECODERS["greedy"], TOKENISER, frame_shift=0.02, endpoint=8, longest=1000)
    heard = [decoder.feed(frames(path, sure)) for path, sure in (("-ab ", 0.9), ("c", 0.8), ("c", 0.9), ("-", 0.9))]
    assert [texts(each.final) for each in heard] == [[], [], [], ["ab"]]
    assert heard[-1].final[0].end == decoder.partial[0].start == 0.1


@pytest.mark.parametrize("kind", DECODERS)
@settings(max_examples=40)
@given(path=st.text("-- aabc", max_size=60), cuts=st.lists(st.integers(0, 60), max_size=6), data=st.data())
def test_each_word_is_final_once_whatever_the_cuts(kind, path, cuts, data):
    limits = {"endpoint": data.draw(st.integers(2, 9)), "longest": data.draw(st.integers(3, 30))}
    emissions = frames(path)
    heard = hear(live(kind, **limits), cut(emissions, cuts))
    at_once = hear(live(kind, **limits), [emissions])
    final = [word for each in heard for word in each.final]
    segments = [segment for each in heard for segment in each.segments]
    assert final == [word for each in at_once for word in each.final]
    assert final == [word for segment in segments for word in segment.words]
    assert [word.start for word in final] == sorted(word.start for word in final)
    assert heard[-1].partial == ()


@given(path=st.text("-- aabc", max_size=80), longest=st.integers(8, 30))
def test_speech_without_a_pause_is_cut_between_words_and_loses_none(path, longest):
    words = [w[: longest // 4] for w in path.split()]  # a word that is no longer than an utterance may last
    emissions = frames("- -".join(words))
    expected = decode_greedy(
        Emissions(log_probs=np.array(emissions)[None], lengths=np.array([len(emissions)]), frame_shift=1.0),
        TOKENISER,
    )
    decoder = live(endpoint=1000, longest=longest)
    final = [word for heard in hear(decoder, cut(emissions, list(range(0, 400, 3)))) for word in heard.final]
    assert " ".join(texts(tuple(final))) == expected[0].text


def test_an_endless_stream_without_a_pause_holds_no_more_than_the_longest_utterance():
    for kind in DECODERS:
        decoder = live(kind, longest=40)
        for _ in range(30):
            decoder.feed(frames("ab-c- -"))
            assert len(decoder.emissions) <= 40
        silent = live(kind, longest=40)
        for _ in range(30):
            silent.feed(frames("-------"))
            assert len(silent.emissions) <= 8


CELLS = [
    {"kind": "rnn", "bidirectional": False},
    {"kind": "gru", "bidirectional": False},
    {"kind": "lstm", "bidirectional": False},
]


def recogniser(encoder: dict, normalise: str = "none", decoder: str = "greedy") -> Recogniser:
    """Untrained, but with a head that makes it babble."""
    features = {"sample_rate": toy.RATE, "mels": 8, "normalise": normalise}
    settings = validate_recipe(toy.recipe(encoder={"layers": 2, "hidden": 8, **encoder}, features=features), "toy")
    torch.manual_seed(5)
    model = AcousticModel(settings, 5)
    torch.nn.init.normal_(model.head.weight, std=4)
    return Recogniser(TorchNetwork(model), TOKENISER, settings, {}, DECODERS[decoder])


@settings(max_examples=60)
@given(
    encoder=st.sampled_from(CELLS),
    conv=st.sampled_from([None, {"channels": [3], "subsampling": 1}, {"channels": [3, 3], "subsampling": 2}, {}]),
    normalise=st.sampled_from(["none", "global"]),
    length=st.integers(1, 12000),
    cuts=st.lists(st.integers(0, 12000), max_size=8),
    chunk=st.floats(0.01, 1.0),
)
def test_a_one_directional_model_reads_a_stream_as_it_reads_the_whole_file(
    encoder, conv, normalise, length, cuts, chunk
):
    reader = recogniser({**encoder, "conv": conv}, normalise)
    # In steady noise no sound is heard to end, so that words end alike, by their last token.
    samples = (np.random.default_rng(length).standard_normal(length) * 0.1).astype(np.float32)
    # An endpoint is a word boundary of its own: without one, live text is the file's.
    stream = reader.stream(chunk=chunk, endpoint=1000.0)
    final = [word for piece in cut(samples, cuts) for word in stream.feed(piece).final]
    final += stream.finish().final
    whole = reader.transcribe(samples, sample_rate=toy.RATE)
    assert " ".join(texts(tuple(final))) == whole.text
    assert [(w.text, w.start, w.end) for w in final] == [(w.text, w.start, w.end) for w in whole.words]


@pytest.mark.parametrize("decoder", DECODERS)
def test_another_rate_and_another_type_are_the_same_speech(decoder):
    reader = recogniser({"kind": "lstm"}, "utterance", decoder)
    samples = toy.speak("abc abc ab", seconds=0.3)
    doubled = np.repeat(samples, 2)
    stream, other = reader.stream(chunk=0.3, context=0.2), reader.stream(chunk=0.3, context=0.2, sample_rate=16000)
    words = stream.feed((samples * 32767).astype(np.int16)).final + stream.finish().final
    assert words
    assert words[-1].end <= stream.heard == len(samples) / toy.RATE
    other.feed(np.stack([doubled, doubled]))
    other.finish()
    assert other.heard == stream.heard


def test_a_stream_keeps_no_hold_of_the_callers_buffer():
    reader = recogniser({"kind": "lstm"})
    samples, buffer = toy.speak("abc"), np.zeros(800, np.float32)
    kept, reused = reader.stream(chunk=0.2, context=0.1), reader.stream(chunk=0.2, context=0.1)
    heard = [kept.feed(piece) for piece in cut(samples, list(range(0, len(samples), 800)))]
    for i, start in enumerate(range(0, len(samples), 800)):
        piece = buffer[: len(samples) - start]
        piece[:] = samples[start : start + 800]
        assert reused.feed(piece) == heard[i + 1]
        buffer[:] = 7.0
    assert kept.finish() == reused.finish()


@pytest.mark.parametrize("bad", [{"chunk": 0.0}, {"context": -0.1}, {"endpoint": 0.0}, {"sample_rate": 0}])
def test_a_stream_that_cannot_be_is_refused(bad):
    with pytest.raises(AudioError, match="a stream needs a sample rate, a chunk"):
        recogniser({"kind": "lstm"}).stream(**bad)


def test_samples_that_are_no_numbers_are_refused_and_change_nothing():
    reader = recogniser({"kind": "lstm"})
    stream, spared = reader.stream(), reader.stream()
    samples = toy.speak("abc")
    stream.feed(samples)
    spared.feed(samples)
    with pytest.raises(AudioError, match="not numbers"):
        stream.feed(np.array([0.1, np.nan], np.float32))
    assert stream.feed(samples) == spared.feed(samples)
    assert stream.finish() == spared.finish()


def test_a_stream_of_nothing_tells_nothing():
    stream = recogniser({"kind": "lstm"}, "utterance").stream()
    assert stream.feed(np.zeros(0, np.float32)) == stream.finish() == Heard()
