"""What must hold on real speech: AN4 and the LibriSpeech layout, where they are beside the repository."""

import itertools
import math
from pathlib import Path

import pytest
import torch

import asr
from asr import recipe
from asr.data.corpora import manifest_source, open_corpora
from asr.decode.greedy import decode_greedy
from asr.evaluate import evaluate
from asr.model.acoustic import AcousticModel
from asr.recipe import reading
from asr.recipe.reading import validate_recipe
from asr.text.tokenise import CharacterTokeniser
from asr.train.acoustic import train_acoustic_model as train
from asr.transcribe.corpus import utterances

ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"


def settings_of(corpus: dict, **sections: object) -> recipe.Recipe:
    return validate_recipe({"corpora": {"train": [corpus], "dev": [corpus], "test": [corpus]}, **sections}, "test")


def test_every_an4_test_utterance_reads_the_same_alone_and_in_a_batch_of_32(shared_data):
    settings = settings_of({"kind": "manifest", "path": "an4/test.jsonl"}, encoder={"layers": 2, "hidden": 64})
    torch.manual_seed(0)
    tokeniser = CharacterTokeniser(ALPHABET)
    model = AcousticModel(settings, len(tokeniser.tokens)).eval()
    # Sharper than an untrained model, so that a near tie does not stand for a difference.
    model.head.weight.data.mul_(5)
    cuts = open_corpora(settings.corpora.test, shared_data).whole()
    dataset = utterances(settings)
    everything = list(cuts)
    worst, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(everything), 32):
            members = everything[start : start + 32]
            together = model(dataset[members])
            texts = [h.text for h in decode_greedy(together, tokeniser)]
            for i, cut in enumerate(members):
                alone = model(dataset[[cut]])
                frames = int(alone.lengths[0])
                assert frames == int(together.lengths[i])
                difference = (together.log_probs[i, :frames] - alone.log_probs[0]).abs().max()
                worst, count = max(worst, float(difference)), count + 1
                assert decode_greedy(alone, tokeniser)[0].text == texts[i]
    assert count == 130
    assert worst < 1e-4


def test_the_librispeech_recipe_trains_on_the_official_folder_layout(shared_data, tmp_path):
    overrides = [
        "corpora.train=[{kind: librispeech, splits: [train-clean-5], speakers: [0.0, 0.5], weight: 0.1}]",
        "corpora.dev=[{kind: librispeech, splits: [train-clean-5], speakers: [0.5, 1.0]}]",
        "encoder.layers=1",
        "encoder.hidden=32",
        "encoder.conv.channels=[4, 4]",
        "training.epochs=1",
        "training.max_batch_seconds=60",
    ]
    path = Path(__file__).parents[1] / "recipes" / "librispeech.yaml"
    meta = train(reading.load_recipe(path, overrides), tmp_path / "model", root=shared_data)
    assert math.isfinite(meta["results"]["dev"]["loss"])


def test_the_loader_reads_opus_flac_and_8_khz_at_the_recipes_rate(shared_data):
    for path, count in (("mini_librispeech/train.jsonl", 3), ("an4/train.jsonl", 3), ("fsdd/test.jsonl", 3)):
        settings = settings_of({"kind": "manifest", "path": path})
        cuts = list(itertools.islice(open_corpora(settings.corpora.train, shared_data).whole(), count))
        batch = utterances(settings)[cuts]
        durations = {cut.id: cut.duration for cut in cuts}
        for id, length in zip(batch.ids, batch.waveform_lengths.tolist(), strict=True):
            assert length / 16000 == pytest.approx(durations[id], abs=0.01)
        assert not batch.rejected


def test_evaluate_and_transcribe_write_the_same_text_of_each_clip(shared_data):
    recogniser = asr.load("english", decoding=["decoder={kind: greedy}"])
    source = manifest_source(shared_data / "an4" / "test.jsonl")
    [score] = evaluate(recogniser, [source], root=Path())
    evaluated = {utterance.line.id: utterance.hypothesis for utterance in score.system.utterances}
    files = {id: shared_data / "an4" / "audio" / "test" / f"{id}.flac" for id in evaluated}
    transcribed = [outcome.text for outcome in recogniser.transcribe_all(files.values())]
    assert dict(zip(files, transcribed, strict=True)) == evaluated
    assert len(evaluated) == 130
