"""Files of the command line: variants to score, and tables of scores, perplexities and filled proteins.

Shapes: L residues of a protein, A amino acids.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from prott5nv.decoding.fill import fill
from prott5nv.decoding.marginals import masking_groups, pseudo_perplexity, score_substitutions
from prott5nv.decoding.masking import AMINO_ACIDS, GAP
from prott5nv.decoding.variants import Variant, parse_variant, score_variants
from prott5nv.embedding.embedder import Embedder
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning
from prott5nv.io.delimited import ID_COLUMNS, DelimitedTable, find_column
from prott5nv.io.reader import read_records
from prott5nv.io.record import Record, accession
from prott5nv.io.source import open_source, source_name
from prott5nv.io.table import write_table

VARIANT_COLUMNS = ("variant", "mutant", "mutation", "variants", "mutations")
FILLED_COLUMNS = ("protein", "rank", "sequence", "log_probability", "positions", "residues", "probabilities")
_PROTEIN_COLUMNS = ("protein", *ID_COLUMNS)
_MATRIX_COLUMNS = ("protein", "position", "wild_type", *AMINO_ACIDS)
_SCORE_COLUMNS = ("protein", "variant", "positions", "wild_type", "mutant", "score_additive", "score_joint")
_PERPLEXITY_COLUMNS = ("protein", "residues", "residues_counted", "perplexity")
_RESIDUE_COLUMNS = ("protein", "position", "residue", "probability", "perplexity", "entropy")

# Called after each batch with the number of residues that the encoder processed in it.
Progress: TypeAlias = Callable[[int], object]


def choose_proteins(
    source: str | os.PathLike[str], wanted: Sequence[str] = (), cleaning: Cleaning = DEFAULT_CLEANING
) -> dict[str, Record]:
    """Read proteins from a FASTA, CSV or TSV file.

    Parameters
    ----------
    source : str or PathLike
        The file or pipe, or ``-`` for standard input.
    wanted : sequence of str
        Accessions or ids of the proteins to keep; by default all.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.

    Returns
    -------
    dict of str to Record
        Proteins by accession, in the order of the file.

    Raises
    ------
    ProtT5nvError
        If a wanted protein is missing, or two proteins have the same accession.
    """
    proteins: dict[str, Record] = {}
    for record in read_records(source, cleaning=cleaning):
        key = accession(record.id)
        if wanted and not {key, record.id} & set(wanted):
            continue
        if key in proteins:
            raise ProtT5nvError(f"{source_name(source)}: line {record.line}: a second protein has the accession {key}")
        proteins[key] = record
    names = {name for key, record in proteins.items() for name in (key, record.id)}
    for name in wanted:
        if name not in names:
            raise ProtT5nvError(f"{source_name(source)}: no protein has the accession or id {name}")
    return proteins


def read_variants(
    path: str | os.PathLike[str], proteins: Mapping[str, Record], column: str | None = None
) -> list[tuple[str, Variant]]:
    """Read variants from a file and check each against its protein.

    Parameters
    ----------
    path : str or PathLike
        A text file with one variant per line; or a CSV or TSV file with a column of variants and, if there are several
        proteins, a column of their names.
    proteins : dict of str to Record
        Proteins by accession.
    column : str, optional
        Header of the variant column. By default the first of `VARIANT_COLUMNS` that the file has.

    Returns
    -------
    list of tuple of (str, Variant)
        Accessions and variants, in the order of the file.

    Raises
    ------
    ProtT5nvError
        If a line cannot be used. The message names the file, the line and the problem.
    """
    name = source_name(path)
    with open_source(path) as stream:
        lines = list(_variant_lines(stream, column, name))
    only_protein = next(iter(proteins)) if len(proteins) == 1 else None
    variants = []
    for number, protein, text in lines:
        key = accession(protein) if protein else only_protein
        if key is None:
            raise ProtT5nvError(
                f"{name}: line {number}: there are {len(proteins)} proteins, and {text} does not name one. Choose one "
                "with --protein, or add a column named protein"
            )
        if key not in proteins:
            raise ProtT5nvError(f"{name}: line {number}: {key} is not among the proteins")
        try:
            variants.append((key, parse_variant(text, proteins[key].sequence, key)))
        except ProtT5nvError as error:
            raise ProtT5nvError(f"{name}: line {number}: {error}") from None
    if not variants:
        raise ProtT5nvError(f"{name}: the file has no variants")
    return variants


def _variant_lines(stream: io.BufferedReader, column: str | None, name: str) -> Iterator[tuple[int, str, str]]:
    """Yield line numbers, names of proteins (empty if the file gives none) and variants."""
    first_line = stream.peek().removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].decode(errors="replace")
    header = {cell.strip(' \r"').lower() for cell in first_line.split("\t" if "\t" in first_line else ",")}
    if column is None and not header & set(VARIANT_COLUMNS):
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")
        yield from ((number, "", line.strip()) for number, line in enumerate(lines, 1) if line.strip())
        return
    table = DelimitedTable(stream, name)
    variant_index = find_column(table.columns, column, VARIANT_COLUMNS, "variant", name)
    lower = [cell.strip().lower() for cell in table.columns]
    protein_index = next((lower.index(usual) for usual in _PROTEIN_COLUMNS if usual in lower), None)
    for line, cells in table:
        yield line, "" if protein_index is None else cells[protein_index].strip(), cells[variant_index].strip()


def residues_to_encode(proteins: Mapping[str, Record], embedder: Embedder, fraction: float) -> int:
    """Count the residues that the encoder processes when every residue of every protein is masked once.

    Parameters
    ----------
    proteins : dict of str to Record
        Proteins by accession.
    embedder : Embedder
        The loaded model.
    fraction : float
        Fraction of the residues to mask at once; 0 for one residue at a time.

    Returns
    -------
    int
        Total for a progress bar.
    """
    config = embedder.config
    return sum(
        len(masking_groups(len(record.sequence), fraction, config))
        * min(len(record.sequence), config.max_position_embeddings)
        for record in proteins.values()
    )


def write_variants(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    variants: Sequence[tuple[str, Variant]],
    embedder: Embedder,
    on_progress: Progress,
) -> int:
    """Score variants and write one row for each, in input order.

    Parameters
    ----------
    path : str or PathLike
        CSV file to write.
    proteins : dict of str to Record
        Proteins by accession.
    variants : sequence of tuple of (str, Variant)
        Result of :func:`read_variants`.
    embedder : Embedder
        The loaded model.
    on_progress : callable
        Called after each batch with the number of residues that the encoder processed in it.

    Returns
    -------
    int
        Number of rows.
    """
    by_protein: dict[str, dict[Variant, None]] = {}
    for key, variant in variants:
        by_protein.setdefault(key, {})[variant] = None
    scores = {}
    for key, variants_of_protein in by_protein.items():
        sequence = proteins[key].sequence
        for score in score_variants(sequence, list(variants_of_protein), embedder, name=key, on_progress=on_progress):
            scores[key, score.variant] = score
    rows = (
        _score_row(key, variant, scores[key, variant].additive, scores[key, variant].joint) for key, variant in variants
    )
    return write_table(path, _SCORE_COLUMNS, rows)


def write_substitutions(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    embedder: Embedder,
    on_progress: Progress,
    on_scores: Callable[[str, np.ndarray], object] = lambda key, scores_LA: None,
) -> int:
    """Score every single substitution of every protein and write one row for each.

    Parameters
    ----------
    path : str or PathLike
        CSV file to write.
    proteins : dict of str to Record
        Proteins by accession.
    embedder : Embedder
        The loaded model.
    on_progress : callable
        Called after each batch with the number of residues that the encoder processed in it.
    on_scores : callable
        Called with each accession and its scores, ndarray, shape=(L, A), dtype=float32, for tables and plots.

    Returns
    -------
    int
        Number of rows.
    """

    def rows() -> Iterator[tuple[str, ...]]:
        for key, record in proteins.items():
            scores_LA = score_substitutions(record.sequence, embedder, name=key, on_progress=on_progress)
            on_scores(key, scores_LA)
            for index, wild in enumerate(record.sequence.upper()):
                for column, mutant in enumerate(AMINO_ACIDS):
                    if mutant != wild:
                        score = float(scores_LA[index, column])
                        yield _score_row(key, Variant((index,), wild, mutant), score, score)

    return write_table(path, _SCORE_COLUMNS, rows())


def write_matrices(
    path: str | os.PathLike[str], proteins: Mapping[str, Record], scores: Mapping[str, np.ndarray]
) -> int:
    """Write scores of single substitutions with one row per residue and one column per amino acid.

    Parameters
    ----------
    path : str or PathLike
        CSV file to write.
    proteins : dict of str to Record
        Proteins by accession.
    scores : dict of str to ndarray, shape=(L, A), dtype=float32
        Results of :func:`prott5nv.score_substitutions` by accession.

    Returns
    -------
    int
        Number of rows.
    """
    rows = (
        [key, index + 1, wild, *map(_number, scores_LA[index])]
        for key, scores_LA in scores.items()
        for index, wild in enumerate(proteins[key].sequence.upper())
    )
    return write_table(path, _MATRIX_COLUMNS, rows)


def write_perplexities(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    embedder: Embedder,
    on_progress: Progress,
    fraction: float = 0.0,
) -> int:
    """Compute the pseudo-perplexity of every protein and write one row for each.

    Parameters
    ----------
    path : str or PathLike
        CSV file to write.
    proteins : dict of str to Record
        Proteins by accession.
    embedder : Embedder
        The loaded model.
    on_progress : callable
        Called after each batch with the number of residues that the encoder processed in it.
    fraction : float, default 0
        Fraction of the residues to mask at once; 0 for one residue at a time.

    Returns
    -------
    int
        Number of rows.
    """

    def rows() -> Iterator[tuple[object, ...]]:
        for key, record in proteins.items():
            result = pseudo_perplexity(record.sequence, embedder, fraction=fraction, name=key, on_progress=on_progress)
            counted = int((~np.isnan(result.log_probabilities)).sum())
            yield key, len(record.sequence), counted, _number(result.perplexity)

    return write_table(path, _PERPLEXITY_COLUMNS, rows())


def write_residue_perplexities(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    embedder: Embedder,
    on_progress: Progress,
    fraction: float = 0.0,
) -> int:
    """Write one row per residue: its probability, the perplexity 1 / probability, and the entropy.

    The entropy, in nats, is that of the model's distribution over the 20 amino acids. The parameters are those of
    :func:`write_perplexities`.

    Returns
    -------
    int
        Number of rows.
    """

    def rows() -> Iterator[tuple[object, ...]]:
        for key, record in proteins.items():
            result = pseudo_perplexity(record.sequence, embedder, fraction=fraction, name=key, on_progress=on_progress)
            entropy_L = -(np.exp(result.expected) * result.expected).sum(1)
            for index, letter in enumerate(record.sequence.upper()):
                log_probability = result.log_probabilities[index]
                numbers = np.exp(log_probability), np.exp(-log_probability), entropy_L[index]
                yield key, index + 1, letter, *map(_number, numbers)

    return write_table(path, _RESIDUE_COLUMNS, rows())


def filled_rows(
    proteins: Mapping[str, Record],
    masked: Sequence[int],
    embedder: Embedder,
    *,
    n: int,
    beams: int | None,
    temperature: float,
    top_p: float,
    seed: int,
) -> Iterator[tuple[object, ...]]:
    """Fill the gaps of proteins and yield one row per result.

    Parameters
    ----------
    proteins : dict of str to Record
        Proteins by accession, with ``?`` in place of missing residues.
    masked : sequence of int
        Positions, counted from 1, of residues to mask in every protein, in addition to its gaps.
    embedder : Embedder
        The loaded model.
    n, beams, temperature, top_p, seed
        See :func:`prott5nv.fill`.

    Yields
    ------
    tuple
        Values of `FILLED_COLUMNS`.

    Raises
    ------
    ProtT5nvError
        If a protein is shorter than a masked position, or cannot be filled.
    """
    for key, record in proteins.items():
        letters = list(record.sequence)
        for position in masked:
            if position > len(letters):
                raise ProtT5nvError(f"{key} has no residue {position}, only 1 to {len(letters)}")
            letters[position - 1] = GAP
        results = fill(
            "".join(letters), embedder, n=n, beams=beams, temperature=temperature, top_p=top_p, seed=seed, name=key
        )
        for rank, filled in enumerate(results, 1):
            positions = ":".join(map(str, filled.positions))
            probabilities = ":".join(f"{probability:.4f}" for probability in filled.probabilities)
            residues = ":".join(filled.residues)
            yield key, rank, filled.sequence, _number(filled.log_probability), positions, residues, probabilities


def _score_row(key: str, variant: Variant, additive: float, joint: float) -> tuple[str, ...]:
    positions = ":".join(str(index + 1) for index in variant.indices)
    wild_type, mutant = ":".join(variant.wild_type), ":".join(variant.mutant)
    return key, str(variant), positions, wild_type, mutant, _number(additive), _number(joint)


def _number(value: float) -> str:
    """Format a number for CSV; NaN becomes an empty cell, which other programs read as missing."""
    return "" if np.isnan(value) else f"{value:.6g}"
