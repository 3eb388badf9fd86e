"""The bodies that the server sends: JSON, ``.npz`` and raw rows.

Shapes: L residues of a protein, D hidden size, A amino acids.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from prott5nv.assets import scores_note
from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.decoding.variants import VariantScore
from prott5nv.embedding.formats import write_npz
from prott5nv.embedding.store import StoredProtein
from prott5nv.io.record import Record
from prott5nv.io.text import counted
from prott5nv.scale.http_requests import Limits, RequestError
from prott5nv.scale.model_info import ModelInfo

_TO_JSON = TypeAdapter(Any)  # several times as fast as the standard library
RETRY_SECONDS = 5
JSON, NPZ, RAW, HTML = "application/json", "application/zip", "application/octet-stream", "text/html; charset=utf-8"


def error(status: int, message: str, *, record: str | None = None, retry_after: int | None = None) -> JSONResponse:
    """Return an error in the shape that all errors have.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        What is wrong.
    record : str, optional
        Id of the protein at fault.
    retry_after : int, optional
        Seconds after which the client may try again.

    Returns
    -------
    JSONResponse
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": {"message": message, "type": kind, "record": record}}, status, headers)


@dataclass(frozen=True)
class Embedded:
    """The answer to a request for embeddings.

    Attributes
    ----------
    records : list of Record
        Clean proteins.
    rows : list of ndarray, shape=(L, D) or (D,), dtype=float32 or float16
        Embedding of each protein.
    truncated : list of int or None
        Length of each protein that was truncated.
    notes : list of str
        What was changed in the sequences.
    pooling : str or None
        How rows were pooled.
    long : str
        What was done with long proteins.
    model : ModelInfo
    """

    records: list[Record]
    rows: list[np.ndarray]
    truncated: list[int | None]
    notes: list[str]
    pooling: str | None
    long: str
    model: ModelInfo

    def attributes(self, dtype: str) -> dict[str, str]:
        """Return what `prott5nv embed` would record in a file with these embeddings."""
        request = {"model_name": self.model.name, "pooling": self.pooling or "none", "long": self.long, "dtype": dtype}
        return self.model.attributes | request

    @property
    def header(self) -> dict[str, Any]:
        """What all formats except ``.npz`` state besides the numbers."""
        return {
            "model": self.model.label,
            "model_sha256": self.model.sha256,
            "pooling": self.pooling,
            "notes": self.notes,
        }


def as_json(embedded: Embedded, limits: Limits) -> bytes:
    """Return embeddings as JSON.

    Raises
    ------
    RequestError
        If there are too many numbers.
    """
    numbers = sum(rows.size for rows in embedded.rows)
    if numbers > limits.json_numbers:
        raise RequestError(
            413,
            f"the response has {numbers:,} numbers, and JSON may have {limits.json_numbers:,} here: choose the format "
            "npz, float16 or float32, a pooling, or fewer proteins",
        )
    proteins = [
        {"id": record.id, "length": len(record.sequence), "truncated_from": truncated, "embedding": rows.tolist()}
        for record, rows, truncated in zip(embedded.records, embedded.rows, embedded.truncated, strict=True)
    ]
    return _TO_JSON.dump_json({**embedded.header, "proteins": proteins})


def as_npz(embedded: Embedded) -> bytes:
    """Return embeddings as the ``.npz`` file that `prott5nv embed` would write, which `EmbeddingStore` opens."""
    proteins = (
        StoredProtein(record.id, record.id, truncated, rows)
        for record, truncated, rows in zip(embedded.records, embedded.truncated, embedded.rows, strict=True)
    )
    file = io.BytesIO()
    write_npz(file, proteins, embedded.attributes("float32"))
    return file.getvalue()


def as_raw(embedded: Embedded, dtype: str) -> bytes:
    """Return embeddings as one line of JSON and the rows of all proteins behind it, in little-endian order.

    The line states data type and hidden size, what a file of these embeddings records, and for each protein its id and
    its number of rows.
    """
    rows = [np.atleast_2d(rows).astype(np.dtype(dtype).newbyteorder("<"), copy=False) for rows in embedded.rows]
    header = {
        **embedded.header,
        "dtype": dtype,
        "hidden_size": embedded.model.hidden_size,
        "attributes": embedded.attributes(dtype),
        "ids": [record.id for record in embedded.records],
        "rows": [len(each) for each in rows],
        "truncated_from": embedded.truncated,
    }
    return json.dumps(header).encode() + b"\n" + b"".join(each.tobytes() for each in rows)


def as_openai(embedded: Embedded, encoding: str) -> bytes:
    """Return pooled embeddings in the shape of OpenAI's endpoint.

    Tokens are residues, without those that were cut off.
    """
    tokens = sum(min(len(record.sequence), embedded.model.limit or len(record.sequence)) for record in embedded.records)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(row_D) if encoding == "base64" else row_D.tolist(),
        }
        for index, row_D in enumerate(embedded.rows)
    ]
    notes = list(embedded.notes)
    if count := sum(length is not None for length in embedded.truncated):
        notes.append(f"{counted(count, 'protein')} truncated to the first {embedded.model.limit} residues")
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _TO_JSON.dump_json(
        {"object": "list", "data": data, "model": embedded.model.name, "usage": usage, "notes": notes}
    )


def _base64(row_D: np.ndarray) -> str:
    return base64.b64encode(row_D.astype("<f4").tobytes()).decode()


def substitutions_as_json(record: Record, scores_LA: np.ndarray, notes: Sequence[str], model: ModelInfo) -> bytes:
    """Return the scores of all substitutions as JSON; null where the wild type is not one of the 20 amino acids."""
    return _TO_JSON.dump_json(
        {
            "model": model.label,
            "id": record.id,
            "sequence": record.sequence,
            "notes": notes,
            "amino_acids": AMINO_ACIDS,
            "scores": [[None if score != score else score for score in row] for row in scores_LA.tolist()],
        }
    )


def variants_as_json(record: Record, scores: list[VariantScore], notes: Sequence[str], model: ModelInfo) -> bytes:
    """Return the scores of variants as JSON, in the order of the request."""
    variants = [
        {"variant": str(variant), "score_additive": additive, "score_joint": joint}
        for variant, additive, joint in scores
    ]
    return _TO_JSON.dump_json({"model": model.label, "id": record.id, "notes": notes, "variants": variants})


def heat_map_page(record: Record, scores_LA: np.ndarray, model: ModelInfo) -> bytes:
    """Return the scores of all substitutions as a page."""
    from prott5nv.plots.heat_map import write_heat_map

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        write_heat_map(path, record, scores_LA, model=model.label, note=scores_note(model.is_builtin))
        return path.read_bytes()
