"""Conversion of strings, and of the sequence objects of other packages, in all functions that take proteins."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from prott5nv import (
    Cleaning,
    ModelConfig,
    ProtT5,
    ProtT5nvError,
    ProtT5nvInference,
    fill,
    pseudo_perplexity,
    score_substitutions,
    score_variants,
    seqs_to_embedding,
)
from prott5nv.embedding.proteins import named_sequences, sequences_of
from prott5nv.io.cleaning import InputWarning
from prott5nv.io.record import Record


class Seq:
    """A sequence that behaves like ``Bio.Seq.Seq``."""

    def __init__(self, letters):
        self._letters = letters

    def __str__(self):
        if self._letters is None:
            raise ValueError("Sequence content is undefined")
        return self._letters

    def __len__(self):
        return len(self._letters)

    def __iter__(self):
        return iter(self._letters)

    def reverse_complement(self):
        raise AssertionError("a protein has no complement")

    def translate(self):
        raise AssertionError("a protein is not translated")


@dataclass
class SeqRecord:
    """A record that behaves like ``Bio.SeqRecord.SeqRecord``."""

    seq: Seq | None
    id: str | None = "<unknown id>"

    def __iter__(self):
        return iter(self.seq)

    reverse_complement = Seq.reverse_complement
    translate = Seq.translate


@pytest.fixture(scope="module")
def model() -> ProtT5nvInference:
    return ProtT5nvInference(ProtT5(ModelConfig.preset("tiny")), precision="fp32")


FORMS = {
    "str": "MSLKR",
    "numpy string": np.array(["MSLKR"])[0],
    "Seq": Seq("MSLKR"),
    "SeqRecord": SeqRecord(Seq("MSLKR"), "P1"),
    "SeqRecord without an id": SeqRecord(Seq("MSLKR")),
    "Record": Record("P1", "MSLKR", "", 1),
    "object with id and seq": SimpleNamespace(id="P1", seq="MSLKR"),
    "object with sequence": SimpleNamespace(sequence="MSLKR"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_protein_gives_the_same_results(model, form):
    protein = FORMS[form]
    [expected] = seqs_to_embedding(["MSLKR"], model)
    for collection in (
        [protein],
        (protein,),
        iter([protein]),
        (each for each in [protein]),
        MappingProxyType({1: protein}).values(),
    ):
        [rows] = seqs_to_embedding(collection, model)
        np.testing.assert_array_equal(rows, expected)
    [(original, rows)] = model.embed([protein])
    assert original is protein
    np.testing.assert_array_equal(rows, expected)
    assert model.tokenize([protein])[0].shape == (1, 5)
    np.testing.assert_array_equal(model.seq_to_hiddens([protein])[0][0].numpy(), expected)
    np.testing.assert_allclose(model.seq_to_embeddings([protein])[0].numpy(), expected.mean(0), atol=1e-6)
    assert [len(sample) for sample in model.sample([protein], 2)[0]] == [5, 5]
    assert score_variants(protein, ["S2A"], model) == score_variants("MSLKR", ["S2A"], model)
    np.testing.assert_array_equal(score_substitutions(protein, model), score_substitutions("MSLKR", model))
    assert pseudo_perplexity(protein, model).perplexity == pseudo_perplexity("MSLKR", model).perplexity


def test_gaps_in_sequence_objects_are_filled(model):
    record = SeqRecord(Seq("MS?KR"), "P1")
    assert fill(record, model)[0].sequence == fill("MS?KR", model)[0].sequence
    assert model.hiddens_to_seq(*model.seq_to_hiddens([record]), [record]) == [fill("MS?KR", model)[0].sequence]


def test_names_are_ids_or_numbers():
    proteins = [SeqRecord(Seq("M"), "P1"), SeqRecord(Seq("M")), Seq("M"), "M", SimpleNamespace(id=None, seq="M")]
    assert [protein.name for protein in named_sequences(proteins)] == ["P1", *(f"sequence {n}" for n in range(2, 6))]


NOT_COLLECTIONS = {
    "a string": ("MKT", r"a single string: pass a list of proteins, such as \[sequence\]"),
    "a Seq": (Seq("MKT"), r"a single Seq: pass a list of proteins, such as \[sequence\]"),
    "a SeqRecord": (SeqRecord(Seq("MKT"), "P1"), "a single SeqRecord: pass a list of proteins"),
    "a Record": (Record("P1", "MKT", "", 1), "a single Record: pass a list of proteins"),
    "a dict": ({"MKT": "MSLKR"}, r"a dict: pass a list of its proteins, such as list\(sequences.values\(\)\)"),
    "a mapping": (MappingProxyType({"MKT": "MSLKR"}), "a mappingproxy: pass a list of its proteins"),
    "a frame": (SimpleNamespace(columns=["MKT"]), "a SimpleNamespace: pass the column that holds the proteins"),
    "an Arrow table": (SimpleNamespace(column_names=["MKT"]), "pass the column that holds the proteins"),
    "bytes": (b"MKT", "a bytes object: pass a list of strings"),
    "a bytearray": (bytearray(b"MKT"), "a bytearray object: pass a list of strings"),
    "None": (None, "a NoneType: pass a list of proteins"),
    "a number": (5, "a int: pass a list of proteins"),
    "an array without dimensions": (np.array("MKT"), "a ndarray: pass a list of proteins"),
}


@pytest.mark.parametrize("kind", NOT_COLLECTIONS)
def test_what_is_not_a_collection_of_proteins_is_refused(model, kind):
    value, message = NOT_COLLECTIONS[kind]
    functions = [
        *(lambda proteins: seqs_to_embedding(proteins, model), lambda proteins: list(model.embed(proteins))),
        *(lambda proteins: list(model.embedder.embed(proteins)), model.tokenize, model.seq_to_hiddens),
        *(model.seq_to_embeddings, model.sample),
    ]
    if value is not None:  # without proteins, its error explains why it needs them
        functions.append(lambda proteins: model.hiddens_to_seq(None, None, proteins))
    for function in functions:
        with pytest.raises(ProtT5nvError, match=message):
            function(value)


NOT_PROTEINS = [5, None, b"MKT", ["M", "K"], {"sequence": "MKT"}, float("nan"), SeqRecord(None), Record]


@pytest.mark.parametrize("item", NOT_PROTEINS, ids=repr)
def test_what_is_not_a_protein_is_refused(model, item):
    with pytest.raises(ProtT5nvError, match=r"sequence 2 is a .*: sequences must be strings of residues"):
        seqs_to_embedding(["MS", item], model)
    for function in (
        lambda: score_variants(item, ["S2A"], model),
        lambda: fill(item, model),
        lambda: score_substitutions(item, model),
        lambda: pseudo_perplexity(item, model),
    ):
        with pytest.raises(ProtT5nvError, match=r"the protein is a .*: sequences must be strings of residues"):
            function()


def test_a_sequence_without_content_is_refused():
    with pytest.raises(ProtT5nvError, match="P1 has a sequence whose content is not defined"):
        sequences_of([SeqRecord(Seq(None), "P1")])


def test_sequences_of_biopython(model):
    seq = pytest.importorskip("Bio.Seq")
    record = pytest.importorskip("Bio.SeqRecord").SeqRecord(seq.Seq("MSLKR"), "P1")
    proteins = [seq.Seq("MSLKR"), seq.MutableSeq("MSLKR"), record, seq.Seq(b"MSLKR")]
    assert sequences_of(proteins) == ["MSLKR"] * 4
    for single in proteins:
        with pytest.raises(ProtT5nvError, match=r"a single .*: pass a list"):
            sequences_of(single)
    with pytest.raises(ProtT5nvError, match="content is not defined"):
        sequences_of([seq.Seq(None, 5)])


def test_tables_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": ["a", "b"], "sequence": ["MSLKR", "MS"]})
    assert sequences_of(frame["sequence"]) == ["MSLKR", "MS"]
    assert [(each.name, each.sequence) for each in named_sequences(frame.itertuples())] == [("a", "MSLKR"), ("b", "MS")]
    with pytest.raises(ProtT5nvError, match="a DataFrame: pass the column"):
        sequences_of(frame)
    with pytest.raises(ProtT5nvError, match="sequence 2 is a "):
        sequences_of(pandas.Series(["MS", None]))


COLLECTION_FUNCTIONS = {
    "seqs_to_embedding": seqs_to_embedding,
    "embed": lambda proteins, model, **options: [rows for _, rows in model.embedder.embed(proteins, **options)],
    "bionemo.embed": lambda proteins, model, **options: [rows for _, rows in model.embed(proteins, **options)],
    "tokenize": lambda proteins, model, **options: model.tokenize(proteins, **options),
    "seq_to_hiddens": lambda proteins, model, **options: model.seq_to_hiddens(proteins, **options),
    "seq_to_embeddings": lambda proteins, model, **options: model.seq_to_embeddings(proteins, **options),
    "sample": lambda proteins, model, **options: model.sample(proteins, 1, **options),
    "hiddens_to_seq": lambda proteins, model, **options: model.hiddens_to_seq(
        *model.seq_to_hiddens([str(protein).replace("S", "?") for protein in proteins], **options),
        [str(protein).replace("S", "?") for protein in proteins],
        **options,
    ),
}
PROTEIN_FUNCTIONS = {
    "score_variants": lambda protein, model, **options: score_variants(protein, ["M1A"], model, **options)[0].joint,
    "score_substitutions": score_substitutions,
    "pseudo_perplexity": lambda protein, model, **options: pseudo_perplexity(protein, model, **options).perplexity,
    "fill": lambda protein, model, **options: fill(protein.replace("S", "?"), model, **options)[0].sequence,
}
FUNCTIONS = COLLECTION_FUNCTIONS | {
    name: lambda proteins, model, function=function, **options: [
        function(protein, model, **options) for protein in proteins
    ]
    for name, function in PROTEIN_FUNCTIONS.items()
}
DNA = "ACGTTGCA" * 20


def equal(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_clean_sequences_as_the_commands_do(model, name):
    function = FUNCTIONS[name]
    expected = function(["MSLKR"], model)
    with pytest.warns(InputWarning, match=r"removed '\*' from the end of 1 sequence"):
        assert equal(function(["MSLKR**"], model), expected)
    with pytest.warns(InputWarning, match="removed the gaps of 1 sequence"):
        assert equal(function(["MS--L.KR"], model, cleaning=Cleaning(gaps="remove")), expected)
    for sequence, message in [
        ("NA", r"there is no sequence \('NA' means a missing value\)"),
        ("nan", "there is no sequence"),
        ("*", "there is no sequence, only"),
        ("--", "the sequence consists of gaps only"),
        ("MS-LKR", r"1 gap \('-' or '\.'\), as in an alignment: remove them with --gaps remove"),
        (DNA, "the first 160 letters are all A, C, G, T, U or N"),
    ]:
        with pytest.raises(ProtT5nvError, match=message):
            function([sequence], model)


@pytest.mark.parametrize("name", ["seqs_to_embedding", "seq_to_hiddens", "pseudo_perplexity"])
def test_nucleotides_and_gaps_are_accepted_on_request(model, name):
    assert len(FUNCTIONS[name]([DNA], model, cleaning=Cleaning(allow_nucleotides=True)))
    with pytest.warns(InputWarning, match="kept as positions the gaps of 1 sequence"):
        assert len(FUNCTIONS[name](["MS-LKR"], model, cleaning=Cleaning(gaps="keep")))


def test_without_cleaning_every_character_has_a_row(model):
    rows = seqs_to_embedding(["NA", "***", "M-K*"], model, cleaning=None)
    assert [len(rows_LD) for rows_LD in rows] == [2, 3, 4]


def test_a_protein_at_fault_is_passed_to_on_error(model):
    failures = {}
    proteins = ["MSLKR", "NA", "MS-K"]
    embedded = model.embed(proteins, on_error=lambda protein, error: failures.update({protein: str(error)}))
    assert [rows is None for _, rows in embedded] == [False, True, True]
    assert failures["NA"].startswith("sequence 2: there is no sequence")
    assert failures["MS-K"].startswith("sequence 3: 1 gap")


def test_proteins_keep_their_places_while_nucleotides_are_searched_for():
    short = ["A", "GC", "MSLKR", "TT*"]
    assert [protein.protein for protein in named_sequences(short, Cleaning())] == short
