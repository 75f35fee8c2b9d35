"""A dev set held out of the training corpora: which utterances, how many, and what is said where it cannot be."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from asr.data import corpora
from asr.data.corpora import check_not_empty, open_corpora, sources_of
from asr.errors import CorpusError, RecipeError
from asr.recipe import Recipe
from asr.recipe.reading import dump_recipe, validate_recipe

SIX = [{"id": f"u{i}", "speaker": f"speaker{i % 6}"} for i in range(60)]


def recipe_of(root: Path, rows: list[dict], dev: object, **source: object) -> Recipe:
    lines = "".join(json.dumps({"audio_filepath": "a.wav", "text": "hi", **row}) + "\n" for row in rows)
    (root / "m.jsonl").write_text(lines)
    corpora = {"train": [{"kind": "manifest", "path": "m.jsonl", **source}], "dev": dev}
    return validate_recipe({"corpora": corpora}, "test")


def ids(settings: Recipe, split: str, root: Path) -> list[str]:
    return [told.id for told in open_corpora(sources_of(settings, split), root).told()]


def voices(chosen: list[str], rows: list[dict]) -> set[str]:
    return {row["speaker"] for row in rows if row["id"] in chosen}


@pytest.mark.parametrize(("share", "speakers"), [(0.1, 1), (0.17, 1), (0.34, 2), (0.9, 5)])
def test_whole_speakers_are_held_out_as_many_as_fit_and_at_least_one(tmp_path, share, speakers):
    settings = recipe_of(tmp_path, SIX, {"share": share})
    train, dev = (ids(settings, split, tmp_path) for split in ("train", "dev"))
    assert sorted(train + dev) == sorted(row["id"] for row in SIX)
    assert len(voices(dev, SIX)) == speakers
    assert not voices(dev, SIX) & voices(train, SIX)


def test_what_is_held_out_does_not_depend_on_the_order_of_the_corpus(tmp_path):
    one = ids(recipe_of(tmp_path, SIX, {"share": 0.2, "by": "utterance"}), "dev", tmp_path)
    other = ids(recipe_of(tmp_path, SIX[::-1], {"share": 0.2, "by": "utterance"}), "dev", tmp_path)
    assert one == other[::-1]
    assert len(one) == 12


@pytest.mark.parametrize(("speaker", "who"), [("anna", 'one speaker, "anna"'), ("", "no speakers")])
def test_without_a_second_speaker_utterances_are_held_out_and_a_warning_says_so(tmp_path, caplog, speaker, who):
    rows = [{"id": f"u{i}", "speaker": speaker} for i in range(30)]
    settings = recipe_of(tmp_path, rows, {"share": 0.1})
    with caplog.at_level(logging.WARNING):
        assert len(ids(settings, "dev", tmp_path)) == 3
    assert f"the training corpora name {who}, so the dev set is held out by utterance" in caplog.text
    assert len(ids(settings, "train", tmp_path)) == 27


def test_a_share_of_a_slice_stays_in_the_slice(tmp_path):
    settings = recipe_of(tmp_path, SIX, {"share": 0.5}, speakers=[0.0, 0.7])
    both = [ids(settings, split, tmp_path) for split in ("train", "dev")]
    assert all(both)
    inside = {row["id"] for row in SIX if settings.corpora.train[0].includes(row["speaker"])}
    assert set(both[0] + both[1]) == inside < {row["id"] for row in SIX}


def test_what_is_held_out_is_decided_once_for_the_splits_that_are_opened_together(tmp_path, monkeypatch):
    settings, read = recipe_of(tmp_path, SIX, {"share": 0.5}), []
    read_manifest = corpora.read_manifest
    monkeypatch.setattr(corpora, "read_manifest", lambda path: read.append(path) or read_manifest(path))
    decided: dict = {}
    train, dev = (open_corpora(settings.corpora.split(name), tmp_path, decided=decided) for name in ("train", "dev"))
    assert len(read) == 1
    assert {told.id for told in (*train.told(), *dev.told())} == {row["id"] for row in SIX}


def test_a_recipe_with_a_share_is_written_and_read_again(tmp_path):
    import yaml

    settings = recipe_of(tmp_path, SIX, {"share": 0.25, "by": "utterance"})
    assert validate_recipe(yaml.safe_load(dump_recipe(settings)), "again") == settings


@pytest.mark.parametrize(
    ("dev", "fault"),
    [
        ({"share": 1.5}, "corpora.dev.share: expected less than 1; found 1.5"),
        ({"shar": 0.1}, 'corpora.dev.shar: unknown key; did you mean "share"?'),
        ({"by": "day"}, 'corpora.dev.by: found "day", expected speaker or utterance'),
        ([{"kind": "manifst"}], 'corpora.dev.0.kind: found "manifst", expected one of'),
        ([], "corpora.dev: "),
        (3, "corpora.dev: expected a list; found 3"),
    ],
)
def test_a_wrong_dev_is_named_by_the_path_that_its_writer_wrote(tmp_path, dev, fault):
    with pytest.raises(RecipeError) as caught:
        recipe_of(tmp_path, SIX, dev)
    assert str(caught.value).splitlines()[1].startswith(f"  - {fault}")


def test_an_empty_slice_says_which_source_and_where_each_speaker_lies(tmp_path):
    dev = [{"kind": "manifest", "name": "my-dev", "path": "m.jsonl", "speakers": [0.2, 0.201]}]
    settings = recipe_of(tmp_path, SIX, dev)
    with pytest.raises(CorpusError) as caught:
        check_not_empty(open_corpora(sources_of(settings, "dev"), tmp_path), settings, "dev", tmp_path)
    message = str(caught.value)
    assert message.startswith("corpora.dev holds no utterances: my-dev has none in its slice, speakers: [0.2, 0.201]")
    assert all(f"speaker{i} at 0." in message for i in range(6))
    assert "corpora.dev: {share: 0.1, by: speaker}" in message


def test_of_one_utterance_nothing_can_be_held_out(tmp_path):
    settings = recipe_of(tmp_path, SIX[:1], {})
    with pytest.raises(CorpusError, match=r"corpora\.train holds no utterances: there are too few utterances"):
        check_not_empty(open_corpora(sources_of(settings, "train"), tmp_path), settings, "train", tmp_path)
