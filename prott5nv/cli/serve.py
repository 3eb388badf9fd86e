"""``prott5nv serve``: answer requests for embeddings and scores over HTTP."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
from pathlib import Path

import click

from prott5nv.cli import options
from prott5nv.cli.ray_environment import prepare_ray
from prott5nv.errors import ProtT5nvError
from prott5nv.extras import require_extra

_TOKEN_VARIABLE = "PROTT5NV_TOKEN"
_EVERY_HOST = ("0.0.0.0", "::")
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_SHORTEST_TOKEN = 16


@click.command()
@options.model
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS",
              help="Address to listen on. 127.0.0.1 accepts requests of this machine only, and 0.0.0.0 those of all "
              "machines that reach this one.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port to listen on.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
              help=f"File that holds a token of at least {_SHORTEST_TOKEN} characters, which every request must send "
              f"as 'Authorization: Bearer TOKEN'. The environment variable {_TOKEN_VARIABLE} can hold the token "
              "instead.")  # fmt: skip
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True, metavar="N",
              help="Number of processes that hold the model, each on a GPU or on an equal part of the "
              "CPUs.")  # fmt: skip
@click.option("--autoscale", type=click.IntRange(1), metavar="N",
              help="Start more replicas, up to N, while many requests wait, and stop them later.")  # fmt: skip
@click.option("--max-requests", type=click.IntRange(1), default=128, show_default=True, metavar="N",
              help="Number of requests to work on at the same time. Others get the status 429 and may try "
              "again.")  # fmt: skip
@click.option("--max-residues", type=click.IntRange(1), default=100_000, show_default=True, metavar="N",
              help="Number of residues that one request may have. It also limits the size of its body.")  # fmt: skip
@click.option("--max-score-residues", type=click.IntRange(1), default=500_000, show_default=True, metavar="N",
              help="Number of residues that the encoder may compute for one request for scores. All substitutions of a "
              "protein of L residues take L x L.")  # fmt: skip
@click.option("--ray", "address", metavar="ADDRESS", envvar="RAY_ADDRESS",
              help="Compute on an existing Ray cluster, such as auto, all of whose nodes must see the model. The "
              "server listens on this machine. By default, the environment variable RAY_ADDRESS is used; if it is "
              "not set, Ray is started on this machine.")  # fmt: skip
@options.precision
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True,
              help="Device of each replica. auto chooses GPUs if there are any.")  # fmt: skip
def command(
    model: str | None,
    host: str,
    port: int,
    token_file: Path | None,
    replicas: int,
    autoscale: int | None,
    max_requests: int,
    max_residues: int,
    max_score_residues: int,
    address: str | None,
    precision: str,
    device: str,
) -> None:
    """Answer requests for embeddings and scores over HTTP. This command needs the extra serve.

    Open http://127.0.0.1:8000/ in a browser to embed proteins, download the result, and look at the scores of all
    substitutions. Programs use these paths; /docs describes their input and output:

    \b
      POST /embed           one row per residue, or one per protein, as JSON,
                            .npz, or float16 or float32 bytes
      POST /score           scores of variants, or of all substitutions
      POST /v1/embeddings   one row per protein, in the shape of OpenAI's API
      GET  /health          status 200 if the server can compute
      GET  /info            model and limits
      GET  /metrics         counters for Prometheus

    Proteins of requests that arrive together are computed in one batch. The rows of a protein do not depend on the
    others, so they are those of prott5nv embed.

    \b
    Examples:
      prott5nv serve
      prott5nv serve --model prott5nv.nemo --replicas 4
      prott5nv serve --host 0.0.0.0 --token-file token.txt
      curl localhost:8000/embed --json '{"sequences": ["MSLKR"], "pooling": "mean"}'

    \b
    Use the server in Python, which needs neither PyTorch nor a GPU:
      >>> from prott5nv import Client
      >>> Client("http://127.0.0.1:8000").embed(["MSLKR"], pooling="mean").shape
      (1, 448)

    The server uses no encryption. On a network that you do not trust, put it behind a reverse proxy with HTTPS. Without
    a token, everyone who can reach the address can use the server.

    Ctrl-C and SIGTERM stop the server: it refuses new requests, answers those that it has accepted, and ends all of its
    processes. A second Ctrl-C does not wait.

    Exit codes: 0 after SIGTERM, 2 for an error, 130 after Ctrl-C.
    """
    require_extra("serve", "prott5nv serve")
    digest = _token_digest(token_file)
    prepare_ray(address)

    from prott5nv.scale.http_requests import Limits
    from prott5nv.scale.server import ServeOptions, serving

    serve_options = ServeOptions(
        model,
        host,
        port,
        replicas,
        autoscale,
        device,
        {"precision": precision},
        Limits(max_residues, max_score_residues, max_requests),
        digest,
        address,
    )
    options.note("starting Ray and loading the model")
    with _Stop() as stop, serving(serve_options) as info:
        options.note(f"model {info.label}; {info.hardware}; batches of up to {info.batch_residues} residues")
        if host not in _LOCAL_HOSTS and digest is None:
            options.warn("warning: other machines can use this server without a token; --token-file sets one")
        # An address for all interfaces is none that a browser can open.
        name = socket.gethostname() if host in _EVERY_HOST else host
        shown = f"[{name}]" if ":" in name else name
        click.echo(f"http://{shown}:{port}/")
        stop.wait()
        options.note("stopping; answering accepted requests first")
    if stop.by_user:
        raise SystemExit(options.EXIT_INTERRUPTED)


def _token_digest(file: Path | None) -> bytes | None:
    """Return the SHA-256 of the token, or None if there is none."""
    where = str(file) if file else _TOKEN_VARIABLE
    try:
        token = file.read_text(encoding="utf-8") if file else os.environ.pop(_TOKEN_VARIABLE, "")
    except UnicodeDecodeError:
        raise ProtT5nvError(f"{file}: this is not a text file") from None
    token = token.strip()
    if not token and file is None:
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ProtT5nvError(
            f"{where}: a token has at least {_SHORTEST_TOKEN} ASCII characters and no spaces; make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return hashlib.sha256(token.encode()).digest()


class _Stop:
    """Waits for SIGTERM or Ctrl-C. Before and after the waiting, both end the program.

    Attributes
    ----------
    by_user : bool
        Whether it was Ctrl-C.
    """

    def __init__(self) -> None:
        self.by_user = False
        self._is_waiting = False
        self._event = threading.Event()

    def __enter__(self) -> _Stop:
        self._former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in self._former:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # Ray's handler, while Ray starts
            raise SystemExit(0) from None

    def wait(self) -> None:
        """Return after a signal, at once if one came before."""
        self._is_waiting = True
        self._event.wait()
        self._is_waiting = False

    def _on_signal(self, number: int, frame: object) -> None:
        self.by_user = number == signal.SIGINT
        self._event.set()
        if not self._is_waiting:  # Ray ignores exceptions at some points of its start; then `wait` returns at once.
            raise KeyboardInterrupt if self.by_user else SystemExit(0)
