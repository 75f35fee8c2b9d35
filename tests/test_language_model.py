"""The LSTM language model: it learns, it scores sentences whatever stands beside them, step by step or at once."""

import gzip
import json
import math
import random
import re
import time
from collections import Counter

import numpy as np
import pytest
import torch
import toy
from click.testing import CliRunner, Result
from commands import SERVER
from safetensors.torch import load_file

from asr import checkpoint, recipe
from asr.cli import main
from asr.data.sentences import SentenceBatches
from asr.decode.rescore import rescore
from asr.errors import CheckpointError, CorpusError, RecipeError, TextError
from asr.model.acoustic import AcousticModel
from asr.model.language import BOUNDARY, LanguageModel, PrefixRows, select
from asr.recipe.reading import validate_recipe
from asr.records import Hypothesis
from asr.text.sentences import read_sentences
from asr.text.tokenise import CharacterTokeniser
from asr.train.language import measure_fit, train_language_model

pytestmark = pytest.mark.usefixtures("no_pictures")

TOKENISER = CharacterTokeniser(" abc")


def sentence(generator: random.Random) -> str:
    """Of a language in which "b" follows "a" and "c" follows "b": all but its lengths can be foreseen."""
    return " ".join("abc" * generator.randint(1, 2) for _ in range(generator.randint(1, 4)))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "sentences.txt.gz"
    generator = random.Random(1)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(sentence(generator) + "\n" for _ in range(400))
    return path


def settings_of(text, *overrides: str) -> recipe.LanguageModelRecipe:
    raw = {
        "kind": "language_model",
        "sentences": {"train": [str(text)], "held_out": 0.1},
        "network": {"embedding": 8, "hidden": 24, "dropout": 0.1},
        "training": {
            "epochs": 4,
            "max_batch_characters": 200,
            "learning_rate": 0.02,
            "warmup_steps": 5,
            "precision": "float32",
            "averaging": {"kind": "ema", "decay": 0.9},
        },
    }
    return validate_recipe(raw, "toy", overrides, schema=recipe.LanguageModelRecipe)


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "lm"
    return directory, train_language_model(settings_of(text), TOKENISER, directory)


@pytest.fixture(params=[{}, {"layers": 2}, {"tied": True}], ids=["one layer", "two layers", "tied"])
def model(request):
    torch.manual_seed(0)
    network = recipe.Network(embedding=8, hidden=16, dropout=0.5, **request.param)
    return LanguageModel(network, 5).eval()


SENTENCES = [[2, 3, 4], [], [1], [4, 1, 2, 2, 3], [2, 3, 4]]


def test_a_trained_model_foresees_a_language_better_than_its_letter_frequencies(trained, text):
    directory, meta = trained
    dev = list(read_sentences([str(text)], "words"))[-40:]
    counts = Counter("".join(line + "\n" for line in dev))
    entropy = -sum(n * math.log2(n / counts.total()) for n in counts.values()) / counts.total()
    assert meta["results"]["dev"]["bits_per_character"] < 0.5 * entropy
    loaded = checkpoint.load_language_model(directory)
    fit = measure_fit(loaded.model, loaded.tokeniser, dev)
    assert fit.perplexity == pytest.approx(meta["results"]["dev"]["perplexity"], rel=1e-6)
    likely, unlikely = loaded.model.score([TOKENISER.encode("abc abcabc"), TOKENISER.encode("acb abcabc")])
    assert likely > unlikely + 2


def test_the_probabilities_of_what_may_follow_sum_to_one(model):
    log_probs = model(torch.tensor([[2, 3, 0], [4, 1, 2]]), torch.tensor([2, 3]))
    assert log_probs.shape == (2, 4, 5)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 4))


def test_the_probabilities_of_all_sentences_of_one_token_and_none_are_those_of_the_first_two_steps(model):
    log_probs = model(torch.tensor([[2]]), torch.tensor([1]))[0]
    empty, one = model.score([[], [2]])
    assert empty == pytest.approx(float(log_probs[0, BOUNDARY].detach()), abs=1e-5)
    assert one == pytest.approx(float((log_probs[0, 2] + log_probs[1, BOUNDARY]).detach()), abs=1e-5)


def test_a_sentences_score_depends_on_no_other_and_on_no_padding(model):
    together = model.score(SENTENCES)
    assert together == pytest.approx([model.score([alone])[0] for alone in SENTENCES], abs=1e-5)
    assert together[0] == pytest.approx(together[-1], abs=1e-6)
    padded = model.log_probability(torch.tensor([[2, 3, 4, 4, 1, 3]]), torch.tensor([3])).detach()
    assert float(padded) == pytest.approx(together[0], abs=1e-5)


def test_many_sentences_are_scored_in_the_order_given(model, monkeypatch):
    monkeypatch.setattr("asr.model.language.MAX_BATCH_TOKENS", 8)
    in_small_batches = model.score(SENTENCES)
    monkeypatch.undo()
    assert in_small_batches == pytest.approx(model.score(SENTENCES), abs=1e-5)


def test_step_by_step_is_the_same_as_at_once(model):
    tokens = torch.tensor([[2, 3, 4, 1], [4, 4, 1, 2]])
    whole = model(tokens, torch.tensor([4, 4]))
    states = select(model.begin(), torch.tensor([0, 0]))
    for u, read in enumerate(torch.nn.functional.pad(tokens, (1, 0), value=BOUNDARY).T):
        log_probs, states = model.step(read, states)
        torch.testing.assert_close(log_probs, whole[:, u], atol=1e-5, rtol=1e-5)


def test_every_prefix_of_a_growing_tree_has_the_row_that_it_has_alone(model):
    tree = PrefixRows(model)
    prefixes: list[list[int]] = [[]]
    for parents, tokens in [([0, 0, 0], [2, 3, 4]), ([2, 1, 2, 0], [1, 1, 2, 1]), ([6, 4, 3] * 4, [4, 3, 2] * 4)]:
        grown = tree.grow(np.array(parents), np.array(tokens))
        prefixes += [[*prefixes[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        np.testing.assert_array_equal(tree.rows[-len(grown) :], grown)
    assert len(tree.rows) == len(prefixes) == 20
    for prefix, row in zip(prefixes, tree.rows, strict=True):
        alone = model(torch.tensor([prefix], dtype=torch.int64), torch.tensor([len(prefix)]))[0, -1].detach()
        np.testing.assert_allclose(row, alone.numpy(), atol=1e-5, rtol=1e-5)


def hypothesis(text: str, acoustic_score: float, lm_score: float = 0.0) -> Hypothesis:
    tokens = tuple(TOKENISER.encode(text))
    return Hypothesis(
        tokens=tokens,
        frames=tuple(range(len(tokens))),
        probabilities=(1.0,) * len(tokens),
        text=text,
        acoustic_score=acoustic_score,
        lm_score=lm_score,
    )


def test_rescoring_puts_the_likely_sentence_before_one_that_sounds_a_little_better(trained):
    lm = checkpoint.load_language_model(trained[0]).model
    nbest = (hypothesis("abc acb", -1.0), hypothesis("abc abc", -1.5))
    right = rescore(nbest, lm, weight=0.5)
    assert [each.text for each in right] == ["abc abc", "abc acb"]
    assert right[0].acoustic_score == -1.5
    assert right[0].lm_score == pytest.approx(0.5 * lm.score([nbest[1].tokens])[0])


def test_rescoring_adds_to_what_the_search_said_and_a_bonus_for_each_word(model):
    nbest = (hypothesis("abc a b", -1.0, -2.0), hypothesis("abc", -1.0, -3.0))
    scores = dict(zip(["abc a b", "abc"], model.score([each.tokens for each in nbest]), strict=True))
    for each in rescore(nbest, model, weight=0.3, length_bonus=0.7):
        earlier = {"abc a b": -2.0, "abc": -3.0}[each.text]
        assert each.lm_score == pytest.approx(earlier + 0.3 * scores[each.text] + 0.7 * len(each.text.split()))


def test_rescoring_with_no_weight_changes_nothing(model):
    nbest = (hypothesis("a", -1.0), hypothesis("b", -1.0), hypothesis("c", -2.0, -0.5))
    assert rescore(nbest, model, weight=0.0) == nbest
    assert rescore((), model, weight=0.5) == ()


def test_every_epoch_holds_every_sentence_once_in_another_order_and_can_be_entered_midway(text):
    corpus = list(read_sentences([str(text)], "words"))
    batches = SentenceBatches(corpus, TOKENISER, max_characters=100, seed=3)
    first, second = list(batches.epoch(0)), list(batches.epoch(1))
    assert len(first) == len(second) == len(batches)
    for epoch in (first, second):
        assert sorted(name for batch in epoch for name in batch.ids) == sorted(f"sentence {i + 1}" for i in range(400))
        assert all(batch.tokens.numel() <= 100 for batch in epoch)
    assert [batch.ids for batch in first] != [batch.ids for batch in second]
    assert [batch.ids for batch in batches.epoch(0, skip=5)] == [batch.ids for batch in first[5:]]
    [row] = [b.tokens[i] for b in first for i, name in enumerate(b.ids) if name == "sentence 7"]
    assert TOKENISER.decode(row.tolist()) == corpus[6]


def test_sentences_that_cannot_be_learnt_from_are_named():
    text = ["abc", "abd", "abc " * 10, "cab"]
    batches = list(SentenceBatches(text, TOKENISER, max_characters=100, longest=20).epoch(0))
    assert sorted(name for batch in batches for name in batch.ids) == ["sentence 1", "sentence 4"]
    reasons = {rejection.id: rejection.reason for batch in batches for rejection in batch.rejected}
    assert reasons == {
        "sentence 2": "\"abd\": 'd' is outside the alphabet",
        "sentence 3": f'"{"abc " * 10}" has 40 characters; sentences.longest is 20',
    }


def test_a_text_that_no_token_spells_is_a_sentence(model):
    with pytest.raises(TextError, match="spell no sentence"):
        measure_fit(model, TOKENISER, ["xyz"])


def test_a_text_too_short_to_hold_any_out_is_a_sentence(tmp_path):
    (tmp_path / "short.txt").write_text("abc\n")
    with pytest.raises(CorpusError, match="1 sentences to train on and 0 to measure with"):
        train_language_model(settings_of(tmp_path / "short.txt"), TOKENISER, tmp_path / "lm")
    assert not (tmp_path / "lm").exists()


def test_perplexity_is_per_word_and_end(model):
    fit = measure_fit(model, TOKENISER, ["ab c", "xx", "a"])
    assert (fit.sentences, fit.words, fit.characters, fit.tokens, fit.unspelled) == (2, 3, 5, 7, 1)
    assert fit.nats == pytest.approx(-sum(model.score([TOKENISER.encode("ab c"), TOKENISER.encode("a")])))
    assert fit.perplexity == pytest.approx(math.exp(fit.nats / 5))
    assert fit.bits_per_character == pytest.approx(fit.nats / math.log(2) / 7)


def test_a_model_directory_tells_a_language_model_from_a_recogniser(trained, tmp_path):
    directory, meta = trained
    assert json.loads((directory / "meta.json").read_text()) == {"format": 1, **meta}
    with pytest.raises(CheckpointError, match="describes a language model, not a recogniser"):
        checkpoint.load_checkpoint(directory)
    recogniser = tmp_path / "recogniser"
    settings = validate_recipe(toy.recipe(), "toy")
    checkpoint.save_description(recogniser, settings, TOKENISER)
    checkpoint.save_weights(recogniser / checkpoint.WEIGHTS, AcousticModel(settings, 5).state_dict())
    with pytest.raises(CheckpointError, match="describes a recogniser, not a language model"):
        checkpoint.load_language_model(recogniser)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        checkpoint.load_language_model(tmp_path / "gone")


def test_a_language_model_in_other_tokens_than_the_recognisers_is_refused(trained):
    loaded = checkpoint.load_language_model(trained[0])
    loaded.check_spells_as(CharacterTokeniser(" abc"))
    with pytest.raises(CheckpointError, match="train it with --tokeniser"):
        loaded.check_spells_as(CharacterTokeniser(" abcd"))


def test_faults_of_a_recipe_are_named(text):
    with pytest.raises(RecipeError, match=r'network.hiden: unknown key; did you mean "hidden"\?'):
        settings_of(text, "network.hiden=3")


def test_a_run_is_resumed_with_the_same_recipe_and_tokens_alone(trained, text):
    directory, meta = trained
    assert train_language_model(settings_of(text), TOKENISER, directory, resume=True) == meta
    with pytest.raises(RecipeError, match="--resume"):
        train_language_model(settings_of(text), TOKENISER, directory)
    with pytest.raises(RecipeError, match=r"network.hidden: was 24, is 25"):
        train_language_model(settings_of(text, "network.hidden=25"), TOKENISER, directory, resume=True)
    with pytest.raises(CorpusError, match="another tokeniser"):
        train_language_model(settings_of(text), CharacterTokeniser(" abcd"), directory, resume=True)


SHORT = ("training.epochs=3", "training.max_batch_characters=500")


def _train_and_save_often(text, directory) -> None:
    torch.set_num_threads(1)
    train_language_model(settings_of(text, *SHORT, "training.save_minutes=0.0001"), TOKENISER, directory)


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(text, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_language_model(settings_of(text, *SHORT), TOKENISER, whole)
    process = SERVER.Process(target=_train_and_save_often, args=(text, cut))
    process.start()
    deadline = time.monotonic() + 120
    while not (cut / "training" / "state.pt").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not torch.load(cut / "training" / "state.pt", weights_only=True)["progress"]["finished"]
    train_language_model(settings_of(text, *SHORT), TOKENISER, cut, resume=True)
    for name in (checkpoint.WEIGHTS, checkpoint.LAST_WEIGHTS):
        expected, found = load_file(whole / name), load_file(cut / name)
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def asr_lm(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["lm", *map(str, arguments)])


@pytest.fixture
def recogniser(tmp_path):
    checkpoint.save_description(tmp_path / "recogniser", validate_recipe(toy.recipe(), "toy"), TOKENISER)
    return tmp_path / "recogniser"


def test_the_command_line_trains_measures_and_goes_on(text, recogniser, tmp_path):
    lm = tmp_path / "lm"
    command = ("train", text, "--kind", "lstm", "--tokeniser", recogniser, "-o", lm, "--epochs", 1, "--hidden", 16)
    command = (*command, "--set", "network.embedding=4")
    done = asr_lm(*command)
    assert done.exit_code == 0, done.output
    assert "bits a character on held-out sentences at epoch 1 of 1" in done.output
    network = checkpoint.load_language_model(lm).recipe.network
    assert (network.layers, network.hidden, network.embedding) == (1, 16, 4)
    assert "go on with --resume" in asr_lm(*command).output
    assert asr_lm(*command, "--resume").exit_code == 0
    done = asr_lm("perplexity", lm, text)
    assert done.exit_code == 0, done.output
    assert re.search(r"perplexity [\d.]+, [\d.]+ bits a character; \d+ words in 400 sentences", done.output)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--kind", "lstm"], "--kind lstm needs --tokeniser"),
        (["--kind", "lstm", "--order", 3], "--order is for --kind ngram"),
        (["--set", "network.hidden=3"], "--set is for --kind lstm"),
        (["--min-count", 2, "--kind", "lstm"], "--min-count is for --kind ngram"),
    ],
)
def test_an_option_that_would_not_be_heeded_is_refused(text, tmp_path, arguments, sentence):
    done = asr_lm("train", text, "-o", tmp_path / "lm", *arguments)
    assert done.exit_code == 1
    assert sentence in done.output
