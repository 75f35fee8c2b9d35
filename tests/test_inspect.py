"""asr inspect: what a network does inside, as numbers and as a page."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import toy
from click.testing import CliRunner, Result

from asr import recipe
from asr.checkpoint import WEIGHTS, load_checkpoint, save_description, save_meta, save_weights
from asr.cli import main
from asr.model.acoustic import AcousticModel
from asr.model.cells import LstmGates
from asr.model.collation import LoadedUtterance, collate
from asr.recipe.reading import validate_recipe
from asr.recipe.summary import describe
from asr.records import Emissions, Features, Waveform, Word
from asr.report.timeline import Timeline, speech_figure
from asr.study.gates import LayerTrace, Trace, time_constants, trace
from asr.study.pictures import gates_section, layer_figure, memory_limit
from asr.text.tokenise import CharacterTokeniser

ENCODERS = {
    "lstm": {"kind": "lstm", "layers": 2, "hidden": 12},
    "lstm_forwards": {"kind": "lstm", "layers": 2, "hidden": 12, "bidirectional": False},
    "lstm_projected": {"kind": "lstm", "layers": 2, "hidden": 12, "projection": 7},
    "lstm_no_conv": {"kind": "lstm", "layers": 1, "hidden": 5, "conv": None, "layer_norm": False},
    "gru": {"kind": "gru", "layers": 2, "hidden": 12},
    "rnn": {"kind": "rnn", "layers": 1, "hidden": 12},
    "rnn_relu": {"kind": "rnn", "layers": 1, "hidden": 12, "nonlinearity": "relu"},
    "feedforward": {"kind": "feedforward", "layers": 1, "hidden": 12},
}
RECURRENT = [name for name in ENCODERS if name != "feedforward"]


def settings_of(encoder: str, **sections: object) -> recipe.Recipe:
    return validate_recipe(toy.recipe(encoder={"conv": {"channels": [4, 4]}, **ENCODERS[encoder]}, **sections), "toy")


def save_model(directory: Path, settings: recipe.Recipe, alphabet: str = " abc") -> Path:
    """An untrained model whose texts are nonsense."""
    torch.manual_seed(0)
    tokeniser = CharacterTokeniser(alphabet)
    model = AcousticModel(settings, len(tokeniser.tokens))
    model.head.weight.data.mul_(20)
    save_weights(directory / WEIGHTS, model.state_dict())
    save_meta(directory, {})
    save_description(directory, settings, tokeniser)
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_model(folder / name, settings_of(name)) for name in ENCODERS}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.wav"
    soundfile.write(path, toy.speak("ab ca b"), toy.RATE)
    return path


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


# ------------------------------------------------------------------------------------------- tracing


def heard(model: AcousticModel, samples: np.ndarray) -> Features:
    return model.featurise(collate([LoadedUtterance(samples=samples)]))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_equations_give_the_trained_networks_emissions(models, name):
    model = load_checkpoint(models[name]).model
    samples = toy.speak("abc cab")
    traced = trace(model, heard(model, samples))
    expected = model(collate([LoadedUtterance(samples=samples)]))
    assert traced.difference < 1e-4  # the head's weights are 20 times the usual
    np.testing.assert_allclose(traced.emissions.log_probs, expected.log_probs.detach(), atol=1e-4, rtol=1e-5)
    assert traced.emissions.lengths.tolist() == expected.lengths.tolist()
    frames = int(expected.lengths[0])
    assert {tuple(layer.memory.shape) for layer in traced.layers} <= {(frames, ENCODERS[name]["hidden"])}


def test_layers_come_from_the_input_on_forwards_before_backwards(models):
    model = load_checkpoint(models["gru"]).model
    layers = trace(model, heard(model, toy.speak("a"))).layers
    order = [(1, "forwards"), (1, "backwards"), (2, "forwards"), (2, "backwards")]
    assert [(layer.layer, layer.direction) for layer in layers] == order
    assert {layer.frame_shift for layer in layers} == {0.04}


def test_nothing_is_traced_where_nothing_recurs(models):
    model = load_checkpoint(models["feedforward"]).model
    traced = trace(model, heard(model, toy.speak("a")))
    assert traced.layers == ()
    assert "feed-forward" in gates_section(traced, [])


@pytest.mark.parametrize(
    ("kept", "frames"),
    [(math.exp(-1), 1.0), (0.5, 1.4427), (0.99, 99.499), (0.0, 0.0), (1.0, math.inf)],
)
def test_a_time_constant_is_minus_the_frame_shift_by_the_logarithm_of_the_mean_gate(kept, frames):
    constants = time_constants(torch.full((7, 1), kept), frame_shift=0.02)
    assert constants.tolist() == pytest.approx([0.02 * frames], rel=1e-4)


def test_after_a_time_constant_a_cell_that_writes_nothing_holds_1_by_e():
    kept = torch.full((1, 1), 0.9)
    steps = float(time_constants(kept, 1.0))
    assert 0.9**steps == pytest.approx(math.exp(-1))


def layer_of(forget: torch.Tensor, cell: torch.Tensor) -> LayerTrace:
    gates = LstmGates(
        input_gate=1 - forget, forget_gate=forget, candidate=cell, output_gate=forget, cell=cell, hidden=cell
    )
    return LayerTrace(layer=1, direction="forwards", gates=gates, frame_shift=0.02)


def test_units_are_ordered_from_quick_to_slow():
    layer = layer_of(torch.tensor([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5]]), torch.zeros(2, 3))
    assert layer.order.tolist() == [1, 2, 0]
    assert [(gate.role, round(gate.mean, 3)) for gate in layer.named_gates] == [
        ("write", 0.5),
        ("keep", 0.5),
        ("read", 0.5),
    ]
    assert layer.median_time_constant == pytest.approx(0.02 / math.log(2))


# ------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    "cell",
    [
        torch.zeros(6, 4),
        torch.full((6, 4), math.nan),  # a simple RNN that grew without bounds
        torch.full((6, 4), math.inf),
        torch.randn(1, 4),
        torch.randn(6, 1),
    ],
    ids=["zeros", "nan", "infinite", "one frame", "one unit"],
)
def test_odd_layers_have_a_picture_too(cell):
    layer = layer_of(torch.ones_like(cell), cell)
    emissions = Emissions(log_probs=np.zeros((1, len(cell), 3)), lengths=np.array([len(cell)]), frame_shift=0.02)
    html = gates_section(Trace(layers=(layer,), emissions=emissions, difference=0.0), [])
    assert html.count("<svg") == 2
    assert "over 100 s" in html
    assert memory_limit(layer) > 0


def test_figures_of_one_utterance_lie_in_step():
    words = [Word(text="a", start=0.1, end=0.2, confidence=1.0)]
    layer = layer_of(torch.rand(50, 4), torch.randn(50, 4))
    above = speech_figure(
        Waveform(samples=np.random.default_rng(0).random(16000, np.float32), sample_rate=16000),
        posteriors=np.full((50, 3), 1 / 3),
        tokens=("<blank>", "a", "b"),
        frame_shift=0.02,
        words=words,
    )
    below = layer_figure(layer, words)
    assert above.get_figwidth() == below.get_figwidth()
    places = [axes.get_position() for figure in (above, below) for axes in figure.axes]
    assert len({(round(place.x0, 6), round(place.x1, 6)) for place in places}) == 1
    assert {axes.get_xlim() for figure in (above, below) for axes in figure.axes} == {(0.0, 1.0)}


def test_words_that_would_run_into_each_other_stand_in_lines():
    words = [Word(text="interminable", start=0.1 * i, end=0.1 * i + 0.1, confidence=1.0) for i in range(6)]
    timeline = Timeline(1.0, words, [1.0])
    texts = timeline.rows[0].texts
    renderer = timeline.figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert max(box.y1 for box in boxes) <= timeline.figure.bbox.height


# ------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("name", RECURRENT)
def test_the_page_shows_each_layer_and_direction_and_loads_nothing(models, clip, tmp_path, name):
    output = tmp_path / "out.html"
    done = inspect(models[name], clip, "-o", output)
    assert done.exit_code == 0, done.output
    page = Page(output.read_text())
    settings = settings_of(name).encoder
    layers = settings.layers * (2 if settings.bidirectional else 1)
    gated = settings.kind != "rnn"
    assert sum(tag == "svg" for tag, _ in page.found) == 1 + layers + gated
    assert page.text.count("full colour at ±") == layers
    assert ("time constant" in page.text) is ("time constant" in done.stdout) is gated
    assert ("has no gates" in page.text) is ("has no gates" in done.stdout) is not gated
    assert {"script", "link", "img", "iframe", "a"}.isdisjoint(tag for tag, _ in page.found)
    for _, attributes in page.found:
        for key in ("href", "xlink:href", "src"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(key) or "#"), attributes
    policy = next(a["content"] for tag, a in page.found if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    ids = [a["id"] for tag, a in page.found if "id" in a and tag in ("clippath", "image")]
    assert len(ids) == len(set(ids))


def test_the_terminal_shows_the_text_and_a_table(models, clip, tmp_path):
    done = inspect(models["gru"], clip, "-o", tmp_path / "out.html")
    _text, heads, *rows, last = done.stdout.splitlines()
    assert re.split(r"  +", heads.strip()) == [
        "layer",
        "direction",
        "update gate, mean",
        "reset gate, mean",
        "time constant, median",
    ]
    assert [row.split()[:2] for row in rows] == [
        [str(layer), direction] for layer in (1, 2) for direction in ("forwards", "backwards")
    ]
    assert all(re.fullmatch(r"0\.\d{3}", row.split()[2]) and row.endswith(" ms") for row in rows)
    assert last == f"{tmp_path / 'out.html'}: the page"


def test_the_page_lies_in_the_current_folder_unless_told_otherwise(models, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inspect(models["rnn"], clip).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["clip-inspect.html"]


def test_of_a_long_clip_the_first_30_seconds_are_looked_at(models, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 31 * toy.RATE), toy.RATE)
    done = inspect(models["lstm_forwards"], path, "-o", tmp_path / "out.html")
    assert done.exit_code == 0, done.output
    assert f"{path} is longer: its first 30 s are looked at" in done.stderr
    assert "its first 30 s are looked at" in (tmp_path / "out.html").read_text()
    assert (tmp_path / "out.html").stat().st_size < 10_000_000


def test_of_a_model_with_an_export_beside_it_the_trained_weights_are_looked_into(clip, tmp_path):
    model = save_model(tmp_path / "model", settings_of("lstm"))
    (tmp_path / "before").mkdir()
    assert inspect(model, clip, "-o", tmp_path / "before" / "out.html").exit_code == 0
    (model / "model.onnx").write_bytes(b"what ONNX Runtime would read")
    done = inspect(model, clip, "-o", tmp_path / "out.html")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.html").read_text() == (tmp_path / "before" / "out.html").read_text()


def test_hostile_names_and_alphabets_stay_text(clip, tmp_path):
    model = save_model(tmp_path / "$a_<b>&", settings_of("lstm_no_conv"), alphabet=" <$&\"'語")
    done = inspect(model, clip, "-o", tmp_path / "out.html")
    assert done.exit_code == 0, done.output
    assert "$a_<b>&" in Page((tmp_path / "out.html").read_text()).text


def test_a_model_of_mfccs_has_a_spectrogram_too(clip, tmp_path):
    features = {"kind": "mfcc", "sample_rate": toy.RATE, "mels": 24}
    model = save_model(tmp_path / "mfcc", settings_of("gru", features=features))
    assert inspect(model, clip, "-o", tmp_path / "out.html").exit_code == 0


def test_a_clip_of_one_sample_has_a_page(models, tmp_path):
    soundfile.write(tmp_path / "short.wav", [0.1], toy.RATE)
    done = inspect(models["lstm"], tmp_path / "short.wav", "-o", tmp_path / "out.html")
    assert done.exit_code == 0, done.output


def refused(done: Result, said: str, folder: Path) -> None:
    assert done.exit_code == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert re.fullmatch(rf"asr: [^\n]*{said}[^\n]*\n", done.stderr), done.stderr
    assert not list(folder.glob("**/*.html")) + list(folder.glob("**/.*.partial"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"no audio at all" * 9, "not audio"),
        ("folder", "is a folder"),
        (np.zeros(8000), "is silent"),
        (np.zeros(0), "no audio samples"),
    ],
    ids=["missing", "no bytes", "text", "folder", "silent", "no samples"],
)
def test_a_clip_that_tells_nothing_is_a_sentence(models, tmp_path, content, said):
    path = tmp_path / "clip.wav"
    if isinstance(content, np.ndarray):
        soundfile.write(path, content, toy.RATE)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    refused(inspect(models["lstm"], path, "-o", tmp_path / "out.html"), said, tmp_path)


def test_what_is_no_model_is_a_sentence(clip, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("missing", "empty"):
        refused(inspect(tmp_path / folder, clip, "-o", tmp_path / "out.html"), "model directory", tmp_path)


def test_a_feed_forward_model_is_told_to_have_no_gates(models, clip, tmp_path):
    refused(inspect(models["feedforward"], clip, "-o", tmp_path / "out.html"), "nothing in it recurs", tmp_path)


def test_an_output_that_cannot_be_written_is_a_sentence(models, clip, tmp_path):
    (tmp_path / "file").touch()
    refused(inspect(models["rnn"], clip, "-o", tmp_path / "file" / "out.html"), "cannot be written", tmp_path)
    (tmp_path / "folder").mkdir()
    refused(inspect(models["rnn"], clip, "-o", tmp_path / "folder"), "cannot be written", tmp_path)


def test_the_page_does_not_take_the_clips_place(models, clip):
    before = clip.read_bytes()
    refused(inspect(models["rnn"], clip, "-o", clip), "take the place", clip.parent)
    assert clip.read_bytes() == before


def test_encoders_are_described_in_words():
    assert describe(settings_of("rnn_relu").encoder) == "simple RNN (relu), 1 layer of 12 units, both ways"
    assert describe(settings_of("lstm_forwards").encoder) == "LSTM, 2 layers of 12 units, forwards"
    assert describe(settings_of("feedforward").encoder) == "feed-forward, 1 layer of 12 units"
