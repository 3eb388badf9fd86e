"""Detection of the file format, and errors that are the same for all formats."""

from __future__ import annotations

import gzip
import random
import re

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io.reader import read_records
from prott5nv.io.record import accession


@pytest.mark.parametrize(
    "record_id, expected",
    [
        ("sp|P69905|HBA_HUMAN", "P69905"),
        ("tr|A0A024R161|A0A024R161_HUMAN", "A0A024R161"),
        ("sp|P69905", "P69905"),
        ("UniRef50_A0A007", "UniRef50_A0A007"),
        ("ref|NP_000549.1|", "ref|NP_000549.1|"),
        ("sp||", "sp||"),
        ("sp", "sp"),
    ],
)
def test_accession(record_id, expected):
    assert accession(record_id) == expected


@pytest.mark.parametrize(
    "name, content",
    [
        ("proteins.fasta", ">a\nMKV\n"),
        ("proteins.csv", "id,sequence\na,MKV\n"),
        ("proteins.tsv", "id\tsequence\na\tMKV\n"),
        ("table.txt", "id,sequence\na,MKV\n"),
        ("misnamed.csv", "\n>a with, comma\nMKV\n"),
    ],
)
def test_the_content_determines_the_format(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    assert [(record.id, record.sequence) for record in read_records(path)] == [("a", "MKV")]


def test_text_that_is_neither_fasta_nor_a_table_is_refused(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear colleague\n")
    with pytest.raises(ProtT5nvError, match="begins with '>', found 'Dear'"):
        list(read_records(path))


@pytest.mark.parametrize(
    ("beginning", "format"),
    [
        ("ID   HBA_HUMAN               Reviewed;         142 AA.\n", "UniProt or EMBL text"),
        ("LOCUS       NP_000508 142 aa linear PRI\n", "GenBank"),
        ("\ufeffCLUSTAL O(1.2.4) multiple sequence alignment\n\n", "Clustal"),
        ("\n# STOCKHOLM 1.0\n#=GF ID Globin\n", "Stockholm"),
    ],
)
def test_the_error_for_another_format_names_it(tmp_path, beginning, format):
    path = tmp_path / "proteins.txt"
    path.write_text(beginning, encoding="utf-8")
    with pytest.raises(ProtT5nvError, match=rf"line [12]: this file is in {format} format; save or convert it"):
        list(read_records(path))


@pytest.mark.parametrize("form", [">r{}\n{}\n", "r{},{}\n"])
def test_truncated_gzip_data_name_the_last_complete_record(tmp_path, form):
    rng = random.Random(0)
    lines = [form.format(number, "".join(rng.choices("ACDEFGHIKL", k=200))) for number in range(2000)]
    whole = "".join(["" if form[0] == ">" else "id,sequence\n", *lines]).encode()
    path = tmp_path / "proteins.gz"
    compressed = gzip.compress(whole)
    path.write_bytes(compressed[: len(compressed) // 2])
    records = []
    with pytest.raises(ProtT5nvError) as error:
        for record in read_records(path):
            records.append(record)
    line, last = re.search(
        r"the gzip data are truncated after line (\d+), record (r\d+); copy", str(error.value)
    ).groups()
    assert (records[-1].line, records[-1].id) == (int(line), last)
    assert 900 < len(records) < 1100  # half of the file, so no complete record was lost
