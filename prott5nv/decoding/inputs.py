"""Inputs of ``score`` and ``fill``. They are read and checked completely before a model is loaded."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from prott5nv.decoding.fill import gaps
from prott5nv.decoding.masking import GAP, check_maskable
from prott5nv.decoding.variants import Variant, parse_variant
from prott5nv.embedding.skips import Skips, checked_records
from prott5nv.embedding.survey import residue_fault
from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import DEFAULT_CLEANING, Cleaning, is_missing
from prott5nv.io.delimited import ID_COLUMNS, DelimitedTable, find_column, first_usual_column
from prott5nv.io.inputs import Input, input_name
from prott5nv.io.record import Record, accession, first_word_hint, location, protein_names
from prott5nv.io.source import open_source, source_name
from prott5nv.io.text import did_you_mean
from prott5nv.model.config import ModelConfig

VARIANT_COLUMNS = ("variant", "mutant", "mutation", "variants", "mutations")
_SUBSTITUTION = "[A-Za-z][0-9]+[A-Za-z]"
_INLINE = re.compile(f"{_SUBSTITUTION}((:|,\\s*|[+]){_SUBSTITUTION})*")
# To suggest other proteins: headers to search, shortest part of a name, and suggestions.
_MOST_SEARCHED = 20_000
_MIN_PART = 3
_MOST_SUGGESTED = 3
_PROTEIN_COLUMNS = ("protein", *ID_COLUMNS)  # in a table of variants, `id` may name the variant


def read_proteins(
    source: Input,
    skips: Skips,
    wanted: Sequence[str] = (),
    cleaning: Cleaning = DEFAULT_CLEANING,
    find_fault: Callable[[Record], str | None] = lambda record: residue_fault(record.sequence),
) -> dict[str, Record]:
    """Read the proteins of a file.

    Parameters
    ----------
    source : str, PathLike or InputFiles
        The file or pipe, ``-`` for standard input, or several of these.
    skips : Skips
        What to do with a protein that cannot be used.
    wanted : sequence of str
        Accessions, entry names (HBA_HUMAN) or ids of the proteins to keep; by default all.
    cleaning : Cleaning
        What to do with gaps and nucleotides; see :mod:`prott5nv.io.cleaning`.
    find_fault : callable, optional
        Returns why a record cannot be used, or None. By default all characters must be residues.

    Returns
    -------
    dict of str to Record
        Proteins by accession, in the order of the file.

    Raises
    ------
    ProtT5nvError
        If a wanted protein is missing, or a protein cannot be used or has the accession of another one and errors are
        not skipped.
    """
    proteins: dict[str, Record] = {}
    missing = dict.fromkeys(wanted)
    passed_over: list[tuple[str, str]] = []  # ids and headers of proteins to suggest if one is missing

    def is_wanted(record: Record) -> bool:
        if not wanted:
            return True
        names = {*protein_names(record.id), record.id}
        for name in names & missing.keys():
            del missing[name]
        if names.isdisjoint(wanted) and len(passed_over) < _MOST_SEARCHED:
            passed_over.append((record.id, record.description))
        return not names.isdisjoint(wanted)

    name = input_name(source)
    for record in checked_records(source, skips, cleaning, is_wanted=is_wanted, find_fault=find_fault):
        key = accession(record.id)
        if key in proteins:
            error = f"{location(record, name)}: a second protein has the accession {key}"
            first = proteins[key]
            other_file = f" of {first.source}" if first.source != record.source else ""
            hint = first_word_hint(record) if first.id == record.id else ""
            skips.add(ProtT5nvError(f"{error}, as on line {first.line}{other_file}{hint}"), record.line, record.id)
        else:
            proteins[key] = record
    for protein in missing:
        hint = _similar_proteins(protein, passed_over)
        raise ProtT5nvError(f"{name}: no protein has the accession, entry name or id {protein}{hint}")
    return proteins


def _similar_proteins(name: str, proteins: Sequence[tuple[str, str]]) -> str:
    """Return a hint with the proteins whose header contains a name or whose name is similar; nothing if there is none.

    Examples
    --------
    >>> _similar_proteins("insul", [("sp|P01308|INS_HUMAN", "sp|P01308|INS_HUMAN Insulin"), ("P69905", "P69905")])
    '; did you mean INS_HUMAN?'
    """
    lower = name.lower()
    names = [[each for each in protein_names(record_id) if each] for record_id, _ in proteins]
    similar = []
    for of_protein, (_, header) in zip(names, proteins, strict=True):
        if len(lower) >= _MIN_PART and lower in header.lower():
            similar.append(next((each for each in of_protein if lower in each.lower()), of_protein[-1]))
    if not similar:
        if hint := did_you_mean(name, chain.from_iterable(names)):
            return hint
        # HBA_HUMAN is also similar to hba2.
        parts = [(of_protein[-1], of_protein[-1].lower().partition("_")[0]) for of_protein in names]
        similar = [each for each, part in parts if len(part) >= _MIN_PART and lower.startswith(part)]
    return f"; did you mean {' or '.join(similar[:_MOST_SUGGESTED])}?" if similar else ""


def masked_sequence(record: Record, positions: Sequence[int]) -> str:
    """Replace residues by gaps.

    Parameters
    ----------
    record : Record
        The protein.
    positions : sequence of int
        Positions of the residues, counted from 1.

    Returns
    -------
    str

    Raises
    ------
    ProtT5nvError
        If the protein is shorter than a position.
    """
    letters = list(record.sequence)
    for position in positions:
        if position > len(letters):
            raise ProtT5nvError(f"{accession(record.id)} has no residue {position}, only 1 to {len(letters)}")
        letters[position - 1] = GAP
    return "".join(letters)


def gap_fault(record: Record, positions: Sequence[int], config: ModelConfig) -> str | None:
    """Return why the gaps of a protein cannot be filled; None if they can.

    Parameters
    ----------
    record : Record
        The protein, with ``?`` in place of missing residues.
    positions : sequence of int
        Positions, counted from 1, of residues to mask in addition to the gaps.
    config : ModelConfig
        Architecture of the model, which sets the limits.

    Returns
    -------
    str or None
    """
    try:
        sequence = masked_sequence(record, positions)
        if not (indices := gaps(sequence)):
            return f"{accession(record.id)} has no {GAP}: write one in place of each missing residue"
        check_maskable(indices, config, accession(record.id))
    except ProtT5nvError as error:
        return str(error)
    return residue_fault(sequence.replace(GAP, "X"))


def read_variants(
    path: str | os.PathLike[str],
    proteins: Mapping[str, Record],
    config: ModelConfig,
    skips: Skips,
    column: str | None = None,
) -> list[tuple[str, Variant]]:
    """Read variants from a file and check each against its protein.

    Parameters
    ----------
    path : str or PathLike
        Variants separated by commas, such as ``V39A,D40G:V54L``, unless a file has this name; a text file with one
        variant per line; or a CSV or TSV file with a column of variants and, if there are several
        proteins, a column of their names.
    proteins : dict of str to Record
        Proteins by accession.
    config : ModelConfig
        Architecture of the model, which limits how many residues can be substituted together.
    skips : Skips
        What to do with a line that cannot be used.
    column : str, optional
        Header of the variant column. By default the first of `VARIANT_COLUMNS` that the file has.

    Returns
    -------
    list of tuple of (str, Variant)
        Accessions and variants, in the order of the file.

    Raises
    ------
    ProtT5nvError
        If the file has no variants, or a line cannot be used and errors are not skipped. The message names the file,
        the line and the problem.
    """
    variants = []
    number = None
    entry_names = {protein_names(record.id)[1]: key for key, record in proteins.items()}
    for number, protein, text, where in _named_variants(path, column):
        try:
            known = entry_names.get(protein, protein) if protein else protein
            variants.append(_checked_variant(known, text, proteins, config))
        except ProtT5nvError as error:
            skips.add(ProtT5nvError(f"{where}: {error}"), number, text)
    if number is None:
        raise ProtT5nvError(f"{source_name(path)}: the file has no variants")
    return variants


def are_inline(variants: str | os.PathLike[str]) -> bool:
    """Return whether a text is a list of variants, such as ``V39A,D40G:V54L``, and not the name of a file.

    Parameters
    ----------
    variants : str or PathLike
        The text.
    """
    return _INLINE.fullmatch(str(variants)) is not None and not os.path.exists(variants)


def _named_variants(path: str | os.PathLike[str], column: str | None) -> Iterator[tuple[int, str | None, str, str]]:
    """Yield numbers, names of proteins, variants, and where each is; see :func:`_variant_lines`."""
    if are_inline(path):
        yield from ((number, None, text, "--mutations") for number, text in enumerate(re.split(r",\s*", str(path)), 1))
        return
    if str(path) != "-" and not os.path.exists(path):
        raise ProtT5nvError(
            f"{path}: neither a file nor a list of variants; write residue, position and new residue, such as "
            "V39A,D40G:V54L"
        )
    name = source_name(path)
    with open_source(path) as stream:
        for number, protein, text in _variant_lines(stream, column, name):
            yield number, protein, text, f"{name}: line {number}"


def _checked_variant(
    protein: str | None, text: str, proteins: Mapping[str, Record], config: ModelConfig
) -> tuple[str, Variant]:
    """Return the accession and the variant of a line; `protein` is None if the input names no proteins."""
    if protein is not None and is_missing(protein):
        raise ProtT5nvError(f"{text}: the line names no protein; write its accession or id in the column of proteins")
    if is_missing(text):
        raise ProtT5nvError("the line has no variant; write V39A, or remove the line")
    if protein is None and len(proteins) != 1:
        raise ProtT5nvError(
            f"there are {len(proteins)} proteins, and {text} does not name one. Choose one with --protein, or add a "
            "column named protein"
        )
    key = next(iter(proteins)) if protein is None else accession(protein)
    if key not in proteins:
        raise ProtT5nvError(f"{key} is not among the proteins")
    variant = parse_variant(text, proteins[key].sequence, key)
    check_maskable(variant.indices, config, key)
    return key, variant


def _variant_lines(stream: io.BufferedReader, column: str | None, name: str) -> Iterator[tuple[int, str | None, str]]:
    """Yield line numbers, names of proteins (None if there is no column of them) and variants."""
    first_line = stream.peek().removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")[0].decode(errors="replace")
    separator = next((each for each in "\t,;" if each in first_line), ",")  # semicolons are refused as for any table
    header = {cell.strip(' \r"').lower() for cell in first_line.split(separator)}
    if column is None and not header & set(VARIANT_COLUMNS):
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")
        yield from ((number, None, line.strip()) for number, line in enumerate(lines, 1) if line.strip())
        return
    table = DelimitedTable(stream, name)
    variant_index = find_column(table.columns, column, VARIANT_COLUMNS, "variant", name)
    protein_index = first_usual_column(table.columns, _PROTEIN_COLUMNS)
    for line, cells in table:
        yield line, None if protein_index is None else cells[protein_index].strip(), cells[variant_index].strip()
