"""Training criteria: CTC-CRF against the sum over all paths."""

import itertools
import math

import pytest
import torch

from asr import recipe
from asr.model.criterion import CtcCrf, Denominator, build_criterion, ctc_loss, estimate_ngram, label_log_prob
from asr.model.emitted import Emitted
from asr.records import BLANK
from asr.train.acoustic import blank_rate

VOCABULARY = 4
TRANSCRIPTS = [[1, 2, 2], [3, 1], [2, 3, 3, 1], [1]]
LENGTHS = torch.tensor([5, 3, 4])
TOKENS, TOKEN_LENGTHS = torch.tensor([[1, 1, 3], [2, 3, 0], [3, 0, 0]]), torch.tensor([3, 2, 1])


@pytest.fixture(params=[2, 3])
def ngram(request):
    return estimate_ngram(TRANSCRIPTS, VOCABULARY, request.param)


@pytest.fixture
def log_probs():
    torch.manual_seed(1)
    return torch.randn(3, 5, VOCABULARY).log_softmax(-1).requires_grad_()


def labels_of(path):
    return [token for token, _ in itertools.groupby(path) if token != BLANK]


def log_q(path, log_probs, ngram):
    """A path's score: its frames' log probabilities and its labels' n-gram log probability."""
    order = ngram.ndim
    padded = [BLANK] * (order - 1) + labels_of(path) + [BLANK]
    grams = (tuple(padded[i : i + order]) for i in range(len(padded) - order + 1))
    return sum(log_probs[t, token] for t, token in enumerate(path)) + sum(math.log(ngram[gram]) for gram in grams)


def all_paths(frames):
    return itertools.product(range(VOCABULARY), repeat=frames)


def test_the_denominator_and_its_gradient_are_those_of_the_sum_over_all_paths(log_probs, ngram):
    weights = torch.tensor([1.0, 2.0, -1.0])
    found = Denominator(ngram)(log_probs, LENGTHS)
    exact = log_probs.detach().double().requires_grad_()
    expected = torch.stack(
        [
            torch.stack([log_q(path, exact[i], ngram) for path in all_paths(int(frames))]).logsumexp(0)
            for i, frames in enumerate(LENGTHS)
        ]
    )

    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    [gradient] = torch.autograd.grad(found @ weights, log_probs)
    [exact_gradient] = torch.autograd.grad(expected @ weights.double(), exact)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=1e-5)


def test_the_loss_is_the_share_of_the_labels_own_paths_among_all(ngram):
    """The gradient is taken before the softmax, where PyTorch's CTC loss gives it."""
    logits = torch.randn(3, 5, VOCABULARY, generator=torch.Generator().manual_seed(2)).requires_grad_()
    emissions = Emitted(logits.log_softmax(-1), LENGTHS)
    found = CtcCrf(ngram)(emissions, TOKENS, TOKEN_LENGTHS)
    exact = logits.detach().double().requires_grad_()
    expected = exact.new_zeros(())
    for row, frames, tokens, count in zip(exact.log_softmax(-1), LENGTHS, TOKENS, TOKEN_LENGTHS, strict=True):
        scores = {path: log_q(path, row, ngram) for path in all_paths(int(frames))}
        own = [score for path, score in scores.items() if labels_of(path) == tokens[:count].tolist()]
        expected = expected + torch.stack([*scores.values()]).logsumexp(0) - torch.stack(own).logsumexp(0)

    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    [gradient] = torch.autograd.grad(found, logits)
    [exact_gradient] = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=0, atol=1e-5)


def test_ctc_beside_it_is_added_with_its_weight(log_probs, ngram):
    emissions = Emitted(log_probs, LENGTHS)
    alone, beside = (CtcCrf(ngram, ctc=weight)(emissions, TOKENS, TOKEN_LENGTHS) for weight in (0.0, 0.3))
    ctc = ctc_loss(emissions, TOKENS, TOKEN_LENGTHS)
    assert (beside - alone).item() == pytest.approx(0.3 * ctc.item(), rel=1e-5)


def test_padding_changes_nothing(log_probs, ngram):
    padding = torch.full((3, 4, VOCABULARY), float("nan"))
    padding[:, :, 0] = 0.0
    padded = torch.cat([log_probs, padding], 1)
    together = Denominator(ngram)(padded, LENGTHS)
    for i, frames in enumerate(LENGTHS.tolist()):
        alone = Denominator(ngram)(log_probs[i : i + 1, :frames], LENGTHS[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-6)
    [gradient] = torch.autograd.grad(together.sum(), padded)
    assert (gradient[1, 3:] == 0).all()


def test_a_long_utterance_of_sure_emissions_stays_in_range(ngram):
    logits = 80 * torch.randn(1, 3000, VOCABULARY, generator=torch.Generator().manual_seed(3))
    log_probs = logits.log_softmax(-1).requires_grad_()
    loss = Denominator(ngram)(log_probs, torch.tensor([3000])).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    torch.testing.assert_close(log_probs.grad.sum(2), torch.ones(1, 3000), rtol=0, atol=1e-3)


def test_an_utterance_too_short_for_its_labels_has_an_infinite_loss(log_probs, ngram):
    emissions = Emitted(log_probs[:1, :3], torch.tensor([3]))
    assert CtcCrf(ngram)(emissions, torch.tensor([[1, 1, 3]]), torch.tensor([3])).item() == math.inf


def test_witten_bell_gives_what_was_seen_its_share_and_the_rest_to_the_shorter_history():
    """After 1 came 2, 3 and twice the end: three kinds in four, so three sevenths go to the unigrams."""
    transcripts = [[1, 2], [1, 3], [1], [1]]
    unigram, bigram = (estimate_ngram(transcripts, VOCABULARY, order) for order in (1, 2))
    counts = {0: 4, 1: 4, 2: 1, 3: 1}
    expected = [(counts[w] + 4 / VOCABULARY) / (10 + 4) for w in range(VOCABULARY)]
    assert unigram.tolist() == pytest.approx(expected)
    after_one = [(seen + 3 * expected[w]) / (4 + 3) for w, seen in enumerate([2, 0, 1, 1])]
    assert bigram[1].tolist() == pytest.approx(after_one)


def test_an_n_gram_sums_to_one_after_every_history(ngram):
    torch.testing.assert_close(ngram.sum(-1), torch.ones(ngram.shape[:-1]))
    assert (ngram > 0).all()


def test_labels_cost_what_the_n_gram_says_of_them_and_of_their_end(ngram):
    expected = []
    for tokens, count in zip(TOKENS.tolist(), TOKEN_LENGTHS.tolist(), strict=True):
        padded = [BLANK] * (ngram.ndim - 1) + tokens[:count] + [BLANK]
        expected.append(sum(math.log(ngram[tuple(padded[i : i + ngram.ndim])]) for i in range(count + 1)))
    assert label_log_prob(ngram, TOKENS, TOKEN_LENGTHS).tolist() == pytest.approx(expected, rel=1e-5)


def test_a_recipe_names_its_criterion():
    assert build_criterion(recipe.Ctc(), TRANSCRIPTS, VOCABULARY) is ctc_loss
    settings = recipe.CtcCrf(kind="ctc_crf", order=3, ctc=0.2)
    criterion = build_criterion(settings, TRANSCRIPTS, VOCABULARY)
    assert isinstance(criterion, CtcCrf)
    assert criterion.ngram.shape == (VOCABULARY,) * 3


@pytest.mark.cuda
def test_a_gpu_computes_what_the_cpu_does(ngram):
    """In stretches of many frames and rows that are filled up; the second batch replays the first one's graphs."""
    for seed, (rows, frames) in enumerate([(3, 70), (5, 33)]):
        logits = torch.randn(rows, frames, VOCABULARY, generator=torch.Generator().manual_seed(seed))
        lengths = torch.linspace(frames // 2, frames, rows).long()
        sums, gradients = [], []
        for device in ("cpu", "cuda"):
            log_probs = logits.log_softmax(-1).to(device).requires_grad_()
            found = Denominator(ngram.to(device))(log_probs, lengths.to(device))
            sums.append(found.cpu())
            gradients.append(torch.autograd.grad(found.sum(), log_probs)[0].cpu())
        torch.testing.assert_close(*sums, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-4)


def test_the_blank_rate_counts_real_frames_alone():
    likeliest = torch.tensor([[0, 0, 2, 0], [0, 1, 1, 1]])
    emitted = Emitted(torch.nn.functional.one_hot(likeliest, VOCABULARY).float(), torch.tensor([4, 1]))
    assert float(blank_rate(emitted)) == pytest.approx(4 / 5)
