"""The server: a Ray Serve application whose replicas hold the model, behind one process that answers HTTP requests.

A request goes from Ray's HTTP proxy to `_Ingress`, which checks it (`http_requests`), cuts it into groups of
proteins and sends each to a replica (`model_replica`). The replica embeds the groups of waiting requests together.
`http_responses` formats the result. Only this module and `model_replica` use Ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from prott5nv.checkpoint.hub import is_hub_name
from prott5nv.checkpoint.models import read_decoder_config
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import load_extensions, require_extra
from prott5nv.scale.cluster import cause, connected, model_everywhere, starts_ray
from prott5nv.scale.delivery import wait_for_delivery
from prott5nv.scale.http_requests import Limits
from prott5nv.scale.model_info import Group, ModelInfo, Refused, ScoreQuery, Scores

if TYPE_CHECKING:
    from fastapi import FastAPI

    from prott5nv.scale.http_api import Api

_APPLICATION, _MODEL = "prott5nv", "model"
_OBJECT_STORE_BYTES = 500_000_000  # embeddings on their way from a replica; allocated when it is used
_DELIVERY_SECONDS = 5.0  # for answers that were finished just before the server stops
_REQUESTS_PER_REPLICA = 16  # More waiting requests start another replica, if there may be more.


@dataclass(frozen=True)
class ServeOptions:
    """How to serve a model.

    Attributes
    ----------
    model : str, optional
        As for :class:`prott5nv.Embedder`.
    host, port : str and int
        Where to listen.
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
    drain_seconds : float
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
    drain_seconds: float = 30.0


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
    is_own_ray = starts_ray(options.address)
    _check(options, is_own_ray)
    with connected(options.address, _OBJECT_STORE_BYTES):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing `serve` has set it to print its progress
        resources = _resources(options)
        with _errors_of_ray():
            # On a busy machine, the HTTP server can take more than the minute that Ray waits. `run` waits for it again.
            with suppress(TimeoutError):
                serve.start(
                    http_options={"host": options.host, "port": options.port, "location": "HeadOnly"},
                    logging_config={"log_level": "ERROR", "enable_access_log": False},
                )
            try:
                ingress = serve.run(_application(options, resources), name=_APPLICATION, route_prefix="/")
                yield _described(ingress)
                begin = time.monotonic()
                ingress.drain.remote(options.drain_seconds).result()
                if is_own_ray:
                    left = options.drain_seconds - (time.monotonic() - begin)
                    wait_for_delivery(options.host, options.port, max(left, _DELIVERY_SECONDS))
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


def _check(options: ServeOptions, is_own_ray: bool) -> None:
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
    if not is_own_ray:
        return  # The port belongs to the head of the cluster.
    try:
        # Ray itself would share the port with a server that allows it, or report a long error.
        with socket.create_server((options.host, options.port), family=_family(options.host)):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise ProtT5nvError(
            f"cannot listen on {options.host} port {options.port}: {reason}; choose another --port or --host"
        ) from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


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
    # The ingress limits the number of requests, so that the client gets an answer. Ray must not limit it before.
    unlimited = 100 * options.limits.requests
    replicas = serve.deployment(ModelReplica).options(
        name=_MODEL, max_ongoing_requests=unlimited, ray_actor_options=resources, **scaling
    )
    ingress = serve.deployment(serve.ingress(_built_app)(_Ingress)).options(
        name="ingress", max_ongoing_requests=unlimited, ray_actor_options={"num_cpus": 0}
    )
    model = replicas.bind(model_everywhere(options.model), options.embedder)
    return ingress.bind(model, options.limits, options.token_digest)


def _described(ingress: Any) -> ModelInfo:
    """Return what is known of the model; raise the error that prevented loading it."""
    from ray.exceptions import RayTaskError

    try:
        info: ModelInfo = ingress.describe.remote().result()
    except RayTaskError as error:
        if isinstance(error.cause, ProtT5nvError):
            raise ProtT5nvError(str(error.cause)) from None
        raise
    return info


class _Ingress:
    """The process that answers HTTP requests.

    Parameters
    ----------
    model : ray.serve.handle.DeploymentHandle
        The replicas.
    limits : Limits
    token_digest : bytes, optional
        SHA-256 of the token.
    """

    api: ClassVar[Api]  # of this process, because `_built_app` has no arguments

    def __init__(self, model: Any, limits: Limits, token_digest: bytes | None) -> None:
        from prott5nv.scale.http_api import Api

        load_extensions()  # which may register poolings
        _Ingress.api = Api(_Replicas(model), limits, token_digest)

    async def describe(self) -> ModelInfo:
        """Return what is known of the model."""
        return await self.api.info()

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, and wait for the others."""
        await self.api.drain(seconds)


def _built_app() -> FastAPI:
    """Return the application of this process."""
    from prott5nv.scale.http_api import create_app

    return create_app(_Ingress.api)


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

    from prott5nv.scale.http_api import ReplicaLostError

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
