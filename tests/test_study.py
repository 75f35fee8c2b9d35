"""What recurrence buys: cells at equal size, the gradient's way back, and how far away an input is heard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import toy
from click.testing import CliRunner
from torch import nn

from asr import recipe
from asr.cli import main
from asr.errors import RecipeError
from asr.model.acoustic import AcousticModel
from asr.model.collation import LoadedUtterance, collate
from asr.model.emitted import Emitted
from asr.model.encoder import RecurrentStack
from asr.model.features import feature_size
from asr.recipe.reading import load_recipe, validate_recipe
from asr.records import Batch
from asr.study.cells import CELLS, encoder_parameters, parse_cells, with_cell
from asr.study.gradients import gradient_flow
from asr.study.memory import effective_memory

VOCABULARY = 5


def settings_of(**encoder: object) -> recipe.Recipe:
    return validate_recipe(toy.recipe(encoder={"layers": 1, "dropout": 0.0, "hidden": 12, **encoder}), "toy")


def model_of(settings: recipe.Recipe) -> AcousticModel:
    torch.manual_seed(0)
    return AcousticModel(settings, VOCABULARY).eval()


@pytest.fixture
def utterance() -> Batch:
    return collate([LoadedUtterance(samples=toy.speak("abc ab c aa"), tokens=(1, 2, 3, 1, 2))])


# ------------------------------------------------------------------------------------------------------ cells


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_has_the_parameters_of_the_recipe_s_encoder_within_two_percent(cell):
    settings = load_recipe(Path(__file__).parent.parent / "recipes" / "digits.yaml")
    fitted = with_cell(settings, cell, seed=7)
    bins = feature_size(settings.features)
    assert encoder_parameters(fitted.encoder, bins) == pytest.approx(
        encoder_parameters(settings.encoder, bins), rel=0.02
    )
    kept = {"conv", "layers", "dropout", "layer_norm"}
    assert fitted.encoder.model_dump(include=kept) == settings.encoder.model_dump(include=kept)
    assert fitted.seed == 7
    assert fitted.model_copy(update={"encoder": settings.encoder, "seed": settings.seed}) == settings


@pytest.mark.parametrize("name", ["digits", "librispeech_960"])
def test_the_recipe_s_own_cell_stays_as_it_is(name):
    settings = load_recipe(Path(__file__).parent.parent / "recipes" / f"{name}.yaml")
    assert with_cell(settings, "bilstm", settings.seed) == settings


def test_counting_parameters_equals_those_of_the_model_made():
    settings = settings_of(kind="gru")
    made = sum(weights.numel() for weights in model_of(settings).encoder.parameters())
    assert encoder_parameters(settings.encoder, feature_size(settings.features)) == made


@pytest.mark.parametrize(("names", "named"), [("lstm,quasi", '"quasi" is no cell'), (" , ", "no cell is named")])
def test_a_cell_that_there_is_not_is_named(names, named):
    with pytest.raises(RecipeError, match=f"{named}; there are feedforward, rnn-tanh"):
        parse_cells(names)


# -------------------------------------------------------------------------------------------------- gradients


def recurring(model: AcousticModel, weights: torch.Tensor) -> AcousticModel:
    """The model with ``weights`` for its last layer's recurrent ones, biases that keep every ReLU open, and a head that
    is not overwhelmed by what that adds up to."""
    stack = model.encoder.stack
    assert isinstance(stack, RecurrentStack)
    cell = stack.recurrent_layers()[-1].forwards
    nn.init.constant_(cell.get_parameter("bias_ih_l0"), 10.0)
    model.head.weight.data.mul_(1e-6)
    cell.get_parameter("weight_hh_l0").data.copy_(weights)
    return model


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25])
def test_a_linear_recurrence_multiplies_the_gradient_by_its_factor_at_each_frame(utterance, factor, bidirectional):
    """So it vanishes, is preserved, or explodes."""
    settings = settings_of(kind="rnn", nonlinearity="relu", bidirectional=bidirectional, layer_norm=False)
    flow = gradient_flow(recurring(model_of(settings), factor * torch.eye(12)), [utterance])
    assert flow is not None
    frames = torch.arange(len(flow.lags), dtype=torch.float64)
    assert len(frames) > 20
    torch.testing.assert_close(flow.median, factor**frames)
    torch.testing.assert_close(flow.low, flow.high)
    assert flow.lags[1] == pytest.approx(0.04)
    assert flow.left_after(0.2) == pytest.approx(factor**5)


def test_the_gradients_of_all_frames_together_are_the_loss_s_own(utterance):
    """Each frame's error, followed back, sums to what back-propagation through time gives."""
    from asr.model.criterion import ctc_loss
    from asr.study import gradients

    model = model_of(settings_of(kind="lstm")).double()
    layer = model.encoder.stack.recurrent_layers()[-1]
    values = torch.randn(1, 30, layer.forwards.input_size, dtype=torch.float64)
    hidden, encodings = gradients._read(layer, values, torch.tensor([30]))
    emissions = Emitted(model.classify(encodings), torch.tensor([30]))
    loss = ctc_loss(emissions, utterance.tokens, utterance.token_lengths)
    whole = torch.autograd.grad(loss, hidden, retain_graph=True)
    [error] = torch.autograd.grad(loss, encodings, retain_graph=True)
    parts = [gradients._followed(error, encodings, hidden[: t + 1], t) for t in range(30)]
    for s in range(30):
        torch.testing.assert_close(sum(part[s] for part in parts if len(part) > s), whole[s], atol=1e-7, rtol=1e-4)


def test_nothing_flows_where_nothing_recurs(utterance):
    assert gradient_flow(model_of(settings_of(kind="feedforward")), [utterance]) is None


# ----------------------------------------------------------------------------------------------------- memory


def eager(model: AcousticModel) -> AcousticModel:
    """Emits tokens rather than blanks, so that there are frames to look at."""
    model.head.bias.data[0] = -5.0
    return model


def test_a_feed_forward_network_hears_its_window_and_nothing_beyond(utterance):
    """Five emission frames of 40 ms on either side, and the 30 ms that the two convolutions see beyond theirs."""
    memory = effective_memory(eager(model_of(settings_of(kind="feedforward", context=5))), [utterance])
    beyond = memory.lags > 0.225
    for changes in (memory.past, memory.future):
        assert (changes[~beyond] > 0).all()
        assert (changes[beyond & ~changes.isnan()] == 0).all()


def test_a_network_of_one_direction_hears_what_came_before_and_only_its_front_end_s_reach_ahead(utterance):
    memory = effective_memory(eager(model_of(settings_of(kind="lstm", bidirectional=False))), [utterance])
    ahead = memory.future[(memory.lags > 0.05) & ~memory.future.isnan()]
    behind = memory.past[(memory.lags > 0.05) & ~memory.past.isnan()]
    assert len(ahead) > 5
    assert (ahead == 0).all()
    assert (behind > 0).all()


def test_a_network_that_emits_blanks_alone_has_no_memory_to_speak_of(utterance):
    model = model_of(settings_of(kind="lstm"))
    model.head.bias.data[0] = 50.0
    memory = effective_memory(model, [utterance])
    assert str(memory.past_seconds) == str(memory.future_seconds) == "nan"


# ------------------------------------------------------------------------------------------------ the command


def study(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["study", *arguments], catch_exceptions=False)
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    toy.write_corpus(folder, 24)
    toy.write_corpus(folder, 8, seed=1, name="dev")
    return toy.write_recipe(folder / "toy.yaml", data=str(folder))


def test_a_study_leaves_a_page_its_numbers_and_models_and_goes_on_where_it_stopped(corpus, tmp_path):
    common = [str(corpus), "--out", str(tmp_path), "--device", "cpu", "--set"]
    code, _ = study(*common, "training.epochs=1", "--cells", "lstm")
    assert code == 0
    weights = tmp_path / "lstm" / "seed-3" / "model.safetensors"
    written = weights.stat().st_mtime_ns

    code, output = study(*common, "training.epochs=1", "--set", "training.clip=3.0", "--cells", "lstm")
    assert code == 1
    assert "was started with another recipe" in output
    assert "training.clip: was" in output

    code, output = study(*common, "training.epochs=1", "--cells", "feedforward,lstm", "--seeds", "2")
    assert code == 0
    assert weights.stat().st_mtime_ns == written
    numbers = json.loads((tmp_path / "study.json").read_text())
    assert list(numbers) == ["feedforward", "lstm"]
    assert [run["seed"] for run in numbers["lstm"]["runs"]] == [3, 4]
    assert numbers["lstm"]["wer"] == pytest.approx(sum(run["wer"] for run in numbers["lstm"]["runs"]) / 2)
    assert numbers["feedforward"]["runs"][0]["gradient_after"] is None
    assert len(numbers["lstm"]["runs"][1]["dev_wer"]) == 1
    page = (tmp_path / "study.html").read_text()
    assert "From the best word error rate to the worst" in page
    assert page.count("<svg") >= 3
    said = [json.loads(line)["text"].split() for line in (corpus.parent / "dev.jsonl").read_text().splitlines()]
    assert f", {sum(map(len, said))} words in 8 utterances." in page
    [seeds] = re.findall(r"<td>lstm</td>.*</tr>", page, re.DOTALL)
    assert "<td>1 of 1\n1 of 1</td>" in seeds  # a line a seed
    assert "<script" not in page


def test_a_training_that_diverges_is_a_line_of_the_study_not_its_end(corpus, tmp_path):
    code, output = study(
        str(corpus), "--out", str(tmp_path), "--cells", "rnn-relu", "--set", "training.learning_rate=1e30",
        "--set", "training.clip=1e30", "--set", "training.warmup_steps=0", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    [run] = json.loads((tmp_path / "study.json").read_text())["rnn-relu"]["runs"]
    assert run["diverged"]
    assert "wer" not in run
    assert run["gradient_before"]["median"][0] == 1.0
    assert "diverged" in output
