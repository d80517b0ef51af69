"""Counters of a server, for Prometheus."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server.

    Args:
        paths: paths with a label of their own; all others count as "other", so that nobody can make labels.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths: frozenset[str] = frozenset(paths)
        self.registry: CollectorRegistry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        where: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("rmt_requests", "Requests by path and status.", ["path", "status"], **where)
        self._seconds = Histogram("rmt_request_seconds", "Time of a request.", ["path"], buckets=_SECONDS, **where)
        self._batches = Histogram("rmt_batch_size", "Images computed together.", buckets=_SIZES, **where)
        self._batch_seconds = Histogram("rmt_batch_seconds", "Time of the network.", buckets=_SECONDS, **where)
        self._reloads = Counter("rmt_reloads", "New files, loaded or refused.", ["outcome"], **where)

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        """Add a value that is read when the metrics are."""
        Gauge(name, help, registry=self.registry).set_function(value)

    def request(self, path: str, status: int, seconds: float) -> None:
        label = path if path in self.paths else "other"
        self._requests.labels(label, str(status)).inc()
        self._seconds.labels(label).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        self._batches.observe(size)
        self._batch_seconds.observe(seconds)

    def reload(self, outcome: str) -> None:
        self._reloads.labels(outcome).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
