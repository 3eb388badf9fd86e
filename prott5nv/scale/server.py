"""The server: replicas of the model, which Ray Serve manages, and a thread of this process that answers requests.

`http_server` receives a request. `http_api` checks it (`http_requests`), cuts it into groups of proteins and sends each
to a replica (`model_replica`), which embeds the groups of waiting requests together. `http_responses` formats the
result. Only this module and `model_replica` use Ray.

Requests do not go through Ray's HTTP proxy: on a machine with few cores, it and a deployment behind it took as much
time as a small model.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prott5nv.checkpoint.hub import is_hub_name
from prott5nv.checkpoint.models import read_decoder_config
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import load_extensions, require_extra
from prott5nv.scale.cluster import cause, connected, model_everywhere, starts_ray
from prott5nv.scale.http_api import Api, ReplicaLostError, create_app
from prott5nv.scale.http_requests import Limits
from prott5nv.scale.http_server import answering, open_port
from prott5nv.scale.model_info import Group, ModelInfo, Refused, ScoreQuery, Scores

_APPLICATION, _MODEL = "prott5nv", "model"
_OBJECT_STORE_BYTES = 500_000_000  # embeddings on their way from a replica; allocated when it is used
_REQUESTS_PER_REPLICA = 16  # More waiting requests start another replica, if there may be more.


@dataclass(frozen=True)
class ServeOptions:
    """How to serve a model.

    Attributes
    ----------
    model : str, optional
        As for :class:`prott5nv.Embedder`.
    host, port : str and int
        Where to listen, on this machine.
    replicas : int
        Number of processes with the model.
    most_replicas : int, optional
        Largest number of them while many requests wait. By default it is `replicas`.
    device : {"auto", "cuda", "cpu"}
        Device of each replica; Ray assigns the GPUs.
    embedder : dict
        Further arguments of :class:`prott5nv.Embedder`.
    limits : Limits
        What is accepted.
    token_digest : bytes, optional
        SHA-256 of the token that requests must have. By default, all requests are answered.
    address : str, optional
        Address of a Ray cluster, as for ``ray.init``. The default is the environment variable ``RAY_ADDRESS``; without
        one, Ray is started on this machine. If the program has connected to Ray already, that cluster is used.
    drain_seconds : int
        Time to answer the requests that are active when the server stops, and to send the answers.
    """

    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    most_replicas: int | None = None
    device: str = "auto"
    embedder: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    token_digest: bytes | None = None
    address: str | None = None
    drain_seconds: int = 30


@contextmanager
def serving(options: ServeOptions) -> Iterator[ModelInfo]:
    """Serve a model until the block ends.

    Then active requests are answered. Ray stops if it was started here; otherwise the application is deleted from the
    cluster.

    Parameters
    ----------
    options : ServeOptions

    Yields
    ------
    ModelInfo
        The model, which is ready.

    Raises
    ------
    ProtT5nvError
        If the model cannot be loaded, the address is in use, or the machine lacks the devices.
    """
    require_extra("serve", "prott5nv serve")
    load_extensions()  # which may register poolings
    is_own_ray = starts_ray(options.address)
    _check(options)
    with connected(options.address, _OBJECT_STORE_BYTES):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing `serve` has set it to print its progress
        resources = _resources(options)
        with _errors_of_ray():
            serve.start(
                http_options={"location": "NoServer"},
                logging_config={"log_level": "ERROR", "enable_access_log": False},
            )
            try:
                model = serve.run(_application(options, resources), name=_APPLICATION, route_prefix=None)
                info = _described(model)
                api = Api(_Replicas(model), info, options.limits, options.token_digest)
                with answering(create_app(api), options.host, options.port, options.drain_seconds):
                    yield info
            finally:
                if not is_own_ray:  # The cluster may serve other applications.
                    serve.delete(_APPLICATION)


@contextmanager
def _errors_of_ray() -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, RuntimeError, TimeoutError) as error:
        raise ProtT5nvError(f"Ray Serve: {cause(error)}") from None


def _check(options: ServeOptions) -> None:
    """Check what can be checked before Ray starts, which takes several seconds."""
    if options.device not in ("auto", "cuda", "cpu"):
        raise ProtT5nvError(f"device={options.device}: with Ray, choose auto, cuda or cpu; Ray assigns the GPUs")
    if options.most_replicas is not None and options.most_replicas < options.replicas:
        raise ProtT5nvError(f"at most {options.most_replicas} replicas, but at least {options.replicas}")
    model = options.model
    if model is not None and not is_hub_name(model) and not os.path.exists(model):
        raise ProtT5nvError(f"{model}: this file does not exist")
    if model is not None and os.path.isfile(model):
        read_decoder_config(model)
    open_port(options.host, options.port).close()


def _resources(options: ServeOptions) -> dict[str, float]:
    """Choose what each replica gets: a GPU, or an equal part of the CPUs."""
    import ray

    most = options.most_replicas or options.replicas
    available = ray.cluster_resources()
    gpus, cpus = int(available.get("GPU", 0)), int(available.get("CPU", 0))
    if options.device == "cuda" or (options.device == "auto" and gpus):
        if gpus < options.replicas:
            raise ProtT5nvError(f"{options.replicas} replicas need as many GPUs, and Ray has {gpus}: use --device cpu")
        return {"num_gpus": 1, "num_cpus": 1}
    if cpus < options.replicas:
        raise ProtT5nvError(f"{options.replicas} replicas need as many CPUs, and Ray has {cpus}")
    return {"num_gpus": 0, "num_cpus": max(1, cpus // most)}


def _application(options: ServeOptions, resources: dict[str, float]) -> Any:
    """Return the application for Ray Serve."""
    from ray import serve

    from prott5nv.scale.model_replica import ModelReplica

    most = options.most_replicas or options.replicas
    scaling: dict[str, Any] = {"num_replicas": options.replicas}
    if most > options.replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": options.replicas,
                "max_replicas": most,
                "target_ongoing_requests": _REQUESTS_PER_REPLICA,
            }
        }
    # The HTTP interface limits the number of requests, so that the client gets an answer. Ray must not limit it before.
    unlimited = 100 * options.limits.requests
    replicas = serve.deployment(ModelReplica).options(
        name=_MODEL, max_ongoing_requests=unlimited, ray_actor_options=resources, **scaling
    )
    return replicas.bind(model_everywhere(options.model), options.embedder)


def _described(model: Any) -> ModelInfo:
    """Return what is known of the model; raise the error that prevented loading it."""
    from ray.exceptions import RayTaskError

    try:
        info: ModelInfo = model.describe.remote().result()
    except RayTaskError as error:
        if isinstance(error.cause, ProtT5nvError):
            raise ProtT5nvError(str(error.cause)) from None
        raise
    return info


class _Replicas:
    """Calls a replica of the model through Ray.

    Parameters
    ----------
    handle : ray.serve.handle.DeploymentHandle
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def describe(self) -> ModelInfo:
        """Return what is known of the model."""
        info: ModelInfo = await _answer(self._handle.describe.remote())
        return info

    async def embed(self, group: Group) -> list[np.ndarray | Refused]:
        """Return the embedding of each protein."""
        rows: list[np.ndarray | Refused] = await _answer(self._handle.embed.remote(group))
        return rows

    async def score(self, query: ScoreQuery) -> Scores:
        """Return the scores of a protein."""
        scores: Scores = await _answer(self._handle.score.remote(query))
        return scores


async def _answer(response: Any) -> Any:
    """Wait for a replica. If the waiting request is cancelled, so is the call."""
    from ray.exceptions import RayError, RayTaskError

    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except RayTaskError as error:
        if isinstance(error.cause, ProtT5nvError):
            raise ProtT5nvError(str(error.cause)) from None
        raise
    except RayError as error:
        raise ReplicaLostError(cause(error)) from None
