"""Client of a server that ``prott5nv serve`` started. It needs neither PyTorch nor Ray.

Shapes: B proteins, L residues of a protein, D hidden size, A amino acids.
"""

from __future__ import annotations

import http.client
import itertools
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from prott5nv.embedding.batching import LongProteins
from prott5nv.embedding.proteins import ProteinLike, named_sequences, sequence_of
from prott5nv.errors import ProtT5nvError, warn
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning, InputWarning

# Residues of one request. Larger requests are not faster, and a smaller one that fails costs less.
_RESIDUES_PER_REQUEST = 20_000
_BUSY = (429, 503)
_LONGEST_ERROR = 1_000_000  # bytes


class SubstitutionScores(NamedTuple):
    """Scores of all single substitutions of a protein.

    Attributes
    ----------
    sequence : str
        The L residues of the clean protein.
    amino_acids : str
        The A amino acids of the columns.
    scores : ndarray, shape=(L, A), dtype=float32
        As :func:`prott5nv.score_substitutions` returns them.
    """

    sequence: str
    amino_acids: str
    scores: np.ndarray


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirection an error, because the token must not go to another server."""

    def redirect_request(self, *_: Any) -> None:
        """Follow no redirection."""


class Client:
    """A server that embeds and scores proteins.

    Parameters
    ----------
    url : str
        Address of the server, such as ``http://127.0.0.1:8000``.
    token : str, optional
        Token of the server, if it has one.
    timeout : float
        Seconds to wait for an answer.
    patience : float
        Seconds to try again while the server is busy or starts a process again.

    Raises
    ------
    ProtT5nvError
        If `url` is not an address. The methods raise it with the message of the server.

    Examples
    --------
    >>> client = Client("http://127.0.0.1:8000")  # doctest: +SKIP
    >>> client.embed(["MSLKR", "MS"], pooling="mean").shape  # doctest: +SKIP
    (2, 768)
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 600.0, patience: float = 60.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ProtT5nvError(f"{url!r} is not an address: write http://HOST:PORT")
        self._url, self._token, self._timeout, self._patience = url.rstrip("/"), token, timeout, patience
        self._most_residues: int | None = None
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __repr__(self) -> str:
        """Return the address without the token."""
        return f"Client({self._url!r})"

    def info(self) -> dict[str, Any]:
        """Return what the server states about its model and its limits."""
        info: dict[str, Any] = json.loads(self._request("/info"))
        return info

    @overload
    def embed(
        self,
        sequences: Iterable[ProteinLike],
        pooling: None = None,
        *,
        long: str = "truncate",
        dtype: str = "float32",
        cleaning: Cleaning = DEFAULT_CLEANING,
    ) -> list[np.ndarray]: ...
    @overload
    def embed(
        self,
        sequences: Iterable[ProteinLike],
        pooling: str,
        *,
        long: str = "truncate",
        dtype: str = "float32",
        cleaning: Cleaning = DEFAULT_CLEANING,
    ) -> np.ndarray: ...
    def embed(
        self,
        sequences: Iterable[ProteinLike],
        pooling: str | None = None,
        *,
        long: str = "truncate",
        dtype: str = "float32",
        cleaning: Cleaning = DEFAULT_CLEANING,
    ) -> list[np.ndarray] | np.ndarray:
        """Embed proteins. Many of them are sent in several requests.

        Parameters
        ----------
        sequences : iterable of str, Bio.Seq, Bio.SeqRecord or Record
            Proteins, as for :func:`prott5nv.seqs_to_embedding`.
        pooling : str, optional
            ``"mean"`` for one row per protein. By default there is one row per residue.
        long : {"truncate", "window", "error"}
            What to do with proteins that are longer than the model accepts.
        dtype : {"float32", "float16"}
            Data type of the rows. float16 halves what is transferred.
        cleaning : Cleaning
            What to do with gaps and nucleotides.

        Returns
        -------
        list of ndarray, shape=(L, D), or ndarray, shape=(B, D)
            The second with a pooling. They equal those of :func:`prott5nv.seqs_to_embedding`.

        Raises
        ------
        ProtT5nvError
            If the server refuses a protein or cannot be reached.

        Warns
        -----
        InputWarning
            If sequences were changed or truncated.
        """
        if dtype not in ("float32", "float16"):
            raise ProtT5nvError(f"dtype={dtype!r}: choose 'float32' or 'float16'")
        options = {"pooling": pooling, "long": long, "format": dtype, **_options(cleaning)}
        rows: list[np.ndarray] = []
        notes: dict[str, None] = {}
        truncated = LongProteins()
        for records in self._parts(sequences):
            header, values = _raw_rows(self._request("/embed", {"records": records, **options}))
            rows += values
            notes.update(dict.fromkeys(header["notes"]))
            for id, length in zip(header["ids"], header["truncated_from"], strict=True):
                if length is not None:
                    truncated.add(id, length)
        if truncated.count:
            notes[f"longer than the model accepts, truncated to their first residues: {truncated}"] = None
        for note in notes:
            warn(note, InputWarning)
        if pooling is None:
            return rows
        return np.concatenate(rows) if rows else np.empty((0, self.info()["model"]["hidden_size"]), dtype)

    def seqs_to_hidden(self, seqs: Iterable[ProteinLike]) -> list[np.ndarray]:
        """Return one row per residue; the name of this method in BioNeMo v1."""
        return self.embed(seqs)

    def seqs_to_embedding(self, seqs: Iterable[ProteinLike]) -> np.ndarray:
        """Return the mean over the residues of each protein; the name of this method in BioNeMo v1."""
        return self.embed(seqs, "mean")

    @overload
    def score(
        self, sequence: ProteinLike, variants: None = None, *, cleaning: Cleaning = DEFAULT_CLEANING
    ) -> SubstitutionScores: ...
    @overload
    def score(
        self, sequence: ProteinLike, variants: Sequence[str], *, cleaning: Cleaning = DEFAULT_CLEANING
    ) -> list[dict[str, Any]]: ...
    def score(
        self, sequence: ProteinLike, variants: Sequence[str] | None = None, *, cleaning: Cleaning = DEFAULT_CLEANING
    ) -> SubstitutionScores | list[dict[str, Any]]:
        """Score variants of a protein, or all single substitutions.

        Parameters
        ----------
        sequence : str, Bio.Seq, Bio.SeqRecord or Record
            The protein.
        variants : sequence of str, optional
            Variants such as ``["V39A", "D40G:V54L"]``. By default, all single substitutions are scored.
        cleaning : Cleaning
            What to do with gaps and nucleotides.

        Returns
        -------
        SubstitutionScores or list of dict
            For each variant a dictionary with the keys ``variant``, ``score_additive`` and ``score_joint``; see
            :class:`prott5nv.decoding.variants.VariantScore`.

        Raises
        ------
        ProtT5nvError
            If the server refuses the protein or a variant, or cannot be reached.
        """
        if isinstance(variants, str):
            raise ProtT5nvError("variants is a single text: pass a list, such as [variant]")
        body: dict[str, Any] = {"sequence": sequence_of(sequence, "the protein", None), **_options(cleaning)}
        if variants is not None:
            body["variants"] = list(variants)
        answer = json.loads(self._request("/score", body))
        if variants is not None:
            scores: list[dict[str, Any]] = answer["variants"]
            return scores
        matrix_LA = np.array(answer["scores"], dtype=np.float32)  # None becomes NaN
        return SubstitutionScores(answer["sequence"], answer["amino_acids"], matrix_LA)

    def _parts(self, sequences: Iterable[ProteinLike]) -> Iterator[list[dict[str, str]]]:
        """Yield records for one request each."""
        if self._most_residues is None:
            self._most_residues = min(_RESIDUES_PER_REQUEST, self.info()["limits"]["residues"])
        part: list[dict[str, str]] = []
        size = 0
        for protein in named_sequences(sequences, None):
            length = len(protein.sequence) + 1
            if part and size + length > self._most_residues:
                yield part
                part, size = [], 0
            part.append({"id": protein.name, "sequence": protein.sequence})
            size += length
        if part:
            yield part

    def _request(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """Return the body of an answer. A server that is busy is asked again."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        deadline = time.monotonic() + self._patience
        while True:
            try:
                with self._opener.open(request, timeout=self._timeout) as answer:
                    content: bytes = answer.read()
                    return content
            except urllib.error.HTTPError as error:
                wait = error.headers.get("Retry-After", "")
                seconds = float(wait) if wait.isdigit() else 1.0
                if error.code not in _BUSY or time.monotonic() + seconds > deadline:
                    raise ProtT5nvError(f"{self._url}: {_message(error)}") from None
                time.sleep(seconds)
            except urllib.error.URLError as error:
                raise ProtT5nvError(f"{self._url}: {getattr(error.reason, 'strerror', None) or error.reason}") from None
            except (OSError, http.client.HTTPException) as error:
                raise ProtT5nvError(
                    f"{self._url}: the connection broke off ({error or type(error).__name__})"
                ) from None


def _options(cleaning: Cleaning) -> dict[str, Any]:
    return {"gaps": cleaning.gaps, "allow_nucleotides": cleaning.allow_nucleotides}


def _message(error: urllib.error.HTTPError) -> str:
    """Return the message of the server, or the status if the answer is not that of this server."""
    try:
        return str(json.loads(error.read(_LONGEST_ERROR))["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        return f"status {error.code} {error.reason}"


def _raw_rows(content: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Read the formats float16 and float32: one line of JSON, and the rows of all proteins."""
    line, _, data = content.partition(b"\n")
    header = json.loads(line)
    all_TD = np.frombuffer(data, np.dtype(header["dtype"]).newbyteorder("<")).reshape(-1, header["hidden_size"])
    bounds = np.cumsum([0, *header["rows"]]).tolist()
    if len(all_TD) != bounds[-1]:
        raise ProtT5nvError("the answer of the server is incomplete")
    rows = [all_TD[start:stop].astype(header["dtype"]) for start, stop in itertools.pairwise(bounds)]
    return header, rows
