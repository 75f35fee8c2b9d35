"""A recipe is data: validated whole, every fault at once, and nothing in it can run, explode or be misread."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import RecipeError
from asr.recipe import ManifestCorpus, Recipe
from asr.recipe.reading import MAX_RECIPE_BYTES, dump_recipe, load_recipe, validate_recipe

CORPORA = """\
corpora:
  train:
    - {kind: manifest, path: train.jsonl}
  dev:
    - {kind: manifest, path: dev.jsonl}
"""


@pytest.fixture
def load(tmp_path):
    """``load(yaml, *overrides)``: the recipe of valid corpora followed by ``yaml``."""

    def load_text(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "recipe.yaml"
        path.write_text(CORPORA + text, encoding="utf-8")
        return load_recipe(path, overrides)

    return load_text


def fault_of(load, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------- faults


def test_every_fault_is_reported_at_once_with_its_path_and_what_was_probably_meant(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(
        """\
corpora:
  train: [{kind: manifst, path: train.jsonl}]
  dev: [{kind: manifest, path: dev.jsonl}]
encoder: {kind: lstm, hiden: 4, dropout: 1.5}
text: {normalise: word}
training: {epochs: many}
"""
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    head, *faults = str(caught.value).splitlines()
    assert head == f"{path}: 5 faults"
    assert sorted(fault.removeprefix("  - ") for fault in faults) == [
        'corpora.train.0.kind: found "manifst", expected one of librispeech, manifest, folder, common_voice, kaldi, '
        'lhotse, espeak; did you mean "manifest"?',
        "encoder.dropout: expected less than 1; found 1.5",
        'encoder.hiden: unknown key; did you mean "hidden"?',
        'text.normalise: found "word", expected none or lower or words; did you mean "words"?',
        "training.epochs: expected a valid integer; found 'many'",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("seeds: 3", 'seeds: unknown key; did you mean "seed"?'),
        ("zzz: 3", "zzz: unknown key"),
        (
            "text: {tokeniser: {kind: chars}}",
            'text.tokeniser.kind: found "chars", expected one of characters, sentencepiece, phones; '
            'did you mean "characters"?',
        ),
        ("encoder: {kind: lstm, hidden: 0}", "encoder.hidden: expected greater than or equal to 1; found 0"),
        ("encoder: {kind: lstm, hidden: 2.5}", "encoder.hidden: expected a valid integer; found 2.5"),
        ("seed: true", "seed: expected a valid integer; found True"),
        ("data: 3", "data: expected a valid string; found 3"),
        ("training: {learning_rate: 1e999}", "training.learning_rate: expected a finite number; found inf"),
        (
            "features: {kind: mfcc, coefficients: 40, mels: 20}",
            "features: 40 coefficients need at least as many mels; found 20",
        ),
        (
            "encoder: {kind: lstm, conv: {channels: [8], subsampling: 4}}",
            "encoder.conv: subsampling 4 is two strides of 2, so it needs two channel counts or more",
        ),
    ],
)
def test_a_fault_names_its_place_what_was_found_and_what_was_expected(load, text, fault):
    assert fault_of(load, text).splitlines()[1:] == [f"  - {fault}"]


@pytest.mark.parametrize("text", ["encoder: {kind: X}", "text: {normalise: X}", "seed: X", "encoder: {X: 1}"])
def test_what_was_found_is_quoted_in_short(load, text):
    assert len(fault_of(load, text.replace("X", "x" * 70_000))) < 700


def test_a_slice_of_speakers_runs_from_low_to_high(load):
    message = fault_of(load, "", "corpora.train.0.speakers=[0.9, 0.1]")
    assert "corpora.train.0: speakers is a slice of [0, 1], low to high; found [0.9, 0.1]" in message


def test_a_recipe_without_corpora_says_so():
    with pytest.raises(RecipeError, match=r"corpora: missing"):
        validate_recipe({}, "recipe.yaml")


# ------------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("seed=7", lambda r: r.seed, 7),
        ("encoder={kind: lstm, hidden: 8}", lambda r: r.encoder.hidden, 8),
        ("training.learning_rate=1e-4", lambda r: r.training.learning_rate, 1e-4),
        ("augment.speed=[0.8, 1.0]", lambda r: r.augment.speed, (0.8, 1.0)),
        ("augment.speed.0=0.8", lambda r: r.augment.speed, (0.8, 1.0)),
        ("corpora.train.0.path=other.jsonl", lambda r: r.corpora.train[0].path, "other.jsonl"),
        ("augment.spec_augment=null", lambda r: r.augment.spec_augment, None),
        ("augment.spec_augment.time_masks=0", lambda r: r.augment.spec_augment.time_masks, 0),
        ("data=a=b", lambda r: r.data, "a=b"),
        ("data=no", lambda r: r.data, "no"),
    ],
)
def test_an_override_reaches_nested_keys_and_list_places_with_a_yaml_value(load, override, read, expected):
    assert read(load("augment: {speed: [0.9, 1.0]}", override)) == expected


def test_later_overrides_win(load):
    assert load("", "seed=2", "seed=3").seed == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", '--set takes KEY=VALUE (encoder.hidden=256); found "seed"'),
        ("=3", '--set takes KEY=VALUE (encoder.hidden=256); found "=3"'),
        (
            "corpora.train.1.path=x",
            '--set corpora.train.1.path: corpora.train is a list of 1, and "1" is none of its places',
        ),
        ("corpora.train.-1.path=x", '"-1" is none of its places'),
        ("corpora.train.².path=x", '"²" is none of its places'),
        ("seed.deeper=1", "--set seed.deeper: seed is 5, which holds no keys"),
        ("data=[1", "--set data, line 1: not valid YAML"),
        ("data=!!python/name:os.system", "does not use YAML tags"),
        ("training.epochs=0", "training.epochs: expected greater than 0; found 0"),
        ("trainin.epochs=3", 'trainin: unknown key; did you mean "training"?'),
        ("a..b=1", "a: unknown key"),
    ],
)
def test_a_bad_override_is_a_sentence(load, override, message):
    assert message in fault_of(load, "seed: 5", override)


def test_an_override_of_an_empty_file_is_a_sentence(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    with pytest.raises(RecipeError, match=r"--set seed: the recipe is None, which holds no keys"):
        load_recipe(path, ["seed=1"])


# ------------------------------------------------------------------------------------------------------ YAML


@pytest.mark.parametrize("spelling", ["1e-3", "1E-3", "0.001", ".001", "+1e-3", "1.e-3"])
def test_numbers_are_those_of_yaml_1_2(load, spelling):
    assert load(f"training: {{learning_rate: {spelling}}}").training.learning_rate == 1e-3


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "2020-01-01", "1_000", "0x10", "1:30", ".inf"])
def test_words_that_only_yaml_1_1_took_for_something_else_are_words(load, word):
    assert load(f"data: {word}").data == word


def test_a_leading_zero_does_not_make_a_number_octal(load):
    assert load("seed: 010").seed == 10


def test_an_alias_is_refused_with_its_line(load):
    assert "line 7: a recipe does not use YAML aliases" in fault_of(load, "data: &here x\ntext: *here\n")


def test_a_repeated_key_is_refused_with_its_line(load):
    assert 'line 8: the key "seed" stands here twice' in fault_of(load, "seed: 1\ndata: x\nseed: 2\n")
    assert 'line 8: the key "epochs" stands here twice' in fault_of(load, "training:\n  epochs: 1\n  epochs: 2\n")


@pytest.mark.parametrize(
    "tagged",
    [
        "!!python/object/apply:os.mkdir [{folder}]",
        "!!python/object/new:os.mkdir [{folder}]",
        "!!python/name:os.mkdir",
        "!!python/module:antigravity",
        "!!bool maybe",
        "!!timestamp foo",
        "!!int 0x10",
        "!!binary aGk=",
        "!!set {{a, b}}",
        "!custom x",
    ],
)
def test_a_tag_never_runs_and_is_refused_with_its_line(load, tmp_path, tagged):
    folder = tmp_path / "made"
    message = fault_of(load, f"data: {tagged.format(folder=folder)}\n")
    assert "line 6: a recipe does not use YAML tags" in message
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("? [a, b]\n: c\n", "line 6: a key is a word, not a list or a mapping"),
        ("<<: {seed: 2}\n", "<<: unknown key"),
        ("1: 2\n", "1: unknown key"),
        ("data: [1\n", "not valid YAML"),
        ("---\nseed: 1\n", "not valid YAML"),
        ("data: \x07", "not valid YAML"),
        ("data: " + "[" * 20_000, "not valid YAML"),
        ("seed: " + "9" * 5_000, "not valid YAML"),
    ],
)
def test_odd_yaml_is_a_sentence(load, text, message):
    assert message in fault_of(load, text)


def test_a_character_that_yaml_forbids_is_named_in_one_line(load):
    fault = fault_of(load, "data: \x07")
    assert "unacceptable character #x0007: special characters are not allowed in" in fault
    assert "\n" not in fault


# ----------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"#" * (MAX_RECIPE_BYTES + 1), "larger than 1000000 bytes, so it is no recipe"),
        (b"\xff\xfe\x00", "cannot be read: it is not UTF-8 text"),
        (b"RIFF\x00\x00\x00\x00WAVE", "not valid YAML"),
        (b"- a\n- b\n", "a recipe is a mapping of keys to values; found list"),
        (b"", "a recipe is a mapping of keys to values; found NoneType"),
        (b"hello", "a recipe is a mapping of keys to values; found str"),
    ],
    ids=["too large", "binary", "wav", "list", "empty", "word"],
)
def test_a_file_that_is_no_recipe_is_named_with_the_reason(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_and_a_folder_are_named_with_the_reason(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml cannot be read: No such file or directory"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(RecipeError, match=r"cannot be read: Is a directory"):
        load_recipe(tmp_path)


def test_the_recipes_of_the_repository_are_valid():
    found = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
    assert found
    for path in found:
        assert load_recipe(path).corpora.train, path


# ------------------------------------------------------------------------------------------------ round trip

# YAML folds next line and the separators (NEL, LS, PS) into a line break; no path or name has them.
odd = [
    "1e3",
    "08",
    "no",
    "~",
    "null",
    "true",
    "-1",
    "2020-01-01",
    "0x10",
    "=",
    "<<",
    "'",
    "- a",
    "a: b",
    "#",
    " x ",
    "\n",
]
words = st.sampled_from(odd) | st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=12)


@given(data=words, name=words, rate=st.floats(min_value=1e-12, max_value=1e12), seed=st.integers(0, 2**31 - 1))
def test_a_dumped_recipe_loads_as_the_same_recipe(tmp_path_factory, data, name, rate, seed):
    raw = {
        "seed": seed,
        "data": data,
        "corpora": {
            "train": [{"kind": "librispeech", "splits": [data], "name": name, "speakers": [0.0, 0.5]}],
            "dev": [{"kind": "espeak", "vocabulary": [name], "utterances": 3}],
        },
        "training": {"learning_rate": rate, "averaging": {"kind": "last", "epochs": 2}},
        "encoder": {"kind": "gru", "conv": None},
        "augment": {"noise": {"path": data}, "spec_augment": None},
    }
    recipe = validate_recipe(raw, "raw")
    path = tmp_path_factory.mktemp("dump") / "recipe.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_a_dumped_recipe_writes_every_default_out(load):
    text = dump_recipe(load(""))
    for line in ("sample_rate: 16000", "hidden: 256", "learning_rate: 0.001", "kind: log_mel"):
        assert line in text


# ------------------------------------------------------------------------------------------- speakers' slices


@given(
    speakers=st.sets(st.text(max_size=8), max_size=20),
    cuts=st.lists(st.floats(0.01, 0.99), max_size=4, unique=True).map(sorted),
)
def test_slices_side_by_side_are_disjoint_and_cover_every_speaker(speakers, cuts):
    bounds = [0.0, *cuts, 1.0]
    slices = [
        ManifestCorpus(kind="manifest", path="x", speakers=(low, high)) for low, high in itertools.pairwise(bounds)
    ]
    for speaker in speakers:
        assert sum(part.includes(speaker) for part in slices) == 1


def test_a_slice_holds_about_its_share_of_speakers():
    part = ManifestCorpus(kind="manifest", path="x", speakers=(0.0, 0.25))
    assert 200 < sum(part.includes(f"speaker-{i}") for i in range(1000)) < 300


def test_a_section_without_its_kind_is_of_the_default_kind(load):
    recipe = load("encoder: {hidden: 64}\ntraining: {averaging: {decay: 0.9}}", "features.mels=40")
    assert (recipe.encoder.kind, recipe.encoder.hidden) == ("lstm", 64)
    assert (recipe.features.kind, recipe.features.mels) == ("log_mel", 40)
    assert (recipe.training.averaging.kind, recipe.training.averaging.decay) == ("ema", 0.9)
