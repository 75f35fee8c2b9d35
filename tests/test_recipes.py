"""The recipes that ship: each validates, and custom.yaml shows every knob with its default."""

from pathlib import Path

import pytest

from asr.recipe import Recipe
from asr.recipe.reading import load_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_validates(path):
    assert load_recipe(path).corpora.train


def test_the_recipes_are_the_ones_the_documentation_names():
    names = {path.stem for path in RECIPES}
    assert names == {"digits", "an4", "mini_librispeech", "librispeech", "librispeech_960", "custom"}


def test_custom_states_every_default():
    custom = load_recipe(Path(__file__).parents[1] / "recipes" / "custom.yaml")
    defaults = Recipe(corpora=custom.corpora)
    assert custom == defaults
