"""The example proteins have the sequences, families and lengths that their documentation states."""

from __future__ import annotations

import pytest

from prott5nv.io.fasta import read_fasta
from prott5nv.io.reader import read_records
from prott5nv.io.record import accession

# Average masses of the residues in Da, and the masses of whole proteins (precursors) as UniProt lists them.
RESIDUE_MASSES = {
    "A": 71.0788, "R": 156.1875, "N": 114.1038, "D": 115.0886, "C": 103.1388, "E": 129.1155, "Q": 128.1307,
    "G": 57.0519, "H": 137.1411, "I": 113.1594, "L": 113.1594, "K": 128.1741, "M": 131.1926, "F": 147.1766,
    "P": 97.1167, "S": 87.0782, "T": 101.1051, "W": 186.2132, "Y": 163.1760, "V": 99.1326,
}  # fmt: skip
WATER = 18.0153
MASSES = {
    "P69905": 15258, "P68871": 15998, "P02144": 17184, "P00698": 16239, "P01308": 11981, "P42212": 26886,
    "P99999": 11749,
}  # fmt: skip


@pytest.fixture(scope="module")
def proteins(examples) -> dict[str, str]:
    return {accession(record.id): record.sequence for record in read_records(examples / "proteins.fasta")}


def test_proteins_fit_the_model(proteins):
    assert len(proteins) >= 24
    for sequence in proteins.values():
        assert len(sequence) <= 512
        assert set(sequence) <= set(RESIDUE_MASSES)


@pytest.mark.parametrize("name", MASSES)
def test_mass_is_that_in_uniprot(proteins, name):
    assert round(sum(RESIDUE_MASSES[residue] for residue in proteins[name]) + WATER) == MASSES[name]


@pytest.mark.slow
def test_proteins_without_a_listed_mass_are_in_public_data_sets(proteins, shared):
    missing = {sequence: name for name, sequence in proteins.items() if name not in MASSES}
    assert len(missing) >= 24
    files = ("flip/meltome/meltome_atlas_subset_mixed.fasta.gz", "sequences/corpus/corpus_le512.fasta.gz")
    for file in files:
        for record in read_fasta(shared / "data" / file):
            missing.pop(record.sequence, None)
    assert not missing


def test_families_match_the_readme(examples):
    rows = [line.split("|") for line in (examples / "README.md").read_text().splitlines() if line.startswith("| ")]
    families = [line.split("\t") for line in (examples / "families.tsv").read_text().splitlines()]
    assert families == [[row[1].strip(), row[2].strip()] for row in rows]


def test_readme_lists_every_protein_with_its_length(proteins, examples):
    rows = [line.split("|") for line in (examples / "README.md").read_text().splitlines() if line.startswith("| ")]
    table = {row[1].strip(): int(row[3]) for row in rows[1:]}
    assert table == {name: len(sequence) for name, sequence in proteins.items()}
