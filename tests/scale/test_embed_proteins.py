"""Tests of batch inference: in this process, and on real Ray."""

import pickle

import numpy as np
import pytest
import torch

from prott5nv import Embedder, ProtT5nvError
from prott5nv.embedding.runner import BatchRunner
from prott5nv.scale.embed_proteins import EmbedProteins

PROTEINS = ["MSLKRVTGQAA", "MK", "", "MK1V", "GSHMLEDPVA*", "MK-V", "M" + "ACDEFGHIKLMNPQRSTVWY" * 30]
ERRORS = {2: "there is no sequence", 3: "position 3: '1' is not a residue", 5: "1 gap"}
NUCLEOTIDES = "ACGT" * 100


def batch_of(sequences):
    return {"id": np.array([f"P{i}" for i in range(len(sequences))]), "sequence": np.array(sequences, dtype=object)}


def check(result, embedder, pooling):
    """A bad protein is a row with an error; all others are what the embedder computes for them."""
    for number, (rows, error) in enumerate(zip(result["embedding"], result["error"], strict=True)):
        if number in ERRORS:
            assert error.startswith(ERRORS[number])
            assert np.isnan(rows).all() if pooling else rows.shape == (0, 64)
        else:
            [(_, expected)] = embedder.embed([PROTEINS[number]], pooling=pooling)
            assert error == ""
            np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.fixture
def embedder(tiny_checkpoint):
    return Embedder(tiny_checkpoint, precision="fp32", device="cpu")


@pytest.mark.parametrize("pooling", [None, "mean"])
@pytest.mark.filterwarnings("ignore:proteins longer")
def test_a_bad_protein_is_a_row_with_an_error(tiny_checkpoint, embedder, pooling):
    embed = EmbedProteins(str(tiny_checkpoint), pooling=pooling, dtype="float32", precision="fp32")
    result = embed({**batch_of(PROTEINS), "length": np.arange(7)})
    assert list(result) == ["id", "sequence", "length", "embedding", "error"]
    check(result, embedder, pooling)


def test_rows_are_float16_by_default(tiny_checkpoint):
    embed = EmbedProteins(str(tiny_checkpoint))
    result = embed(batch_of(["MSLKR", "MK"]))
    assert [(rows.shape, rows.dtype) for rows in result["embedding"]] == [((5, 64), "f2"), ((2, 64), "f2")]


def test_every_row_of_a_batch_of_nucleotides_has_an_error(tiny_checkpoint):
    embed = EmbedProteins(str(tiny_checkpoint), pooling="mean")
    result = embed(batch_of([NUCLEOTIDES, NUCLEOTIDES, ""]))
    assert all("these are nucleotides" in error for error in result["error"])
    assert np.isnan(result["embedding"]).all()


def test_missing_values_have_an_error(tiny_checkpoint):
    embed = EmbedProteins(str(tiny_checkpoint), pooling="mean")
    assert embed(batch_of([None, float("nan"), "NA"]))["error"].tolist() == [
        "there is no sequence",
        "there is no sequence",
        "there is no sequence ('NA' means a missing value)",
    ]


def test_a_long_protein_that_is_left_out_has_an_error(tiny_checkpoint):
    embed = EmbedProteins(str(tiny_checkpoint), pooling="mean", long="skip", max_length=10)
    result = embed(batch_of(["MSLKR", "MSLKR" * 3]))
    assert result["error"].tolist() == ["", "longer than the model accepts at once"]


def test_a_protein_that_does_not_fit_into_memory_has_an_error(tiny_checkpoint, monkeypatch):
    embed = EmbedProteins(str(tiny_checkpoint), pooling="mean")
    forward = BatchRunner._forward

    def limited(self, windows, form):
        if any(window.length > 10 for window in windows):
            raise torch.OutOfMemoryError("no memory")
        return forward(self, windows, form)

    monkeypatch.setattr(BatchRunner, "_forward", limited)
    result = embed(batch_of(["MSLKR", "MSLKR" * 3, "MK"]))
    assert result["error"].tolist() == ["", "P1: not enough memory for its 15 residues alone", ""]


def test_an_empty_batch_keeps_its_columns(tiny_checkpoint):
    result = EmbedProteins(str(tiny_checkpoint), pooling="mean")(batch_of([]))
    assert result["embedding"].shape == (0, 64)


def test_a_missing_column_is_named(tiny_checkpoint):
    embed = EmbedProteins(str(tiny_checkpoint), sequence_column="aa")
    with pytest.raises(ProtT5nvError, match="the dataset has no column aa: it has id, sequence"):
        embed(batch_of(["MSLKR"]))


def test_the_class_can_be_pickled():
    assert pickle.loads(pickle.dumps(EmbedProteins)) is EmbedProteins


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:proteins longer")
def test_map_batches_on_ray(ray, tiny_checkpoint, embedder):
    """The rows of a dataset, cut into small batches, are those of the embedder; no block is lost."""
    import ray.data

    items = [{"number": i, "id": f"P{i}", "sequence": sequence} for i, sequence in enumerate(PROTEINS)]
    dataset = ray.data.from_items(items, override_num_blocks=3).map_batches(
        EmbedProteins,
        fn_constructor_kwargs={
            "model": str(tiny_checkpoint), "dtype": "float32", "precision": "fp32",
        },
        batch_size=2,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )  # fmt: skip
    rows = sorted(dataset.iter_rows(), key=lambda row: row["number"])
    assert [row["id"] for row in rows] == [item["id"] for item in items]
    check({name: [row[name] for row in rows] for name in ("embedding", "error")}, embedder, None)
