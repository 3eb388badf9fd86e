"""What clients may send to the server: the JSON of each request, and the checks that name the record at fault."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from prott5nv.embedding.pooling import POOLINGS
from prott5nv.embedding.survey import residue_fault
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import Cleaning, clean_records
from prott5nv.io.record import Record
from prott5nv.io.text import counted, shortened
from prott5nv.model.tokenizer import ResidueTokenizer

#: Pooling of ``/v1/embeddings``, which returns one vector for each input.
OPENAI_POOLING = "mean"

_LONGEST_ID = 1000  # characters
_BODY_BYTES_PER_RESIDUE = 16  # room for ids and JSON around short proteins
_JSON = TypeAdapter(Any)
_Body = TypeVar("_Body", bound=BaseModel)


class RequestError(Exception):
    """A request that is answered with an error.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        One line for the user.
    record : str, optional
        Id of the protein at fault.
    retry_after : int, optional
        Number of seconds after which the client may try again.
    """

    def __init__(self, status: int, message: str, *, record: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.record, self.retry_after = status, message, record, retry_after


@dataclass(frozen=True)
class Limits:
    """What the server accepts.

    Attributes
    ----------
    residues : int
        Residues of one request. A record counts as one residue more than it has.
    score_residues : int
        Residues that the encoder may compute for one ``/score``. All substitutions of a protein of L residues take L
        times L, or L times the number of residues that the model accepts at once if that is smaller.
    requests : int
        Requests that wait or are computed at the same time.
    json_numbers : int
        Numbers in a JSON response. The other formats are compact and have no such limit.
    body_seconds : float
        Time within which the body of a request must arrive.
    """

    residues: int = 100_000
    score_residues: int = 500_000
    requests: int = 128
    json_numbers: int = 5_000_000
    body_seconds: float = 30.0

    @property
    def body_bytes(self) -> int:
        """Size of the body of a request."""
        return 100_000 + _BODY_BYTES_PER_RESIDUE * self.residues


class _Strict(BaseModel):
    # `fail_fast` of the lists below keeps the number of errors small if a list holds a million wrong items.
    model_config = ConfigDict(extra="forbid", strict=True)


class Protein(_Strict):
    """A protein with its id."""

    id: str = Field(min_length=1, max_length=_LONGEST_ID)
    sequence: str


class CleanedRequest(_Strict):
    """What to do with characters that are not residues; see :class:`prott5nv.Cleaning`."""

    gaps: Literal["error", "keep", "remove"] = "error"
    allow_nucleotides: bool = False

    @property
    def cleaning(self) -> Cleaning:
        """The same as an object of the package."""
        return Cleaning(self.gaps, self.allow_nucleotides)


class EmbedRequest(CleanedRequest):
    """Body of ``POST /embed``. Give either `sequences` or `records`."""

    sequences: Annotated[list[str], Field(fail_fast=True)] | None = None
    records: Annotated[list[Protein], Field(fail_fast=True)] | None = None
    pooling: str | None = None
    long: Literal["truncate", "window", "error"] = "truncate"
    format: Literal["json", "npz", "float16", "float32"] = "json"


class ScoreRequest(CleanedRequest):
    """Body of ``POST /score``. Without `variants`, all single substitutions are scored."""

    sequence: str
    id: str = Field(default="the protein", min_length=1, max_length=_LONGEST_ID)
    variants: Annotated[list[str], Field(fail_fast=True)] | None = None
    format: Literal["json", "html"] = "json"


class OpenAIRequest(BaseModel):
    """Body of ``POST /v1/embeddings``, in OpenAI's shape."""

    model_config = ConfigDict(extra="ignore", strict=True)

    input: str | Annotated[list[str], Field(fail_fast=True)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


def parse(body: bytes, kind: type[_Body]) -> _Body:
    """Parse the JSON body of a request.

    Parameters
    ----------
    body : bytes
    kind : type
        Class of the request.

    Returns
    -------
    object of class `kind`

    Raises
    ------
    RequestError
        If the body is not JSON, or not that of such a request.

    Examples
    --------
    >>> parse(b'{"sequences": ["MSLKR", 7]}', EmbedRequest)
    Traceback (most recent call last):
    ...
    prott5nv.scale.http_requests.RequestError: sequences, item 2: Input should be a valid string
    """
    try:
        content = _JSON.validate_json(body)
    except ValidationError as error:
        reason = error.errors(include_input=False)[0]["msg"].removeprefix("Invalid JSON: ")
        raise RequestError(400, f"the body is not JSON: {reason}") from None
    if not isinstance(content, dict):
        raise RequestError(422, "the body must be a JSON object")
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _described(error, content) from None


def _described(error: ValidationError, content: Any) -> RequestError:
    """Return the first error of a body. It names the field, the item and the id of the record."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    message, record, item = first["msg"], None, content
    path = []
    for step in first["loc"]:
        if isinstance(step, int):
            path.append(f"item {step + 1}")
            item = item[step] if isinstance(item, list) else None
            if isinstance(item, dict) and isinstance(item.get("id"), str) and item["id"]:
                record = shortened(item["id"])
                path.append(f"id {record}")
        else:
            path.append(str(step))
            item = item.get(step) if isinstance(item, dict) else None
    return RequestError(422, f"{', '.join(path)}: {message}", record=record)


def embed_records(request: EmbedRequest) -> list[Record]:
    """Return the proteins of a request, not cleaned yet.

    Raises
    ------
    RequestError
        If there are no proteins, or they are given twice, or the pooling does not exist.
    """
    if (request.sequences is None) == (request.records is None):
        raise RequestError(422, "give either sequences or records")
    if request.pooling is not None and request.pooling not in POOLINGS:
        choices = ", ".join(map(repr, POOLINGS))
        raise RequestError(422, f"pooling: choose {choices}, or null for one row per residue")
    pairs = (
        [(f"sequence {number}", sequence) for number, sequence in enumerate(request.sequences, 1)]
        if request.sequences is not None
        else [(record.id, record.sequence) for record in request.records or []]
    )
    return as_records(pairs)


def as_records(pairs: Sequence[tuple[str, str]]) -> list[Record]:
    """Return records of ids and sequences.

    Raises
    ------
    RequestError
        If there are none.
    """
    if not pairs:
        raise RequestError(422, "the request has no proteins")
    return [Record(id, sequence, id, number) for number, (id, sequence) in enumerate(pairs, 1)]


def clean(
    records: Sequence[Record],
    cleaning: Cleaning,
    tokenizer: ResidueTokenizer,
    limits: Limits,
) -> tuple[list[Record], list[str]]:
    """Clean and check the proteins of a request.

    Parameters
    ----------
    records : sequence of Record
    cleaning : Cleaning
    tokenizer : ResidueTokenizer
        Tokenizer of the model.
    limits : Limits

    Returns
    -------
    records : list of Record
    notes : list of str
        What was changed.

    Raises
    ------
    RequestError
        If there are too many residues, or a protein cannot be embedded; the error names it.
    """
    size = sum(len(record.sequence) + 1 for record in records)
    if size > limits.residues:
        raise RequestError(
            413,
            f"the request has {size:,} residues, counting one more for each protein, and this server accepts "
            f"{limits.residues:,}: split the request",
        )
    cleaned = []
    tokenizer = tokenizer.fresh()  # one that has been used has warned of lower case already
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for record, fault in clean_records(records, "the request", cleaning):
                if reason := fault or residue_fault(record.sequence, tokenizer):
                    name = shortened(record.id)
                    raise RequestError(422, f"record {record.line} ({name}): {reason}", record=record.id)
                cleaned.append(record)
        except ProtT5nvError as error:  # The request consists of nucleotides.
            raise RequestError(422, str(error)) from None
    return cleaned, [str(warning.message) for warning in caught]


def check_lengths(records: Sequence[Record], limit: int | None, long: str) -> None:
    """Refuse proteins that are longer than the model accepts if the request asks for it.

    Raises
    ------
    RequestError
        Names the protein.
    """
    if long != "error" or limit is None:
        return
    for record in records:
        if len(record.sequence) > limit:
            raise RequestError(
                422,
                f"record {record.line} ({shortened(record.id)}): {len(record.sequence):,} residues, but the model "
                f"accepts at most {limit} at once; choose long: window or truncate",
                record=record.id,
            )


def check_unique(records: Sequence[Record]) -> None:
    """Refuse ids that occur twice, because a file holds one array for each id.

    Raises
    ------
    RequestError
        Names the id.
    """
    first: dict[str, int] = {}
    for record in records:
        if (line := first.setdefault(record.id, record.line)) != record.line:
            raise RequestError(
                422,
                f"record {record.line} ({shortened(record.id)}) has the id of record {line}: give each protein its own "
                "id, or choose another format",
                record=record.id,
            )


def check_score(request: ScoreRequest, length: int, limit: int, limits: Limits) -> None:
    """Refuse scores that would take the encoder too long.

    Raises
    ------
    RequestError
        States the cost and the limit.
    """
    if request.variants is None:
        windows = length
    else:
        # Each substitution is masked alone, and all of a variant together.
        windows = sum(len(variant) // 3 + 2 for variant in request.variants)
    if (cost := windows * min(length, limit)) > limits.score_residues:
        what = "all substitutions" if request.variants is None else counted(len(request.variants), "variant")
        raise RequestError(
            413,
            f"{shortened(request.id)}: {what} of {length:,} residues may take the encoder {cost:,} residues, and this "
            f"server computes at most {limits.score_residues:,} for a request: score fewer variants at once",
            record=request.id,
        )
