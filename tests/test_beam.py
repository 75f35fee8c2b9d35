"""Prefix beam search against every path there is, and what fusion adds to it against scores worked out by hand."""

import collections
import functools
import itertools
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import recipe
from asr.decode.arpa import read_arpa
from asr.decode.beam import BeamDecoder, BeamSearch, Knowledge
from asr.decode.decoder import gather_knowledge
from asr.decode.fusion import Fusion
from asr.decode.greedy import decode_greedy
from asr.decode.ngram import NgramModel
from asr.errors import EmissionsError, LanguageModelError, TextError
from asr.model.language import LanguageModel
from asr.records import Emissions
from asr.text.tokenise import CharacterTokeniser

LETTERS = CharacterTokeniser("abc")  # ids: blank 0, a 1, b 2, c 3
WORDS = CharacterTokeniser(" abc")  # ids: blank 0, space 1, a 2, b 3, c 4
EXACT = recipe.Beam(width=5000, tokens=100, token_threshold=-1e9, score_threshold=1e9)


def emissions(log_probs: np.ndarray, *lengths: int) -> Emissions:
    values = np.asarray(log_probs, np.float32)
    values = values if values.ndim == 3 else values[None]
    return Emissions(log_probs=values, lengths=np.array(lengths or [values.shape[1]]), frame_shift=0.04)


def random_emissions(seed: int, frames: int, tokens: int, *, peaky: float = 1.0) -> Emissions:
    draws = np.random.default_rng(seed).normal(size=(frames, tokens)) * peaky
    return emissions(draws - np.log(np.exp(draws).sum(1, keepdims=True)))


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != 0)


def brute_force(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Log probability of each token sequence, summed over all of its paths."""
    sums: dict[tuple[int, ...], float] = collections.defaultdict(float)
    rows = log_probs.tolist()
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        sums[collapse(path)] += math.exp(sum(row[token] for row, token in zip(rows, path, strict=True)))
    return {text: math.log(mass) for text, mass in sums.items()}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), frames=st.integers(1, 6), tokens=st.integers(2, 4), peaky=st.sampled_from([0.3, 1, 5])
)
def test_unpruned_search_equals_the_sum_over_all_paths(seed, frames, tokens, peaky):
    case = random_emissions(seed, frames, tokens, peaky=peaky)
    truth = brute_force(case.log_probs[0].astype(float))
    found = BeamDecoder(CharacterTokeniser("abc"[: tokens - 1]), EXACT, nbest=1000)(case)[0]
    assert {h.tokens: pytest.approx(h.acoustic_score, abs=1e-5) for h in found} == truth
    assert found[0].acoustic_score == pytest.approx(max(truth.values()), abs=1e-5)


def test_the_likeliest_text_is_found_where_the_likeliest_path_is_another():
    # Graves 2006, figure 2: blank blank is the best path, "a" the best text.
    case = emissions(np.log([[0.6, 0.4, 1e-30, 1e-30], [0.6, 0.4, 1e-30, 1e-30]]))
    assert decode_greedy(case, LETTERS)[0].text == ""
    [[best]] = BeamDecoder(LETTERS, recipe.Beam())(case)
    assert best.text == "a"
    assert math.exp(best.acoustic_score) == pytest.approx(0.4 * 0.4 + 2 * 0.4 * 0.6)


@pytest.mark.parametrize("text", ["ab cab", "aa bb", "a"])
def test_tokens_have_the_frames_and_probabilities_that_greedy_decoding_gives_them(text):
    case = spoken(text, text, sure=0.9)
    [[best]], [path] = BeamDecoder(WORDS, recipe.Beam())(case), decode_greedy(case, WORDS)
    assert (best.text, best.frames) == (text, path.frames)
    assert best.probabilities == pytest.approx(path.probabilities)


def test_the_frames_of_tokens_are_in_order_however_unsure_the_emissions():
    for seed in range(10):
        [[best]] = BeamDecoder(WORDS, recipe.Beam())(random_emissions(seed, 40, 5))
        assert sorted(best.frames) == list(best.frames)
        assert len(best.frames) > 10


def test_an_impossible_frame_ends_no_search():
    case = emissions(np.array([[-np.inf, 0, -np.inf, -np.inf], [-np.inf] * 4, [0, -np.inf, -np.inf, -np.inf]]))
    assert BeamDecoder(LETTERS, recipe.Beam())(case)[0][0].text == "a"


@pytest.mark.parametrize("hotwords", [{}, {"ab": 3.0}])
@pytest.mark.parametrize("tokens", [3, 5, 900])
def test_emissions_of_other_tokens_than_the_tokenisers_are_refused(hotwords, tokens):
    decoder = BeamDecoder(LETTERS, recipe.Beam(), Knowledge(fusion=Fusion(LETTERS, hotwords=hotwords)))
    case = random_emissions(1, 9, tokens)
    with pytest.raises(EmissionsError, match="tokeniser's 4 tokens"):
        decoder(case)
    with pytest.raises(EmissionsError, match="tokeniser's 4 tokens"):
        decoder.begin().feed(case.log_probs[0])


@pytest.mark.parametrize("lengths", [(10,), (-1,), (9, 9)])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(EmissionsError, match="9 frames"):
        BeamDecoder(LETTERS, recipe.Beam())(emissions(random_emissions(1, 9, 4).log_probs, *lengths))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 2, slice(None)], ids=["blank", "token", "all"])
@pytest.mark.parametrize("frames", [3, slice(None)], ids=["one frame", "every frame"])
def test_what_is_no_log_probability_is_refused(value, where, frames):
    case = random_emissions(1, 40, 4)
    case.log_probs[0, frames, where] = value
    fused = Knowledge(fusion=Fusion(LETTERS, hotwords={"ab": 3.0}))
    for decoder in (BeamDecoder(LETTERS, recipe.Beam(width=4)), BeamDecoder(LETTERS, recipe.Beam(width=4), fused)):
        with pytest.raises(EmissionsError, match="NaN or infinity"):
            decoder(case)
        search = decoder.begin()
        with pytest.raises(EmissionsError, match="NaN or infinity"):
            search.feed(case.log_probs[0])


def test_a_weight_beyond_measure_is_refused():
    decoder = BeamDecoder(LETTERS, recipe.Beam(), Knowledge(fusion=Fusion(LETTERS, model=words_model(), beta=1e5)))
    with pytest.raises(EmissionsError, match="weights beyond measure"):
        decoder(random_emissions(1, 40, 4))


def test_pruning_at_the_defaults_finds_what_the_unpruned_search_finds():
    for seed in range(20):
        case = random_emissions(seed, 12, 4, peaky=4.0)
        assert BeamDecoder(LETTERS, recipe.Beam())(case)[0][0].text == BeamDecoder(LETTERS, EXACT)(case)[0][0].text


def test_padding_and_company_do_not_change_a_hypothesis():
    one, two = random_emissions(1, 9, 5), random_emissions(2, 14, 5)
    both = np.zeros((2, 14, 5), np.float32)
    both[0, :9], both[1] = one.log_probs[0], two.log_probs[0]
    decoder = BeamDecoder(WORDS, recipe.Beam(width=20), nbest=3)
    together = decoder(Emissions(log_probs=both, lengths=np.array([9, 14]), frame_shift=0.04))
    assert together == [decoder(one)[0], decoder(two)[0]]


def test_threads_find_what_one_finds():
    cases = [random_emissions(seed, 1500, 5, peaky=3.0) for seed in range(4)]
    batch = emissions(np.concatenate([case.log_probs for case in cases]), 1500, 1400, 1300, 1200)
    alone, shared = (BeamDecoder(WORDS, recipe.Beam(width=200), nbest=2, threads=threads)(batch) for threads in (1, 3))
    assert shared == alone


def test_the_tree_grows_with_the_recording():
    case = random_emissions(3, 3000, 5)
    [[best]] = BeamDecoder(WORDS, recipe.Beam(width=50))(case)
    assert len(best.tokens) > 500
    assert math.isfinite(best.acoustic_score)


# ------------------------------------------------------------------------------------------- language models

ARPA = """\\data\\
ngram 1=6
ngram 2=2

\\1-grams:
-9 <unk>
-9 <s> 0
-1 </s>
-0.5 ab -0.3
-1.0 b -0.2
-1.5 ba 0

\\2-grams:
-0.1 <s> ab
-0.2 ab b

\\end\\
"""


@functools.cache
def words_model(text: str = ARPA) -> NgramModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.arpa"
        path.write_text(text)
        return NgramModel.from_arpa(read_arpa(path))


def sentence_score(model: NgramModel, text: str, *, alpha: float, beta: float, unknown: float) -> float:
    words = text.split()
    unknowns = sum(word not in model.words for word in words)
    return alpha * sum(model.score(words)) + beta * len(words) + unknown * unknowns


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 6))
def test_fused_search_ranks_by_emissions_plus_language_model(seed, frames):
    """Acoustic sum over all paths, model score of the whole text: every text's score, not the best one's alone."""
    weights = {"alpha": 0.7, "beta": 0.4, "unknown": -1.5}
    model = words_model()
    case = random_emissions(seed, frames, 5)
    fusion = Fusion(WORDS, model=model, **weights)
    found = {h.tokens: h for h in BeamDecoder(WORDS, EXACT, Knowledge(fusion=fusion), nbest=100_000)(case)[0]}
    truth = brute_force(case.log_probs[0].astype(float))
    assert found.keys() == truth.keys()
    expected = [sentence_score(model, WORDS.decode(tokens), **weights) for tokens in truth]
    np.testing.assert_allclose(
        [found[tokens].acoustic_score for tokens in truth], list(truth.values()), rtol=0, atol=1e-4
    )
    np.testing.assert_allclose([found[tokens].lm_score for tokens in truth], expected, rtol=0, atol=1e-4)


def test_a_lexicon_closes_the_vocabulary():
    case = random_emissions(5, 10, 5)
    fusion = Fusion(WORDS, lexicon=["ab", "c"])
    for hypothesis in BeamDecoder(WORDS, EXACT.model_copy(update={"width": 200}), Knowledge(fusion=fusion), nbest=50)(
        case
    )[0]:
        assert set(hypothesis.text.split()) <= {"ab", "c"}


def spoken(text: str, instead: str, *, sure: float = 0.6) -> Emissions:
    """Emissions that prefer ``text`` to ``instead``, letter by letter, blanks between."""
    rows = []
    for right, wrong in zip(text, instead, strict=True):
        row = np.full(5, 1e-6)
        row[WORDS.encode(right)[0]] = sure
        row[WORDS.encode(wrong)[0]] += 1 - sure
        rows += [row, [1 - 4e-6, *[1e-6] * 4]]
    return emissions(np.log(np.array(rows)))


def test_a_hotword_wins_where_the_emissions_are_near_and_costs_nothing_elsewhere():
    near, far = spoken("ab cab", "ab aab"), spoken("ab cab", "ab aab", sure=0.999)
    plain = BeamDecoder(WORDS, recipe.Beam())
    biased = BeamDecoder(WORDS, recipe.Beam(), Knowledge(fusion=Fusion(WORDS, hotwords={"aab": 3.0})))
    assert plain(near)[0][0].text == "ab cab"
    assert biased(near)[0][0].text == "ab aab"
    assert biased(far)[0][0].text == "ab cab"
    assert biased(far)[0][0].lm_score == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("phrase", "text", "gain"),
    [
        ("ab", "ab", 2.0),
        ("ab", "ab ab", 4.0),
        ("ab", "abc", 0.0),  # a part of a word is not the word
        ("ab", "cab", 0.0),
        ("ab c", "ab c", 2.0),
        ("ab c", "ab ab c", 2.0),  # a match that fails may be the beginning of another
        ("ab ab c", "ab ab ab c", 2.0),
        ("ab c", "ab", 0.0),
    ],
)
def test_a_hotword_is_worth_its_weight_once_each_time_it_is_said_whole(phrase, text, gain):
    decoder = BeamDecoder(WORDS, recipe.Beam(), Knowledge(fusion=Fusion(WORDS, hotwords={phrase: 2.0})))
    [[best]] = decoder(spoken(text, text, sure=1 - 1e-5))
    assert best.text == text
    assert best.lm_score == pytest.approx(gain)


def test_a_hotword_that_the_language_model_lacks_is_no_unknown_word():
    def score(hotwords):
        fusion = Fusion(WORDS, model=words_model(), alpha=1.0, unknown=-4.0, hotwords=hotwords)
        [[best]] = BeamDecoder(WORDS, EXACT, Knowledge(fusion=fusion))(spoken("cc", "cc", sure=1 - 1e-5))
        return best.lm_score

    exemption = (9 - 1.5) * math.log(10)  # it goes as the rarest word, "ba", and not as <unk>
    assert score({"cc": 1.0}) - score({}) == pytest.approx(4.0 + 1.0 + exemption)


def test_other_hotwords_share_the_lexicon_and_are_what_is_built_with_them():
    known = {"model": words_model(), "alpha": 1.0, "unknown": -4.0}
    plain, hotwords = Fusion(WORDS, **known), {"ba ab": 2.0, "b": -1.0}
    shared, anew = plain.favouring(WORDS, hotwords), Fusion(WORDS, **known, hotwords=hotwords)
    assert shared.tables.lexicon is plain.tables.lexicon
    for one, other in zip(shared.tables.hotwords, anew.tables.hotwords, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(shared.tables.lexicon, anew.tables.lexicon, strict=True):
        np.testing.assert_array_equal(one, other)
    assert plain.favouring(WORDS, {"cc": 1.0}) is None  # which the language model lacks
    decoder = BeamDecoder(WORDS, recipe.Beam(), Knowledge(fusion=plain)).favouring(hotwords)
    assert (decoder.settings.hotwords, decoder.favouring({"b": 1.0})) == (hotwords, None)


@pytest.mark.parametrize("weight", [0.1, 6.0, 25.0, 30.0, 40.0, 200.0, 1e4, 1e300, math.inf, -1e9])
def test_no_weight_makes_half_a_hotword_win(weight):
    """One letter of "kettle" may be an "e": as the beginning of "kettering" it would be worth 5/9 of the weight."""
    tokeniser, text = CharacterTokeniser(" abcdefghijklmnopqrstuvwxyz"), "the kettle is on"
    ids = tokeniser.encode(text)
    probabilities = np.full((2 * len(text), len(tokeniser.tokens)), 0.03 / 27)
    for i, token in enumerate(ids):
        probabilities[2 * i, token] = probabilities[2 * i + 1, 0] = 0.97
    probabilities[2 * text.index("tl") + 2, tokeniser.encode("e")] = 0.01
    case = emissions(np.log(probabilities / probabilities.sum(axis=1, keepdims=True)))
    for frames in (8 * 2, 9 * 2, len(probabilities)):  # or the utterance ends within the word
        part = emissions(case.log_probs[0, :frames])
        plain = BeamDecoder(tokeniser, recipe.Beam())(part)[0][0]
        for width in (4, 64):
            fusion = Fusion(tokeniser, hotwords={"kettering": weight})
            [[best]] = BeamDecoder(tokeniser, recipe.Beam(width=width), Knowledge(fusion=fusion))(part)
            assert (best.text, best.lm_score) == (plain.text, 0.0)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("weight", [3.0, 30.0, 1e6])
def test_hotwords_of_any_weight_find_readings_at_least_as_good_as_those_found_without(weight, closed):
    weights = {"cab": weight, "aab b": weight, "bb": -weight, "b": weight / 3}
    known = {"lexicon": ["ab", "c", "b", "ca", "aa", "a", "ac", *" ".join(weights).split()]} if closed else {}
    plain_fusion, fusion = Fusion(WORDS, **known), Fusion(WORDS, hotwords=weights, **known)
    chosen = recipe.Beam(width=8)
    for seed in range(40):
        case = random_emissions(seed, 25, 5, peaky=3.0)
        [[plain]] = BeamDecoder(WORDS, chosen, Knowledge(fusion=plain_fusion))(case)
        [[best]] = BeamDecoder(WORDS, chosen, Knowledge(fusion=fusion))(case)
        assert best.score >= plain.score + toy.hotword_score(plain.text, weights) - 0.5
        assert best.lm_score == pytest.approx(toy.hotword_score(best.text, weights))


def test_a_weight_that_is_nan_is_refused():
    with pytest.raises(TextError, match="weight of the hotword"):
        Fusion(WORDS, hotwords={"ab": math.nan})


@pytest.mark.parametrize("price", ["-9 <unk>", "-99 <unk>", "-100 <unk>", "-20 <UNK>", None])
@pytest.mark.parametrize("known", [{"hotwords": {"cc": 3.0}}, {"lexicon": ["cc", "ab", "b", "ba"]}])
def test_a_word_asked_for_by_name_is_not_lost_to_what_the_language_model_thinks_of_unknown_ones(price, known):
    text = ARPA.replace("-9 <unk>", price) if price else ARPA.replace("1=6", "1=5").replace("-9 <unk>\n", "")
    fusion = Fusion(WORDS, model=words_model(text), alpha=0.5, beta=1.0, unknown=-5.0, **known)
    [[best]] = BeamDecoder(WORDS, recipe.Beam(), Knowledge(fusion=fusion))(spoken("ab cc", "ab b ", sure=0.8))
    assert best.text == "ab cc"


def test_words_that_a_language_model_without_unk_lacks_are_still_found():
    model = words_model(ARPA.replace("1=6", "1=5").replace("-9 <unk>\n", ""))
    fusion = Fusion(WORDS, model=model, alpha=0.5, beta=1.0, unknown=-5.0)
    [[best]] = BeamDecoder(WORDS, recipe.Beam(), Knowledge(fusion=fusion))(spoken("ab cc", "ab cc", sure=0.99))
    assert best.text == "ab cc"


def test_a_hotword_that_cannot_be_spelled_is_named():
    with pytest.raises(TextError, match='"zebra" cannot be spelled'):
        Fusion(WORDS, hotwords={"zebra": 1.0})


def test_a_language_model_over_other_characters_is_refused(tmp_path):
    path = tmp_path / "upper.arpa"
    path.write_text(ARPA.replace("ab", "AB").replace("ba", "BA").replace(" b", " B"))
    with pytest.raises(LanguageModelError, match="cannot be spelled with"):
        Fusion(WORDS, model=NgramModel.from_arpa(read_arpa(path)))


# ------------------------------------------------------------------------------------------------ LSTM, streaming


@functools.cache
def tiny_lstm() -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(recipe.Network(layers=1, hidden=8, embedding=8, dropout=0.0), len(WORDS.tokens)).eval()


def test_an_lstm_in_the_search_scores_every_reading_as_it_scores_the_whole_sentence():
    settings = EXACT.model_copy(update={"lstm": recipe.LstmFusion(path="", weight=0.5, mode="fuse")})
    case = random_emissions(7, 5, 5)
    knowledge = Knowledge(fusion=Fusion(WORDS), lstm=tiny_lstm())
    [found] = BeamDecoder(WORDS, settings, knowledge, nbest=5000)(case)
    truth = brute_force(case.log_probs[0].astype(float))
    assert {h.tokens for h in found} == truth.keys()
    expected = [0.5 * score for score in tiny_lstm().score([h.tokens for h in found])]
    assert [h.lm_score for h in found] == pytest.approx(expected, abs=1e-4)
    assert [h.acoustic_score for h in found] == pytest.approx([truth[h.tokens] for h in found], abs=1e-4)


def test_rescoring_finds_in_the_nbest_list_what_fusing_finds_in_the_search():
    case = random_emissions(8, 5, 5)
    knowledge = Knowledge(fusion=Fusion(WORDS), lstm=tiny_lstm())
    best = {}
    for mode in ("fuse", "rescore"):
        lstm = recipe.LstmFusion(path="", weight=0.5, mode=mode, nbest=5000)
        [[best[mode]]] = BeamDecoder(WORDS, EXACT.model_copy(update={"lstm": lstm}), knowledge)(case)
        search = BeamDecoder(WORDS, EXACT.model_copy(update={"lstm": lstm}), knowledge).begin()
        search.feed(case.log_probs[0])
        assert search.conclude() == best[mode]
    assert best["fuse"].tokens == best["rescore"].tokens
    assert best["fuse"].score == pytest.approx(best["rescore"].score, abs=1e-4)


@pytest.mark.parametrize("mode", ["fuse", "rescore"])
@pytest.mark.parametrize("beta", [-4.0, 4.0])
def test_a_search_concluded_reads_what_the_whole_decode_reads(mode, beta):
    lstm = recipe.LstmFusion(path="", weight=0.5, beta=beta, mode=mode, nbest=100)
    settings = recipe.Beam(width=100, lstm=lstm)
    decoder = BeamDecoder(WORDS, settings, Knowledge(fusion=Fusion(WORDS), lstm=tiny_lstm()).weighed(settings))
    case = random_emissions(8, 12, 5)
    search = decoder.begin()
    search.feed(case.log_probs[0])
    concluded = search.conclude()
    [[whole]] = decoder(case)
    assert concluded == whole
    assert whole.text.split()


@pytest.mark.parametrize("ngram", [True, False])
def test_a_decoder_that_is_reset_searches_as_one_made_for_the_settings(ngram, tmp_path):
    (tmp_path / "words.arpa").write_text(ARPA)
    before = recipe.Beam(width=200, language_model="words.arpa" if ngram else None, lstm=recipe.LstmFusion(path=""))
    part = recipe.LstmFusion(path="", weight=0.5, beta=2.0, mode="fuse")
    after = before.model_copy(update={"alpha": 0.9, "beta": 0.3, "unknown": -3.0, "lstm": part})

    def made(chosen: recipe.Beam) -> BeamDecoder:
        knowledge = gather_knowledge(chosen, WORDS, root=tmp_path, form="none", lstm=tiny_lstm())
        return BeamDecoder(WORDS, chosen, knowledge, nbest=20)

    case = random_emissions(9, 8, 5)
    [again], [new] = made(before).reset(after, nbest=20)(case), made(after)(case)
    assert [h.tokens for h in again] == [h.tokens for h in new]
    assert [h.lm_score for h in again] == pytest.approx([h.lm_score for h in new])
    assert len({round(h.lm_score, 6) for h in again}) > 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_a_search_fed_in_chunks_is_the_search_fed_at_once(seed, cuts):
    case = random_emissions(seed, 40, 5, peaky=3.0).log_probs[0]
    chosen = recipe.Beam(width=8)
    knowledge = Knowledge(fusion=Fusion(WORDS, model=words_model(), alpha=0.5))
    whole, chunked = (BeamSearch(WORDS, chosen, knowledge) for _ in range(2))
    whole.feed(case)
    edges = [0, *sorted(cuts), 40]
    for start, end in itertools.pairwise(edges):
        chunked.feed(case[start:end])
    assert chunked.nbest(3) == whole.nbest(3)
