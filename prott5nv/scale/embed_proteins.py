"""Batch inference with Ray Data: a class for ``Dataset.map_batches``.

Shapes: B proteins of a batch, L residues of a protein, D hidden size.
"""

from __future__ import annotations

import numpy as np

from prott5nv.embedding.embedder import check_options
from prott5nv.embedding.survey import residue_fault
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning, clean_records
from prott5nv.io.record import Record
from prott5nv.scale.assignment import assigned_embedder


class EmbedProteins:
    """Adds the columns ``embedding`` and ``error`` to batches of proteins.

    Pass the class, not an object, to ``map_batches``: each actor of the pool then loads the model once. The device and
    the number of threads are those that Ray assigns to the actor with ``num_gpus`` and ``num_cpus``.

    Parameters
    ----------
    model : str, optional
        A ``.nemo`` file, the folder of a T5 model, or its name on the Hugging Face Hub. A file must be at this path on
        every node. The default is the small built-in model.
    pooling, long
        See :meth:`prott5nv.Embedder.embed`.
    dtype : {"float16", "float32"}
        Data type of the embeddings.
    precision, max_tokens, max_length, input, layer
        See :class:`prott5nv.Embedder`.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.
    id_column, sequence_column : str
        Columns of the batches.

    Raises
    ------
    ProtT5nvError
        If the model cannot be loaded or an option is not valid.

    Notes
    -----
    A protein that cannot be embedded is a row with a text in the column ``error``, and the rest of its batch is not
    affected. Its embedding is NaN with a pooling, and has no rows without one. The text is empty for all others.

    Examples
    --------
    >>> embed = EmbedProteins(pooling="mean")
    >>> batch = {"id": np.array(["P1", "P2"]), "sequence": np.array(["MSLKR", "MK1"])}
    >>> result = embed(batch)
    >>> result["embedding"].shape, result["error"].tolist()[1]
    ((2, 448), "position 3: '1' is not a residue; residues are letters")
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        pooling: str | None = None,
        long: str = "truncate",
        dtype: str = "float16",
        precision: str = "auto",
        max_tokens: int | None = None,
        max_length: int | None = None,
        input: str = "aa",
        layer: int | None = None,
        cleaning: Cleaning = DEFAULT_CLEANING,
        id_column: str = "id",
        sequence_column: str = "sequence",
    ) -> None:
        check_options(pooling, long, dtype)
        self._embedder = assigned_embedder(
            model, precision=precision, max_tokens=max_tokens, max_length=max_length, input=input, layer=layer
        )
        self._pooling, self._long, self._dtype, self._cleaning = pooling, long, dtype, cleaning
        self._id_column, self._sequence_column = id_column, sequence_column

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed a batch.

        Parameters
        ----------
        batch : dict of ndarray, shape=(B,)
            A batch in Ray's format ``"numpy"``, with the columns of ids and sequences. Other columns are kept.

        Returns
        -------
        dict of ndarray
            The columns of `batch` with ``embedding`` and ``error``. With a pooling, ``embedding`` has the shape (B, D);
            without one, it holds an array of shape (L, D) for each protein.

        Raises
        ------
        ProtT5nvError
            If a column is missing.
        """
        for column in self._id_column, self._sequence_column:
            if column not in batch:
                raise ProtT5nvError(f"the dataset has no column {column}: it has {', '.join(batch)}")
        records = [
            Record(str(id), _text(sequence), str(id), number)
            for number, (id, sequence) in enumerate(
                zip(batch[self._id_column], batch[self._sequence_column], strict=True)
            )
        ]
        rows, errors = self._embed(records)
        return {**batch, "embedding": self._column(rows), "error": np.array(errors, dtype=object)}

    def _embed(self, records: list[Record]) -> tuple[list[np.ndarray | None], list[str]]:
        """Return the rows of each protein, or None, and its error, which is empty if there are rows."""
        rows: list[np.ndarray | None] = [None] * len(records)
        errors = ["longer than the model accepts at once"] * len(records)  # for those that `long` leaves out

        def note(record: Record, error: ProtT5nvError) -> None:
            errors[record.line] = str(error)

        embedded = self._embedder.embed(
            self._valid(records, errors),
            pooling=self._pooling,
            long=self._long,
            dtype=self._dtype,
            cleaning=None,  # the records are clean
            on_error=note,
        )
        for record, rows_LD in embedded:
            if rows_LD is not None:
                rows[record.line], errors[record.line] = rows_LD, ""
        return rows, errors

    def _valid(self, records: list[Record], errors: list[str]) -> list[Record]:
        """Return clean records without those that cannot be embedded, for which an error is noted."""
        valid = []
        tokenizer = self._embedder.tokenizer.fresh()
        try:
            for record, fault in clean_records(records, "this batch", self._cleaning):
                if reason := fault or residue_fault(record.sequence, tokenizer):
                    errors[record.line] = reason
                else:
                    valid.append(record)
        except ProtT5nvError as error:  # The batch consists of nucleotides.
            errors[:] = [str(error)] * len(records)
            return []
        return valid

    def _column(self, rows: list[np.ndarray | None]) -> np.ndarray:
        """Return the embeddings of a batch as one column."""
        hidden_size = self._embedder.config.hidden_size
        if self._pooling:
            pooled_BD = np.full((len(rows), hidden_size), np.nan, dtype=self._dtype)
            for number, row_D in enumerate(rows):
                if row_D is not None:
                    pooled_BD[number] = row_D
            return pooled_BD
        column = np.empty(len(rows), dtype=object)
        for number, rows_LD in enumerate(rows):
            column[number] = np.empty((0, hidden_size), dtype=self._dtype) if rows_LD is None else rows_LD
        return column


def _text(value: object) -> str:
    """Return a sequence as text, which is empty for None and NaN."""
    return "" if value is None or value != value else str(value)
