"""The embedder: shapes, order, independence of other proteins, long proteins, errors, memory."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from helpers.t5 import TINY as TINY_T5
from helpers.t5 import converted as converted_t5
from helpers.t5 import random_model as random_t5

from prott5nv import Embedder, EmbeddingStore, ModelConfig, ProtT5, ProtT5nvError, load, seqs_to_embedding
from prott5nv.assets import BUILTIN_MODEL
from prott5nv.embedding.embedder import LongProteinWarning
from prott5nv.embedding.job import embed_file
from prott5nv.io.cleaning import Cleaning
from prott5nv.io.reader import read_records
from prott5nv.io.record import Record
from prott5nv.model import prott5
from prott5nv.model.tokenizer import RESIDUES

HBA = (
    "MVLSPADKTNVKAAWGKVGAHAGEYGAEALERMFLSFPTTKTYFPHFDLSHGSAQVKGHGKKVADALTNAVAHVDDMPNALSALSDLHAHKLRVDPVNFKLLSHCLLVTLAAHLPAEF"
    "TPAVHASLDKFLASVSTVLTSKYR"
)
INSULIN = (
    "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKRGIVEQCCTSICSLYQLENYCN"
)


@pytest.fixture(scope="module")
def network() -> ProtT5:
    torch.manual_seed(0)
    # Larger weights than at initialization, so that a leak between neighbours would be visible.
    return ProtT5(ModelConfig.preset("tiny", init_method_std=0.2))


@pytest.fixture(scope="module")
def embedder(network) -> Embedder:
    return Embedder(network, precision="fp32")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_the_name_of_a_model_can_be_written_to_any_file(tiny_checkpoint, tmp_path):
    path = shutil.copy(tiny_checkpoint, tmp_path / os.fsdecode(b"m\xff.nemo"))
    embedder = Embedder(path, device="cpu")
    assert (embedder.name, embedder.label) == ("m?", f"m? {embedder.model_sha256[:8]}")


def protein(length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed * 100_003 + length).choices(RESIDUES, k=length))


def test_rows_are_the_hidden_states_of_the_encoder(network, embedder):
    tokens_T = torch.tensor(embedder.tokenizer.encode(HBA + INSULIN))
    cu_seqlens_B1 = torch.tensor([0, len(HBA), len(HBA + INSULIN)], dtype=torch.int32)
    with torch.inference_mode():
        expected_TD = network.eval().encode(tokens_T, cu_seqlens_B1).numpy()
    hba, insulin = seqs_to_embedding([HBA, INSULIN], embedder)
    assert hba.dtype == np.float32
    np.testing.assert_allclose(np.concatenate([hba, insulin]), expected_TD, atol=1e-5)


def test_the_output_of_another_layer_is_the_state_before_the_next(network, embedder):
    states = []
    hook = embedder.network.encoder.layers[1].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    [last] = seqs_to_embedding([HBA], embedder)
    hook.remove()
    first = Embedder(network, precision="fp32", layer=1)
    np.testing.assert_allclose(seqs_to_embedding([HBA], first)[0], states[0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(seqs_to_embedding([HBA], Embedder(network, precision="fp32", layer=2))[0], last)
    assert (first.model_sha256, first.attributes) == (embedder.model_sha256, {"layer": "1"})
    with pytest.raises(ProtT5nvError, match="the decoder needs the whole encoder: load the model without layer="):
        first.network  # noqa: B018
    with pytest.raises(ProtT5nvError, match="layer=3: the encoder has the layers 1 to 2"):
        Embedder(network, layer=3)


def test_the_callers_model_is_copied_and_not_changed(network, embedder):
    assert hasattr(network, "decoder")
    assert next(network.parameters()).dtype == torch.float32


def test_every_letter_gets_a_row(embedder):
    sequences = ["M", "JJJJ", "***", "A-C-D", "XBZUOJ", HBA]
    embedded = seqs_to_embedding(sequences, embedder, cleaning=None)
    assert [len(rows) for rows in embedded] == [1, 4, 3, 5, 6, len(HBA)]


@pytest.mark.slow
def test_records_of_unusual_files_keep_their_order_and_get_a_row_per_residue(embedder, shared):
    files = sorted((shared / "data" / "sequences" / "quirks").iterdir())
    assert files
    for file in files:
        records = list(read_records(file, cleaning=Cleaning(gaps="keep")))
        embedded = list(embedder.embed(records, long="window", cleaning=None))
        assert [record for record, _ in embedded] == records
        assert [len(rows) for _, rows in embedded] == [len(record.sequence) for record in records]


def test_order_and_duplicates_are_kept(embedder):
    sequences = [HBA, "MS", INSULIN, "MS", HBA]
    rows = seqs_to_embedding(sequences, embedder)
    assert [len(r) for r in rows] == [len(s) for s in sequences]
    np.testing.assert_allclose(rows[0], rows[4], atol=1e-5)
    assert not np.array_equal(rows[1], rows[2][:2])


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def alone(request, network) -> tuple[str, dict[str, np.ndarray]]:
    """Proteins of many lengths, each embedded alone in its batch."""
    embedder = Embedder(network, precision=request.param, max_tokens=1)
    return request.param, dict(embedder.embed([protein(length) for length in range(3, 511, 8)]))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_embeddings_do_not_depend_on_batch_size_or_order(network, alone, batch_size):
    precision, expected = alone
    sequences = list(expected)
    random.Random(batch_size).shuffle(sequences)
    together = Embedder(network, precision=precision)
    for i in range(0, len(sequences), batch_size):
        for sequence, rows in together.embed(sequences[i : i + batch_size]):
            assert_same(rows, expected[sequence], precision)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_permuted_input_gives_permuted_embeddings(network, alone, seed):
    precision, expected = alone
    sequences = random.Random(seed).sample(list(expected), len(expected))
    embedded = list(Embedder(network, precision=precision).embed(sequences))
    assert [sequence for sequence, _ in embedded] == sequences
    for sequence, rows in embedded:
        assert_same(rows, expected[sequence], precision)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "compiled"), [("fp32", False), ("fp16", False), ("bf16", False), ("bf16", True)])
def test_a_gpu_agrees_with_the_cpu_and_with_itself(network, precision, compiled):
    sequences = [protein(length) for length in (1, 2, 13, 64, 64, 200, 511)]
    expected = dict(Embedder(network, device="cpu", precision="fp32").embed(sequences))
    embedder = Embedder(network, device="cuda", precision=precision, compile=compiled)
    together = dict(embedder.embed(sequences))
    for sequence in sequences:
        [(_, alone)] = embedder.embed([sequence])
        assert_same(together[sequence], alone, "fp32" if precision == "fp32" else "bf16")
        if precision == "fp32":
            assert_same(alone, expected[sequence], "fp32")
        else:  # bf16 on a CPU has 0.9996 in comparison with fp32
            norms = np.linalg.norm(alone, axis=1) * np.linalg.norm(expected[sequence], axis=1)
            assert np.min((alone * expected[sequence]).sum(1) / norms) >= 0.999


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiling_does_not_change_the_embeddings(network, precision):
    sequences = [HBA, "MS", HBA[:50]]
    plain, compiled = (Embedder(network, precision=precision, compile=each) for each in (False, True))
    for (_, expected), (_, rows) in zip(plain.embed(sequences), compiled.embed(sequences), strict=True):
        assert_same(rows, expected, precision)


@pytest.mark.slow
def test_compiling_whole_layers_does_not_change_the_embeddings(network, embedder, monkeypatch):
    """Layers are compiled on GPUs. Here, torch.compile traces them, but generates no code."""
    torch._dynamo.reset()
    monkeypatch.setattr(prott5, "has_flash_attention", lambda tensor: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = Embedder(network, precision="fp32", compile=True)
    assert {type(part).__name__ for part in compiled._network.fusible_parts()} == {"Layer"}
    sequences = [HBA, "MS", HBA[:50]]
    for (_, expected), (_, rows) in zip(embedder.embed(sequences), compiled.embed(sequences), strict=True):
        assert_same(rows, expected, "fp32")


def test_only_models_that_were_measured_on_a_gpu_are_compiled_there_by_default(embedder, monkeypatch):
    monkeypatch.setattr("prott5nv.embedding.embedder.can_compile", lambda device: True)
    monkeypatch.setattr(embedder, "hardware", replace(embedder.hardware, precision="bf16"))
    assert embedder.gains_from_compiling(10**9) and not embedder.gains_from_compiling(10**8)
    monkeypatch.setattr(embedder, "_network", converted_t5(random_t5(**TINY_T5)))
    assert not embedder.gains_from_compiling(10**9)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_embeddings_do_not_depend_on_a_long_protein_in_the_same_batch(network, precision):
    embedder = Embedder(network, precision=precision)
    (alone,) = seqs_to_embedding([HBA], embedder)
    beside = seqs_to_embedding([protein(512), HBA, protein(512, seed=1)], embedder)[1]
    assert_same(beside, alone, precision)


def assert_same(rows, expected, precision):
    if precision == "fp32":
        np.testing.assert_allclose(rows, expected, atol=1e-5, rtol=0)
    else:
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
        assert np.min((rows * expected).sum(1) / norms) >= 0.9999


def test_bf16_is_close_to_fp32(network, embedder):
    (exact,) = seqs_to_embedding([HBA], embedder)
    (rounded,) = seqs_to_embedding([HBA], network, precision="bf16")
    assert rounded.dtype == np.float32
    norms = np.linalg.norm(rounded, axis=1) * np.linalg.norm(exact, axis=1)
    assert np.min((rounded * exact).sum(1) / norms) > 0.995


def test_mean_pooling(embedder):
    pooled_BD = seqs_to_embedding([HBA, INSULIN], embedder, pooling="mean")
    expected_BD = [rows.mean(0) for rows in seqs_to_embedding([HBA, INSULIN], embedder)]
    np.testing.assert_allclose(pooled_BD, expected_BD, atol=1e-6)


def test_an_empty_input_gives_an_empty_result(embedder):
    assert seqs_to_embedding([], embedder) == []
    assert seqs_to_embedding([], embedder, pooling="mean").shape == (0, 64)
    assert list(embedder.embed(iter([]))) == []


def test_truncated_proteins_are_named_in_a_warning(embedder):
    long = Record("TITIN", protein(1300), "TITIN", 1)
    with pytest.warns(LongProteinWarning, match=r"1, namely TITIN \(1300\)"):
        ((_, rows),) = embedder.embed([long])
    np.testing.assert_allclose(rows, seqs_to_embedding([long.sequence[:512]], embedder)[0], atol=1e-5)


def test_overlapping_windows_are_averaged(embedder):
    sequence = protein(1300)
    (rows,) = seqs_to_embedding([sequence], embedder, long="window")
    assert len(rows) == 1300
    parts = {
        start: seqs_to_embedding([sequence[start : start + 512]], embedder)[0] for start in (0, 256, 512, 768, 1024)
    }
    assert len(parts[1024]) == 276
    np.testing.assert_allclose(rows[100], parts[0][100], atol=1e-5)
    np.testing.assert_allclose(rows[300], (parts[0][300] + parts[256][44]) / 2, atol=1e-5)
    np.testing.assert_allclose(rows[1290], parts[1024][266], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("length", [511, 512, 513, 768, 769, 35_213])
def test_windows_give_one_row_per_residue(embedder, length):
    (rows,) = seqs_to_embedding([protein(length)], embedder, long="window")
    assert rows.shape == (length, 64)
    assert np.isfinite(rows).all()


def test_long_proteins_can_be_an_error_or_skipped(embedder):
    sequences = ["MS", protein(513), "MSLKR"]
    with pytest.raises(ProtT5nvError, match="sequence 2 has 513 residues"):
        seqs_to_embedding(sequences, embedder, long="error")
    with pytest.warns(LongProteinWarning, match="skipped: 1"):
        rows = seqs_to_embedding(sequences, embedder, long="skip")
    assert rows[1] is None
    assert [len(rows[0]), len(rows[2])] == [2, 5]
    with pytest.warns(LongProteinWarning):
        pooled_BD = seqs_to_embedding(sequences, embedder, long="skip", pooling="mean")
    assert np.isnan(pooled_BD).all(1).tolist() == [False, True, False]


def test_errors_can_be_collected_while_other_proteins_are_embedded(embedder):
    failed = []
    sequences = ["MS", "M S", "", "MSLKR"]
    embedded = list(embedder.embed(sequences, on_error=lambda sequence, error: failed.append((sequence, str(error)))))
    assert [rows is not None for _, rows in embedded] == [True, False, False, True]
    assert [sequence for sequence, _ in failed] == ["M S", ""]
    assert "position 2: ' ' is not a residue" in failed[0][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(sequences="MSLKR"), "pass a list"),
        (dict(sequences=[5]), "sequence 1 is a int: sequences must be strings of residues"),
        (dict(sequences=["M1"]), "position 2: '1' is not a residue"),
        (dict(sequences=["MS", ""]), "sequence 2: there is no sequence"),
        (dict(sequences=["MS"], pooling="max"), "pooling='max'"),
        (dict(sequences=["MS"], long="cut"), "long='cut'"),
        (dict(sequences=["MS"], precision="int8"), "precision='int8'"),
        (dict(sequences=["MS"], device="cuda:99"), "cuda:99"),
        (dict(sequences=["MS"], device="tpu"), "device='tpu'"),
        (dict(sequences=["MS"], max_tokens=0), "max_tokens=0"),
        (dict(sequences=["MS"], model="absent.nemo"), "absent.nemo"),
    ],
)
def test_errors_name_the_problem(network, arguments, message):
    with pytest.raises(ProtT5nvError, match=message):
        seqs_to_embedding(**{"model": network, **arguments})


def test_options_cannot_be_given_with_a_loaded_model(embedder):
    with pytest.raises(ProtT5nvError, match="already loaded"):
        seqs_to_embedding(["MS"], embedder, precision="bf16")


def test_the_constructor_leaves_the_environment_and_the_warning_filters_alone(network):
    environment, filters = dict(os.environ), list(warnings.filters)
    Embedder(network)
    assert dict(os.environ) == environment
    assert warnings.filters == filters


def test_the_decoder_of_a_file_is_loaded_on_first_access(tiny_checkpoint):
    embedder = Embedder(tiny_checkpoint, device="cpu", precision="fp32")
    assert not hasattr(embedder._network, "decoder")
    assert torch.equal(
        embedder.network.decoder.final_layernorm.weight, load(tiny_checkpoint).decoder.final_layernorm.weight
    )


def test_a_checkpoint_that_changed_before_its_decoder_was_loaded_is_an_error(tiny_checkpoint, tmp_path):
    path = tmp_path / "model.nemo"
    shutil.copy(tiny_checkpoint, path)
    embedder = Embedder(path, device="cpu", precision="fp32")
    shutil.copy(BUILTIN_MODEL, path)
    with pytest.raises(ProtT5nvError, match=r"model\.nemo has changed since it was loaded"):
        _ = embedder.network


def overflowing_embedder(network: ProtT5, precision: str) -> Embedder:
    """An embedder that computes 100,000 for every tryptophan, which is infinity in fp16."""
    embedder = Embedder(network, precision=precision)
    encode = embedder._network.encode
    [tryptophan] = embedder.tokenizer.encode("W")

    def encode_with_overflow(tokens_T, cu_seqlens_B1):
        hidden_TD = encode(tokens_T, cu_seqlens_B1)
        hidden_TD[tokens_T == tryptophan] = 100_000
        return hidden_TD

    embedder._network.encode = encode_with_overflow
    return embedder


@pytest.mark.parametrize("pooling", [None, "mean"])
@pytest.mark.parametrize("sequence", ["MWK", "MK" * 300 + "W"])
def test_an_overflow_in_fp16_is_an_error_that_names_the_protein(network, sequence, pooling):
    embedder = overflowing_embedder(network, "fp16")
    records = [Record("good", "MSLKR", "", 1), Record("bad", sequence, "", 3), Record("late", "MS", "", 5)]
    with pytest.raises(ProtT5nvError, match="bad: the model computed NaN or infinity in fp16; choose --precision bf16"):
        list(embedder.embed(records, pooling=pooling, long="window"))
    failed = []
    embedded = list(embedder.embed(records, pooling=pooling, long="window", on_error=lambda r, _: failed.append(r.id)))
    assert failed == ["bad"]
    assert [rows is None for _, rows in embedded] == [False, True, False]
    with pytest.raises(ProtT5nvError, match="sequence 1: the model computed NaN or infinity in fp16"):
        seqs_to_embedding([sequence], embedder, long="window")


def test_a_number_that_is_too_large_for_float16_is_never_stored(network, tmp_path):
    (tmp_path / "p.fasta").write_text(">good\nMS\n>bad\nMWK\n>late\nMSLKR\n")
    embedder = overflowing_embedder(network, "fp32")
    with pytest.raises(ProtT5nvError, match=r"line 3: bad: a value is too large for float16; choose --dtype float32"):
        embed_file(tmp_path / "p.fasta", tmp_path / "out.h5", embedder, dtype="float16")
    assert not (tmp_path / "out.h5").exists()
    summary = embed_file(tmp_path / "p.fasta", tmp_path / "out.h5", embedder, dtype="float16", skip_errors=True)
    assert (summary.proteins, summary.skipped) == (2, 1)
    with EmbeddingStore(tmp_path / "out.h5") as store:
        assert list(store) == ["good", "late"]
        assert store.attributes["skipped"] == "1"
        assert all(rows.dtype == np.float16 and np.isfinite(rows).all() for rows in store.values())
    again = embed_file(tmp_path / "p.fasta", tmp_path / "out.h5", embedder, dtype="float16", skip_errors=True)
    assert (again.proteins, again.skipped, again.complete_already) == (2, 1, True)
    embed_file(tmp_path / "p.fasta", tmp_path / "exact.h5", embedder)
    with EmbeddingStore(tmp_path / "exact.h5") as store:
        assert store["bad"].max() == 100_000


@pytest.mark.slow
def test_embedding_imports_no_training_framework():
    code = """
import sys
from prott5nv import ModelConfig, ProtT5, seqs_to_embedding
seqs_to_embedding(["MSLKR"], ProtT5(ModelConfig.preset("tiny")))
heavy = {"nemo", "megatron", "lightning", "pytorch_lightning", "hydra", "omegaconf", "matplotlib", "pandas"}
print(sorted(heavy & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_proteins():
    code = """
import random, resource, torch
from prott5nv import Embedder, ModelConfig, ProtT5, limit_onednn_cache
limit_onednn_cache()
torch.set_num_threads(1)
network = ProtT5(ModelConfig.preset("tiny", num_layers=1, hidden_size=256))
rng = random.Random(0)
for precision in "fp32", "bf16":
    embedder = Embedder(network, precision=precision)
    peaks = []
    for count in (40, 300):  # The rows of the latter take 80 MB.
        for _, rows in embedder.embed("".join(rng.choices("ACDEFGHIK", k=rng.randint(20, 512))) for _ in range(count)):
            pass
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    print(peaks[1] / peaks[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=True)
    assert max(map(float, done.stdout.split())) < 1.1


@pytest.mark.slow
def test_a_batch_that_does_not_fit_into_memory_is_halved(tmp_path):
    # The process limits its own address space. 40 proteins at once do not fit, and neither does one of 10,000 residues.
    code = """
import resource, sys, numpy as np, torch
from prott5nv import Embedder, ModelConfig, ProtT5, limit_onednn_cache
from prott5nv.embedding.job import embed_file
torch.manual_seed(0)
shape = dict(hidden_size=64, ffn_hidden_size=4096, num_layers=1, max_position_embeddings=10_000)
network = ProtT5(ModelConfig.preset("tiny", **shape))
sequences = ["ACDEFGHIKLMNPQRSTVWY" * 20] * 40
expected = [rows for _, rows in Embedder(network, precision="fp32", max_tokens=400).embed(sequences)]
embedder = Embedder(network, precision="fp32", max_tokens=10**6)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20, resource.RLIM_INFINITY))
failed = []
embedded = list(embedder.embed([*sequences, "M" * 10_000], on_error=lambda _, error: failed.append(str(error))))
same = all(np.abs(rows - other).max() < 1e-5 for (_, rows), other in zip(embedded, expected))
print(embedder.max_tokens, same, len(embedded), embedded[-1][1], *failed, sep="|")
print(embed_file("p.fasta", "out.h5", embedder, skip_errors=True))
embed_file("p.fasta", "stopped.h5", embedder)
"""
    (tmp_path / "p.fasta").write_text(f">a\nMSLKR\n>large\n{'M' * 10_000}\n>b\nMSLKR\n")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, cwd=tmp_path)
    first, second = out.stdout.splitlines()
    max_tokens, *rest = first.split("|")
    assert int(max_tokens) < 16_000
    assert rest == ["True", "41", "None", "sequence 41: not enough memory for its 10000 residues alone"]
    assert second == "Summary(proteins=2, residues=10, resumed=0, skipped=1, complete_already=False)"
    reason = "p.fasta: line 3: large: not enough memory for its 10000 residues alone"
    assert f"3\tlarge\t{reason}\n" in (tmp_path / "out.h5.skipped.tsv").read_text()
    assert f"ProtT5nvError: {reason}" in out.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_is_forked_after_threaded_use_computes(tmp_path):
    code = """
import os, torch
from prott5nv import Embedder, ModelConfig, ProtT5, seqs_to_embedding
torch.set_num_threads(2)
embedder = Embedder(ProtT5(ModelConfig.preset("tiny")), device="cpu")
sequences = ["ACDEFGHIKLMNPQRSTVWY" * 20] * 8
expected = seqs_to_embedding(sequences, embedder)
if os.fork() == 0:
    same = all((a - b).max() < 1e-5 for a, b in zip(seqs_to_embedding(sequences, embedder), expected))
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.communicate(timeout=1000)[0] == "0\n"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_the_budget_grows_again_after_a_failure(monkeypatch):
    embedder = Embedder(ProtT5(ModelConfig.preset("tiny")), precision="fp32", max_tokens=40)
    runner = embedder._runner
    forward = runner._forward
    largest = [0]

    def limited(windows, form):
        largest.append(sum(window.length for window in windows))
        if len(largest) < 4 and largest[-1] > 20:
            raise MemoryError
        return forward(windows, form)

    monkeypatch.setattr(runner, "_forward", limited)
    assert len(list(embedder.embed(["MSLKRMSLKR"] * 8))) == 8
    assert embedder.max_tokens == 20
    assert len(list(embedder.embed(["MSLKRMSLKR"] * 400))) == 400
    assert embedder.max_tokens == max(largest[-20:]) == 40
    embedder.max_tokens = 30
    assert len(list(embedder.embed(["MSLKRMSLKR"] * 400))) == 400
    assert embedder.max_tokens == 30
