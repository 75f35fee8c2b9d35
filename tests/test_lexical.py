"""The search over pronunciations against every path and every reading of it there is, and what it knows of words."""

from __future__ import annotations

import collections
import functools
import itertools
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import checkpoint, recipe
from asr.decode.arpa import read_arpa
from asr.decode.beam import BeamDecoder, Knowledge
from asr.decode.decoder import gather_knowledge
from asr.decode.greedy import decode_greedy
from asr.decode.lexical import LexicalFusion
from asr.decode.ngram import NgramModel
from asr.decode.rescore import TextModel
from asr.decode.words import words_of
from asr.errors import LanguageModelError, TextError
from asr.model.language import LanguageModel
from asr.records import Emissions, ErrorCounts, Hypothesis
from asr.text.pronounce import Pronunciation, PronunciationLexicon
from asr.text.tokenise import CharacterTokeniser, PhoneTokeniser
from asr.transcribe.live import LiveDecoder
from asr.transcribe.recogniser import load_lstm
from asr.tune import DevSet, tune

EXACT = recipe.Beam(width=5000, tokens=100, token_threshold=-1e9, score_threshold=1e9)

ENTRIES = {
    "a": {"A": 1.0},
    "eh": {"A": 1.0},  # sounds as "a"
    "ab": {"A B": 0.7, "B": 0.3},  # also sounds as "b"
    "b": {"B": 1.0},
    "abba": {"A B B A": 1.0},  # begins as "ab" and "a b"
    "ba": {"B A": 0.5, "B C": 0.5},
    "cc": {"C C": 1.0},
}


def lexicon(entries: Mapping[str, Mapping[str, float]] = ENTRIES) -> PronunciationLexicon:
    return PronunciationLexicon(
        {
            word: tuple(Pronunciation(tuple(phones.split()), probability) for phones, probability in ways.items())
            for word, ways in entries.items()
        }
    )


@functools.cache
def phones(*, separator: bool = False) -> PhoneTokeniser:
    """Ids: blank 0, with a separator 1, and the phones A, B, C."""
    return PhoneTokeniser("ABC", lexicon(), recipe.Phones(kind="phones", separator=separator))


def random_emissions(seed: int, frames: int, tokens: int, *, peaky: float = 1.0) -> Emissions:
    draws = np.random.default_rng(seed).normal(size=(frames, tokens)) * peaky
    return emissions(draws - np.log(np.exp(draws).sum(1, keepdims=True)))


def emissions(log_probs: np.ndarray) -> Emissions:
    values = np.asarray(log_probs, np.float32)[None]
    return Emissions(log_probs=values, lengths=np.array([values.shape[1]]), frame_shift=0.04)


def spoken(tokeniser: PhoneTokeniser, tokens: str, *, sure: float = 0.97) -> Emissions:
    """Emissions of ``tokens``, each in a frame with a blank after it; ``/`` is the separator, ``.`` a blank."""
    names = {"/": tokeniser.space, ".": "<blank>"}
    ids = [tokeniser.tokens.index(names.get(token, token)) for token in tokens.split()]
    rows = np.full((2 * len(ids), len(tokeniser.tokens)), (1 - sure) / (len(tokeniser.tokens) - 1))
    for i, token in enumerate(ids):
        rows[2 * i, token] = rows[2 * i + 1, 0] = sure
    return emissions(np.log(rows))


def decode(
    tokeniser: PhoneTokeniser, case: Emissions, chosen: recipe.Beam = EXACT, nbest: int = 1000, **known: object
) -> tuple[Hypothesis, ...]:
    decoder = BeamDecoder(tokeniser, chosen, Knowledge(fusion=LexicalFusion(tokeniser, **known)), nbest=nbest)
    [found] = decoder(case)
    return found


# ------------------------------------------------------------------------------------------------ all that there is


def brute_force(log_probs: np.ndarray, tokeniser: PhoneTokeniser) -> dict[str, float]:
    """Log probability of each word sequence, over all paths and all ways to read each as pronunciations."""
    sums: dict[str, float] = collections.defaultdict(float)
    rows = log_probs.tolist()
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(rows)):
        mass = math.exp(sum(row[token] for row, token in zip(rows, path, strict=True)))
        spelled = tuple(tokeniser.tokens[token] for token, _ in itertools.groupby(path) if token)
        for words, probability in readings(spelled, separator=tokeniser.settings.separator):
            sums[words] += mass * probability
    return {words: math.log(mass) for words, mass in sums.items()}


@functools.cache
def readings(spelled: tuple[str, ...], *, separator: bool) -> list[tuple[str, float]]:
    """The word sequences that are pronounced so, each time with how likely it is that they are."""
    if separator:
        runs = [tuple(run) for parts, run in itertools.groupby(spelled, lambda phone: phone == " ") if not parts]
        return list(products([said_so(run) for run in runs]))
    found = [("", 1.0)] if not spelled else []
    for end in range(1, len(spelled) + 1):
        found += products([said_so(spelled[:end]), readings(spelled[end:], separator=False)])
    return found


def said_so(run: tuple[str, ...]) -> list[tuple[str, float]]:
    """The single words that are pronounced ``run``."""
    return [(word, ways[" ".join(run)]) for word, ways in ENTRIES.items() if " ".join(run) in ways]


def products(parts: list[list[tuple[str, float]]]) -> Iterator[tuple[str, float]]:
    for chosen in itertools.product(*parts):
        yield " ".join(words for words, _ in chosen if words), math.prod(probability for _, probability in chosen)


ARPA = """\\data\\
ngram 1=7
ngram 2=4

\\1-grams:
-2 <unk>
-9 <s> -0.1
-1 </s>
-0.5 a -0.3
-0.8 ab -0.2
-1.0 b -0.2
-1.5 ba 0

\\2-grams:
-0.1 <s> ab
-0.2 ab b
-0.3 a a
-0.4 ba </s>

\\end\\
"""


@functools.cache
def words_model(text: str = ARPA) -> NgramModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.arpa"
        path.write_text(text)
        return NgramModel.from_arpa(read_arpa(path))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), frames=st.integers(1, 5), peaky=st.sampled_from([0.3, 1, 5]), separator=st.booleans()
)
def test_unpruned_search_equals_the_sum_over_all_paths_and_pronunciations(seed, frames, peaky, separator):
    tokeniser = phones(separator=separator)
    case = random_emissions(seed, frames, len(tokeniser.tokens), peaky=peaky)
    truth = brute_force(case.log_probs[0].astype(float), tokeniser)
    found = decode(tokeniser, case)
    assert {h.text: pytest.approx(h.acoustic_score, abs=1e-5) for h in found} == truth
    assert len(found) == len(truth)
    assert found[0].acoustic_score == pytest.approx(max(truth.values()), abs=1e-5)


HOTWORDS = {"eh": 1.5, "b b": 1.0, "ab b a": 2.0, "cc": -1.0, "b": 0.25}


def expected_score(text: str, *, alpha: float, beta: float, unknown: float) -> float:
    """What language model and hotwords say of a whole sentence."""
    words, model = text.split(), words_model()
    named = " ".join(HOTWORDS).split()
    lacking = sum(word not in model.words and word not in named for word in words)
    exempt = sum(word not in model.words and word in named for word in words)
    exemption = (2 - 1.5) * math.log(10)  # these go as the rarest word, and not as <unk>
    said = f" {text} "
    gain = sum(
        weight * sum(said.startswith(f" {phrase} ", i) for i in range(len(said))) for phrase, weight in HOTWORDS.items()
    )
    return alpha * (sum(model.score(words)) + exempt * exemption) + beta * len(words) + unknown * lacking + gain


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 5), separator=st.booleans())
def test_language_model_and_hotwords_add_their_score_to_every_word_sequence(seed, frames, separator):
    weights = {"alpha": 0.7, "beta": 0.4, "unknown": -1.5}
    tokeniser = phones(separator=separator)
    case = random_emissions(seed, frames, len(tokeniser.tokens))
    found = {h.text: h for h in decode(tokeniser, case, model=words_model(), hotwords=HOTWORDS, **weights)}
    truth = brute_force(case.log_probs[0].astype(float), tokeniser)
    assert found.keys() == truth.keys()
    assert {text: found[text].acoustic_score for text in truth} == pytest.approx(truth, abs=1e-4)
    expected = {text: expected_score(text, **weights) for text in truth}
    assert {text: found[text].lm_score for text in truth} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("separator", [False, True])
@pytest.mark.parametrize("weight", [3.0, 30.0, 1e6])
def test_hotwords_of_any_weight_find_readings_at_least_as_good_as_those_found_without(weight, separator):
    """Whether they end or are cut off within a hotword."""
    tokeniser, chosen = phones(separator=separator), recipe.Beam(width=8)
    hotwords = {"cc": weight, "abba cc": weight, "ba ba": weight, "b": -weight}
    for seed in range(40):
        case = random_emissions(seed, 25, len(tokeniser.tokens), peaky=3.0)
        plain = decode(tokeniser, case, chosen, nbest=1)[0]
        best = decode(tokeniser, case, chosen, nbest=1, hotwords=hotwords)[0]
        assert best.score >= plain.score + toy.hotword_score(plain.text, hotwords) - 0.5


def same(one: object, other: object) -> bool:
    """Whether two records of numbers and arrays hold the same."""
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return bool(np.array_equal(one, other, equal_nan=True))


@pytest.mark.parametrize("hotwords", [{}, {"ab ba": 3.0, "b": -1.0}])
def test_other_hotwords_share_the_tree_and_are_what_is_built_with_them(hotwords):
    plain = LexicalFusion(phones(), model=words_model(), alpha=0.5, beta=0.1, unknown=-3.0)
    shared = plain.favouring(phones(), hotwords)
    assert shared.tables.tree is plain.tables.tree
    assert len(plain.tables.phrases.share) == 0
    anew = LexicalFusion(phones(), model=words_model(), alpha=0.5, beta=0.1, unknown=-3.0, hotwords=hotwords)
    assert same(shared.tables, anew.tables)
    assert shared.words == anew.words


def test_hotwords_that_the_lexicon_or_the_language_model_lacks_share_no_tree():
    plain = LexicalFusion(growing(), model=words_model())
    known = [word for word, foreign in zip(plain.words, plain.tables.foreign, strict=True) if not foreign]
    assert plain.favouring(growing(), dict.fromkeys(known, 1.0)) is not None
    assert [plain.favouring(growing(), {word: 1.0}) for word in ("cac", *{*plain.words} - {*known})] == [None] * (
        1 + len(plain.words) - len(known)
    )


@pytest.mark.parametrize("separator", [False, True])
def test_a_search_fed_in_chunks_is_the_search_fed_at_once(separator):
    tokeniser = phones(separator=separator)
    fusion = LexicalFusion(tokeniser, model=words_model(), alpha=0.5, hotwords=HOTWORDS)
    for seed in range(5):
        case = random_emissions(seed, 40, len(tokeniser.tokens), peaky=3.0)
        decoder = BeamDecoder(tokeniser, recipe.Beam(width=8), Knowledge(fusion=fusion), nbest=3)
        search = decoder.begin()
        for start, end in itertools.pairwise([0, 7, 8, 21, 40]):
            search.feed(case.log_probs[0, start:end])
            search.best()
        assert search.nbest(3) == decoder(case)[0]


def test_pruning_at_the_defaults_finds_what_the_unpruned_search_finds():
    for seed in range(10):
        case = random_emissions(seed, 8, 4, peaky=4.0)
        known = {"model": words_model(), "alpha": 0.5}
        assert decode(phones(), case, recipe.Beam(), **known)[0].text == decode(phones(), case, **known)[0].text


# ------------------------------------------------------------------------------------------------------------ words


@pytest.mark.parametrize(("separator", "said"), [(False, "A B B A . B A"), (True, "/ A B B A / / B A /")])
def test_each_word_has_the_phones_frames_and_time_in_which_it_is_said(separator, said):
    tokeniser = phones(separator=separator)
    best, *_ = decode(tokeniser, spoken(tokeniser, said), recipe.Beam(), model=words_model(), beta=-3.0)
    assert best.text == "abba ba"
    spelled = [[tokeniser.tokens[token] for token in best.tokens[start:end]] for start, end in best.spans]
    assert spelled == [["A", "B", "B", "A"], ["B", "A"]]
    first, second = words_of(best, tokeniser, 0.04, offset=1.0)
    places = said.split()
    begun = 2 * places.index("A"), 2 * (len(places) - places[::-1].index("B") - 1)
    assert (first.text, first.start) == ("abba", pytest.approx(1.0 + 0.04 * begun[0]))
    assert (second.text, second.start) == ("ba", pytest.approx(1.0 + 0.04 * begun[1]))
    assert first.confidence == pytest.approx(0.97**4, abs=1e-3)


def test_a_word_that_is_not_finished_is_left_out():
    search = BeamDecoder(phones(), recipe.Beam(), Knowledge(fusion=LexicalFusion(phones()))).begin()
    search.feed(spoken(phones(), "A . C", sure=1 - 1e-9).log_probs[0])
    best = search.best()
    assert best.text in ("a", "eh")
    assert (best.tokens, best.spans) == ((1,), ((0, 1),))
    assert search.conclude().text in ("a", "eh")


def test_greedy_decoding_spells_phones_each_with_its_own_time():
    tokeniser = phones(separator=True)
    [best] = decode_greedy(spoken(tokeniser, "A B / C"), tokeniser)
    assert best.text == "A B C"
    assert [(word.text, word.start) for word in words_of(best, tokeniser, 0.04)] == [
        ("A", 0.0),
        ("B", 0.08),
        ("C", 0.24),
    ]


def test_without_a_language_model_every_word_costs_as_much():
    said = spoken(phones(), "A B B A", sure=0.9)
    best, *_ = BeamDecoder(phones(), recipe.Beam(), nbest=5)(said)[0]
    assert best.text == "abba"  # one word, where "a b b a" is four
    assert best.lm_score == pytest.approx(0.5 * -math.log(len(ENTRIES)))


def test_of_words_that_sound_alike_the_language_model_chooses():
    said = spoken(phones(), "A . B . A")
    found = decode(phones(), said, recipe.Beam(), model=words_model(), alpha=1.0, beta=-2.0, unknown=-5.0)
    assert found[0].text == "ab a"
    assert "ab eh" in [h.text for h in found]


# --------------------------------------------------------------------------------------- words that are not yet known


def growing() -> PhoneTokeniser:
    """A lexicon that pronounces a new word by its capitals, if these are phones."""

    def generate(words: Iterable[str]) -> dict[str, tuple[Pronunciation, ...]]:
        return {word: (Pronunciation(tuple(word.upper())),) for word in words if set(word) <= set("abc")}

    return PhoneTokeniser("ABC", PronunciationLexicon(lexicon(), generate), recipe.Phones(kind="phones"))


def test_a_new_hotword_is_pronounced_at_once():
    near = spoken(phones(), "C . A . C . B . A", sure=0.8)
    assert decode(phones(), near, recipe.Beam(), beta=-1.0)[0].text != "cac ba"
    best, *_ = decode(growing(), near, recipe.Beam(), beta=-1.0, hotwords={"cac ba": 4.0})
    assert best.text == "cac ba"
    assert best.lm_score == pytest.approx(4.0 - 2.0)


def test_a_hotword_that_the_language_model_lacks_goes_as_its_rarest_word():
    model = words_model(ARPA.replace("-2 <unk>", "-99 <unk>"))
    said = spoken(phones(), "C . C", sure=0.9)
    weights = {"alpha": 1.0, "unknown": -5.0}
    found = {h.text: h.lm_score for h in decode(phones(), said, model=model, hotwords={"cc": 1.0}, **weights)}
    start, rarest, end = -0.1, -1.5, -1.0
    assert found["cc"] == pytest.approx((start + rarest + end) * math.log(10) + 1.0, abs=1e-5)


def test_a_hotword_that_cannot_be_pronounced_is_named():
    with pytest.raises(TextError, match='no pronunciation of "zebra"'):
        LexicalFusion(growing(), hotwords={"cac zebra": 1.0})


@pytest.mark.parametrize("separator", [False, True])
@pytest.mark.parametrize(
    ("phrase", "text", "gain"),
    [("b", "b b", 4.0), ("b", "ab", 0.0), ("b a", "b b a", 2.0), ("b b a", "b b b a", 2.0), ("b a", "b", 0.0)],
)
def test_a_hotword_is_worth_its_weight_each_time_its_words_are_said(phrase, text, gain, separator):
    tokeniser = phones(separator=separator)
    between = " / " if separator else " . "
    said = between.join({"ab": "A B"}.get(word, word.upper()) for word in text.split())
    found = decode(tokeniser, spoken(tokeniser, said), hotwords={phrase: 2.0})
    assert {h.text: h.lm_score for h in found}[text] == pytest.approx(gain)


def test_a_closed_lexicon_holds_its_words_alone_and_pronounces_new_ones(tmp_path):
    (tmp_path / "words.txt").write_text("ba\ncab\n")
    settings = recipe.Beam(lexicon="words.txt")
    knowledge = gather_knowledge(settings, growing(), root=tmp_path, form="none")
    assert sorted(knowledge.words) == ["ba", "cab"]
    assert BeamDecoder(growing(), settings, knowledge)(spoken(phones(), "C A . B . A"))[0][0].text in ("cab", "cab ba")
    (tmp_path / "words.txt").write_text("ba\nzebra\n")
    with pytest.raises(TextError, match='no pronunciation of "zebra"'):
        gather_knowledge(settings, growing(), root=tmp_path, form="none")


def test_the_words_of_a_language_model_are_pronounced_and_stay_in_the_lexicon(tmp_path):
    (tmp_path / "words.arpa").write_text(
        ARPA.replace("ngram 1=7", "ngram 1=9").replace("-1.5 ba", "-1.5 bcb\n-1 zebra\n-1.5 ba")
    )
    tokeniser = growing()
    knowledge = gather_knowledge(recipe.Beam(language_model="words.arpa"), tokeniser, root=tmp_path, form="none")
    assert {*knowledge.words} - {*ENTRIES} == {"bcb"}
    assert tokeniser.lexicon["bcb"] == (Pronunciation(("B", "C", "B")),)
    assert "<s>" not in tokeniser.lexicon


def test_a_pronunciation_in_phones_that_the_model_lacks_is_passed_over():
    strange = lexicon({"a": {"A": 1.0, "Q A": 1.0}, "q": {"Q": 1.0}})
    tokeniser = PhoneTokeniser("ABC", strange, recipe.Phones(kind="phones"))
    assert LexicalFusion(tokeniser).words == ("a",)
    with pytest.raises(TextError, match="pronounces no word"):
        LexicalFusion(PhoneTokeniser("B", strange, recipe.Phones(kind="phones")))


def test_a_language_model_over_other_words_or_over_sub_words_is_refused():
    upper = ARPA
    for word in ("ba", "ab", "a", "b"):
        upper = upper.replace(f" {word} ", f" {word.upper()} ").replace(f" {word}\n", f" {word.upper()}\n")
    with pytest.raises(LanguageModelError, match="knows none of the 7 words of the lexicon"):
        LexicalFusion(phones(), model=words_model(upper))
    with pytest.raises(LanguageModelError, match="takes one over words"):
        LexicalFusion(phones(), model=words_model(ARPA.replace("ba", "▁ba")))


# -------------------------------------------------------------------------------------------------- LSTM, live speech


@functools.cache
def letters_lstm() -> TextModel:
    torch.manual_seed(1)
    letters = CharacterTokeniser(" abe")  # no h: "eh" is read as "e"
    network = recipe.Network(layers=1, hidden=8, embedding=8, dropout=0.0)
    return TextModel(LanguageModel(network, len(letters.tokens)).eval(), letters)


def test_an_lstm_over_letters_rescores_the_text():
    part = recipe.LstmFusion(path="", weight=0.5, beta=0.3, nbest=1000)
    settings, case = EXACT.model_copy(update={"lstm": part}), random_emissions(3, 4, 4)
    knowledge = Knowledge(fusion=LexicalFusion(phones()), lstm=letters_lstm())
    decoder = BeamDecoder(phones(), settings, knowledge, nbest=1000)
    [found] = decoder(case)
    read = {h.text: h.acoustic_score for h in decode(phones(), case)}
    assert {h.text: pytest.approx(h.acoustic_score) for h in found} == read
    texts = [h.text.replace("h", "") for h in found]
    scores = letters_lstm().model.score([CharacterTokeniser(" abe").encode(text.replace("c", "")) for text in texts])
    expected = [0.5 * score + 0.3 * len(text.split()) for score, text in zip(scores, texts, strict=True)]
    assert [h.lm_score for h in found] == pytest.approx(expected, abs=1e-4)
    search = decoder.begin()
    search.feed(case.log_probs[0])
    assert search.conclude() == found[0]


def test_an_lstm_cannot_take_part_in_a_search_over_phones(monkeypatch):
    loaded = SimpleNamespace(directory="lm", model=letters_lstm().model, tokeniser=letters_lstm().tokeniser)
    monkeypatch.setattr(checkpoint, "load_language_model", lambda *_, **__: loaded)
    part = recipe.LstmFusion(path="lm", mode="fuse")
    with pytest.raises(LanguageModelError, match="let it rescore the readings"):
        load_lstm(recipe.Beam(lstm=part), phones(), Path())
    part = recipe.LstmFusion(path="lm")
    assert load_lstm(recipe.Beam(lstm=part), phones(), Path()) == letters_lstm()


@pytest.mark.parametrize("separator", [False, True])
def test_live_words_are_the_words_of_the_whole(separator):
    tokeniser = phones(separator=separator)
    said = spoken(tokeniser, "A B B A / / / / B A / / /" if separator else "A B B A . . . . B A . . .")
    fusion = LexicalFusion(tokeniser, beta=-3.0)
    decoder = BeamDecoder(tokeniser, recipe.Beam(), Knowledge(fusion=fusion))
    live = LiveDecoder(decoder, tokeniser, frame_shift=0.04, endpoint=0.2, longest=10.0)
    heard = [
        live.feed(rows, last=last)
        for rows, last in zip(np.split(said.log_probs[0], 13), 12 * [False] + [True], strict=True)
    ]
    final = [word for each in heard for word in each.final]
    [[whole]] = decoder(said)
    assert final == list(words_of(whole, tokeniser, 0.04))
    assert [segment.text for each in heard for segment in each.segments] == ["abba", "ba"]


def test_confidences_are_fitted_to_the_words_of_phones():
    settings = recipe.Beam(language_model="words.arpa")
    knowledge = Knowledge(fusion=LexicalFusion(phones(), model=words_model())).weighed(settings)
    said = tuple(spoken(phones(), text) for text in ("A B . A", "A B . B", "B A"))
    dev = DevSet(emissions=said, references=("ab a", "ab b", "ba"), greedy=ErrorCounts())
    *_, chosen = tune(BeamDecoder(phones(), settings, knowledge), dev)
    assert chosen.settings.calibration != recipe.Calibration()


def test_choices_that_the_language_model_has_forgotten_do_not_fill_the_beam():
    """Each A is one of two words, which no later word will tell apart; the B is heard as a C at first."""
    two = PhoneTokeniser(
        "ABC",
        lexicon({"a": {"A": 1.0}, "eh": {"A": 1.0}, "bc": {"B C": 1.0}, "ca": {"C A": 1.0}}),
        recipe.Phones(kind="phones"),
    )
    case = spoken(two, "A . A . A . A . C . C", sure=1 - 1e-3)
    case.log_probs[0, 16, [2, 3]] = np.log([0.25, 0.75])
    unigrams = "\\data\\\nngram 1=6\n\n\\1-grams:\n-9 <s>\n-1 </s>\n-0.5 a\n-0.6 eh\n-1 bc\n-1 ca\n\n\\end\\\n"
    [best] = decode(two, case, recipe.Beam(width=4), nbest=1, model=words_model(unigrams), alpha=1.0)
    assert best.text == "a a a a bc"
