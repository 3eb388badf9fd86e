"""Tables that the command line writes: scores, perplexities and filled proteins.

A protein for which NaN or infinity is computed, or whose computation needs too much memory, is an error, or is skipped
and listed; see :class:`prott5nv.embedding.skips.Skips`. All proteins are clean: see :mod:`prott5nv.io.cleaning`.

Shapes: L residues of a protein, A amino acids.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from prott5nv.decoding.fill import Filled, fill
from prott5nv.decoding.inputs import masked_sequence
from prott5nv.decoding.marginals import Perplexity, masking_groups, pseudo_perplexity, score_substitutions
from prott5nv.decoding.masking import AMINO_ACIDS
from prott5nv.decoding.variants import Variant, VariantScore, score_variants
from prott5nv.embedding.embedder import Embedder
from prott5nv.embedding.skips import Skips
from prott5nv.errors import ProtT5nvError
from prott5nv.io.record import Record, accession
from prott5nv.io.table import write_table

# All tables begin with these columns and end with the model, so that they can be joined on the accession.
_PROTEIN = ("protein", "original_id")
_FILLED = ("rank", "sequence", "log_probability", "positions", "residues", "probabilities")
_SCORES = ("variant", "positions", "wild_type", "mutant", "score_additive", "score_joint")
FILLED_COLUMNS = (*_PROTEIN, *_FILLED, "model")
_MATRIX_COLUMNS = (*_PROTEIN, "position", "wild_type", *AMINO_ACIDS, "model")
_SCORE_COLUMNS = (*_PROTEIN, *_SCORES, "model")
_PERPLEXITY_COLUMNS = (*_PROTEIN, "residues", "residues_counted", "perplexity", "model")
_RESIDUE_COLUMNS = (*_PROTEIN, "position", "residue", "probability", "perplexity", "entropy", "model")

# Called after each batch with the number of residues that the encoder processed in it.
Progress: TypeAlias = Callable[[int], object]
Result = TypeVar("Result")


def method_label(embedder: Embedder, fraction: float) -> str:
    """Return the label of the model, and the fraction that is masked at once, unless it is one residue at a time.

    Parameters
    ----------
    embedder : Embedder
        The loaded model.
    fraction : float
        Fraction of the residues to mask at once; 0 for one residue at a time.
    """
    return f"{embedder.label}, {100 * fraction:g} % masked at once" if fraction else embedder.label


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
    config = embedder.decoder_config
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
    skips: Skips,
    *,
    spreadsheet_safe: bool = False,
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
    skips : Skips
        What to do with a protein that cannot be computed.
    spreadsheet_safe : bool, default False
        See :func:`prott5nv.io.table.write_table`.

    Returns
    -------
    int
        Number of rows.
    """
    by_protein: dict[str, dict[Variant, None]] = {}
    for key, variant in variants:
        by_protein.setdefault(key, {})[variant] = None
    scores: dict[tuple[str, Variant], VariantScore] = {}

    def compute(key: str, record: Record) -> list[VariantScore]:
        return score_variants(
            record.sequence, list(by_protein[key]), embedder, name=key, cleaning=None, on_progress=on_progress
        )

    for key, _, results in _computed({key: proteins[key] for key in by_protein}, skips, compute):
        scores.update({(key, score.variant): score for score in results})
    rows = (
        _score_row(proteins[key], variant, scores[key, variant].additive, scores[key, variant].joint, embedder.label)
        for key, variant in variants
        if (key, variant) in scores
    )
    return write_table(path, _SCORE_COLUMNS, rows, spreadsheet_safe=spreadsheet_safe)


def write_substitutions(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    embedder: Embedder,
    on_progress: Progress,
    skips: Skips,
    fraction: float = 0.0,
    on_scores: Callable[[str, np.ndarray], object] = lambda key, scores_LA: None,
    *,
    spreadsheet_safe: bool = False,
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
    skips : Skips
        What to do with a protein that cannot be computed.
    fraction : float, default 0
        Fraction of the residues to mask at once; 0 for one residue at a time.
    on_scores : callable
        Called with each accession and its scores, ndarray, shape=(L, A), dtype=float32, for tables and plots.
    spreadsheet_safe : bool, default False
        See :func:`prott5nv.io.table.write_table`.

    Returns
    -------
    int
        Number of rows.
    """

    def compute(key: str, record: Record) -> np.ndarray:
        return score_substitutions(
            record.sequence, embedder, fraction=fraction, name=key, cleaning=None, on_progress=on_progress
        )

    label = method_label(embedder, fraction)

    def rows() -> Iterator[tuple[str, ...]]:
        for key, record, scores_LA in _computed(proteins, skips, compute):
            on_scores(key, scores_LA)
            for index, wild in enumerate(record.sequence.upper()):
                for column, mutant in enumerate(AMINO_ACIDS):
                    if mutant != wild:
                        score = float(scores_LA[index, column])
                        yield _score_row(record, Variant((index,), wild, mutant), score, score, label)

    return write_table(path, _SCORE_COLUMNS, rows(), spreadsheet_safe=spreadsheet_safe)


def write_matrices(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    scores: Mapping[str, np.ndarray],
    model: str,
    *,
    spreadsheet_safe: bool = False,
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
    model : str
        Label of the model; see :func:`method_label`.
    spreadsheet_safe : bool, default False
        See :func:`prott5nv.io.table.write_table`.

    Returns
    -------
    int
        Number of rows.
    """
    rows = (
        [key, proteins[key].id, index + 1, wild, *map(_number, scores_LA[index]), model]
        for key, scores_LA in scores.items()
        for index, wild in enumerate(proteins[key].sequence.upper())
    )
    return write_table(path, _MATRIX_COLUMNS, rows, spreadsheet_safe=spreadsheet_safe)


def write_perplexities(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    embedder: Embedder,
    on_progress: Progress,
    skips: Skips,
    fraction: float = 0.0,
    *,
    spreadsheet_safe: bool = False,
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
    skips : Skips
        What to do with a protein that cannot be computed.
    fraction : float, default 0
        Fraction of the residues to mask at once; 0 for one residue at a time.
    spreadsheet_safe : bool, default False
        See :func:`prott5nv.io.table.write_table`.

    Returns
    -------
    int
        Number of rows.
    """

    label = method_label(embedder, fraction)

    def rows() -> Iterator[tuple[object, ...]]:
        for key, record, result in _perplexities(proteins, embedder, on_progress, skips, fraction):
            counted = int((~np.isnan(result.log_probabilities)).sum())
            yield key, record.id, len(record.sequence), counted, _number(result.perplexity), label

    return write_table(path, _PERPLEXITY_COLUMNS, rows(), spreadsheet_safe=spreadsheet_safe)


def write_residue_perplexities(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    embedder: Embedder,
    on_progress: Progress,
    skips: Skips,
    fraction: float = 0.0,
    *,
    spreadsheet_safe: bool = False,
) -> int:
    """Write one row per residue: its probability, the perplexity 1 / probability, and the entropy.

    The entropy, in nats, is that of the model's distribution over the 20 amino acids. The parameters are those of
    :func:`write_perplexities`.

    Returns
    -------
    int
        Number of rows.
    """

    label = method_label(embedder, fraction)

    def rows() -> Iterator[tuple[object, ...]]:
        for key, record, result in _perplexities(proteins, embedder, on_progress, skips, fraction):
            entropy_L = -(np.exp(result.expected) * result.expected).sum(1)
            for index, letter in enumerate(record.sequence.upper()):
                log_probability = float(result.log_probabilities[index])  # 1 / probability can be too large for float32
                numbers = np.exp(log_probability), np.exp(-log_probability), entropy_L[index]
                yield key, record.id, index + 1, letter, *map(_number, numbers), label

    return write_table(path, _RESIDUE_COLUMNS, rows(), spreadsheet_safe=spreadsheet_safe)


def _perplexities(
    proteins: Mapping[str, Record], embedder: Embedder, on_progress: Progress, skips: Skips, fraction: float
) -> Iterator[tuple[str, Record, Perplexity]]:
    def compute(key: str, record: Record) -> Perplexity:
        return pseudo_perplexity(
            record.sequence, embedder, fraction=fraction, name=key, cleaning=None, on_progress=on_progress
        )

    return _computed(proteins, skips, compute)


def filled_rows(
    proteins: Mapping[str, Record],
    masked: Sequence[int],
    embedder: Embedder,
    skips: Skips,
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
    skips : Skips
        What to do with a protein that cannot be computed.
    n, beams, temperature, top_p, seed
        See :func:`prott5nv.fill`.

    Yields
    ------
    tuple
        Values of `FILLED_COLUMNS`.

    Raises
    ------
    ProtT5nvError
        If a protein cannot be filled and errors are not skipped.
    """

    def compute(key: str, record: Record) -> list[Filled]:
        sequence = masked_sequence(record, masked)
        return fill(
            sequence,
            embedder,
            n=n,
            beams=beams,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            name=key,
            cleaning=None,
        )

    for key, record, results in _computed(proteins, skips, compute):
        for rank, filled in enumerate(results, 1):
            positions = ":".join(map(str, filled.positions))
            probabilities = ":".join(f"{probability:.4f}" for probability in filled.probabilities)
            residues = ":".join(filled.residues)
            numbers = _number(filled.log_probability), positions, residues, probabilities
            yield key, record.id, rank, filled.sequence, *numbers, embedder.label


def _computed(
    proteins: Mapping[str, Record], skips: Skips, compute: Callable[[str, Record], Result]
) -> Iterator[tuple[str, Record, Result]]:
    """Yield accession, record and result of each protein; one that cannot be computed is an error or skipped."""
    for key, record in proteins.items():
        try:
            result = compute(key, record)
        except ProtT5nvError as error:
            skips.add(error, record.line, record.id)
            continue
        yield key, record, result


def _score_row(record: Record, variant: Variant, additive: float, joint: float, model: str) -> tuple[str, ...]:
    substitutions = ([str(index + 1) for index in variant.indices], variant.wild_type, variant.mutant)
    names = accession(record.id), record.id, str(variant)
    return *names, *map(":".join, substitutions), _number(additive), _number(joint), model


def _number(value: float) -> str:
    """Format a number for CSV; NaN becomes an empty cell, which other programs read as missing."""
    return "" if np.isnan(value) else f"{value:.6g}"
