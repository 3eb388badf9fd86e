"""Records that cannot be used: counted, listed, and not held in memory."""

from __future__ import annotations

import pytest

from prott5nv import ProtT5nvError
from prott5nv.embedding import skips as skips_module
from prott5nv.embedding.skips import Skips


@pytest.mark.parametrize("in_memory", [1 << 20, 10])
def test_skipped_records_are_listed_in_order(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(skips_module, "_MOST_BYTES_IN_MEMORY", in_memory)
    skips = Skips(skip_errors=True)
    for number in range(30):
        skips.add(ProtT5nvError(f"p.fasta: line {number}: ä\tb: no\nsequence"), number, "ä\tb")
    assert skips.count == 30
    assert [skipped.line for skipped in skips] == list(range(30))
    assert next(iter(skips)).reason == "p.fasta: line 0: ä b: no sequence"
    listing = skips.write(tmp_path / "out.csv")
    lines = listing.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "line\tid\treason" and len(lines) == 31
    assert lines[30] == "29\tä b\tp.fasta: line 29: ä b: no sequence"


def test_without_skipped_records_an_old_list_is_removed(tmp_path):
    (tmp_path / "out.csv.skipped.tsv").write_text("old")
    assert not Skips().write(tmp_path / "out.csv").exists()


def test_a_list_is_not_written_through_a_link(tmp_path):
    (tmp_path / "out.csv.skipped.tsv").symlink_to(tmp_path / "elsewhere")
    skips = Skips(skip_errors=True)
    skips.add(ProtT5nvError("bad"), 1, "P1")
    with pytest.raises(ProtT5nvError, match=r"skipped\.tsv: this is a link; remove it, or choose another output"):
        skips.write(tmp_path / "out.csv")
    assert not (tmp_path / "elsewhere").exists()
