"""A record: the name and the letters of one protein, as its file gives them."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """One protein as its file gives it.

    Attributes
    ----------
    id : str
        The first word of the FASTA header, or the CSV file's id column.
    sequence : str
        The letters, unchanged: case, gaps and unknown letters are the tokenizer's business.
    description : str
        The whole FASTA header without its ``>``; the id for CSV.
    line : int
        The line of the file on which the record begins, counted from 1.
    """

    id: str
    sequence: str
    description: str
    line: int


def accession(record_id: str) -> str:
    """Return the accession within a UniProt identifier; any other identifier is returned unchanged.

    >>> accession("sp|P69905|HBA_HUMAN"), accession("UniRef50_A0A007")
    ('P69905', 'UniRef50_A0A007')
    """
    database, _, rest = record_id.partition("|")
    if database in ("sp", "tr") and rest:
        return rest.partition("|")[0] or record_id
    return record_id
