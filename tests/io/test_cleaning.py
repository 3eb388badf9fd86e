"""Characters that are not residues, missing values and nucleotides."""

from __future__ import annotations

import random
import warnings

import pytest

from prott5nv.errors import ProtT5nvError
from prott5nv.io.cleaning import Cleaning, InputWarning, clean_records, is_missing, kept_positions
from prott5nv.io.reader import read_records, read_records_and_faults
from prott5nv.io.record import Record


def records(*sequences):
    return [Record(f"P{i}", sequence, f"P{i}", i) for i, sequence in enumerate(sequences, 1)]


def clean(*sequences, **options):
    return [(r.sequence, fault) for r, fault in clean_records(records(*sequences), "in.fasta", Cleaning(**options))]


@pytest.mark.parametrize("word", ["", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "None", " na "])
def test_words_for_a_missing_value(word):
    assert is_missing(word)
    [(sequence, fault)] = clean(word)
    assert sequence == word
    assert fault.startswith("there is no sequence")


@pytest.mark.parametrize("text", ["0", "N", "A", "AN", "NAG", "-", "none of these"])
def test_other_text_is_not_missing(text):
    assert not is_missing(text)


def test_residues_are_not_changed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sequences = ["MKV", "mkvXBZUOJ", "M?V", "MKV" * 1000]
        assert clean(*sequences) == [(sequence, None) for sequence in sequences]


def test_stops_at_the_end_are_removed_with_one_warning():
    with pytest.warns(InputWarning) as warned:
        assert clean("MKV*", "M*V**", "LAG", "MK-*-", gaps="remove")[:3] == [
            ("MKV", None),
            ("M*V", None),
            ("LAG", None),
        ]
    assert [str(warning.message) for warning in warned] == [
        "in.fasta: removed '*' from the end of 3 sequences",
        "in.fasta: 1 sequence with '*' before the end, read as an unknown residue",
        "in.fasta: removed the gaps of 1 sequence",
    ]


@pytest.mark.parametrize("gaps", ["error", "keep", "remove"])
def test_stops_within_sequences_are_kept_and_counted(gaps):
    with pytest.warns(InputWarning, match=r"in\.fasta: 2 sequences with '\*' before the end, read as an unknown"):
        assert clean("M*V", "LAG", "*MK", gaps=gaps) == [("M*V", None), ("LAG", None), ("*MK", None)]


def test_gaps_are_an_error_by_default_and_can_be_kept_or_removed():
    [(sequence, fault)] = clean("M-K.V")
    assert sequence == "M-K.V"
    assert fault.startswith("2 gaps ('-' or '.')") and "--gaps remove" in fault
    with pytest.warns(InputWarning, match="removed the gaps of 2 sequences"):
        assert clean("M-K.V", "LAG", "--MK", gaps="remove") == [("MKV", None), ("LAG", None), ("MK", None)]
    with pytest.warns(InputWarning, match="kept as positions the gaps of 1 sequence"):
        assert clean("M-K.V", gaps="keep") == [("M-K-V", None)]
    with pytest.raises(ProtT5nvError, match="gaps=drop: must be one of error, keep, remove"):
        Cleaning(gaps="drop")


@pytest.mark.parametrize("gaps", ["error", "keep", "remove"])
def test_a_sequence_of_gaps_only_is_at_fault(gaps):
    assert clean("--", "-.*", "*", gaps=gaps) == [
        ("--", "the sequence consists of gaps only"),
        ("-.*", "the sequence consists of gaps only"),
        ("*", "there is no sequence, only '*'"),
    ]


def test_the_three_letter_code_is_at_fault():
    fault = "the sequence is in the three-letter code (MetAlaGly...); write one letter for each residue"
    assert clean("MetAlaGlySerLys", "Met-Ala-Gly-Ser") == [
        ("MetAlaGlySerLys", fault),
        ("Met-Ala-Gly-Ser", fault.replace("MetAlaGly", "Met-Ala-G")),
    ]
    accepted = ["Met", "MetAlaK", "Metagenome", "metalagly"]
    assert clean(*accepted) == [(sequence, None) for sequence in accepted]


def test_kept_positions_index_the_sequence_as_in_the_file():
    assert kept_positions("-M.K*-", "remove") == [1, 3]
    assert kept_positions("-M.K*-", "keep") == [0, 1, 2, 3, 4, 5]
    assert kept_positions("MK**", "error") == [0, 1]


def dna(length, letters="ACGT"):
    return "".join(random.Random(0).choices(letters, k=length))


@pytest.mark.parametrize(
    "sequences",
    [[dna(100)], [dna(100).lower()], [dna(300, "ACGUN")], [dna(40)] * 3, [dna(20_000), "MKV"], ["NA", dna(200) + "*"]],
    ids=["dna", "lower case", "rna", "short records", "long", "missing value"],
)
def test_nucleotides_are_refused_unless_the_user_insists(sequences):
    with pytest.raises(ProtT5nvError, match=r"in\.fasta: .* nucleotides and not proteins; .*--allow-nucleotides"):
        clean(*sequences)
    assert len(clean(*sequences, allow_nucleotides=True)) == len(sequences)


def test_nucleotides_with_ambiguity_codes_are_refused():
    sequences = [dna(40), dna(95) + "RYK", dna(40)]
    with pytest.raises(ProtT5nvError, match=r"first 178 letters are .* ambiguity codes of nucleotides \(K, R, Y\)"):
        clean(*sequences)
    assert len(clean(*sequences, allow_nucleotides=True)) == 3


@pytest.mark.parametrize(
    "sequences",
    [
        *([dna(99)], ["A" * 1000], ["GA" * 1000], [dna(5000), "MKV"], ["N" * 20_000, dna(50)], ["", dna(60), "MKV"]),
        *([dna(60) + 20 * "RYK"], [dna(100) + "RYL"], ["AAATAAAGAAK" * 20], ["GAGAGS" * 30], ["CCGYGGCGG" * 20]),
    ],
    ids=[
        *("too short to be sure", "one letter", "two letters", "a protein follows", "unknown", "empty first"),
        *("many ambiguity codes", "a leucine", "antifreeze protein", "silk", "keratin"),
    ],
)
def test_what_may_be_proteins_is_accepted(sequences):
    assert [sequence for sequence, _ in clean(*sequences)] == sequences


def test_further_records_with_an_error_are_counted(tmp_path):
    path = tmp_path / "proteins.csv"
    path.write_text("id,sequence\na,MKV\nb,NA\nc,LAG\nd,\ne,null\n")
    with pytest.raises(ProtT5nvError) as error:
        list(read_records(path))
    assert str(error.value) == (
        f"{path}: line 3: b: there is no sequence ('NA' means a missing value); 2 more records cannot be used, "
        "on lines 5, 6"
    )
    assert [bool(fault) for _, fault in read_records_and_faults(path)] == [False, True, False, True, True]


def test_the_first_error_is_reported_if_the_file_is_damaged_later(tmp_path):
    path = tmp_path / "proteins.csv"
    path.write_text("id,sequence\na,MKV\nb,NA\nc\n")
    with pytest.raises(ProtT5nvError, match="line 3: b: there is no sequence"):
        list(read_records(path))


def test_nucleotides_of_a_real_file_are_refused(shared):
    path = shared / "data" / "odd_fasta" / "colon.fasta.gz"
    with pytest.raises(ProtT5nvError, match="nucleotides"):
        list(read_records(path))
    assert next(read_records(path, cleaning=Cleaning(allow_nucleotides=True))).id == "NC_043029:colon"


def test_an_alignment_is_refused_or_its_residues_are_read(shared):
    path = shared / "data" / "sequences" / "quirks" / "esm_UniRef50_UPI0003108055.a3m.gz"
    with pytest.raises(ProtT5nvError, match=r"line [0-9]+: .* gaps"):
        list(read_records(path))
    with pytest.warns(InputWarning, match="removed the gaps"):
        assert all(record.sequence.isalpha() for record in read_records(path, cleaning=Cleaning(gaps="remove")))


def test_few_letters_that_may_be_nucleotides_give_a_warning():
    with pytest.warns(InputWarning, match=r"in\.fasta: its 24 letters are all A, C, G, T, U or N; if these are nucleo"):
        assert clean("ATGGCC", "TTAACCGGTTAACCGGTT") == [("ATGGCC", None), ("TTAACCGGTTAACCGGTT", None)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean("ATGGCCATGGCCATGGCC")  # a peptide may have them by chance
        clean("ATGGCCATGGCCATGGCCATGGCC", allow_nucleotides=True)


def test_nucleotides_among_proteins_give_a_warning():
    dna = 10 * "ATGGCCATGT"
    with pytest.warns(InputWarning, match=r"in\.fasta: 2 sequences of A, C, G, T, U and N alone, first P2; if these"):
        assert [fault for _, fault in clean("MKVLW", dna, 50 * "MSLKR", dna.lower())] == 4 * [None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean("MKVLW", dna, allow_nucleotides=True)
        clean("MKVLW", dna[:99], 100 * "AG")  # a short peptide, and a repeat of two residues


def test_an_id_that_no_output_can_store_is_a_fault():
    long = [Record("i" * size, "MKV", "", 1) for size in (64_000, 64_001)] + [Record("é" * 32_001, "MKV", "", 1)]
    faults = [fault for _, fault in clean_records(long, "in.fasta")]
    assert faults[0] is None
    assert faults[1:] == [
        f"its id has {size:,} bytes, and at most 64,000 can be stored; shorten it" for size in (64001, 64002)
    ]
