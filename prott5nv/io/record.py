"""One protein of an input file."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """One protein, as it is in the input file.

    Attributes
    ----------
    id : str
        First word of the FASTA header, or content of the id column of a table.
    sequence : str
        Letters as in the file. The tokenizer handles lower case, gaps and unknown letters.
    description : str
        Whole FASTA header without ``>``. For tables it equals the id.
    line : int
        Line of the file on which the record begins, counted from 1. For Parquet it is the row.
    source : str
        Name of the file if the input has several files; otherwise empty.
    """

    id: str
    sequence: str
    description: str
    line: int
    source: str = ""


def location(record: Record, name: str) -> str:
    """Return file and line of a record for a message.

    Parameters
    ----------
    record : Record
    name : str
        Name of the input.

    Returns
    -------
    str

    Examples
    --------
    >>> location(Record("P1", "MK", "P1", 3), "a.fasta")
    'a.fasta: line 3'
    """
    return f"{record.source or name}: line {record.line}"


def first_word_hint(record: Record) -> str:
    """Return the end of an error for an id that occurs twice: that the rest of a FASTA header is no part of the id.

    Examples
    --------
    >>> first_word_hint(Record("Homo", "MK", "Homo sapiens HBA1", 3)), first_word_hint(Record("P1", "MK", "P1", 3))
    ('; the id is only the first word of the header', '')
    """
    return "; the id is only the first word of the header" if record.description != record.id else ""


def protein_names(record_id: str) -> tuple[str, str]:
    """Return the accession and the entry name of a protein.

    Parameters
    ----------
    record_id : str
        Id of a record.

    Returns
    -------
    accession : str
        The accession of a UniProt identifier; any other identifier unchanged.
    entry_name : str
        The entry name of a UniProt identifier; empty for any other identifier.

    Examples
    --------
    >>> protein_names("sp|P69905|HBA_HUMAN"), protein_names("UniRef50_A0A007")
    (('P69905', 'HBA_HUMAN'), ('UniRef50_A0A007', ''))
    """
    database, _, rest = record_id.partition("|")
    if database not in ("sp", "tr"):
        return record_id, ""
    accession, _, entry_name = rest.partition("|")
    return accession or record_id, entry_name


def accession(record_id: str) -> str:
    """Return the accession of a protein; see :func:`protein_names`.

    Examples
    --------
    >>> accession("sp|P69905|HBA_HUMAN"), accession("UniRef50_A0A007")
    ('P69905', 'UniRef50_A0A007')
    """
    return protein_names(record_id)[0]
