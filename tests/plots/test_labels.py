"""Labels from a table, and their colours."""

from __future__ import annotations

import pytest

from prott5nv import ProtT5nvError
from prott5nv.plots.labels import UNKNOWN, Labels, choose_colours, read_labels


def test_all_columns_of_a_table_are_read_in_the_order_of_the_proteins(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text("accession\tfamily\torganism\tlength\nP2\tkinase\tyeast\t7\n\nP1\t\thuman\nP9\tglobin\tpig\t5\n")
    labels = read_labels(table, ["P1", "P2", "P3"])
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
            read_labels(table, ["P1"])


def test_quotes_and_missing_values(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_text('accession\tfamily\nP1\t"5\' end\nP2\tNA\nP3\t"x"\nP4\tnan\n')
    assert read_labels(table, ["P1", "P2", "P3", "P4"]).texts == ["\"5' end", UNKNOWN, '"x"', UNKNOWN]


def test_a_table_that_is_not_utf_8_is_an_error_with_the_line(tmp_path):
    table = tmp_path / "labels.tsv"
    table.write_bytes("accession\tfamily\nP1\tprot\xe9ase\n".encode("latin-1"))
    with pytest.raises(ProtT5nvError, match=r"labels\.tsv: line 2: the text is not UTF-8"):
        read_labels(table, ["P1"])


def test_rare_labels_share_a_grey():
    texts = [f"family {i:02}" for i in range(25) for _ in range(25 - i)] + [UNKNOWN]
    colouring = choose_colours(Labels("family", texts))
    assert len({group.colour for group in colouring.groups}) == 19
    *frequent, others, unknown = colouring.groups
    assert [group.name for group in frequent] == [f"family {i:02}" for i in range(18)]
    assert (others.name, others.count, unknown.count) == ("7 others", 7 + 6 + 5 + 4 + 3 + 2 + 1, 1)
    assert others.colour == unknown.colour
    assert [colouring.groups[number].name for number in (colouring.group[0], *colouring.group[-2:])] == [
        *("family 00", "7 others", "unknown")
    ]


@pytest.mark.parametrize("labels, shapes", [(8, {"circle"}), (9, {"circle", "diamond", "square"})])
def test_groups_differ_in_shape_where_colours_are_hard_to_tell_apart(labels, shapes):
    groups = choose_colours(Labels("family", [str(i) for i in range(labels)])).groups
    assert {group.shape for group in groups} == shapes
    assert len({group.colour for group in groups}) == labels


def test_many_different_numbers_are_a_scale():
    colouring = choose_colours(Labels("residues", [*(str(i / 2) for i in range(101)), UNKNOWN]))
    assert colouring.scale == (0, 50)
    assert (colouring.colours[0], colouring.colours[100], colouring.colours[101]) == ("#440154", "#fde725", "#bbbbbb")
    assert [group.name for group in colouring.groups] == [UNKNOWN]
    assert colouring.values[:101] == [i / 2 for i in range(101)]
    assert choose_colours(Labels("cluster", [str(i % 5) for i in range(101)])).scale is None
