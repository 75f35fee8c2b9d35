"""The encoder and the CTC head: padding, direction, state, and the loss."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn

from asr import recipe
from asr.model.acoustic import AcousticModel
from asr.model.criterion import ctc_loss, divergence
from asr.model.emitted import Emitted
from asr.model.encoder import Dropout, Encoder, RecurrentStack
from asr.model.recurrent import RecurrentLayer, flip_within
from asr.model.spec_augment import augment, warp_frequencies
from asr.recipe import reading
from asr.recipe.frames import emission_frames
from asr.records import BLANK, Batch, Features
from asr.train.acoustic import loss_of

CELLS = {
    "lstm": (recipe.Lstm, nn.LSTM, {}),
    "gru": (recipe.Gru, nn.GRU, {}),
    "tanh": (recipe.Rnn, nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (recipe.Rnn, nn.RNN, {"nonlinearity": "relu"}),
}
ENCODERS = {
    "feedforward": {"kind": "feedforward", "context": 3},
    "rnn_tanh": {"kind": "rnn", "nonlinearity": "tanh"},
    "rnn_relu": {"kind": "rnn", "nonlinearity": "relu", "bidirectional": False},
    "gru": {"kind": "gru"},
    "lstm_forward": {"kind": "lstm", "bidirectional": False},
    "bilstm": {"kind": "lstm"},
    "bilstm_projected": {"kind": "lstm", "projection": 12},
    "bilstm_no_conv": {"kind": "lstm", "conv": None},
    "bilstm_x2": {"kind": "lstm", "conv": {"channels": [4, 4, 4], "subsampling": 2}},
    "bilstm_x4_thrice": {"kind": "lstm", "conv": {"channels": [4, 4, 4], "subsampling": 4}},
    "bilstm_x1": {"kind": "lstm", "conv": {"channels": [4], "subsampling": 1}, "layer_norm": False},
}


def settings_of(encoder: dict) -> recipe.Recipe:
    source = [{"kind": "manifest", "path": "x"}]
    raw = {"corpora": {"train": source, "dev": source}, "encoder": {"layers": 2, "hidden": 16, **encoder}}
    return reading.validate_recipe(raw, "test")


def batch_of(waveforms: list[torch.Tensor]) -> Batch:
    return Batch(
        ids=tuple(str(i) for i in range(len(waveforms))),
        texts=("",) * len(waveforms),
        speakers=("",) * len(waveforms),
        waveforms=nn.utils.rnn.pad_sequence(waveforms, batch_first=True),
        waveform_lengths=torch.tensor([len(w) for w in waveforms]),
        tokens=torch.zeros(len(waveforms), 0, dtype=torch.int64),
        token_lengths=torch.zeros(len(waveforms), dtype=torch.int64),
    )


def test_flip_within_reverses_real_frames_and_leaves_padding_behind():
    values = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]).float()[:, :, None]
    flipped = flip_within(values, torch.tensor([4, 2]))[:, :, 0]
    assert flipped.tolist() == [[4, 3, 2, 1], [6, 5, 0, 0]]


@pytest.mark.parametrize(("kind", "torch_cell", "options"), CELLS.values(), ids=CELLS)
def test_a_bidirectional_layer_equals_pytorchs_over_packed_input_with_the_same_gradients(kind, torch_cell, options):
    torch.manual_seed(0)
    name = {"Lstm": "lstm", "Gru": "gru", "Rnn": "rnn"}[kind.__name__]
    ours = RecurrentLayer(kind(kind=name, hidden=7, layer_norm=False, **options), 5)
    theirs = torch_cell(5, 7, batch_first=True, bidirectional=True, **options)
    pairs = []
    for suffix, cell in (("", ours.forwards), ("_reverse", ours.backwards)):
        for weight in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            pairs.append((cell.get_parameter(weight), theirs.get_parameter(weight + suffix)))
            pairs[-1][1].data.copy_(pairs[-1][0].data)
    values, lengths = torch.randn(3, 9, 5), torch.tensor([9, 4, 6])
    real = (torch.arange(9)[None, :] < lengths[:, None])[:, :, None]
    outputs, _ = ours(values, lengths)
    packed = nn.utils.rnn.pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    torch.testing.assert_close(outputs * real, expected, atol=1e-5, rtol=1e-5)
    (outputs * real).square().sum().backward()
    expected.square().sum().backward()
    for mine, reference in pairs:
        torch.testing.assert_close(mine.grad, reference.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_an_utterances_emissions_do_not_depend_on_its_batch(encoder):
    torch.manual_seed(1)
    settings = settings_of(encoder)
    model = AcousticModel(settings, 6).eval()
    waveforms = [0.1 * torch.randn(n) for n in (4000, 7777, 12345)]
    together = model(batch_of(waveforms))
    for i, waveform in enumerate(waveforms):
        alone = model(batch_of([waveform]))
        frames = int(alone.lengths[0])
        assert frames == int(together.lengths[i]) == alone.log_probs.shape[1]
        assert frames == emission_frames(len(waveform), settings.features, settings.encoder.conv)
        torch.testing.assert_close(together.log_probs[i, :frames], alone.log_probs[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("encoder", [e for e in ENCODERS.values() if e.get("bidirectional") is False])
def test_a_one_directional_stack_fed_in_chunks_equals_the_whole(encoder):
    torch.manual_seed(2)
    stack = RecurrentStack(settings_of(encoder).encoder, 10).eval()
    values = torch.randn(2, 11, 10)
    whole, none = stack(values, torch.tensor([11, 11]))
    assert none is None
    states, pieces = stack.initial_states(2), []
    for chunk in values.split([3, 1, 7], dim=1):
        piece, states = stack(chunk, torch.tensor([chunk.shape[1]] * 2), states)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [recipe.Lstm(), recipe.Gru(kind="gru"), recipe.Rnn(kind="rnn"), recipe.Rnn(kind="rnn", nonlinearity="relu")],
)
def test_a_layer_fed_frame_by_frame_equals_the_whole(settings):
    torch.manual_seed(4)
    layer = RecurrentLayer(settings.model_copy(update={"hidden": 5, "bidirectional": False}), 3).eval()
    values = torch.randn(2, 4, 3)
    whole, last = layer(values, torch.tensor([4, 4]), layer.initial_state(2))
    state = layer.initial_state(2)
    for t in range(4):
        frame, state = layer(values[:, t : t + 1], torch.tensor([1, 1]), state)
        torch.testing.assert_close(frame[:, 0], whole[:, t])
    torch.testing.assert_close(state, last)


def test_the_state_is_the_one_after_each_utterances_own_last_frame():
    torch.manual_seed(3)
    layer = RecurrentLayer(recipe.Lstm(hidden=4, bidirectional=False), 3).eval()
    values = torch.randn(2, 6, 3)
    _, (hidden, cell) = layer(values, torch.tensor([6, 2]), layer.initial_state(2))
    _, (alone_hidden, alone_cell) = layer(values[1:, :2], torch.tensor([2]), layer.initial_state(1))
    torch.testing.assert_close(hidden[:, 1:], alone_hidden)
    torch.testing.assert_close(cell[:, 1:], alone_cell)


def test_a_bidirectional_layer_refuses_a_state():
    layer = RecurrentLayer(recipe.Lstm(hidden=4), 3)
    with pytest.raises(ValueError, match="whole utterances"):
        layer(torch.zeros(1, 2, 3), torch.tensor([2]), layer.initial_state(1))


@pytest.mark.parametrize("encoder", [{"kind": "lstm"}, {"kind": "feedforward"}], ids=["lstm", "feedforward"])
def test_a_dropout_mask_an_utterance_is_the_same_at_all_its_frames_and_another_for_its_neighbour(encoder):
    torch.manual_seed(8)
    settings = settings_of({**encoder, "dropout": 0.5, "dropout_mask": "utterance"}).encoder
    dropout = Dropout(settings).train()
    first, second = dropout(torch.ones(2, 9, 64))
    assert torch.equal(first, first[:1].expand(9, 64))
    assert not torch.equal(first[0], second[0])
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(torch.ones(2, 9, 64)), torch.ones(2, 9, 64))
    assert any(isinstance(module, Dropout) and module.locked for module in Encoder(settings, 8).modules())


@pytest.mark.parametrize(("kind", "torch_cell", "options"), CELLS.values(), ids=CELLS)
def test_recurrent_dropout_is_the_cell_with_some_weights_from_state_to_state_left_out(kind, torch_cell, options):
    torch.manual_seed(9)
    name = {"Lstm": "lstm", "Gru": "gru", "Rnn": "rnn"}[kind.__name__]
    shape = {"hidden": 6, "bidirectional": False, "layer_norm": False}
    layer = RecurrentLayer(kind(kind=name, recurrent_dropout=0.5, **shape, **options), 5).train()
    values, lengths = torch.randn(3, 9, 5), torch.tensor([9, 4, 6])
    torch.manual_seed(10)
    outputs, _ = layer(values, lengths)
    torch.manual_seed(10)
    left = nn.functional.dropout(layer.forwards.weight_hh_l0.detach(), 0.5)
    thinned = torch_cell(5, 6, batch_first=True, **options)
    thinned.load_state_dict({**layer.forwards.state_dict(), "weight_hh_l0": left})
    torch.testing.assert_close(outputs, thinned(values)[0])
    outputs.sum().backward()
    gradient = layer.forwards.weight_hh_l0.grad
    assert torch.equal(gradient[left == 0], torch.zeros(int((left == 0).sum())))
    assert gradient[left != 0].any()
    assert all(parameter.grad is not None for parameter in layer.forwards.parameters())


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_nothing_is_dropped_outside_training(encoder):
    torch.manual_seed(11)
    plain = AcousticModel(settings_of(encoder), 6).eval()
    recurrent = {"recurrent_dropout": 0.5} if encoder["kind"] != "feedforward" else {}
    dropping = AcousticModel(settings_of({**encoder, "dropout_mask": "utterance", **recurrent}), 6).eval()
    dropping.load_state_dict(plain.state_dict())
    batch = batch_of([0.1 * torch.randn(n) for n in (4000, 7777)])
    assert torch.equal(plain(batch).log_probs, dropping(batch).log_probs)


def test_a_middle_layer_can_be_tapped_and_does_not_depend_on_the_batch():
    torch.manual_seed(12)
    settings = settings_of({"kind": "lstm", "layers": 3}).encoder
    encoder = Encoder(settings, 8).eval()
    values = torch.randn(2, 40, 8)
    values[1, 25:] = 0
    encodings, middle, lengths = encoder.forward_tapped(values, torch.tensor([40, 25]), 2)
    assert torch.equal(encodings, encoder(values, torch.tensor([40, 25]))[0])
    below, _ = encoder.local(values, torch.tensor([40, 25]))
    for layer in encoder.stack.recurrent_layers()[:2]:
        below, _ = layer(below, lengths)
    assert torch.equal(middle, below)
    assert middle.shape == encodings.shape
    _, alone, _ = encoder.forward_tapped(values[1:, :25], torch.tensor([25]), 2)
    torch.testing.assert_close(middle[1, : lengths[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_each_convolution_halves_the_frequencies_once_more():
    sizes = [Encoder(settings_of({"kind": "lstm", "conv": {"channels": [32] * n}}).encoder, 80) for n in (2, 3, 4)]
    assert [encoder.local_size for encoder in sizes] == [32 * 20, 32 * 10, 32 * 5]
    assert [encoder.subsampling for encoder in sizes] == [4, 4, 4]


def test_spec_augment_masks_while_training_alone():
    settings = settings_of({"kind": "lstm", "dropout": 0.0})
    torch.manual_seed(4)
    model = AcousticModel(settings, 5)
    batch = batch_of([torch.randn(16000)])
    assert not torch.equal(model.train()(batch).log_probs, model(batch).log_probs)
    assert torch.equal(model.eval()(batch).log_probs, model(batch).log_probs)


def test_masks_are_drawn_for_each_utterance_apart_and_stay_within_their_limits():
    torch.manual_seed(5)
    limits = recipe.SpecAugment(time_masks=1, time_frames=10, time_fraction=1.0, frequency_masks=0)
    lengths = torch.tensor([100] * 25 + [20] * 25)
    masked = augment(torch.ones(50, 100, 8), lengths, limits, 16000).eq(0).all(dim=2)
    assert masked.sum(dim=1).max() <= 10
    assert masked.sum(dim=1).unique().numel() > 3
    assert not masked[25:, 20:].any()
    assert masked[25:].any()


def test_a_time_mask_takes_at_most_its_share_of_a_short_utterance():
    torch.manual_seed(5)
    limits = recipe.SpecAugment(time_masks=1, time_frames=50, time_fraction=0.2, frequency_masks=0)
    masked = augment(torch.ones(50, 100, 8), torch.full((50,), 20), limits, 16000).eq(0).all(dim=2)
    assert 0 < masked.sum(dim=1).max() <= 4


def test_warping_moves_a_peak_to_its_frequency_times_the_factor():
    import librosa

    centres = librosa.mel_frequencies(82, fmin=0, fmax=8000)[1:-1]
    values = torch.zeros(3, 2, 80)
    values[:, :, 40] = 1.0
    warped = warp_frequencies(values, torch.tensor([1.0, 1.1, 1 / 1.1]), 16000)
    torch.testing.assert_close(warped[0], values[0], atol=1e-4, rtol=0)
    for row, factor in ((1, 1.1), (2, 1 / 1.1)):
        weights = warped[row, 0].numpy()
        assert (weights * centres).sum() / weights.sum() == pytest.approx(centres[40] / factor, rel=0.02)


def test_ctc_loss_is_minus_the_log_of_the_sum_over_all_paths():
    torch.manual_seed(6)
    log_probs = torch.randn(1, 4, 3).log_softmax(-1)
    total = sum(
        math.exp(sum(float(log_probs[0, t, k]) for t, k in enumerate(path)))
        for path in itertools.product(range(3), repeat=4)
        if [k for k, _ in itertools.groupby(path) if k != BLANK] == [1, 2]
    )
    emissions = Emitted(log_probs, torch.tensor([4]))
    loss = ctc_loss(emissions, torch.tensor([[1, 2]]), torch.tensor([2]))
    assert float(loss) == pytest.approx(-math.log(total), abs=1e-5)


def test_an_utterance_too_short_for_its_labels_has_infinite_loss_rather_than_none():
    emissions = Emitted(torch.zeros(1, 2, 3).log_softmax(-1), torch.tensor([2]))
    assert ctc_loss(emissions, torch.tensor([[1, 1]]), torch.tensor([2])).isinf()


def test_the_forget_gate_starts_open():
    layer = RecurrentLayer(recipe.Lstm(hidden=4), 3)
    biases = layer.forwards.bias_ih_l0 + layer.forwards.bias_hh_l0
    assert biases[4:8].tolist() == [1.0] * 4


def test_every_encoder_kind_has_the_size_its_recipe_says():
    assert Encoder(settings_of({"kind": "lstm"}).encoder, 80).size == 32
    assert Encoder(settings_of({"kind": "lstm", "projection": 12}).encoder, 80).size == 12
    assert Encoder(settings_of({"kind": "feedforward"}).encoder, 80).size == 16


@pytest.mark.cuda
@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_a_gpu_emits_what_the_cpu_does(encoder):
    torch.manual_seed(7)
    model = AcousticModel(settings_of(encoder), 6).eval()
    batch = batch_of([0.1 * torch.randn(n) for n in (4000, 12345)])
    expected = model(batch).log_probs
    found = model.cuda()(batch).log_probs.cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_the_loss_of_a_middle_layer_is_added_with_its_weight():
    torch.manual_seed(1)
    model = AcousticModel(settings_of({"kind": "lstm", "layers": 3, "hidden": 8}), 4).eval()
    batch = dataclasses.replace(
        batch_of([torch.randn(8000)]), tokens=torch.tensor([[1, 2]]), token_lengths=torch.tensor([2])
    )
    alone = loss_of(model, batch).nats
    both = loss_of(model, batch, intermediate=recipe.Intermediate(layer=2, weight=0.5)).nats
    _, middle = model.emit_tapped(model.featurise(batch), 2)
    torch.testing.assert_close(both, alone + 0.5 * ctc_loss(middle, batch.tokens, batch.token_lengths))


@torch.no_grad()
def test_two_hearings_of_a_batch_cost_their_mean_loss_and_how_far_they_diverge():
    torch.manual_seed(1)
    settings = settings_of({"kind": "lstm", "layers": 2, "hidden": 8, "dropout": 0.5})
    model = AcousticModel(settings, 4).train()
    batch = dataclasses.replace(
        batch_of([torch.randn(8000), torch.randn(5000)]),
        tokens=torch.tensor([[1, 2], [3, 0]]),
        token_lengths=torch.tensor([2, 1]),
    )
    heard = model.featurise(batch)
    twice = Features(values=torch.cat([heard.values] * 2), lengths=torch.cat([heard.lengths] * 2))
    torch.manual_seed(2)
    found = loss_of(model, batch, consistency=recipe.Consistency(weight=0.5)).nats
    torch.manual_seed(2)
    emitted = model.emit(twice)
    losses = ctc_loss(emitted, torch.cat([batch.tokens] * 2), torch.cat([batch.token_lengths] * 2))
    apart = 0.0
    for one, other in ((0, 2), (1, 3)):
        frames = int(emitted.lengths[one])
        p, q = emitted.log_probs[one, :frames].exp(), emitted.log_probs[other, :frames].exp()
        apart += float((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    assert apart > 0
    torch.testing.assert_close(found, losses / 2 + 0.5 * apart)


def test_hearings_that_are_the_same_diverge_by_nothing_and_padding_counts_for_nothing():
    log_probs = torch.randn(2, 5, 3).log_softmax(-1)
    same = Emitted(log_probs.repeat(2, 1, 1), torch.tensor([5, 3, 5, 3]))
    assert float(divergence(same)) == 0
    padded = same.log_probs.clone()
    padded[3, 3:] = torch.randn(2, 3).log_softmax(-1)
    assert float(divergence(Emitted(padded, same.lengths))) == 0


def test_a_hearing_is_drawn_to_the_other_one_as_that_is():
    """No gradient flows through what a divergence is from: by itself, the posteriors' own derivative would be."""
    scores = torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True)
    divergence(Emitted(scores.log_softmax(-1), torch.tensor([1, 1]))).backward()
    one, other = scores.detach().softmax(-1)[:, 0]
    torch.testing.assert_close(scores.grad[:, 0], torch.stack([(one - other) / 2, (other - one) / 2]))
