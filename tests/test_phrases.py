"""One of these phrases: a grammar spells exactly its phrases, the search finds the best of them, and what is none of
them is said to be none."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from asr import recipe
from asr.cli.options import decoder_overrides
from asr.decode.align import align
from asr.decode.decoder import build_decoder
from asr.decode.grammar import END, START, Grammar, parse_grammar
from asr.decode.phrases import PhraseDecoder
from asr.decode.words import words_of
from asr.errors import AsrError, EmissionsError, LanguageModelError, TextError
from asr.recipe.reading import validate_recipe
from asr.records import BLANK, Emissions
from asr.text.pronounce import Pronunciation, PronunciationLexicon
from asr.text.tokenise import CharacterTokeniser, PhoneTokeniser, build_tokeniser
from asr.transcribe.formats import as_json
from asr.transcribe.live import LiveDecoder
from asr.transcribe.recordings import Source, Transcription

SHIFT = 0.02
LETTERS = CharacterTokeniser(" abcdefghijklmnopqrstuvwxyz")


def spelled(grammar: Grammar, most: int = 4) -> set[str]:
    """The automaton's phrases of at most ``most`` words."""
    found, waiting = set(), [(START, ())]
    while waiting:
        place, words = waiting.pop()
        if place == END:
            found.add(" ".join(words))
        waiting += [(after, words) for before, after in grammar.skips if before == place]
        waiting += [(s.end, (*words, s.word)) for s in grammar.words if s.start == place and len(words) < most]
    return found


def decoder_of(grammar: str, tokeniser=LETTERS, *, reject: float = 0.0, pause: float = 100.0) -> PhraseDecoder:
    settings = recipe.Phrases(kind="phrases", file="phrases.txt", reject=reject, pause=pause)
    return PhraseDecoder(tokeniser, parse_grammar(grammar, "phrases.txt"), settings)


def emissions_of(*log_probs: np.ndarray) -> Emissions:
    lengths = [len(each) for each in log_probs]
    padded = np.zeros((len(lengths), max(lengths), log_probs[0].shape[1]), np.float32)
    for row, each in zip(padded, log_probs, strict=True):
        row[: len(each)] = each
    return Emissions(log_probs=padded, lengths=np.array(lengths), frame_shift=SHIFT)


def said(path: str, *, sure: float = 0.99, tokeniser=LETTERS) -> np.ndarray:
    """(T, V) of a letter a frame, "-" for the blank, each with the probability ``sure``."""
    vocabulary = len(tokeniser.tokens)
    log_probs = np.full((len(path), vocabulary), math.log((1 - sure) / (vocabulary - 1)), np.float32)
    for row, letter in zip(log_probs, path, strict=True):
        row[BLANK if letter == "-" else tokeniser.encode(letter)[0]] = math.log(sure)
    return log_probs


# ------------------------------------------------------------------------------------------------------- grammar


@pytest.mark.parametrize(
    ("grammar", "phrases"),
    [
        ("stop\ngo on", {"stop", "go on"}),
        ("turn (on | off)", {"turn on", "turn off"}),
        ("[please] stop [now]", {"stop", "please stop", "stop now", "please stop now"}),
        ("a | b c", {"a", "b c"}),
        ("make it <c>\n<c> = red | light\n  blue;", {"make it red", "make it light blue"}),
        ("dial <d>+\n<d> = one;", {"dial one", "dial one one", "dial one one one"}),
        ("go on*", {"go", "go on", "go on on", "go on on on"}),
        ("[a] x+ | y", {"y", "x", "x x", "x x x", "x x x x", "a x", "a x x", "a x x x"}),
        ("([a] [b])+ c", {" ".join((*w, "c")) for n in range(4) for w in itertools.product("ab", repeat=n)}),
        ("# all of it\n\nstop // at once\nc#", {"stop", "c#"}),
        ("#JSGF V1.0;\ngrammar lamp;\npublic <go> = go;", {"go"}),
        ("<a> = b; <a> c; ", {"b c"}),
    ],
)
def test_a_grammar_spells_its_phrases_and_no_others(grammar, phrases):
    assert spelled(parse_grammar(grammar, "phrases.txt")) == phrases


def test_phrases_are_written_in_the_model_s_form():
    assert spelled(parse_grammar("Well-known, ISN'T it?", "phrases.txt", "words")) == {"well known isn't it"}


@pytest.mark.parametrize(
    ("grammar", "fault"),
    [
        ("go\nturn (on", 'line 2: "(" is not closed'),
        ("turn [on", 'line 1: "[" is not closed'),
        ("turn on)", 'line 1: ")" is out of place'),
        ("go\n\na ( | b)", "line 3: an alternative is empty"),
        ("| a", "line 1: an alternative is empty"),
        (";", "line 1: an alternative is empty"),
        ("<a> = b\nc", "line 1: the rule <a> has no semicolon"),
        ("<a> = b\n<c> = d;\n<a>", "line 1: the rule <a> has no semicolon"),
        ("<a> = b;", "holds no phrase: expected one a line, besides the rules"),
        ("", "holds no phrase: expected one a line"),
        ("# nothing", "holds no phrase"),
        ("x <y>", "line 1: the rule <y> is defined nowhere"),
        ("<a> = b;\n<a> = c;\n<a>", "line 2: the rule <a> is defined already, in line 1"),
        ("<a> = <b>;\n<b> = x <a>;\n<a>", "line 2: the rule <a> contains itself"),
        ("go\n[a] [b]", "line 2: the phrase may be empty"),
        ("a {tag}", 'line 1: "{" is out of place'),
        ("/0.5/ a", 'line 1: "/" is out of place'),
        ("+ a", 'line 1: "+" is out of place'),
        ("go\n!!!", 'line 2: "!!!" is no word'),
        ("(" * 80 + "a" + ")" * 80, "line 1: more than 50 brackets within each other"),
        ("a" + "+" * 80, "line 1: more than 50 brackets and rules"),
    ],
)
def test_a_faulty_grammar_is_a_sentence_with_its_line(grammar, fault):
    with pytest.raises(LanguageModelError) as caught:
        parse_grammar(grammar, "phrases.txt", "words")
    assert str(caught.value).startswith("phrases.txt")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rules_that_multiply_are_bounded(monkeypatch):
    monkeypatch.setattr("asr.decode.grammar.MOST_WORDS", 100)
    rules = "".join(f"<r{i}> = <r{i + 1}> <r{i + 1}>;\n" for i in range(20))
    with pytest.raises(LanguageModelError, match="line 21: more than 100 words, every use of a rule counted"):
        parse_grammar(f"{rules}<r20> = a;\n<r0>", "phrases.txt")


def test_a_file_of_phrases_that_is_missing_or_no_text_is_a_sentence(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("missing", "No such file"), ("binary", "not UTF-8")):
        settings = recipe.Phrases(kind="phrases", file=name)
        with pytest.raises(LanguageModelError, match=reason):
            build_decoder(settings, LETTERS, root=tmp_path)


def test_a_word_that_the_model_cannot_spell_is_named_with_its_line():
    with pytest.raises(TextError, match=r"phrases.txt, line 2: 'ß' is outside the alphabet"):
        decoder_of("go\nstraße")


# -------------------------------------------------------------------------------------------------------- search


def phones(*, separator: bool) -> PhoneTokeniser:
    ways = {"a": ("P", "P Q"), "b": ("Q",), "c": ("Q P", "R")}
    lexicon = PronunciationLexicon(
        {word: tuple(Pronunciation(tuple(way.split())) for way in each) for word, each in ways.items()}
    )
    return PhoneTokeniser(("P", "Q", "R"), lexicon, recipe.Phones(kind="phones", separator=separator))


PIECES = ["ab", "a b", "ba b a", "c ab ab", "ca b c"] * 20


@pytest.fixture(scope="module")
def tokenisers():
    pieces = build_tokeniser(recipe.SentencePiece(kind="sentencepiece", vocabulary=8), PIECES)
    return {
        "letters": CharacterTokeniser(" abc"),
        "sub-words": pieces,
        "phones": phones(separator=False),
        "phones apart": phones(separator=True),
    }


def likeliest(phrase: str, log_probs: np.ndarray, tokeniser) -> float:
    """The best path's score over every spelling of ``phrase`` and every number of separators around it."""
    words = phrase.split()
    if isinstance(tokeniser, PhoneTokeniser):
        ways = [tokeniser.join(ways) for ways in itertools.product(*map(tokeniser.pronounce, words))]
    else:
        ways = [tokeniser.encode(phrase)]
    space = [i for i, token in enumerate(tokeniser.tokens) if i and token == tokeniser.space]
    best = -math.inf
    for way in ways:
        for before, after in itertools.product(range(4 if space else 1), repeat=2):
            tokens = space * before + list(way) + space * after
            if len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens)) <= len(log_probs):
                best = max(best, align(log_probs, tokens).score)
    return best


@pytest.mark.parametrize("units", ["letters", "sub-words", "phones", "phones apart"])
@pytest.mark.parametrize("grammar", ["a\nb a\nc [a] b", "[b] (a | c)+ [b]", "a a\na+ b\nb* c"])
def test_the_search_finds_the_best_path_of_all_phrases(units, grammar, tokenisers):
    tokeniser = tokenisers[units]
    decoder = decoder_of(grammar, tokeniser)
    words_in_six_frames = 3 if units in ("letters", "phones apart") else 6
    phrases = spelled(parse_grammar(grammar, "phrases.txt"), most=words_in_six_frames)
    draw = np.random.default_rng(7)
    for frames in (1, 3, 4, 6):
        logits = 2 * draw.standard_normal((frames, len(tokeniser.tokens)))
        log_probs = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
        scores = {phrase: likeliest(phrase, log_probs, tokeniser) for phrase in phrases}
        best = max(scores.values())
        [(found,)] = decoder(emissions_of(log_probs))
        if best == -math.inf:
            assert found.text == ""
        else:
            assert found.acoustic_score == pytest.approx(best, abs=1e-4)
            assert scores[found.text] == pytest.approx(best, abs=1e-4)


def test_words_have_the_frames_at_which_their_tokens_peak():
    log_probs = said("--go--onn--")
    log_probs[8, LETTERS.encode("n")[0]] += 0.005
    decoder = decoder_of("go on")
    log_probs[5] = said(" ")[0]
    [(found,)] = decoder(emissions_of(log_probs))
    assert [(w.text, w.start, w.end) for w in words_of(found, LETTERS, SHIFT)] == [
        ("go", 0.04, 0.12),
        ("on", 0.12, 0.2),
    ]


def test_frames_that_come_one_by_one_give_the_same_reading():
    draw = np.random.default_rng(3)
    logits = draw.standard_normal((12, len(LETTERS.tokens)))
    log_probs = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
    decoder = decoder_of("go (on | off)\n(no )+ go")
    [(whole,)] = decoder(emissions_of(log_probs))
    search = decoder.begin()
    for row in log_probs:
        search.feed(row[None])
        search.best()
    assert search.conclude() == whole


def test_a_phrase_does_not_depend_on_its_batch_or_the_silence_around_it():
    decoder = decoder_of("go\nstop", reject=0.5)
    short, long = said("sto-p"), said("-- go ----")
    alone = [decoder(emissions_of(each))[0][0] for each in (short, long)]
    assert [reading for (reading,) in decoder(emissions_of(short, long))] == alone
    assert [reading.text for reading in alone] == ["stop", "go"]


# ----------------------------------------------------------------------------------------------------- rejection


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("--stop--", "stop"),
        ("--stup--", ""),
        ("stop  it", ""),
        ("--------", ""),
        ("", ""),
        ("s", ""),
    ],
)
def test_what_is_none_of_the_phrases_is_rejected(path, text):
    decoder = decoder_of("stop\ngo on", reject=0.5)
    [(found,)] = decoder(emissions_of(said(path)))
    assert found.text == text
    assert bool(found.remark) == (text == "" and path.strip("-") != "")


def test_a_rejection_names_the_nearest_phrase_and_its_confidence():
    [(found,)] = decoder_of("stop\ngo on", reject=0.5)(emissions_of(said("stup")))
    assert found.remark.startswith('none of the phrases; the nearest is "stop", of confidence 0.1')


def test_a_confidence_is_per_token_so_that_long_phrases_are_not_rejected_for_their_length():
    doubtful = 0.6
    for phrase in ("go", "go on and on and on"):
        log_probs = said("-".join(phrase), sure=doubtful)
        log_probs[::2, BLANK] = log_probs[::2].max(axis=1) + 0.5
        log_probs -= np.logaddexp.reduce(log_probs, axis=1, keepdims=True)
        [(found,)] = decoder_of(phrase, reject=math.exp(-0.5) - 0.01)(emissions_of(log_probs))
        assert found.text == phrase
        assert decoder_of(phrase, reject=math.exp(-0.5) + 0.01)(emissions_of(log_probs))[0][0].text == ""


def test_after_a_pause_another_phrase_may_be_said():
    pause = 5
    path = "stop" + "-" * pause + "nonsense" + "-" * pause + "go-on"
    decoder = decoder_of("stop\ngoon", reject=0.5, pause=pause * SHIFT)
    [(found,)] = decoder(emissions_of(said(path)))
    assert found.text == "stop goon"
    assert found.remark.count("none of the phrases") == 1
    words = words_of(found, LETTERS, SHIFT)
    assert [round(word.start / SHIFT) for word in words] == [path.index("stop"), path.index("go-on")]
    [(rushed,)] = decoder(emissions_of(said(path.replace("-----", "----"))))
    assert rushed.text == ""


@pytest.mark.parametrize("fault", ["nan", "infinity", "tokens", "logits", "probabilities"])
def test_emissions_that_are_no_log_probabilities_are_refused(fault):
    log_probs = said("go")
    if fault == "tokens":
        log_probs = log_probs[:, :-1]
    elif fault in ("logits", "probabilities"):
        log_probs = log_probs - 8 if fault == "logits" else np.exp(log_probs)
    else:
        log_probs[0, 0] = math.nan if fault == "nan" else math.inf
    with pytest.raises(EmissionsError):
        decoder_of("go")(emissions_of(log_probs))


# ------------------------------------------------------------------------------------- files, streams, command line


class Parrot:
    """A network that hears letters in samples: each is a token's id, a frame a sample."""

    sample_rate, frame_shift = 50, SHIFT

    def emit(self, waveforms):
        return emissions_of(*(said("".join(("-", *LETTERS.tokens[1:])[round(s)] for s in w)) for w in waveforms))


def test_a_transcript_says_where_none_of_the_phrases_was_said():
    decoder = decoder_of("stop", reject=0.5)
    samples = [
        np.array([LETTERS.encode(c)[0] if c != "-" else 0 for c in path], np.float32) for path in ("stop", "go-")
    ]
    sources = [Source(channels=lambda: 1, blocks=lambda _, own=own: [own]) for own in samples]
    first, second = Transcription(Parrot(), decoder, LETTERS)(sources)
    assert (first.text, [segment.remark for segment in first.segments]) == ("stop", [""])
    assert (second.text, second.words) == ("", ())
    [told] = json.loads(as_json(second, "x.wav"))["segments"]
    assert told["remark"].startswith("none of the phrases")


def test_a_stream_tells_phrases_when_they_have_ended_and_what_was_none_of_them():
    decoder = decoder_of("stop\ngo on", reject=0.5)
    stream = LiveDecoder(decoder, LETTERS, frame_shift=SHIFT, endpoint=5 * SHIFT, longest=10.0)
    path = "--stop-----" + "--nono-----" + "------" + "go on-----"
    heard = [stream.feed(row[None]) for row in said(path)]
    segments = [segment for each in heard for segment in each.segments]
    assert [(segment.text, bool(segment.remark)) for segment in segments] == [
        ("stop", False),
        ("", True),
        ("go on", False),
    ]
    assert [word.text for each in heard for word in each.final] == ["stop", "go", "on"]
    start = path.index("nono")
    assert (segments[1].start, segments[1].end) == pytest.approx((start * SHIFT, (start + 4) * SHIFT))
    assert not stream.feed(said("--")).partial


def test_the_options_are_the_recipe_s_keys():
    options = {**dict.fromkeys(("hotwords", "beam", "lm", "reject")), "greedy": False}
    overrides = decoder_overrides(**{**options, "reject": "0.3"}, phrases="/x/lamp.txt")
    source = [{"kind": "folder", "path": "x"}]
    settings = validate_recipe({"corpora": {"train": source, "dev": source}}, "test", overrides)
    assert settings.decoder == recipe.Phrases(kind="phrases", file="/x/lamp.txt", reject=0.3)
    for others in ({"beam": "8"}, {"hotwords": "a"}, {"greedy": True}):
        with pytest.raises(AsrError):
            decoder_overrides(**{**options, **others}, phrases="/x/lamp.txt")
