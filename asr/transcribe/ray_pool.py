"""Shards given out to the actors of a Ray cluster, whose nodes see the same files under the same names."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from typing import Any

from asr.errors import AsrError, MissingExtraError
from asr.transcribe.archive import Shard
from asr.transcribe.pool import Died, Done, Event, Ready
from asr.transcribe.worker import Orders, Refusal, Worker

PATIENCE_SECONDS = 60.0
"""Without a worker, until it is said: the cluster may be full, or lack its nodes."""

log = logging.getLogger(__name__)


class RayPool:
    """Actors, each on a node with as many processors to spare as ``orders`` has threads."""

    def __init__(self, orders: Orders, address: str) -> None:
        """``address`` is the cluster's, as ``ray.init`` takes it. Raises AsrError where it cannot be reached."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here tells nobody of it
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MissingExtraError("ray", "ray", "asr archive --ray") from error
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # of many types: ConnectionError, ValueError, RuntimeError and Ray's own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise AsrError(f"the Ray cluster at {address} cannot be reached: {reason}") from error
        self._ray = ray
        self._orders = orders
        # An actor is not started anew by Ray: its shard may have died with it, which ``work_off`` counts.
        room = {"num_cpus": orders.threads, "num_gpus": int(orders.device.startswith("cuda"))}
        self._actor = ray.remote(**room, max_restarts=0, max_task_retries=0)(Worker)
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}
        self._started = 0
        self._loaded: set[int] = set()
        self._without_since = time.monotonic()

    def start(self) -> int:
        self._started += 1
        actor = self._actors[self._started] = self._actor.remote(self._orders)
        self._asked[actor.load.remote()] = self._started
        return self._started

    def give(self, worker: int, shard: Shard, *, warily: bool) -> None:
        self._asked[self._actors[worker].transcribe.remote(shard, warily=warily)] = worker

    def events(self, seconds: float) -> list[Event]:
        answered, _ = self._ray.wait(list(self._asked), timeout=seconds)
        if self._loaded:
            self._without_since = time.monotonic()
        elif not answered and time.monotonic() - self._without_since > PATIENCE_SECONDS:
            self._without_since = time.monotonic()
            log.warning(self._why_nobody_works())
        return [self._heard(self._asked.pop(reference), reference) for reference in answered]

    def _heard(self, worker: int, reference: Any) -> Event:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._end(self._actors.pop(worker))  # it may only have been out of reach
            self._loaded.discard(worker)
            return Died(worker=worker, reason=str(error).strip().splitlines()[0])
        if isinstance(answer, Refusal):
            raise AsrError(answer.sentence)
        self._loaded.add(worker)
        return Ready(worker=worker) if answer is None else Done(worker=worker, report=answer)

    def _why_nobody_works(self) -> str:
        wanted = f"{self._orders.threads} processors" + (" and a GPU" if self._orders.device.startswith("cuda") else "")
        free, there = self._ray.available_resources(), self._ray.cluster_resources()
        amounts = " and ".join(f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        return (
            f"no worker has begun: each needs {wanted} of one node, and in the cluster {amounts} are free; waiting for "
            "nodes that have them"
        )

    def close(self) -> None:
        for actor in self._actors.values():
            self._end(actor)
        self._ray.shutdown()

    def _end(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)
