"""Entropy pruning: a smaller model by leaving out the n-grams that cost the least perplexity.

Stolcke, Entropy-based Pruning of Backoff Language Models, 1998. Leaving out the n-gram h w, of which h' is the next
shorter context, changes the back-off weight of h from a to a' and the model by the relative entropy

    D = -p(h) (p(w|h) (log p(w|h') + log a' - log p(w|h)) + (log a' - log a) (1 - sum of p(v|h) over the listed h v))

(equation 6), and the perplexity by the fraction exp(D) - 1. An n-gram that others extend stays as long as they do.
"""

from __future__ import annotations

import numpy as np

from asr.decode.arpa import END, START, Arpa, Section
from asr.decode.compiled import compiled
from asr.decode.ngram import ROOT, NgramArrays, NgramModel, advance, find_child
from asr.errors import LanguageModelError
from asr.train.backoffs import left_over, log_ratio, weigh_backoffs

ROUNDS = 60
"""Of walking the model until the frequencies of its histories stand still: some three sentences' length."""


def losses(model: NgramModel, histories: str = "chain") -> np.ndarray:
    """(N,) by what fraction perplexity rises without each node of the model's trie, or without it and what extends it,
    whichever is more; infinite for the root and for unigrams.

    p(h) is, by ``histories``, ``chain``: p(h1) p(h2 | h1)..., as Stolcke has it and SRILM too, p(</s>) in place of
    that of <s>; or ``running``: how often h comes in running text that the model itself makes up. The lower orders of
    Kneser-Ney models do not say how frequent a word is, so that the chain is wrong there (Chelba et al., 2010, Study
    on Interaction between Entropy Pruning and Kneser-Ney Smoothing).
    """
    arrays, start, end = model.arrays, model.index(START), model.index(END)
    if histories == "chain":
        log_frequencies = _chain(arrays, start, end)
    else:
        log_frequencies = np.log(np.maximum(_running(arrays, start, end, model.start, ROUNDS), 1e-300))
    lost: np.ndarray = _losses(arrays, start, log_frequencies)
    return lost


def prune(
    model: NgramModel, *, threshold: float | None = None, ngrams: int | None = None, lost: np.ndarray | None = None
) -> NgramModel:
    """The model without the n-grams whose loss is below ``threshold``, or, with the ``ngrams`` whose loss is highest;
    unigrams stay. Raises LanguageModelError where there are more unigrams than that."""
    lost = losses(model) if lost is None else lost
    if ngrams is not None:
        unigrams = len(model.words)
        if ngrams < unigrams:
            raise LanguageModelError(f"{ngrams} n-grams were asked for, but the model has {unigrams} words, which stay")
        # Ties go together, so that no n-gram is kept without its context.
        falling = np.sort(lost[1:])[::-1]
        threshold = float(np.nextafter(falling[ngrams], np.inf)) if ngrams < len(falling) else 0.0
    kept = lost >= (threshold or 0.0)
    arpa = model.to_arpa()
    sections, node = [], 1
    for section in arpa.sections:
        rows = kept[node : node + len(section.ids)]
        sections.append(
            Section(ids=section.ids[rows], log_probs=section.log_probs[rows], backoffs=section.backoffs[rows])
        )
        node += len(section.ids)
    while len(sections) > 1 and len(sections[-1].ids) == 0:
        sections.pop()
    return weigh_backoffs(Arpa(words=arpa.words, sections=tuple(sections)), START, "the pruned model")


@compiled
def _chain(arrays: NgramArrays, start: int, end: int) -> np.ndarray:
    """(I,) log p of each context's words, one after the other."""
    frequencies = np.zeros(len(arrays.backoffs))
    for context in range(len(arrays.backoffs)):
        for node in range(arrays.first_child[context], arrays.first_child[context + 1]):
            if node < len(frequencies):
                first_is_start = context == ROOT and arrays.words[node] == start
                log_prob = arrays.log_probs[1 + end] if first_is_start else arrays.log_probs[node]
                frequencies[node] = frequencies[context] + log_prob
    return frequencies


@compiled
def _running(arrays: NgramArrays, start: int, end: int, first: int, rounds: int) -> np.ndarray:
    """(I,) the share of places in running text at which each context is the history, or ends it.

    The model is a Markov chain over states. What a state does not list passes to its suffix, less what the suffix
    gives to words that the state does list: ``again`` is the n-gram that would give it, ``share`` how much of it.
    """
    inner, size = len(arrays.backoffs), len(arrays.words)
    again, share, next_state = np.zeros(size, np.int32), np.zeros(size), np.zeros(size, np.int32)
    for word in range(len(arrays.words[1 : arrays.first_child[1]])):
        next_state[1 + word] = advance(arrays, ROOT, word)[1]
    for context in range(1, inner):
        for node in range(arrays.first_child[context], arrays.first_child[context + 1]):
            word, state, passed = arrays.words[node], arrays.suffixes[context], arrays.backoffs[context]
            next_state[node] = advance(arrays, context, word)[1]
            found = find_child(arrays, state, word)
            while found < 0:
                passed += arrays.backoffs[state]
                state = arrays.suffixes[state]
                found = find_child(arrays, state, word)
            again[node], share[node] = found, np.exp(passed + arrays.log_probs[found])
    occupied = np.zeros(inner)
    occupied[first] = 1.0
    for _ in range(rounds):
        passing = occupied.copy()
        for context in range(inner - 1, 0, -1):
            passing[arrays.suffixes[context]] += passing[context] * np.exp(arrays.backoffs[context])
        flow = np.zeros(size)
        for context in range(inner):
            for node in range(arrays.first_child[context], arrays.first_child[context + 1]):
                if arrays.words[node] != start:
                    flow[node] += passing[context] * np.exp(arrays.log_probs[node])
                    if context != ROOT:
                        flow[again[node]] -= passing[context] * share[node]
        after = np.zeros(inner)
        for node in range(1, size):
            after[first if arrays.words[node] == end else next_state[node]] += flow[node]
        occupied = 0.5 * (occupied + np.maximum(after, 0.0) / after.sum())  # the mean, lest it swing with a period
    for context in range(inner - 1, 0, -1):
        occupied[arrays.suffixes[context]] += occupied[context]
    return occupied


@compiled
def _losses(arrays: NgramArrays, start: int, log_frequencies: np.ndarray) -> np.ndarray:
    lost = np.full(len(arrays.words), np.inf)
    # Longer contexts first, so that what extends an n-gram is judged before it.
    for context in range(len(arrays.backoffs) - 1, ROOT, -1):
        own, lower = left_over(arrays, context, start)
        before = log_ratio(own, lower)
        for node in range(arrays.first_child[context], arrays.first_child[context + 1]):
            log_prob = arrays.log_probs[node]
            backed_off = advance(arrays, arrays.suffixes[context], arrays.words[node])[0]
            after = log_ratio(own + np.exp(log_prob), lower + np.exp(backed_off))
            change = np.exp(log_prob) * (backed_off + after - log_prob) + max(own, 0.0) * (after - before)
            lost[node] = max(np.expm1(-np.exp(log_frequencies[context]) * change), 0.0)
            if node < len(arrays.backoffs):
                for child in range(arrays.first_child[node], arrays.first_child[node + 1]):
                    lost[node] = max(lost[node], lost[child])
    return lost
