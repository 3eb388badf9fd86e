"""Labels from a table, and their colours."""

from __future__ import annotations

import re
import warnings

import pytest

from prott5nv import ProtT5nvError
from prott5nv.io.cleaning import InputWarning
from prott5nv.plots.labels import UNKNOWN, Labels, choose_colours, read_labels


def named(*keys):
    """Proteins whose original ids are their accessions."""
    return [(key, key) for key in keys]


def test_all_columns_of_a_table_are_read_in_the_order_of_the_proteins(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text("accession\tfamily\torganism\tlength\nP2\tkinase\tyeast\t7\n\nP1\t\thuman\nP9\tglobin\tpig\t5\n")
    labels = read_labels(table, named("P1", "P2", "P3"), "family")
    assert labels == Labels(
        "family", [UNKNOWN, "kinase", UNKNOWN], [("organism", ["human", "yeast", ""]), ("length", ["", "7", ""])]
    )


def test_an_unusable_table_is_explained(tmp_path):
    table = tmp_path / "labels.tsv"
    for text, message in [
        ("accession\tfamily\nQ1\tx\n", "none of its accessions"),
        ("accession family\nP1 x\n", "line 1 has no second column"),
        ("accession\tfamily\nP1\n", "line 2: the row has 1 of 2 columns"),
        ("accession\tfamily\nP1\tx\nP1\ty\n", "line 3: P1 has another label on an earlier line"),
        ("", "the file is empty"),
    ]:
        table.write_text(text)
        with pytest.raises(ProtT5nvError, match=message):
            read_labels(table, named("P1"))


UNIPROT = """Entry\tReviewed\tEntry Name\tProtein names\tOrganism\tLength
P69905\treviewed\tHBA_HUMAN\tHemoglobin subunit alpha\tHomo sapiens (Human)\t142
P01308\treviewed\tINS_HUMAN\tInsulin [Cleaved into: Insulin B chain]\tHomo sapiens (Human)\t110
P0A9X9\treviewed\tCSPA_ECOLI\tCold shock protein CspA\tEscherichia coli (strain K12)\t70
P99999\treviewed\tCYC_HUMAN\tCytochrome c\tHomo sapiens (Human)\t105
"""


@pytest.mark.parametrize(
    "proteins",
    [
        [("P69905", "sp|P69905|HBA_HUMAN"), ("P0A9X9", "sp|P0A9X9|CSPA_ECOLI"), ("P01308", "sp|P01308|INS_HUMAN")],
        [("P69905", "P69905"), ("P0A9X9", "P0A9X9"), ("P01308", "P01308")],
        [("HBA_HUMAN", "HBA_HUMAN"), ("CSPA_ECOLI", "CSPA_ECOLI"), ("INS_HUMAN", "INS_HUMAN")],
        [(name, name) for name in ("UniRef50_P69905", "UniRef90_P0A9X9", "UniRef100_P01308")],
    ],
)
def test_a_download_from_uniprot_is_a_table_of_labels(tmp_path, proteins):
    table = tmp_path / "uniprot.tsv"
    table.write_text(UNIPROT)
    labels = read_labels(table, proteins)
    assert labels.title == "Organism"
    assert labels.texts == ["Homo sapiens (Human)", "Escherichia coli (strain K12)", "Homo sapiens (Human)"]
    columns = dict(labels.columns)
    assert columns["Length"] == ["142", "70", "110"] and columns["Reviewed"] == ["reviewed"] * 3
    assert read_labels(table, proteins, "Length").texts == ["142", "70", "110"]


def test_full_ids_in_the_table_match_accessions(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("family,id\nglobin,sp|P69905|HBA_HUMAN\nhormone,sp|P01308|INS_HUMAN\n")
    labels = read_labels(table, [("P01308", "P01308"), ("P69905", "sp|P69905|HBA_HUMAN")])
    assert labels == Labels("family", ["hormone", "globin"], [])


def test_an_unknown_column_is_refused_with_the_choices(tmp_path):
    table = tmp_path / "uniprot.tsv"
    table.write_text(UNIPROT)
    with pytest.raises(ProtT5nvError, match="no column 'organism'; choose one of Reviewed, Entry Name, Protein names"):
        read_labels(table, named("P69905"), "organism")


def test_a_column_with_too_many_values_is_not_the_default(tmp_path):
    table = tmp_path / "labels.tsv"
    rows = [f"P{i}\tname {i}\tgroup {i % 3}" for i in range(30)]
    table.write_text("\n".join(["id\tname\tgroup", *rows]))
    assert read_labels(table, named(*(f"P{i}" for i in range(30)))).title == "group"
    assert read_labels(table, named("P1", "P2")).title == "name"


def test_quotes_and_missing_values(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text('accession\tfamily\nP1\t"5\' end\nP2\tNA\nP3\t"x"\nP4\tnan\n')
    assert read_labels(table, named("P1", "P2", "P3", "P4")).texts == ["\"5' end", UNKNOWN, '"x"', UNKNOWN]


def test_unknown_labels_are_counted(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text("id\tlength\nP1\t7\nP2\tNA\nP3\tinf\nP4\t\nP5\t-Infinity\nP6\t7\nP7\t9\nP10\tunknown\n")
    with pytest.warns(InputWarning) as warned:
        labels = read_labels(table, named(*(f"P{i}" for i in range(1, 11))))
    assert labels.texts == ["7", UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, "7", "9", UNKNOWN, UNKNOWN, UNKNOWN]
    assert [str(warning.message) for warning in warned] == [
        f"{table}: length: unknown for 7 of 10 proteins (2 not in the table; 3 empty, or a word such as NA; 2 infinite)"
    ]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([">90"], "36 of 37 values are numbers; '>90' is not, so the values are groups and not on a colour scale"),
        (["65,5", ">90"], "36 of 38 values are numbers; '>90' is not, so .*; write numbers such as 65.5 and 1200, "),
        (["65,5"] * 50, "36 of 86 values are numbers; '65,5' is not, so .*, without commas$"),
        (["red"] * 37, None),
        ([], None),
    ],
)
def test_a_few_texts_among_numbers_give_a_warning(tmp_path, texts, expected):
    labels = [*map(str, range(36)), *texts]
    path = tmp_path / "tm.csv"
    path.write_text("id,Tm\n" + "".join(f'P{number},"{label}"\n' for number, label in enumerate(labels)))
    proteins = [(f"P{number}", f"P{number}") for number in range(len(labels))]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        read_labels(path, proteins, "Tm")
    messages = [str(warning.message) for warning in warned if str(path) in str(warning.message)]
    assert re.search(expected, *messages) if expected else not messages


def test_words_that_look_like_infinity_are_labels_among_texts(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text("id\tstate\nP1\tinf\nP2\topen\nP3\tinf\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_labels(table, named("P1", "P2", "P3")).texts == ["inf", "open", "inf"]


def test_a_table_that_is_not_utf_8_is_an_error_with_the_line(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_bytes("accession\tfamily\nP1\tprot\xe9ase\n".encode("latin-1"))
    with pytest.raises(ProtT5nvError, match=r"labels\.tsv: line 2: the text is not UTF-8"):
        read_labels(table, named("P1"))


def test_rare_labels_share_a_grey():
    texts = [f"family {i:02}" for i in range(30) for _ in range(30 - i)] + [UNKNOWN]
    colouring = choose_colours(Labels("family", texts))
    assert len({(group.colour, group.shape) for group in colouring.groups}) == 25
    *frequent, others, unknown = colouring.groups
    assert [group.name for group in frequent] == [f"family {i:02}" for i in range(24)]
    assert (others.name, others.count, unknown.count) == ("6 others", 6 + 5 + 4 + 3 + 2 + 1, 1)
    assert others.colour == unknown.colour
    assert [colouring.groups[number].name for number in (colouring.group[0], *colouring.group[-2:])] == [
        *("family 00", "6 others", "unknown")
    ]


def test_equally_frequent_labels_are_in_the_order_of_their_numbers():
    groups = choose_colours(Labels("family", ["group 10", "group 9", "a", "group 10 b", "a"])).groups
    assert [group.name for group in groups] == ["a", "group 9", "group 10", "group 10 b"]


@pytest.mark.parametrize(
    "labels, shapes", [(8, {"circle"}), (9, {"circle", "diamond"}), (24, {"circle", "diamond", "square"})]
)
def test_groups_differ_in_shape_where_colours_are_hard_to_tell_apart(labels, shapes):
    groups = choose_colours(Labels("family", [f"family {i}" for i in range(labels)])).groups
    assert {group.shape for group in groups} == shapes
    assert len({(group.colour, group.shape) for group in groups}) == labels
    assert len({group.colour for group in groups}) == 8  # those of Okabe and Ito


def test_many_different_numbers_are_a_scale():
    colouring = choose_colours(Labels("residues", [*(str(i / 2) for i in range(101)), UNKNOWN]))
    assert colouring.scale == (0, 50)
    assert (colouring.colours[0], colouring.colours[100], colouring.colours[101]) == ("#440154", "#fde725", "#bbbbbb")
    assert [group.name for group in colouring.groups] == [UNKNOWN]
    assert colouring.values[:101] == [i / 2 for i in range(101)]
    assert choose_colours(Labels("cluster", [str(i % 5) for i in range(101)])).scale is None
    assert choose_colours(Labels("cluster", [str(i % 20) for i in range(101)])).scale is None
    assert choose_colours(Labels("melting point", ["50.5", "50.5", *(str(i) for i in range(40, 48))])).scale == (
        40,
        50.5,
    )
    assert choose_colours(Labels("name", [*(str(i) for i in range(101)), "1_0"])).scale is None
