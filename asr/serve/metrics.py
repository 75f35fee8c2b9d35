"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """A registry of its own, so that two servers in one process count apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        every = self.registry
        self.requests = Counter("asr_requests", "Requests answered.", ["route", "status"], registry=every)
        self.latency = Histogram(
            "asr_request_seconds", "From request to answer.", ["route"], registry=every, buckets=_SECONDS
        )
        self.in_flight = Gauge("asr_in_flight", "Requests and WebSockets that are open.", registry=every)
        self.queue = Gauge("asr_queue", "Recordings that are received, read or transcribed.", registry=every)
        self.waiting = Gauge("asr_waiting_seconds", "Audio that is read and waits for the network.", registry=every)
        self.audio = Counter("asr_audio_seconds", "Audio of files that the network has read.", registry=every)
        self.batches = Counter("asr_batches", "Batches of files that the network has read.", registry=every)
        self.rejects = Counter("asr_rejected", "Requests refused, by the error's code.", ["reason"], registry=every)

    def page(self) -> bytes:
        return generate_latest(self.registry)
