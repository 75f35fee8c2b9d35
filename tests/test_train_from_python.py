"""``asr.train``: corpora in memory, network classes of one's own, and what is refused of both."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toy
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

import asr
from asr import recipe
from asr.cli import main
from asr.data.batches import Utterances, load_batches
from asr.data.corpora import open_corpora
from asr.data.given import GivenRecordings, as_given
from asr.errors import CheckpointError, CorpusError, RecipeError, TrainingStopped
from asr.recipe.reading import validate_recipe
from asr.train import from_python, loop

SHORT = {**toy.recipe()["training"], "epochs": 1}
"""One epoch on the toy corpus takes a second."""
TONE = np.zeros(800, np.float32)


class Mine(nn.Module):
    """A GRU on every second frame; ``options`` may make it do otherwise than it promises."""

    def __init__(self, settings, bins: int) -> None:
        super().__init__()
        self.size, self.subsampling = settings.hidden, settings.options.get("subsampling", 2)
        self.cell = nn.GRU(bins, settings.hidden, batch_first=True)
        self.short = settings.options.get("short", False)

    def forward(self, values, lengths):
        encodings, _ = self.cell(values[:, ::2])
        return encodings[:, : -1 if self.short else None], (lengths - 1) // 2 + 1


def recipe_for(*, training: object = SHORT, **sections: object) -> dict[str, object]:
    """The toy recipe without corpora of its own."""
    return {**toy.recipe(training=training), "corpora": {}, **sections}


OWN = {"conv": {"subsampling": 2}, "hidden": 16}
"""What the class above reads of a recipe's encoder."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy.write_corpus(folder, 24)
    toy.write_corpus(folder, 8, seed=1, name="dev")
    return folder


def rows_of(corpus: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (corpus / f"{split}.jsonl").read_text().splitlines()]


def weights(directory: Path) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in load_file(directory / "model.safetensors").items()}


def as_pairs(corpus: Path, rows: list[dict]):
    return [(soundfile.read(corpus / row["audio_filepath"], dtype="float32"), row["text"]) for row in rows]


def as_dataset(corpus: Path, rows: list[dict]):
    """As a Hugging Face dataset has them, but for ids: theirs are the rows' places too."""
    pairs = as_pairs(corpus, rows)
    return [{"audio": {"array": a, "sampling_rate": r, "path": None}, "sentence": text} for (a, r), text in pairs]


def as_paths(corpus: Path, rows: list[dict]):
    return ((str(corpus / row["audio_filepath"]), row["text"]) for row in rows)  # can be iterated over once


def as_bytes(corpus: Path, rows: list[dict]):
    return [
        {"audio": {"bytes": (corpus / row["audio_filepath"]).read_bytes(), "path": "x.flac"}, "text": row["text"]}
        for row in rows
    ]


def as_cuts(corpus: Path, rows: list[dict]):
    """lhotse's, under the ids that rows have."""
    from lhotse import CutSet, Recording, SupervisionSegment

    cuts = []
    for number, row in enumerate(rows):
        id = f"train-{number}"
        cut = Recording.from_file(corpus / row["audio_filepath"], recording_id=id).to_cut()
        cut.id = id
        cut.supervisions = [SupervisionSegment(id, id, 0.0, cut.duration, text=row["text"])]
        cuts.append(cut)
    return CutSet.from_cuts(cuts)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> asr.Trained:
    """On rows in memory, those of the dev set too."""
    cuts = {split: as_pairs(corpus, rows_of(corpus, split)) for split in ("train", "dev")}
    return asr.train(recipe_for(), tmp_path_factory.mktemp("trained") / "model", cuts=cuts)


def test_a_training_on_rows_says_what_it_came_to(trained):
    meta = json.loads((trained.directory / "meta.json").read_text())
    assert (trained.epochs, trained.best_epoch) == (1, 1)
    assert trained.dev == meta["results"]["dev"]
    assert set(trained.dev) == {"wer", "loss", "cer"}
    settings = asr.load(trained.directory).recipe
    assert [source.kind for source in (*settings.corpora.train, *settings.corpora.dev)] == ["given", "given"]


def read_rows(given) -> list[tuple[str, str, list, int]]:
    """Id, text, samples and rate of each."""
    found = []
    for utterance in given.utterances:
        samples, rate = GivenRecordings([given]).read_channels(utterance.audio)
        found.append((utterance.id, utterance.text, samples.tolist(), rate))
    return found


@pytest.mark.parametrize("form", [as_dataset, as_paths, as_bytes])
def test_rows_are_the_same_utterances_in_whatever_form(corpus, form):
    rows = rows_of(corpus, "dev")
    assert read_rows(as_given(form(corpus, rows), "dev")) == read_rows(as_given(as_pairs(corpus, rows), "dev"))


def batches_of(cuts, **options) -> list:
    """As the training loop reads them."""
    given = {"train": as_given(cuts, "train")}
    source = recipe.GivenCorpus(kind="given", split="train")
    mixture = open_corpora([source], Path(), given=given)
    dataset = Utterances(sample_rate=toy.RATE, normalisation="none", recordings=GivenRecordings(given.values()))
    return list(load_batches(mixture.whole(), dataset, max_batch_seconds=1000, **options))


def test_a_set_of_lhotse_cuts_holds_the_utterances_of_the_same_rows(corpus):
    rows = rows_of(corpus, "dev")
    [cuts], [pairs] = batches_of(as_cuts(corpus, rows)), batches_of(as_pairs(corpus, rows))
    assert (cuts.ids, cuts.texts) == (pairs.ids, pairs.texts)
    assert cuts.waveforms.equal(pairs.waveforms)


def test_loader_processes_read_rows_too(corpus):
    cuts = as_pairs(corpus, rows_of(corpus, "dev"))
    [alone], [apart] = batches_of(cuts), batches_of(cuts, workers=1)
    assert alone.ids == apart.ids
    assert alone.waveforms.equal(apart.waveforms)


def test_a_row_whose_audio_cannot_be_read_is_named_and_the_others_are_used(corpus):
    rows = as_pairs(corpus, rows_of(corpus, "dev"))
    rows[3:3] = [((np.zeros((2, 2, 2)), 8000), "a"), ("nowhere.wav", "b"), ((TONE * np.nan, 8000), "c")]
    [batch] = batches_of(rows)
    assert len(batch) == 8
    left_out = {rejection.id: rejection.reason for rejection in batch.rejected}
    assert left_out["train-3"].startswith("row train-3 of the cuts given: an array of audio is")
    assert "nowhere.wav" in left_out["train-4"]
    assert left_out["train-5"] == "its audio holds samples that are not numbers"


@pytest.fixture
def asked(monkeypatch) -> list:
    """The recipes that trainings are asked for, none of which begins."""
    found: list = []

    def train(settings, _directory, **_):
        found.append(settings)
        spent, results = {"epochs": 1, "minutes": 0.0}, {"best_epoch": 1, "dev": {}}
        return {"training": spent, "results": results}

    monkeypatch.setattr(from_python, "train_acoustic_model", train)
    return found


def test_a_tenth_is_held_out_of_the_cuts_unless_they_or_the_recipe_have_a_dev_set(asked):
    manifest = [{"kind": "manifest", "path": "dev.jsonl"}]
    asr.train(recipe_for(), "model", cuts=[((TONE, 8000), "a")])
    asr.train(recipe_for(corpora={"dev": manifest}), "model", cuts=[((TONE, 8000), "a")])
    asr.train(recipe_for(corpora={"dev": manifest}), "model", cuts={"train": [], "dev": []})
    held, own, given = (settings.corpora for settings in asked)
    assert (held.dev.share, held.dev.by) == (0.1, "speaker")
    assert own.dev[0].path == "dev.jsonl"
    assert given.dev[0].kind == "given"


def test_a_recipe_may_be_a_file_a_mapping_or_made_and_overrides_leave_it_as_it_was(asked, tmp_path):
    raw = toy.recipe(training=SHORT)
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(raw))
    before = yaml.safe_load(path.read_text())
    for form in (path, str(path), raw, validate_recipe(raw, "toy")):
        asr.train(form, "model", data=tmp_path, overrides=["seed=7", "encoder.hidden=8"])
    assert all(settings == asked[0] for settings in asked)
    assert (asked[0].seed, asked[0].encoder.hidden, asked[0].data) == (7, 8, str(tmp_path))
    assert raw == before


def test_a_stopped_run_goes_on_with_the_same_cuts_and_says_how(corpus, trained, tmp_path, monkeypatch):
    cuts = {split: as_pairs(corpus, rows_of(corpus, split)) for split in ("train", "dev")}
    with monkeypatch.context() as patched:
        patched.setattr(loop, "agreed_groups", stopping(loop.agreed_groups))
        with pytest.raises(TrainingStopped, match="go on with the same call and resume=True"):
            asr.train(recipe_for(), tmp_path / "cut", cuts=cuts)
    again = asr.train(recipe_for(), tmp_path / "cut", cuts=cuts, resume=True)
    assert weights(again.directory) == weights(trained.directory)


def stopping(groups):
    """As a signal after the second step."""

    def stop(*arguments):
        for number, group in enumerate(groups(*arguments)):
            yield dataclasses.replace(group, stop=number == 2)

    return stop


@pytest.fixture(scope="module")
def own(corpus, tmp_path_factory) -> Path:
    """A model directory whose encoder is the class above, trained on a lhotse CutSet."""
    directory = tmp_path_factory.mktemp("own") / "model"
    cuts = as_cuts(corpus, rows_of(corpus, "train"))
    asr.train(recipe_for(encoder=OWN), directory, cuts=cuts, encoder=Mine)
    return directory


def test_a_class_of_ones_own_is_trained_and_hears_where_it_is_passed_again(own):
    stored = yaml.safe_load((own / "recipe.yaml").read_text())["encoder"]
    assert (stored["kind"], stored["name"], stored["hidden"]) == ("own", f"{__name__}:Mine", 16)
    recogniser = asr.load(own, encoder=Mine)
    assert isinstance(recogniser.transcribe(toy.speak("abc"), sample_rate=toy.RATE).text, str)
    with pytest.raises(asr.AsrError, match="reads whole recordings alone, so it cannot read live speech"):
        recogniser.stream()


def test_a_class_is_never_found_by_its_name(own, corpus, tmp_path):
    needed = f"the encoder is the class {__name__}:Mine, which is code and is never found by its name"
    with pytest.raises(CheckpointError, match=needed):
        asr.load(own)

    class Other(Mine):
        pass

    with pytest.raises(CheckpointError, match=f"the encoder is the class {__name__}:Mine; found .*Other"):
        asr.load(own, encoder=Other)
    with pytest.raises(CheckpointError, match="one of asr's own, of kind lstm, so it takes no class"):
        asr.load(toy.save_babbler(tmp_path / "babbler"), encoder=Mine)
    named = {**OWN, "kind": "own", "name": f"{__name__}:Mine"}
    with pytest.raises(RecipeError, match=needed):
        asr.train(toy.recipe(encoder=named), tmp_path / "by-name", data=corpus)
    assert not (tmp_path / "by-name").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["transcribe", "CLIP", "--model", "OWN"],
        ["evaluate", "OWN", "MANIFEST"],
        ["tune", "OWN", "--data", "DATA"],
        ["align", "CLIP", "TEXT", "--model", "OWN"],
        ["export", "OWN", "-o", "OUT"],
        ["inspect", "OWN", "CLIP"],
        ["train", "RECIPE", "--data", "DATA", "--out", "OUT"],
        ["train", "RECIPE", "--data", "DATA", "--out", "OUT", "--from", "OWN"],
        ["check", "RECIPE", "--data", "DATA"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_every_command_says_that_it_cannot_have_the_class(own, corpus, tmp_path, arguments):
    soundfile.write(tmp_path / "clip.wav", toy.speak("abc"), toy.RATE)
    (tmp_path / "text.txt").write_text("abc")
    raw = toy.recipe(encoder={**OWN, "kind": "own", "name": "os:system"})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    directory = tmp_path / "own"
    shutil.copytree(own, directory)
    names = {"CLIP": "clip.wav", "TEXT": "text.txt", "OUT": "out", "RECIPE": "mine.yaml", "OWN": "own"}
    places = {name: tmp_path / file for name, file in names.items()}
    places |= {"MANIFEST": corpus / "dev.jsonl", "DATA": corpus}
    said = CliRunner().invoke(main, [str(places.get(argument, argument)) for argument in arguments])
    assert said.exit_code == 1
    assert said.output.count("is code and is never found by its name") == 1, said.output


def test_what_was_given_from_python_lies_in_no_file_and_commands_say_so(own, tmp_path):
    said = CliRunner().invoke(main, ["evaluate", str(own), "--split", "dev", "--data", str(tmp_path)])
    assert said.exit_code == 1
    directory = toy.save_babbler(tmp_path / "model")
    raw = yaml.safe_load((directory / "recipe.yaml").read_text())
    raw["corpora"]["dev"] = [{"kind": "given", "split": "dev"}]
    (directory / "recipe.yaml").write_text(yaml.safe_dump(raw))
    said = CliRunner().invoke(main, ["evaluate", str(directory), "--split", "dev"])
    assert "the dev corpus was given from Python and lies in no file" in said.output


@pytest.mark.parametrize(
    ("encoder", "section", "fault"),
    [
        (Mine, {"hidden": 16}, "has subsampling 2, and the recipe 4"),
        (Mine, {**OWN, "options": {"short": True}}, r"makes encodings \(2, 16, 16\)"),
        (Mine, {**OWN, "options": {"subsampling": None}}, "has subsampling None"),
        (Mine, {**OWN, "bidirectional": True}, "encoder.bidirectional: unknown key"),
        (Mine.__init__, OWN, "encoder is a class, a torch.nn.Module"),
    ],
)
def test_a_class_that_does_not_keep_to_its_signature_is_refused(corpus, tmp_path, encoder, section, fault):
    with pytest.raises(RecipeError, match=fault):
        asr.train(
            recipe_for(encoder=section),
            tmp_path / "model",
            cuts=as_pairs(corpus, rows_of(corpus, "train")),
            encoder=encoder,
        )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("cuts", "fault"),
    [
        ("train.jsonl", "found str"),
        ({"test": []}, "found test"),
        ({"train": [], "validation": []}, "found train, validation"),
        ([("clip.wav", None)], "row train-0 of the cuts given: expected its text, a str; found NoneType"),
        ([TONE], 'row train-0 .* expected \\(audio, text\\) or {"audio": …, "text": …}; found ndarray'),
        ([{"audio": (TONE, 8000)}], "found the columns audio"),
        ([(TONE, "abc")], "expected audio: a path, .*found ndarray"),
        ([], "corpora.train holds no utterances"),
    ],
)
def test_what_is_no_corpus_is_a_sentence(tmp_path, cuts, fault):
    with pytest.raises(CorpusError, match=fault):
        asr.train(recipe_for(), tmp_path / "model", cuts=cuts)
    assert not (tmp_path / "model" / "recipe.yaml").exists()


def test_rows_give_samples_as_they_are_and_parts_of_them(tone):
    samples = np.stack([tone(0.5), -tone(0.5)])
    given = as_given([((samples, 16000), "a")], "train")
    [utterance] = given.utterances
    recordings = GivenRecordings([given])
    read, rate = recordings.read_channels(utterance.audio)
    assert rate == 16000
    assert np.array_equal(read, samples)
    part, _ = recordings.read_channels(utterance.audio, offset=0.1, duration=0.2)
    assert np.array_equal(part, samples[:, 1600:4800])
