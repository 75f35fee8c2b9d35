"""Evaluation: pooled counts, an interval, and files that others read."""

import json

import pytest

from asr.data.corpora import manifest_source, sources_of
from asr.errors import CorpusError
from asr.evaluate import SetScore, doubtful, write_hypotheses, write_scores
from asr.recipe.reading import load_recipe
from asr.records import ErrorCounts
from asr.score.edits import character_errors
from asr.score.forms import Line
from asr.score.system import aligned


def scored(*pairs: tuple[str, str]) -> SetScore:
    lines = [Line(id=str(i), text=reference) for i, (reference, _) in enumerate(pairs)]
    system = aligned("toy", lines, [hypothesis for _, hypothesis in pairs])
    return SetScore(system=system, unreadable=(), audio=10.0, processing=0.5)


def test_the_rate_of_a_set_is_pooled_not_averaged():
    score = scored(("a", "b"), ("a b c d e f g h i", "a b c d e f g h i")).system
    assert score.words.rate == pytest.approx(1 / 10)


def test_the_interval_holds_the_rate_and_narrows_with_the_set():
    small = scored(*[("a b", "a b"), ("a b", "a c")] * 5).system
    large = scored(*[("a b", "a b"), ("a b", "a c")] * 500).system
    for score in (small, large):
        assert score.interval().low <= score.words.rate <= score.interval().high
    assert large.interval().high - large.interval().low < 0.2 * (small.interval().high - small.interval().low)
    assert scored(("a", "b")).system.interval() is None


def test_a_perfect_set_has_no_worst_utterances():
    assert scored(("a", "a")).system.worst() == []
    assert [u.line.id for u in scored(("a", "a"), ("a b", ""), ("a b", "a")).system.worst()] == ["1", "2"]


def test_the_json_is_what_the_documentation_says(tmp_path):
    write_scores(tmp_path / "scores.json", [scored(("a b c", "a x"), ("d", "d d"))])
    document = json.loads((tmp_path / "scores.json").read_text())
    assert document["rtf"] == pytest.approx(0.05)
    toy = document["sets"]["toy"]
    assert (toy["words"], toy["utterances"], toy["hits"]) == (4, 2, 2)
    assert (toy["substitutions"], toy["deletions"], toy["insertions"]) == (1, 1, 1)
    assert toy["wer"] == pytest.approx(3 / 4)
    assert toy["cer"] == pytest.approx(character_errors(["a b c", "d"], ["a x", "d d"]).rate)
    write_hypotheses(tmp_path / "hypotheses.jsonl", [scored(("a b c", "a x"))])
    assert json.loads((tmp_path / "hypotheses.jsonl").read_text()) == {"id": "0", "ref": "a b c", "hyp": "a x"}


def test_utterances_above_a_character_error_rate_are_doubtful():
    score = scored(("right", "right"), ("four", "fort"), ("off", "entirely other words"))
    assert [character_errors([u.line.text], [u.hypothesis]).rate for u in score.system.utterances] == [0, 0.5, 19 / 3]
    assert doubtful(score, above=1.0) == ["2"]
    assert doubtful(score, above=0.5) == ["2"]
    assert doubtful(score, above=0.4) == ["1", "2"]


def test_counts_add_up():
    one = ErrorCounts(hits=1, substitutions=2, deletions=3, insertions=4)
    assert (one + one).errors == 18
    assert (one + one).reference_length == 12


def test_a_manifest_is_called_by_its_path_without_suffix(tmp_path):
    assert manifest_source(tmp_path / "x.jsonl").name == str(tmp_path / "x")


def test_a_split_the_recipe_lacks_is_a_sentence(tmp_path):
    source = "[{kind: manifest, path: x}]"
    (tmp_path / "r.yaml").write_text(f"corpora: {{train: {source}, dev: {source}}}")
    with pytest.raises(CorpusError, match="names no test corpus"):
        sources_of(load_recipe(tmp_path / "r.yaml"), "test")
