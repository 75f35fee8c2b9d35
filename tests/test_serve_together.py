"""Many live streams share a network's steps, and each hears what it hears alone."""

import threading

import numpy as np
import pytest
import toy

from asr import checkpoint
from asr.export.directory import export_onnx
from asr.model.network import TorchNetwork
from asr.onnx.network import OnnxNetwork
from asr.serve.together import Together, read_together
from asr.transcribe.recogniser import Recogniser

SAID = ["ab c ba", "cab", "abc abc abc", "b", "c a b cc", "bab aba bab"]
"""By streams of different lengths, of which some are over when others begin."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy.save_babbler(tmp_path_factory.mktemp("together") / "babbler")


@pytest.fixture(scope="module")
def networks(folder, tmp_path_factory):
    small = tmp_path_factory.mktemp("together") / "int8"
    export_onnx(folder, folder)
    export_onnx(folder, small, int8=True)
    torch = TorchNetwork(checkpoint.load_checkpoint(folder, device="cpu").model)
    return {"torch": torch, "float32": OnnxNetwork(folder), "int8": OnnxNetwork(small)}


def pieces(samples, size=1000):
    return np.split(samples, range(size, len(samples), size))


@pytest.mark.parametrize("kind", ["torch", "float32", "int8"])
def test_streams_that_are_stepped_together_emit_what_each_emits_alone(networks, kind):
    network = networks[kind]
    speech = [toy.speak(text) for text in SAID]
    alone = [network.stream(chunk=0.2, context=0.1).feed(samples, last=True) for samples in speech]
    streams = [network.stream(chunk=0.2, context=0.1) for _ in speech]
    told = [[] for _ in speech]
    left = [pieces(samples) for samples in speech]
    turn = 0
    while any(left):  # stream i joins in the round i and leaves with its end
        going = [i for i in range(len(speech)) if left[i] and i <= turn]
        fed = [left[i].pop(0) for i in going]
        last = [not left[i] for i in going]
        for i, emissions in zip(going, network.feed_together([streams[i] for i in going], fed, last=last), strict=True):
            told[i].append(emissions)
        turn += 1
    for whole, parts in zip(alone, told, strict=True):
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=0 if kind == "int8" else 1e-4)


def test_what_is_quicker_alone_is_read_alone(networks):
    assert [networks[kind].batches_streams for kind in networks] == [True, True, False]


def test_a_stream_that_fails_fails_alone(networks):
    network = networks["float32"]
    whole = network.stream(chunk=0.2, context=0.1).feed(toy.speak("cab"), last=True)
    well, ill = network.stream(chunk=0.2, context=0.1), network.stream(chunk=0.2, context=0.1)
    ill.energies = None
    read, failed = network.feed_together([well, ill], [toy.speak("cab")] * 2, last=[True, True])
    np.testing.assert_allclose(read, whole, atol=1e-4)
    assert isinstance(failed, AttributeError)


def test_threads_streams_that_come_and_go_tell_the_words_of_asr_listen(folder):
    """While the first is read, the others wait, and are a batch together."""
    recogniser = Recogniser.load(folder, device="cpu")
    speech = [toy.speak(text) for text in SAID]

    def words(samples):
        stream, heard = recogniser.stream(chunk=0.2, context=0.1), []
        for piece in pieces(samples):
            heard += stream.feed(piece).final
        return [*heard, *stream.finish().final]

    alone = [words(samples) for samples in speech]
    assert read_together([recogniser]) > 1
    shared = recogniser.streaming()
    assert isinstance(shared, Together)
    together = {}
    threads = [
        threading.Thread(target=lambda i=i: together.__setitem__(i, words(speech[i])), daemon=True)
        for i in range(len(speech))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[i] for i in range(len(speech))] == alone
    assert any(alone)
    assert 0 < shared.steps <= sum(len(pieces(samples)) + 1 for samples in speech)


def test_what_waits_while_a_batch_is_read_is_the_next_batch(networks):
    sizes, go, begun = [], threading.Event(), threading.Event()

    class Slow:
        sample_rate = frame_shift = 1
        stream = staticmethod(networks["float32"].stream)

        def feed_together(self, streams, samples, last):
            begun.set()
            go.wait(10)
            sizes.append(len(streams))
            return networks["float32"].feed_together(streams, samples, last=last)

    shared = Together(Slow())
    threads = [
        threading.Thread(target=shared.stream(chunk=0.2, context=0.1).feed, args=[toy.speak("a")], daemon=True)
        for _ in range(5)
    ]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(shared._waiting) < 4:
        pass
    go.set()
    for thread in threads:
        thread.join(10)
    assert sizes == [1, 4]
