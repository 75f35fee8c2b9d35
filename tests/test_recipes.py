"""The recipes that ship: each validates, and custom.yaml shows every knob with its default."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from asr.recipe import Beam, Calibration, LstmFusion, Recipe
from asr.recipe.reading import load_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_validates(path):
    assert load_recipe(path).corpora.train


def test_the_recipes_are_the_ones_the_documentation_names():
    names = {path.stem for path in RECIPES}
    assert names == {
        "digits",
        "digits_cy",
        "an4",
        "fsdd",
        "mini_librispeech",
        "english",
        "librispeech",
        "librispeech_960",
        "custom",
        "an4_english",
    }


@pytest.mark.parametrize("path", sorted((RECIPES[0].parent / "results").glob("*.json")), ids=lambda path: path.stem)
def test_the_table_of_results_says_what_the_runs_wrote(path):
    run, table = json.loads(path.read_text()), (path.parents[1] / "README.md").read_text()
    assert run["meta"]["training"]["finished"]
    assert path.stem in {recipe.stem for recipe in RECIPES}
    for decoding in run["decoders"]:
        assert row(path.stem, run["meta"], decoding) in table.splitlines()


def row(name: str, meta: dict[str, Any], decoding: dict[str, Any]) -> str:
    training, scores = meta["training"], decoding["scores"]
    low, high = (100 * end for end in scores["wer_interval"])
    return (
        f"| `{name}` | {training['audio_hours_per_epoch']:.2f} | {meta['parameters'] / 1e6:.2f} M | "
        f"{decoding['decoder']} | {100 * scores['wer']:.2f} % [{low:.2f}, {high:.2f}] | {100 * scores['cer']:.2f} % | "
        f"{scores['words']:,} words, {scores['utterances']} utterances | "
        f"{training['minutes']:.0f} min, {training['epochs']} epochs |"
    )


def test_a_recipe_without_results_is_said_not_to_have_been_run():
    table = (RECIPES[0].parent / "README.md").read_text()
    ran = {path.stem for path in (RECIPES[0].parent / "results").glob("*.json")}
    for path in RECIPES:
        if path.stem not in ran | {"custom"}:
            assert f"| `{path.stem}` | not run |" in table


def test_custom_states_every_default():
    custom = load_recipe(Path(__file__).parents[1] / "recipes" / "custom.yaml")
    defaults = Recipe(corpora=custom.corpora)
    assert custom == defaults


def test_customs_commented_beam_is_a_line_a_key_with_every_default(tmp_path):
    head, decoder = (Path(__file__).parents[1] / "recipes" / "custom.yaml").read_text().split("\ndecoder:\n")
    decoder = re.sub(r"(?m)^  kind: greedy.*\n|^  (?=# )", "", decoder)
    decoder = re.sub(r"(?m)^# ", "  ", decoder)
    opened = re.sub(r"(?m)^  (lstm|calibration): null", r"  \1:", decoder)
    (tmp_path / "beam.yaml").write_text(f"{head}\ndecoder:\n{opened}")
    beam = load_recipe(tmp_path / "beam.yaml").decoder
    assert beam == Beam(lstm=LstmFusion(path="lm"), calibration=Calibration())
    keys = set(re.findall(r"(?m)^ +(\w+):", decoder))
    assert keys == {*Beam.model_fields, *LstmFusion.model_fields, *Calibration.model_fields}
