"""The synthetic corpus: seeded, cached, voices apart."""

import sys
from pathlib import Path

import pytest
import soundfile

from asr.data.espeak import synthesise_corpus
from asr.data.layouts import read_manifest
from asr.errors import AsrError, CorpusError, MissingExtraError
from asr.recipe import EspeakCorpus
from asr.text import espeak

pytest.importorskip("espeakng_loader", reason="needs the extra phones")
DIGITS = ("zero", "one", "two")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_CACHE", str(tmp_path / "cache"))


def corpus(**keys) -> EspeakCorpus:
    return EspeakCorpus(**{"kind": "espeak", "vocabulary": DIGITS, "utterances": 6, "words": (1, 3), **keys})


def test_an_utterance_says_what_its_text_says_it_says():
    utterances = list(read_manifest(synthesise_corpus(corpus())))
    assert len(utterances) == 6
    for utterance in utterances:
        assert 1 <= len(utterance.text.split()) <= 3
        assert set(utterance.text.split()) <= set(DIGITS)
        info = soundfile.info(utterance.audio)
        assert info.samplerate == 16000
        assert info.duration == pytest.approx(utterance.duration, abs=1e-3)
        assert 0.2 < info.duration < 5


def test_voices_of_separate_slices_are_separate():
    low, high = (
        {u.speaker for u in read_manifest(synthesise_corpus(corpus(utterances=40, speakers=speakers)))}
        for speakers in ((0.0, 0.5), (0.5, 1.0))
    )
    assert len(low) > 5
    assert len(high) > 5
    assert not low & high


def test_a_corpus_is_made_once_and_depends_on_its_seed():
    first = synthesise_corpus(corpus())
    written = first.stat().st_mtime_ns
    assert synthesise_corpus(corpus(name="other", weight=2.0)) == first
    assert first.stat().st_mtime_ns == written
    texts = [[u.text for u in read_manifest(m)] for m in (first, synthesise_corpus(corpus(seed=2)))]
    assert texts[0] != texts[1]


def test_speech_and_pronunciations_take_turns():
    first = synthesise_corpus(corpus())
    assert espeak.Speller("cy").phones("dau") == ("d", "aɨ")
    again = synthesise_corpus(corpus(seed=2))
    durations = [u.duration for manifest in (first, again) for u in read_manifest(manifest)]
    assert min(durations) > 0.2


def test_an_interrupted_synthesis_leaves_no_half_a_corpus(monkeypatch, tmp_path):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(espeak.Engine, "say", stop)
    with pytest.raises(KeyboardInterrupt):
        synthesise_corpus(corpus())
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [({"languages": ("no-such",)}, "has no voice"), ({"speakers": (0.0, 1e-9)}, "no eSpeak voice falls into")],
)
def test_what_cannot_be_spoken_is_a_sentence(keys, sentence):
    with pytest.raises(CorpusError, match=sentence):
        synthesise_corpus(corpus(**keys))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    espeak._engine.cache_clear()
    with pytest.raises(MissingExtraError, match=r"a corpus of kind: espeak needs .* pip install '\.\[phones\]'"):
        synthesise_corpus(corpus())


def test_a_cache_that_cannot_be_written_is_a_sentence(monkeypatch):
    monkeypatch.setenv("ASR_CACHE", "/dev/null/cache")
    with pytest.raises(AsrError, match="cannot be kept in /dev/null/cache"):
        synthesise_corpus(corpus())


def test_a_disk_that_fills_is_a_sentence_and_leaves_no_half_a_corpus(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CorpusError, match=r"cannot be kept in .*: No space left on device"):
        synthesise_corpus(corpus())
    assert not list((tmp_path / "cache").iterdir())
