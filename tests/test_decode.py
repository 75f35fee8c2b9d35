"""Greedy decoding: the collapse rule, and the times and confidences of words. What no decoder takes for emissions, and
the door for other networks' emissions."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import CtcDecoder, recipe
from asr.decode.decoder import Decoder, build_decoder
from asr.decode.greedy import GreedySearch, decode_greedy
from asr.decode.words import TAIL, words_of
from asr.errors import EmissionsError, LanguageModelError, RecipeError, TextError
from asr.records import Emissions
from asr.text.tokenise import CharacterTokeniser

TOKENISER = CharacterTokeniser(" ab")  # ids: blank 0, space 1, a 2, b 3


def emissions(*paths: str, sure: float = 0.9) -> Emissions:
    """Emissions whose best path spells each string, "-" for blank, with probability ``sure``."""
    longest = max(map(len, paths))
    probabilities = np.full((len(paths), longest, 4), (1 - sure) / 3, np.float32)
    for i, path in enumerate(paths):
        for frame, letter in enumerate(path.ljust(longest, "a")):  # what lies past the end must not be read
            probabilities[i, frame, "- ab".index(letter)] = sure
    return Emissions(log_probs=np.log(probabilities), lengths=np.array([len(p) for p in paths]), frame_shift=0.04)


@pytest.mark.parametrize(
    ("path", "text"),
    [("a", "a"), ("aa-a", "aa"), ("--", ""), ("aabb", "ab"), ("a- -b", "a b"), (" a ", "a"), ("a-  -b", "a b")],
)
def test_repeats_merge_and_blanks_part_them(path, text):
    assert decode_greedy(emissions(path), TOKENISER)[0].text == text


def test_frames_past_an_utterances_length_are_not_decoded():
    long, short = decode_greedy(emissions("a-b-a", "b"), TOKENISER)
    assert (long.text, short.text) == ("aba", "b")


def test_a_hypothesis_carries_the_frame_and_probability_of_each_token():
    [hypothesis] = decode_greedy(emissions("-a--b"), TOKENISER)
    assert hypothesis.tokens == (2, 3)
    assert hypothesis.frames == (1, 4)
    assert hypothesis.probabilities == pytest.approx((0.9, 0.9))
    assert hypothesis.acoustic_score == pytest.approx(5 * math.log(0.9), rel=1e-5)


def test_a_tokens_frame_is_where_its_run_peaks():
    path = emissions("aaa")
    path.log_probs[0, 1, 2] = -0.01
    assert decode_greedy(path, TOKENISER)[0].frames == (1,)


@pytest.mark.parametrize("cuts", [[], [1], [3, 4], [2, 2, 5, 7]])
def test_a_path_followed_in_pieces_reads_as_the_whole(cuts):
    path = emissions("aa-ab  bb")
    search = GreedySearch(TOKENISER)
    edges = [0, *cuts, 9]
    for start, end in itertools.pairwise(edges):
        search.feed(path.log_probs[0, start:end])
    [whole] = decode_greedy(path, TOKENISER)
    assert (search.best().tokens, search.best().frames) == (whole.tokens, whole.frames)
    assert search.conclude().acoustic_score == pytest.approx(whole.acoustic_score)


def test_words_have_times_in_seconds_and_the_product_of_their_tokens_probabilities_as_confidence():
    [hypothesis] = decode_greedy(emissions("-ab- -b"), TOKENISER)
    first, second = words_of(hypothesis, TOKENISER, 0.04, offset=1.0)
    assert (first.text, first.start, first.end) == ("ab", 1.04, 1.22)
    assert (second.text, second.start, second.end) == ("b", 1.24, 1.28)
    assert first.confidence == pytest.approx(0.9 * 0.9, abs=1e-4)


@pytest.mark.parametrize("settings", [recipe.Greedy(), recipe.Beam(width=8)])
@pytest.mark.parametrize(
    ("path", "ends"),
    [
        ("-ab ------b ------", [0.03 * 3 + TAIL, 0.03 * 11 + TAIL]),  # nothing follows soon
        ("-ab b- ------", [0.03 * 4, 0.03 * 5 + TAIL]),  # the next word does
        ("-ab---", [0.03 * 5]),  # the utterance ends: six frames are five steps and what is left of one
        ("-----b", [0.03 * 6]),
    ],
)
def test_a_word_goes_on_after_its_last_token_up_to_the_next_one_and_the_utterances_end(settings, path, ends):
    [[hypothesis]] = build_decoder(settings, TOKENISER, root=Path())(emissions(path))
    assert [word.end for word in words_of(hypothesis, TOKENISER, 0.03)] == pytest.approx(ends)


# ------------------------------------------------------------------------------------------- what is no emissions


def decoders() -> list[Decoder]:
    return [build_decoder(chosen, TOKENISER, root=Path()) for chosen in (recipe.Greedy(), recipe.Beam(width=8))]


def other(case: Emissions, log_probs: object = None, lengths: object = None) -> Emissions:
    given = case.log_probs if log_probs is None else log_probs
    return Emissions(log_probs=given, lengths=case.lengths if lengths is None else lengths, frame_shift=0.04)


SAID = emissions("aa-ab -b")
NOT_EMISSIONS = {
    "logits above": (SAID.log_probs + 8, "logits"),
    "logits below": (SAID.log_probs - 8, "logits"),
    "logits far below": (SAID.log_probs - 1000, "logits"),
    "scaled": (SAID.log_probs * 3, "sum to"),
    "log10": (SAID.log_probs / np.float32(math.log(10)), "sum to"),
    "probabilities": (np.exp(SAID.log_probs), "kind='probabilities'"),
    "zeros": (np.zeros_like(SAID.log_probs), "sum to 4"),
    "one NaN": (np.where(np.arange(4) == 2, np.float32("nan"), SAID.log_probs), "NaN or infinity"),
    "infinity": (np.where(np.arange(4) == 2, np.float32("inf"), SAID.log_probs), "NaN or infinity"),
    "a token too many": (np.pad(SAID.log_probs, ((0, 0), (0, 0), (0, 1)), constant_values=-99), "4 tokens"),
    "a token too few": (SAID.log_probs[..., :3], "4 tokens"),
    "without a batch": (SAID.log_probs[0], "3 dimensions"),
    "integers": (np.zeros((1, 8, 4), int), "sum to 4"),
    "complex": (SAID.log_probs.astype(complex), "complex"),
    "words": (np.array([["a"]]), "are numbers"),
    "ragged": ([[[0.0], [0.0, 1.0]]], "no array"),
}


@pytest.mark.parametrize(("values", "reason"), NOT_EMISSIONS.values(), ids=NOT_EMISSIONS)
def test_what_is_no_log_probability_of_the_tokens_is_refused_by_every_decoder(values, reason):
    for decoder in decoders():
        with pytest.raises(EmissionsError, match=reason):
            decoder(other(SAID, values))
        if np.ndim(SAID.log_probs) == 3 and isinstance(values, np.ndarray) and values.ndim == 3:
            with pytest.raises(EmissionsError, match=reason.replace("3", "2")):
                decoder.begin().feed(values[0])


@pytest.mark.parametrize(
    "lengths", [[9], [-1], [8, 8], [], [[8]], [8.0], ["8"], 8, [None]], ids=lambda lengths: f"{lengths}"
)
def test_lengths_that_are_none_are_refused_by_every_decoder(lengths):
    for decoder in decoders():
        with pytest.raises(EmissionsError, match="length"):
            decoder(other(SAID, lengths=lengths if isinstance(lengths, int) else np.array(lengths)))


@pytest.mark.parametrize("cast", [np.float16, np.float64, np.asfortranarray, torch.from_numpy])
def test_log_probabilities_in_other_numbers_are_read_as_they_are(cast):
    values = cast(SAID.log_probs) if cast in (np.asfortranarray, torch.from_numpy) else SAID.log_probs.astype(cast)
    for decoder in decoders():
        [[best]], [[same]] = decoder(SAID), decoder(other(SAID, values))
        assert (same.text, same.frames) == (best.text, best.frames)
        assert same.score == pytest.approx(best.score, abs=0.02)


def test_what_lies_past_an_utterances_length_is_not_looked_at():
    case = emissions("a-b-a", "b")
    case.log_probs[1, 1:] = np.nan
    for decoder in decoders():
        assert [readings[0].text for readings in decoder(case)] == ["aba", "b"]


@given(
    st.integers(0, 10**6),
    st.sampled_from(["+", "*"]),
    st.floats(0.3, 50).flatmap(lambda size: st.sampled_from([size, -size])),
)
@settings(max_examples=40, deadline=None)
def test_numbers_that_are_no_log_probabilities_never_give_a_text(seed, how, by):
    draws = np.random.default_rng(seed).normal(size=(1, 12, 4)).astype(np.float32) * 3
    log_probs = draws - np.log(np.exp(draws).sum(axis=-1, keepdims=True))
    values = log_probs + np.float32(by) if how == "+" else log_probs * np.float32(1 + abs(by)) - np.float32(abs(by))
    case = Emissions(log_probs=values, lengths=np.array([12]), frame_shift=0.04)
    with pytest.raises(EmissionsError):
        decode_greedy(case, TOKENISER)


# ----------------------------------------------------------------------------------------- other networks' emissions

LABELS = [" ", "a", "b", "<unk>", ""]  # as NeMo has it, the blank last
ORDER = [1, 2, 3, 0]


def foreign(case: Emissions) -> np.ndarray:
    """The emissions of ``case`` as a network over LABELS has them, a little of each frame for <unk>."""
    shares = np.exp(case.log_probs)[..., ORDER] * 0.99
    return np.log(np.insert(shares, 3, 0.01, axis=-1))


@pytest.mark.parametrize("kind", ["log_probs", "logits", "probabilities"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("width", [1, 8])
def test_other_networks_emissions_are_read_as_ours_are(kind, dtype, width):
    case = emissions("aa-ab -b", "b a", sure=0.8)
    values = foreign(case)
    values = {"log_probs": values, "logits": values * 1.0 + 5.5, "probabilities": np.exp(values)}[kind].astype(dtype)
    decoder = CtcDecoder(LABELS, blank=-1, kind=kind, ignore=["<unk>"], width=width, nbest=3)
    ours = build_decoder(recipe.Beam(width=width) if width > 1 else recipe.Greedy(), TOKENISER, root=Path(), nbest=3)
    found = decoder.decode_batch(values, case.lengths)
    for (best, *_), (same, *_) in zip(ours(case), found, strict=True):
        assert (same.text, same.frames) == (best.text, best.frames)
        assert same.score == pytest.approx(best.score, abs=0.05)
        assert "".join(LABELS[token] for token in same.tokens) == best.text
        words, others = words_of(best, TOKENISER, 0.04), decoder.words(same, frame_shift=0.04)
        assert [(word.text, word.start, word.end) for word in others] == [(w.text, w.start, w.end) for w in words]
    assert decoder.decode(values[0])[0].text == found[0][0].text


def test_other_networks_emissions_are_read_with_a_language_model_a_lexicon_and_hotwords(tmp_path):
    (tmp_path / "lm.arpa").write_text(
        "\\data\\\nngram 1=5\n\n\\1-grams:\n-1 <unk>\n-99 <s>\n-1 </s>\n-2 ab\n-0.5 bb\n\n\\end\\\n"
    )
    labels = ["[PAD]", "|", "a", "b"]
    near = np.log((np.exp(emissions("a-b").log_probs) + np.exp(emissions("b-b").log_probs) * 0.95) / 1.95)[0]
    assert CtcDecoder(labels).decode(near)[0].text == "ab"
    knowing = {"language_model": tmp_path / "lm.arpa", "lexicon": ["bb", "a"], "hotwords": {"bb": 2.0}}
    for name, value in knowing.items():
        assert CtcDecoder(labels, **{name: value}).decode(near)[0].text == "bb"
    settings = recipe.Beam(language_model=str(tmp_path / "lm.arpa"), hotwords={"bb": 2.0})
    [[ours]] = build_decoder(settings, TOKENISER, root=Path())(other(SAID, near[None], np.array([3])))
    [same] = CtcDecoder(labels, language_model=tmp_path / "lm.arpa", hotwords={"bb": 2.0}).decode(near)
    assert same == ours


def test_words_of_sub_word_labels_begin_at_their_mark():
    labels = ["▁a", "b", "▁b", "<blank>"]
    frames = np.full((5, 4), 0.01)
    for frame, token in enumerate([0, 3, 1, 2, 3]):
        frames[frame, token] = 0.97
    decoder = CtcDecoder(labels, blank=3, kind="probabilities")
    [best] = decoder.decode(frames)
    assert (best.text, best.tokens) == ("ab b", (0, 1, 2))
    assert [(word.text, word.start) for word in decoder.words(best, frame_shift=0.1)] == [("ab", 0.0), ("b", 0.3)]


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"blank": 5}, TextError, "the blank is one of the 5 labels"),
        ({"kind": "log"}, EmissionsError, "kind is one of log_probs, logits, probabilities"),
        ({"ignore": ["<s>"]}, TextError, "'<s>' is to be ignored"),
        ({"width": 0}, RecipeError, "width"),
        ({"hotwords": {"abc": 1.0}}, TextError, "cannot be spelled"),
        ({"hotwords": {"ab": math.nan}}, TextError, "NaN"),
        ({"language_model": "nothing.arpa"}, LanguageModelError, "nothing.arpa cannot be read"),
        ({"lexicon": "nothing.txt"}, LanguageModelError, "nothing.txt cannot be read"),
    ],
)
def test_what_does_not_fit_together_is_a_sentence(arguments, error, reason):
    with pytest.raises(error, match=reason):
        CtcDecoder(LABELS, **arguments)


@pytest.mark.parametrize(
    ("kind", "values", "reason"),
    [
        ("logits", np.exp(foreign(SAID)), "these are probabilities"),
        ("logits", np.full((1, 8, 5), np.nan), "NaN"),
        ("logits", np.full((1, 8, 5), -np.inf), "NaN"),
        ("log_probs", foreign(SAID) + 3, "logits"),
        ("probabilities", foreign(SAID), "sum to"),
        ("probabilities", np.zeros((1, 8, 5)), "sum to"),
        ("probabilities", np.exp(foreign(SAID)) * 2, "sum to"),
        ("log_probs", foreign(SAID)[..., :4], "for each label"),
        ("log_probs", foreign(SAID)[0], "for each label"),
    ],
)
def test_other_numbers_than_their_kind_are_refused(kind, values, reason):
    for width in (1, 8):
        with pytest.raises(EmissionsError, match=reason):
            CtcDecoder(LABELS, blank=-1, kind=kind, width=width).decode_batch(values)
