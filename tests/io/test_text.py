"""Text that reaches a terminal."""

from __future__ import annotations

import pytest

from prott5nv.cli import main
from prott5nv.io.text import parse_number, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("P1 größer", "P1 größer"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x9b31m", r"\x9b31m"),  # the one-byte form of an escape sequence
        ("a\u202eb\u2028", r"a\u202eb\u2028"),
        ("\udc80", r"\udc80"),
    ],
)
def test_control_characters_are_shown_as_escapes(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("12", 12.0), ("-0.5", -0.5), ("+.5", 0.5), ("5.", 5.0), ("2e-3", 0.002), ("1E5", 1e5), (" 7 ", 7.0)),
        *(("inf", float("inf")), ("-Infinity", float("-inf")), ("1e999", float("inf"))),
    ],
)
def test_numbers_in_the_usual_notation_are_read(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "1_0", "\u0661\u0662", "\uff11", "1,5", "1 5", "0x10", "1e", ".", "-", "e5", "one", "1.5.2", "\u00b2", "1f"],
)
def test_other_text_is_no_number(text):
    assert parse_number(text) is None


def test_names_in_messages_do_not_control_the_terminal(tmp_path, capsys):
    path = tmp_path / "ids.csv"
    path.write_text('id,sequence\n"P\x1b[2J\n1",M1K\n')
    with pytest.raises(SystemExit):
        main(["embed", str(path), "-o", str(tmp_path / "out\x1b[31m.h5")])
    output = capsys.readouterr()
    assert not any(character in output.out + output.err for character in "\x1b\x9b")
    assert r"the id 'P\x1b[2J\n1' has the character '\x1b', which cannot be printed; remove it" in output.err
