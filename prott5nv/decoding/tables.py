"""What the command line reads and writes about variants and perplexity."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from prott5nv.decoding.fill import fill
from prott5nv.decoding.marginals import masked_together, pseudo_perplexity, score_substitutions
from prott5nv.decoding.masking import AMINO_ACIDS, GAP
from prott5nv.decoding.variants import Variant, parse_variant, score_variants
from prott5nv.embedding.embedder import Embedder
from prott5nv.errors import ProtT5nvError
from prott5nv.io.delimited import ID_COLUMNS, find_column
from prott5nv.io.reader import read_records
from prott5nv.io.record import Record, accession
from prott5nv.io.source import open_source, source_name
from prott5nv.io.table import write_table

VARIANT_COLUMNS = ("variant", "mutant", "mutation", "variants", "mutations")
FILLED_COLUMNS = ("protein", "rank", "sequence", "log_probability", "positions", "residues", "probabilities")
_PROTEIN_COLUMNS = ("protein", *ID_COLUMNS)
_SCORE_COLUMNS = ("protein", "variant", "positions", "wild_type", "mutant", "score_additive", "score_joint")


def chosen_proteins(source: str | os.PathLike, wanted: Sequence[str] = ()) -> dict[str, Record]:
    """The proteins of a file by accession: all of them, or those that are named by accession or id.

    Raises
    ------
    ProtT5nvError
        If one is not there, or two have the same accession.
    """
    proteins: dict[str, Record] = {}
    for record in read_records(source):
        key = accession(record.id)
        if wanted and not {key, record.id} & set(wanted):
            continue
        if key in proteins:
            raise ProtT5nvError(f"{source_name(source)}: line {record.line}: a second protein is called {key}")
        proteins[key] = record
    found = {name for key, record in proteins.items() for name in (key, record.id)}
    for name in wanted:
        if name not in found:
            raise ProtT5nvError(f"{source_name(source)}: no protein is called {name}")
    return proteins


def read_variants(
    path: str | os.PathLike, proteins: dict[str, Record], column: str | None = None
) -> list[tuple[str, Variant]]:
    """Accessions and variants of a file, each checked against its protein.

    Parameters
    ----------
    path : str or PathLike
        One variant a line; or CSV or TSV with a column of variants, and, where there are several proteins, one of
        their names.
    proteins : dict of str to Record
        By accession.
    column : str, optional
        Of the variants; by default the first of `VARIANT_COLUMNS`.

    Raises
    ------
    ProtT5nvError
        Naming file, line and what is wrong.
    """
    name = source_name(path)
    with open_source(path) as stream:
        try:
            lines = stream.read().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ProtT5nvError(f"{name}: this is not UTF-8 text ({error.reason})") from None
    only = next(iter(proteins)) if len(proteins) == 1 else None
    variants = []
    for number, key, text in _variant_lines(lines, column, name):
        key = accession(key) if key else only
        if key is None:
            raise ProtT5nvError(
                f"{name}: line {number}: {text} of which of {len(proteins)} proteins? Choose one with --protein, or "
                "add a column named protein"
            )
        if key not in proteins:
            raise ProtT5nvError(f"{name}: line {number}: {key} is not among the proteins")
        try:
            variants.append((key, parse_variant(text, proteins[key].sequence, key)))
        except ProtT5nvError as error:
            raise ProtT5nvError(f"{name}: line {number}: {error}") from None
    if not variants:
        raise ProtT5nvError(f"{name}: the file holds no variants")
    return variants


def _variant_lines(lines: list[str], column: str | None, name: str) -> Iterator[tuple[int, str, str]]:
    """Line numbers, names of proteins where the file gives them, and variants."""
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    header = [cell.strip().lower() for cell in lines[0].split(delimiter)] if lines else []
    if column is None and not set(header) & set(VARIANT_COLUMNS):
        yield from ((number, "", line.strip()) for number, line in enumerate(lines, 1) if line.strip())
        return
    variant_index = find_column(header, column, VARIANT_COLUMNS, "variant", name)
    protein_index = next((header.index(usual) for usual in _PROTEIN_COLUMNS if usual in header), None)
    for number, row in enumerate(csv.reader(lines[1:], delimiter=delimiter), 2):
        if row:
            if len(row) <= max(variant_index, protein_index or 0):
                raise ProtT5nvError(f"{name}: line {number}: the row has {len(row)} of {len(header)} columns")
            yield number, "" if protein_index is None else row[protein_index].strip(), row[variant_index]


def residues_to_encode(proteins: dict[str, Record], inference: Embedder, fraction: float) -> int:
    """The encoder's work when every residue of every protein is asked for."""
    config = inference.config
    return sum(
        len(masked_together(len(record.sequence), fraction, config))
        * min(len(record.sequence), config.max_position_embeddings)
        for record in proteins.values()
    )


def write_variants(
    path: str | os.PathLike,
    proteins: dict[str, Record],
    variants: Sequence[tuple[str, Variant]],
    inference: Embedder,
    on_progress: Callable[[int], object],
) -> int:
    """One row per variant, in input order; the number of rows."""
    by_protein: dict[str, dict[Variant, None]] = {}
    for key, variant in variants:
        by_protein.setdefault(key, {})[variant] = None
    scores = {}
    for key, own in by_protein.items():
        found = score_variants(proteins[key].sequence, list(own), inference, name=key, on_progress=on_progress)
        scores.update({(key, score.variant): score for score in found})
    rows = (
        _score_row(key, variant, scores[key, variant].additive, scores[key, variant].joint) for key, variant in variants
    )
    return write_table(path, _SCORE_COLUMNS, rows)


def write_substitutions(
    path: str | os.PathLike,
    proteins: dict[str, Record],
    inference: Embedder,
    on_progress: Callable[[int], object],
    table: str | os.PathLike | None = None,
    plot: str | os.PathLike | None = None,
) -> int:
    """One row per single substitution of every protein, and the number of rows.

    Parameters
    ----------
    path : str or PathLike
    proteins : dict of str to Record
    inference : Embedder
    on_progress : callable
    table : str or PathLike, optional
        Where to write one row per residue and one column per amino acid.
    plot : str or PathLike, optional
        Where to draw the same table of the one protein.
    """
    matrices: dict[str, np.ndarray] = {}

    def rows():
        for key, record in proteins.items():
            scores_LA = score_substitutions(record.sequence, inference, name=key, on_progress=on_progress)
            if table or plot:
                matrices[key] = scores_LA
            for place, wild in enumerate(record.sequence.upper()):
                for column, new in enumerate(AMINO_ACIDS):
                    if new != wild:
                        score = float(scores_LA[place, column])
                        yield _score_row(key, Variant((place,), wild, new), score, score)

    count = write_table(path, _SCORE_COLUMNS, rows())
    if table:
        matrix_rows = (
            [key, place + 1, wild, *map(_number, matrix_LA[place])]
            for key, matrix_LA in matrices.items()
            for place, wild in enumerate(proteins[key].sequence.upper())
        )
        write_table(table, ("protein", "position", "wild_type", *AMINO_ACIDS), matrix_rows)
    if plot:
        from prott5nv.plots.heat_map import write_heat_map

        [(key, matrix_LA)] = matrices.items()
        write_heat_map(Path(plot), key, proteins[key].sequence.upper(), matrix_LA)
    return count


def write_perplexity(
    path: str | os.PathLike,
    proteins: dict[str, Record],
    inference: Embedder,
    on_progress: Callable[[int], object],
    fraction: float = 0.0,
    per_residue: bool = False,
) -> int:
    """One row per protein, or per residue; the number of rows.

    Of a residue: its probability, the perplexity 1 / probability, and the entropy in nats of what the model expected.
    """

    def rows():
        for key, record in proteins.items():
            found = pseudo_perplexity(record.sequence, inference, fraction=fraction, name=key, on_progress=on_progress)
            if not per_residue:
                counted = int((~np.isnan(found.log_probabilities)).sum())
                yield key, len(record.sequence), counted, _number(found.perplexity)
                continue
            entropy_L = -(np.exp(found.expected) * found.expected).sum(1)
            for place, letter in enumerate(record.sequence.upper()):
                log_probability = found.log_probabilities[place]
                numbers = np.exp(log_probability), np.exp(-log_probability), entropy_L[place]
                yield key, place + 1, letter, *map(_number, numbers)

    if per_residue:
        return write_table(path, ("protein", "position", "residue", "probability", "perplexity", "entropy"), rows())
    return write_table(path, ("protein", "residues", "residues_counted", "perplexity"), rows())


def filled_rows(
    proteins: dict[str, Record], hide: Sequence[int], inference: Embedder, **options: object
) -> Iterator[tuple[object, ...]]:
    """Rows of `FILLED_COLUMNS`; `hide` are positions, from 1, that are gaps in every protein, and `options` fill's."""
    for key, record in proteins.items():
        letters = list(record.sequence)
        for position in hide:
            if position > len(letters):
                raise ProtT5nvError(f"{key} has no residue {position}, only 1 to {len(letters)}")
            letters[position - 1] = GAP
        for rank, filled in enumerate(fill("".join(letters), inference, name=key, **options), 1):
            positions = ":".join(map(str, filled.positions))
            probabilities = ":".join(f"{probability:.4f}" for probability in filled.probabilities)
            residues = ":".join(filled.residues)
            yield key, rank, filled.sequence, _number(filled.log_probability), positions, residues, probabilities


def _score_row(key: str, variant: Variant, additive: float, joint: float) -> tuple[str, ...]:
    positions = ":".join(str(place + 1) for place in variant.places)
    wild_type, mutant = ":".join(variant.wild_type), ":".join(variant.mutant)
    return key, str(variant), positions, wild_type, mutant, _number(additive), _number(joint)


def _number(value: float) -> str:
    """Empty where there is none, as other programs expect of a CSV file."""
    return "" if np.isnan(value) else f"{value:.6g}"
