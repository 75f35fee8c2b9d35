"""``asr check``: what of a recipe does not go with its corpus."""

from __future__ import annotations

import pytest
import toy

from asr import audio
from asr.data.remarks import remarks
from asr.recipe.reading import validate_recipe
from asr.records import Rejection
from asr.train.check import SplitReport, Steps, _mismatches, check


def mismatches(steps: int | None, *, cramped: int = 0, **training: object) -> list[str]:
    raw = toy.recipe(encoder={"kind": "lstm", "conv": {"channels": [8, 8]}})
    settings = validate_recipe({**raw, "training": {**raw["training"], **training}}, "toy")
    rejected = [Rejection(id=f"u{i}", fault="too short for its labels", reason="") for i in range(cramped)]
    train = SplitReport(name="train", durations=(1.0,), speakers=frozenset(), rejected=tuple(rejected))
    return list(_mismatches(settings, train, Steps(an_epoch=10, in_all=steps)))


EMA = {"kind": "ema", "decay": 0.999}


@pytest.mark.parametrize(
    ("steps", "training", "sentence"),
    [
        (200, {"warmup_steps": 300}, "the learning rate warms up for 300 steps and the run has 200"),
        (200, {"averaging": EMA}, "looks back over some 1000 steps and the run has 200"),
    ],
)
def test_a_schedule_longer_than_the_run_is_named(steps, training, sentence):
    [found] = mismatches(steps, **training)
    assert sentence in found


def test_a_long_run_and_one_by_the_clock_have_nothing_to_be_named():
    assert mismatches(5000, warmup_steps=300, averaging=EMA) == []
    assert mismatches(None, warmup_steps=300, averaging=EMA) == []


def test_labels_that_do_not_fit_suggest_more_emissions():
    [found] = mismatches(5000, cramped=7)
    assert found.startswith("7 utterances of train have more labels than fit in 25 emissions a second")
    assert "encoder.conv.subsampling: 2" in found


class Corpus:
    """Stands for a mixture: what is told of its utterances."""

    def __init__(self, *told: tuple[str, str]) -> None:
        from asr.data.corpora import Told

        self._told = [Told(id, f"line {i}", "a", path) for i, (id, path) in enumerate(told)]

    def told(self):
        return iter(self._told)


def test_ids_given_twice_are_named():
    [found] = remarks({"train": Corpus(("a", "1.wav"), ("b", "2.wav"), ("a", "3.wav"))})
    assert found.startswith("1 ids of train are given to more than one utterance: a; ")


def test_a_copy_of_a_recording_in_another_split_is_named(tmp_path):
    for name, content in (("one.wav", b"same"), ("two.wav", b"same"), ("three.wav", b"else")):
        (tmp_path / name).write_bytes(content)
    one, two, three = (str(tmp_path / f"{name}.wav") for name in ("one", "two", "three"))
    [found] = remarks({"train": Corpus(("a", one)), "dev": Corpus(("b", two), ("c", three))})
    assert found.startswith(f"1 recordings of dev are copies of recordings of train, the first {two} of {one}: ")


def test_each_utterance_is_read_once_whatever_its_weight_and_its_header_too(tmp_path, monkeypatch):
    for name, utterances in (("train", 8), ("dev", 3)):
        toy.write_corpus(tmp_path, utterances, name=name)
    probe, probed = audio.probe, []
    monkeypatch.setattr(audio, "probe", lambda path: probed.append(path) or probe(path))
    train = {"kind": "manifest", "path": "train.jsonl", "weight": 0.25}
    corpora = {"train": [train], "dev": [{"kind": "manifest", "path": "dev.jsonl"}]}
    report = check(validate_recipe(toy.recipe(corpora=corpora), "toy"), root=tmp_path, device="cpu")
    assert [len(split.durations) for split in report.splits] == [8, 3]
    assert len(probed) == len({*probed}) == 11
