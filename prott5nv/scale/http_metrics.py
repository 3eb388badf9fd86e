"""Counters of the server in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from prott5nv import __version__

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
PATHS = ("/", "/docs", "/embed", "/health", "/info", "/metrics", "/openapi.json", "/score", "/v1/embeddings")


class Metrics:
    """Counts requests and residues.

    Examples
    --------
    >>> metrics = Metrics()
    >>> metrics.count("/embed", 200, 0.03)
    >>> 'prott5nv_requests_total{path="/embed",status="200"} 1.0' in metrics.text().decode()
    True
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("prott5nv_requests", "Answered requests.", ("path", "status"), registry=registry)
        self._seconds = Histogram(
            "prott5nv_request_seconds", "Time from a request to its answer.", ("path",), buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.residues = Counter("prott5nv_residues", "Residues of requests that were accepted.", registry=registry)
        self.hung_up = Counter("prott5nv_hung_up", "Requests whose client did not wait.", registry=registry)
        self.active = Gauge("prott5nv_active_requests", "Requests that wait or are computed.", registry=registry)
        Info("prott5nv", "Version of the server.", registry=registry).info({"version": __version__})

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count a request. Paths that do not exist are counted together, so that their number stays small."""
        path = path if path in PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return all values as text."""
        return generate_latest(self._registry)
