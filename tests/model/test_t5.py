"""The encoder of protein T5 models, compared with transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.t5 import CONFIGS, TINY, VOCABULARY, converted, random_model

from prott5nv import ProtT5nvError
from prott5nv.model import t5_attention
from prott5nv.model.t5 import T5Config, T5Encoder
from prott5nv.model.t5_attention import distance_buckets
from prott5nv.model.t5_tokenizer import T5Tokenizer, T5Vocabulary

pytest.importorskip("transformers", reason="needs the test extra")

LONG = "ALGVSREDTIPKFQNYMHWC" * 8  # longer than the largest distance that has a bias of its own
PROTEINS = ["MSLKR", "M", LONG, "PEPTI", "MKVLLAX"]


def encode(model, sequences):
    """The rows of each protein from one packed batch."""
    tokens_T, cu_seqlens = model.tokenizer.encode_batch(sequences)
    device = next(model.parameters()).device
    hidden_TD = model.encode(torch.from_numpy(tokens_T).to(device), torch.from_numpy(cu_seqlens))
    return hidden_TD.cpu().split([len(sequence) for sequence in sequences])


def encode_with_transformers(model, sequence, vocabulary=VOCABULARY):
    ids = [*vocabulary.prefix, *T5Tokenizer(vocabulary).encode(sequence), *vocabulary.suffix]
    hidden_SD = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return hidden_SD[len(vocabulary.prefix) :][: len(sequence)]


def relative_difference(ours_TD, theirs_TD):
    """Largest difference on a residue, as a fraction of the largest value on that residue."""
    difference_T = (ours_TD.double() - theirs_TD.double()).abs().amax(1)
    return float((difference_T / theirs_TD.double().abs().amax(1)).max())


def cosine(first_TD, second_TD):
    return float(torch.cosine_similarity(first_TD.double(), second_TD.double(), dim=1).min())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_the_published_architectures_equal_transformers(name, device):
    model = random_model(**CONFIGS[name])
    ours = converted(model)
    ours.place(torch.device(device), torch.float32)
    proteins = ["MSLKR", LONG[:40], "PEPTI"]
    for sequence, batched in zip(proteins, encode(ours, proteins), strict=True):
        theirs = encode_with_transformers(model, sequence)
        assert batched.shape == (len(sequence), model.config.d_model)
        assert relative_difference(batched, theirs) <= 1e-5
        assert relative_difference(encode(ours, [sequence])[0], theirs) <= 1e-5


@torch.inference_mode()
def test_proteins_longer_than_the_largest_distance_equal_transformers():
    model = random_model(**TINY)
    for sequence, batched in zip(PROTEINS, encode(converted(model), PROTEINS), strict=True):
        assert relative_difference(batched, encode_with_transformers(model, sequence)) <= 1e-5


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "gelu_new", "gated-relu", "gated-gelu", "gated-silu"])
@torch.inference_mode()
def test_every_activation_equals_transformers(activation):
    model = random_model(**TINY, feed_forward_proj=activation)
    theirs = encode_with_transformers(model, "MSLKRX")
    assert relative_difference(encode(converted(model), ["MSLKRX"])[0], theirs) <= 1e-5


@torch.inference_mode()
def test_each_layer_equals_transformers():
    model = random_model(**TINY)
    ids = torch.tensor([[*VOCABULARY.prefix, *T5Tokenizer(VOCABULARY).encode("MSLKR"), *VOCABULARY.suffix]])
    theirs = model(input_ids=ids, output_hidden_states=True).hidden_states
    first = len(VOCABULARY.prefix)
    for layer in range(1, model.config.num_layers + 1):
        ours = converted(model)
        ours.end_after(layer)
        assert relative_difference(encode(ours, ["MSLKR"])[0], theirs[layer][0, first : first + 5]) <= 1e-5


@torch.inference_mode()
def test_tokens_before_and_behind_a_protein_are_context_without_rows():
    model = random_model(**TINY)
    vocabulary = T5Vocabulary("aa", VOCABULARY.ids, 23, "X", prefix=(149, 5), suffix=(7, 1))
    for sequence, rows in zip(PROTEINS, encode(converted(model, vocabulary), PROTEINS), strict=True):
        assert relative_difference(rows, encode_with_transformers(model, sequence, vocabulary)) <= 1e-5


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (64, 128), (8, 20)])
def test_distances_have_the_buckets_of_transformers(buckets, distance):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-3000, 3001)
    theirs = T5Attention._relative_position_bucket(distances, num_buckets=buckets, max_distance=distance)
    assert torch.equal(distance_buckets(distances, buckets, distance), theirs)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_rows_do_not_depend_on_the_batch(precision, device):
    model = converted(random_model(**TINY))
    model.place(torch.device(device), precision)
    together = encode(model, PROTEINS)
    for sequence, rows in zip(PROTEINS, together, strict=True):
        alone = encode(model, [sequence])[0]
        if precision == torch.float32:
            assert (rows - alone).abs().max() <= 1e-5
        assert cosine(rows, alone) >= 0.9999


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_is_as_accurate_as_in_transformers(precision, tmp_path):
    from transformers import T5EncoderModel

    model = random_model(**TINY | dict(num_layers=6))
    exact = encode_with_transformers(model, LONG)
    half = converted(model)
    half.place(torch.device("cpu"), precision)
    ours = encode(half, [LONG])[0]
    model.save_pretrained(tmp_path)
    theirs = encode_with_transformers(T5EncoderModel.from_pretrained(tmp_path, dtype=precision).eval(), LONG)
    assert ours.dtype == torch.float32
    assert cosine(ours, exact) >= 0.999
    assert cosine(ours, exact) >= cosine(theirs, exact) - 1e-5


@torch.inference_mode()
def test_fp16_does_not_overflow_where_the_feed_forward_output_is_large():
    model = random_model(**TINY)
    for block in model.encoder.block:
        block.layer[1].DenseReluDense.wo.weight.mul_(100_000)
    exact = encode_with_transformers(model, "MSLKR")
    half = converted(model)
    half.place(torch.device("cpu"), torch.float16)
    assert half.encoder.layers[0].mlp.dense_4h_to_h.weight.dtype == torch.float32
    assert half.encoder.layers[0].mlp.dense_h_to_4h.weight.dtype == torch.float16
    assert cosine(encode(half, ["MSLKR"])[0], exact) >= 0.999


def test_gradients_equal_those_of_transformers():
    model = random_model(**TINY, feed_forward_proj="gated-silu")
    ours = converted(model)
    encode_with_transformers(model, LONG).square().sum().backward()
    encode(ours, [LONG])[0].square().sum().backward()
    block, layer = model.encoder.block[0].layer, ours.encoder.layers[0]
    attention = block[0].SelfAttention
    pairs = [
        (attention.relative_attention_bias.weight, ours.encoder.position_bias.weight.grad),
        (attention.q.weight, layer.self_attention.query_key_value.weight.grad.chunk(3)[0]),
        (block[1].DenseReluDense.wo.weight, layer.mlp.dense_4h_to_h.weight.grad),
        (model.shared.weight, ours.embedding.weight.grad),
    ]
    for theirs, gradient in pairs:
        assert (gradient - theirs.grad).abs().max() <= 1e-5 * theirs.grad.abs().max()


def test_dropout_acts_in_training_only():
    model = converted(random_model(**TINY, dropout_rate=0.5))
    assert torch.equal(encode(model, ["MSLKR"])[0], encode(model, ["MSLKR"])[0])
    model.train()
    assert not torch.equal(encode(model, ["MSLKR"])[0], encode(model, ["MSLKR"])[0])


@torch.inference_mode()
def test_blocks_of_queries_give_the_same_rows(monkeypatch):
    # This is the path of devices other than the CPU.
    model = converted(random_model(**TINY))
    whole = encode(model, PROTEINS)
    monkeypatch.setattr(t5_attention, "_MAX_BIAS", 4 * 50 * 161)
    monkeypatch.setattr(t5_attention.AttentionByLength, "bias_is_a_view", False)
    for rows, expected in zip(encode(model, PROTEINS), whole, strict=True):
        assert torch.allclose(rows, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch warns that FlexAttention is not compiled.
@torch.inference_mode()
def test_flex_attention_gives_the_same_rows(monkeypatch):
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(t5_attention, "_compiled_flex", lambda: flex_attention)
    model = converted(random_model(**TINY))
    tokens_T, cu_seqlens = model.tokenizer.encode_batch(PROTEINS)
    expected = model.encode(torch.from_numpy(tokens_T), torch.from_numpy(cu_seqlens))
    monkeypatch.setattr("prott5nv.model.t5.AttentionByLength", t5_attention.FlexAttention)
    rows = model.encode(torch.from_numpy(tokens_T), torch.from_numpy(cu_seqlens))
    assert torch.allclose(rows, expected, atol=1e-5)


@torch.inference_mode()
def test_a_new_model_computes_numbers_of_ordinary_size():
    config = T5Config(vocab_size=128, d_model=64, d_kv=16, d_ff=128, num_layers=4, num_heads=8)
    rows = encode(T5Encoder(config, VOCABULARY).eval(), [LONG])[0]
    assert 0.9 < rows.square().mean().sqrt() < 1.1


def test_a_checksum_depends_on_weights_and_configuration():
    model = converted(random_model(**TINY))
    before = model.sha256()
    assert converted(random_model(**TINY)).sha256() == before
    with torch.no_grad():
        model.embedding.weight[0, 0] += 1
    assert model.sha256() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(d_model=0), "d_model=0: must be an integer from 1"),
        (dict(num_layers=True), "num_layers=True: must be"),
        (dict(num_heads=10**9), "num_heads=1000000000"),
        (dict(layer_norm_epsilon=float("nan")), "layer_norm_epsilon=nan: must be a number"),
        (dict(layer_norm_epsilon=0.0), "must be positive"),
        (dict(dropout_rate=1.5), "dropout_rate=1.5"),
        (dict(activation="tanh"), "activation='tanh': must be one of relu"),
        (dict(relative_attention_num_buckets=30), "multiple of 4"),
        (dict(relative_attention_max_distance=8), "larger than a quarter"),
    ],
)
def test_invalid_settings_are_refused(change, message):
    valid = dict(vocab_size=128, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=8)
    with pytest.raises(ProtT5nvError, match=message):
        T5Config(**valid | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(ids=[3] * 21), "21 different token ids"),
        (dict(ids="abc"), "list of token ids"),
        (dict(ids=[*range(3, 23), -1]), "integers from 0"),
        (dict(prefix=[1] * 9), "at most 8"),
        (dict(input="rna"), "input must be one of aa, 3di"),
        (dict(more=1), "must have the keys"),
    ],
)
def test_invalid_vocabularies_are_refused(change, message):
    valid = dict(input="aa", ids=list(range(3, 24)), unknown=23, unknown_name="X", prefix=[], suffix=[1])
    assert T5Vocabulary.from_dict(valid) == VOCABULARY
    with pytest.raises(ProtT5nvError, match=message):
        T5Vocabulary.from_dict(valid | change)


def test_a_token_outside_of_the_table_is_refused():
    config = T5Config(vocab_size=20, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=8)
    with pytest.raises(ProtT5nvError, match="token 23: the model has only 20 tokens"):
        T5Encoder(config, VOCABULARY)


def test_replaced_residues_are_counted_and_named():
    tokenizer = T5Tokenizer(VOCABULARY)
    assert tokenizer.encode("MKX").tolist() == [19, 14, 23]
    with pytest.warns(UserWarning, match="lower-case"):
        assert tokenizer.encode("buzoj*-").tolist() == [23] * 7
    with pytest.warns(UserWarning, match=r"^7 residues are read as X: \*, -, B, J, O, U, Z$"):
        tokenizer.warn_of_replaced()
    assert not tokenizer.replaced
    with pytest.raises(ProtT5nvError, match="position 2: '1' is not a residue"):
        tokenizer.encode("M1")
    assert np.array_equal(tokenizer.fresh().encode("MK"), [19, 14])
