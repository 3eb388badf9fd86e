"""Embedding, fine-tuning and the commands with folders of protein T5 models."""

from __future__ import annotations

import csv
import json
import random
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.embedding_files import contents, random_fasta
from helpers.pages import read_figure
from helpers.t5 import TINY, random_model, save

import prott5nv
from prott5nv import Embedder, EmbeddingStore, ProtT5nvError, seqs_to_embedding
from prott5nv.checkpoint import published_t5
from prott5nv.cli import command
from prott5nv.embedding.embedder import LongProteinWarning
from prott5nv.embedding.job import embed_file
from prott5nv.embedding.merge import merge

pytest.importorskip("transformers", reason="needs the test extra")

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("prost_t5"), random_model("T5ForConditionalGeneration", **TINY), "ProstT5")


@pytest.fixture(scope="module")
def embedder(folder):
    return Embedder(folder, device="cpu", precision="fp32")


def run(*arguments, code=0):
    done = CliRunner().invoke(command, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def reference(folder, text, tokens_before=1):
    """The rows that transformers computes for the tokens of a text, without the first tokens and the last."""
    from transformers import AutoTokenizer, T5EncoderModel

    model = T5EncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
        return model(input_ids=ids).last_hidden_state[0, tokens_before:-1].numpy()


def test_rows_are_residues_and_equal_transformers(folder, embedder):
    rows, longer = seqs_to_embedding(["MSLKR", "ACDEFGHIKLMNPQRSTVWY" * 40], embedder)
    expected = reference(folder, "<AA2fold> M S L K R")
    assert np.abs(rows - expected).max() <= 1e-5 * np.abs(expected).max()
    assert longer.shape == (800, 32)
    assert embedder.limit is None and embedder.config.max_residues is None


def test_a_model_in_memory_is_the_same_model(folder, embedder):
    model = prott5nv.load(folder)
    in_memory = Embedder(model, device="cpu", precision="fp32")
    assert np.array_equal(*(seqs_to_embedding(["MSLKR"], each)[0] for each in (embedder, in_memory)))
    assert in_memory.model_sha256 == model.sha256()
    with pytest.raises(ProtT5nvError, match="give the path of the model"):
        Embedder(model, input="3di")


def test_structural_states_are_another_input(folder, tmp_path):
    fasta = tmp_path / "states.fasta"
    fasta.write_text(">a\ndvvlkr\n>b\nDVVLKR\n")
    output = run("embed", fasta, "-o", tmp_path / "out.h5", "--model", folder, "--input", "3di", "--precision", "fp32")
    assert "lower-case" not in output
    expected = reference(folder, "<fold2AA> d v v l k r")
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert np.abs(store["a"] - expected).max() <= 1e-5 * np.abs(expected).max()
        assert np.abs(store["a"] - store["b"]).max() <= 1e-5
        assert store.attributes["input"] == "3di"
    with pytest.raises(ProtT5nvError, match=r"holds other embeddings .*input=3di, not aa"):
        run("embed", fasta, "-o", tmp_path / "out.h5", "--model", folder, "--precision", "fp32")


def test_replaced_residues_are_counted(embedder):
    with pytest.warns(UserWarning, match="^3 residues are read as X: B, U, Z$"):
        rows = seqs_to_embedding(["MBUZ", "MKXX"], embedder)
    assert np.abs(rows[0] - seqs_to_embedding(["MXXX"], embedder)[0]).max() <= 1e-5


def test_a_maximal_length_is_a_choice(folder, embedder, tmp_path):
    short = Embedder(folder, device="cpu", precision="fp32", max_length=9)
    protein = "ACDEFGHIKLMNPQRSTVWY"
    windows = [seqs_to_embedding([protein[start : start + 9]], embedder)[0] for start in range(0, 16, 4)]
    expected, counts = np.zeros((20, 32)), np.zeros((20, 1))
    for start, rows in zip(range(0, 16, 4), windows, strict=True):
        expected[start : start + len(rows)] += rows
        counts[start : start + len(rows)] += 1
    rows = seqs_to_embedding([protein, protein[:9]], short, long="window")
    assert np.abs(rows[0] - expected / counts).max() <= 1e-5
    assert rows[1].shape == (9, 32)
    with pytest.warns(LongProteinWarning, match="longer than 9 residues, truncated"):
        assert seqs_to_embedding([protein], short)[0].shape == (9, 32)
    fasta = tmp_path / "a.fasta"
    fasta.write_text(f">a\n{protein}\n")
    assert embed_file(fasta, tmp_path / "short.h5", short, long="window").residues == 20
    with EmbeddingStore(tmp_path / "short.h5") as store:
        assert store.attributes["max_length"] == "9"
    with pytest.raises(ProtT5nvError, match="max_length=1: must be at least 2"):
        Embedder(folder, max_length=1)


def test_a_maximal_length_beyond_the_limit_of_the_model_is_refused(tiny_checkpoint):
    with pytest.raises(ProtT5nvError, match="max_length=513: must be at least 2 and at most 512"):
        Embedder(tiny_checkpoint, max_length=513)


@pytest.mark.slow
def test_workers_and_shards_give_the_file_of_one_process(folder, embedder, tmp_path):
    fasta = random_fasta(tmp_path / "proteins.fasta", 12)
    embed_file(fasta, tmp_path / "alone.h5", embedder)
    alone = contents(tmp_path / "alone.h5")
    run("embed", fasta, "-o", tmp_path / "together.h5", "--model", folder, "--precision", "fp32", "--workers", 2)
    for shard in (1, 2):
        embed_file(fasta, tmp_path / f"{shard}.h5", embedder, shard=(shard, 2))
    merge([tmp_path / "1.h5", tmp_path / "2.h5"], tmp_path / "merged.h5")
    assert contents(tmp_path / "together.h5").keys() == contents(tmp_path / "merged.h5").keys() == alone.keys()
    with EmbeddingStore(tmp_path / "alone.h5") as one, EmbeddingStore(tmp_path / "together.h5") as other:
        assert one.attributes["model_sha256"] == other.attributes["model_sha256"]
        assert all(np.abs(one[key] - other[key]).max() <= 1e-5 for key in one)


def test_embeddings_can_be_plotted(folder, embedder, tmp_path):
    pytest.importorskip("plotly", reason="needs the plot extra")
    embed_file(random_fasta(tmp_path / "proteins.fasta", 6), tmp_path / "rows.h5", embedder)
    with EmbeddingStore(tmp_path / "rows.h5") as store:
        proteins = set(store)
    run("plot", tmp_path / "rows.h5")
    page = (tmp_path / "rows.html").read_text()
    assert embedder.label in page
    figure = read_figure(page)
    assert {key for trace in figure["data"] for key, _ in trace["customdata"]} == proteins
    assert all(np.isfinite([*trace["x"], *trace["y"]]).all() for trace in figure["data"])


def test_scoring_and_filling_need_a_span_decoder(folder, embedder, tmp_path):
    fasta = tmp_path / "a.fasta"
    fasta.write_text(">a\nMKV\n")
    for arguments in (["score", fasta, "--perplexity", "-o", tmp_path / "a.csv"], ["fill", fasta, "--mask", "1"]):
        with pytest.raises(ProtT5nvError, match="this checkpoint has no span decoder"):
            run(*arguments, "--model", folder)
    with pytest.raises(ProtT5nvError, match="no span decoder"):
        prott5nv.pseudo_perplexity("MKV", embedder)
    with pytest.raises(ProtT5nvError, match="no span decoder"):
        prott5nv.fill("MK?", embedder)
    with pytest.raises(ProtT5nvError, match="no span decoder"):
        prott5nv.score_variants("MKV", ["M1A"], embedder)


def test_info_describes_a_folder(folder, embedder):
    output = run("info", folder)
    for text in (
        embedder.model_sha256,
        "2 layers, hidden size 32, feed-forward 64, 4 heads of 16, relu",
        "2 layers in the files, which are not read",
        "no limit; relative, 32 buckets up to 128 residues",
        f"{sum(p.numel() for p in prott5nv.load(folder).parameters()):,} (encoder)",
        "150 tokens; before a protein [149], behind it [1]",
    ):
        assert text in output
    assert "neither ProtT5-XL-UniRef50 nor" in run("info", folder, "--verify", code=1)


@pytest.mark.slow
def test_verify_recognizes_a_model_by_published_rows(tmp_path, monkeypatch):
    """The published rows are replaced by those that transformers computes for a random model."""
    model = random_model(**{**TINY, "d_model": 1024})
    folder, half = save(tmp_path / "full", model), save(tmp_path / "half", model.half())
    figures = json.loads(published_t5._FIGURES.read_text())
    for protein in figures["models"][1]["ends"]:
        rows = reference(folder, " ".join(re.sub("[UZOB]", "X", protein["sequence"])), tokens_before=0)
        kept = rows[np.array(protein["residues"]) - 1]
        protein["values"] = np.concatenate([kept[:, :3], kept[:, -3:]], axis=1).round(4).tolist()
    for protein in figures["models"][1]["row_norms"]:
        rows = reference(folder, " ".join(protein["sequence"]), tokens_before=0)
        protein["norms"] = np.linalg.norm(rows, axis=1).round(4).tolist()
    monkeypatch.setattr(published_t5, "_FIGURES", tmp_path / "figures.json")
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    for path in (folder, half):
        assert "This is ProtT5-XL-BFD: all figures agree within 5%." in run("info", path, "--verify")
        best = published_t5.compare_t5(prott5nv.load(path))[0]
        assert best.name == "ProtT5-XL-BFD" and best.relative < 0.1 * published_t5.TOLERANCE
    torch.manual_seed(1)
    other = save(tmp_path / "other", random_model(**{**TINY, "d_model": 1024, "num_layers": 1}))
    assert "This is neither" in run("info", other, "--verify", code=1)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["frozen", "lora", "full"])
def test_fine_tuning_and_prediction(mode, folder, tmp_path):
    pytest.importorskip("hydra", reason="needs the finetune extra")
    pytest.importorskip("torchmetrics", reason="needs the finetune extra")
    rng = random.Random(0)
    table = tmp_path / "table.csv"
    sets = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    rows = [(f"p{i}", "".join(rng.choices(LETTERS, k=rng.randint(8, 20))), part) for i, part in enumerate(sets)]
    text = "".join(f"{name},{sequence},{sequence.count('A') / len(sequence)},{part}\n" for name, sequence, part in rows)
    table.write_text("id,sequence,target,set\n" + text)
    options = ["--model", folder, "--level", "protein", "--label", "number", "--mode", mode, "-o", tmp_path / "run"]
    settings = ["seeds=[1]", "task.training.epochs=2", "baselines=false", "model.device=cpu", "model.precision=fp32"]
    run("finetune", table, *options, *settings)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["model"]["sha256"] == Embedder(folder).model_sha256
    fasta = tmp_path / "test.fasta"
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence, part in rows if part == "test"))
    run("predict", tmp_path / "run", fasta, "-o", tmp_path / "out.csv", "--precision", "fp32", "--device", "cpu")
    predicted, trained = (
        [float(row["prediction"]) for row in csv.DictReader(path.open(newline=""))]
        for path in (tmp_path / "out.csv", tmp_path / "run" / "predictions.csv")
    )
    # The frozen encoder's rows were stored as float16.
    assert np.allclose(predicted, trained, atol=1e-3 if mode == "frozen" else 1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["architecture"].update(d_model=64), "encoder.embedding.weight"),
        (lambda values: values["architecture"].update(num_layers=1_000_000), "encoder.layers.2.* is missing"),
        (lambda values: values["architecture"].update(vocab_size=100), "token 149"),
        (lambda values: values["architecture"]["vocabulary"].update(prefix=[-1]), "integers from 0"),
        (lambda values: values["architecture"].pop("vocabulary"), "architecture"),
    ],
)
def test_hostile_predictors_are_refused(change, message, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    from prott5nv.flip.heads import make_head
    from prott5nv.flip.predictor_file import read_predictor, save_predictor
    from prott5nv.flip.tasks import OutputSpec

    settings = {"name": "linear"}
    spec = OutputSpec(task="t", split="s", level="protein", label="number", classes=())
    path = tmp_path / "model.safetensors"
    save_predictor(path, prott5nv.load(folder), make_head("protein", 32, 1, **settings), settings, spec, "0" * 64)
    assert read_predictor(path).vocabulary == prott5nv.load(folder).tokenizer.vocabulary
    header = path.read_bytes()
    values = json.loads(json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["prott5nv"])
    change(values)
    save_file(load_file(path), path, metadata={"prott5nv": json.dumps(values)})
    with pytest.raises(ProtT5nvError, match=message):
        read_predictor(path)
