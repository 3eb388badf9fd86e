"""Micro-batches of optimizer steps: the same on any number of ranks, every record once per epoch, no padding."""

from __future__ import annotations

import pickle
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prott5nv.data.corruption import restore_spans
from prott5nv.data.dataset import CSVDataset, GlobalBatchSampler, PretrainingDataset, shuffled_records
from prott5nv.errors import ProtT5nvError
from prott5nv.model.tokenizer import RESIDUES, ProteinTokenizer

SEED = 1234
NUM_RECORDS = 101
TENSORS = {
    "enc_tokens": torch.int64,
    "enc_cu_seqlens": torch.int32,
    "dec_tokens": torch.int64,
    "dec_labels": torch.int64,
    "dec_cu_seqlens": torch.int32,
    "residue_mask": torch.bool,
    "sample_numbers": torch.int64,
    "lengths": np.dtype("int64"),  # an array of NumPy, which stays in host memory
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    (folder / "train").mkdir()
    random = np.random.default_rng(0)
    for file, records in enumerate(np.array_split(np.arange(NUM_RECORDS), 3)):
        rows = ["record_id,record_name,sequence_length,sequence"]
        for record in records:
            sequence = "".join(random.choice(list(RESIDUES), size=random.integers(1, 600)))
            rows.append(f"{record},UniRef50_{record},{len(sequence)},{sequence}")
        (folder / "train" / f"x00{file}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def records(folder):
    return CSVDataset(folder, "train", "x[000..002]")


def same(item):
    return item


def samples(micro_batches):
    """Return (number, input, decoder input, target) of every protein, in order."""
    result = []
    for batch in micro_batches:
        for b, number in enumerate(batch["sample_numbers"].tolist()):
            enc = slice(*batch["enc_cu_seqlens"][b : b + 2])
            dec = slice(*batch["dec_cu_seqlens"][b : b + 2])
            tokens = (batch["enc_tokens"][enc], batch["dec_tokens"][dec], batch["dec_labels"][dec])
            result.append((number, *(t.tolist() for t in tokens)))
    return result


def steps(dataset, num_steps, **sampler):
    batches = iter(GlobalBatchSampler(**sampler))
    return [dataset.__getitems__(next(batches)) for _ in range(num_steps)]


@settings(deadline=None)
@given(
    num_records=st.one_of(st.integers(1, 70), st.integers(1, 5000)),
    epoch=st.integers(0, 10_000),
    seed=st.integers(0, 2**31),
)
def test_an_epoch_is_a_permutation(num_records, epoch, seed):
    numbers = np.arange(num_records) + epoch * num_records
    order = shuffled_records(numbers, num_records, seed)
    assert sorted(order.tolist()) == list(range(num_records))
    assert shuffled_records(numbers[-1:], num_records, seed)[0] == order[-1]


@pytest.mark.parametrize("num_records", [2, 5, 6, 16])
def test_every_record_comes_first_equally_often(num_records):
    epochs = 20_000
    first = shuffled_records(np.arange(epochs) * num_records, num_records, SEED)
    counts = np.bincount(first, minlength=num_records)
    deviations = (counts - epochs / num_records) / np.sqrt(epochs / num_records)
    assert abs(deviations).max() < 5


def test_orders_of_epochs_and_seeds_are_unrelated():
    numbers = np.arange(3000)
    epochs = shuffled_records(numbers, 1000, SEED).reshape(3, 1000)
    other = shuffled_records(numbers[:1000], 1000, SEED + 1)
    for a, b in ((epochs[0], epochs[1]), (epochs[1], epochs[2]), (epochs[0], numbers[:1000]), (epochs[0], other)):
        assert (a == b).sum() < 10  # the expected number is one
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15
    neighbours = np.diff(epochs[0])
    assert (abs(neighbours) == 1).sum() < 12  # the expected number is two


def test_the_order_of_uniref50_needs_no_table():
    """Random access to a late epoch of 46 million records."""
    numbers = np.arange(57 * 46_000_000 + 123, 57 * 46_000_000 + 123 + 10_000)
    order = shuffled_records(numbers, 46_000_000, SEED)
    assert len(set(order.tolist())) == 10_000 and order.min() >= 0 and order.max() < 46_000_000
    assert order.mean() == pytest.approx(23_000_000, rel=0.05)


@settings(deadline=None)
@given(
    size=st.integers(1, 50),
    world_size=st.integers(1, 9),
    start=st.integers(0, 9),
    extra=st.one_of(st.none(), st.integers(0, 700)),
)
def test_the_parts_of_the_ranks_make_the_global_batch(size, world_size, start, extra):
    samplers = [GlobalBatchSampler(size, rank, world_size, start, extra) for rank in range(world_size)]
    stop = (start + 4) * size if extra is None else extra
    expected = [list(range(first, min(first + size, stop))) for first in range(start * size, stop, size)]
    ranks = [[share for share, _ in zip(sampler, expected, strict=False)] for sampler in samplers]
    assert [list(chain(*shares)) for shares in zip(*ranks, strict=True)] == expected
    for shares in zip(*ranks, strict=True):
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if extra is not None:
        assert all(len(list(sampler)) == len(sampler) == len(expected) for sampler in samplers)


def test_a_sampler_divides_each_step_and_stops_after_the_last_sample():
    ranks = [list(GlobalBatchSampler(5, rank, world_size=3, start_step=1, num_samples=12)) for rank in range(3)]
    assert ranks == [[[5], []], [[6, 7], [10]], [[8, 9], [11]]]
    assert (
        len(GlobalBatchSampler(5, num_samples=12)) == 3
        and len(GlobalBatchSampler(5, start_step=9, num_samples=12)) == 0
    )


def test_an_endless_sampler_has_no_length():
    with pytest.raises(TypeError):
        len(GlobalBatchSampler(4))


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_same_samples_on_any_number_of_ranks(records, world_size):
    """Seven steps of 16 run from the first epoch into the second."""
    alone = steps(PretrainingDataset(records, SEED, micro_batch_size=16), 7, global_batch_size=16)
    dataset = PretrainingDataset(records, SEED, tokens_per_micro_batch=1500)
    ranks = [steps(dataset, 7, global_batch_size=16, rank=r, world_size=world_size) for r in range(world_size)]
    for step, shares in enumerate(zip(*ranks, strict=True)):
        assert list(chain(*map(samples, shares))) == samples(alone[step])


def test_every_record_occurs_once_per_epoch(records):
    dataset = PretrainingDataset(records, SEED)
    names = [f"UniRef50_{record}" for record in range(NUM_RECORDS)]
    epochs = np.split(np.array(dataset.record_names(range(2 * NUM_RECORDS))), 2)
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(names)
    assert list(epochs[0]) != list(epochs[1])


def test_samples_are_the_records_and_nothing_is_padded(records):
    dataset = PretrainingDataset(records, SEED, tokens_per_micro_batch=2000)
    by_name = {records.record_name(i): records[i][:512] for i in range(NUM_RECORDS)}
    micro_batches = list(chain(*steps(dataset, 7, global_batch_size=16)))
    residues = 0
    for batch in micro_batches:
        assert {name: tensor.dtype for name, tensor in batch.items()} == TENSORS
        names = dataset.record_names(batch["sample_numbers"].tolist())
        proteins = "".join(by_name[name] for name in names)
        restored = restore_spans(batch["enc_tokens"].numpy(), batch["dec_labels"].numpy())
        assert ProteinTokenizer().decode(restored) == proteins
        # As many positions as residues, and as labels: sentinel and residue in turn, and </s>.
        assert len(batch["enc_tokens"]) == batch["enc_cu_seqlens"][-1] == len(proteins)
        masked = int(batch["residue_mask"].sum())
        for name in ("dec_tokens", "dec_labels", "residue_mask"):
            assert len(batch[name]) == batch["dec_cu_seqlens"][-1] == 2 * masked + len(names)
        residues += len(proteins)
    assert residues == sum(len(by_name[name]) for name in dataset.record_names(range(7 * 16)))


@pytest.mark.parametrize("budget", [100, 1000, 5000, 10**6])
def test_a_token_budget_only_cuts_a_step_into_micro_batches(records, budget):
    whole = PretrainingDataset(records, SEED).__getitems__(range(60))
    cut = PretrainingDataset(records, SEED, tokens_per_micro_batch=budget).__getitems__(range(60))
    assert len(whole) == 1 and samples(cut) == samples(whole)
    tokens = [len(batch["enc_tokens"]) + len(batch["dec_tokens"]) for batch in cut]
    first = [int(batch["enc_cu_seqlens"][1] + batch["dec_cu_seqlens"][1]) for batch in cut]
    assert all(t <= budget or len(b["sample_numbers"]) == 1 for t, b in zip(tokens, cut, strict=True))
    # None could have taken the next protein as well.
    assert all(t + following > budget for t, following in zip(tokens, first[1:], strict=False))


def test_micro_batch_size_cuts_a_step_into_micro_batches(records):
    cut = PretrainingDataset(records, SEED, micro_batch_size=12).__getitems__(range(30))
    assert [len(batch["sample_numbers"]) for batch in cut] == [12, 12, 6]
    assert samples(cut) == samples(PretrainingDataset(records, SEED).__getitems__(range(30)))


def test_resuming_gives_the_steps_of_an_uninterrupted_run(records):
    dataset = PretrainingDataset(records, SEED, tokens_per_micro_batch=1500)
    straight = steps(dataset, 12, global_batch_size=10)
    resumed = steps(pickle.loads(pickle.dumps(dataset)), 5, global_batch_size=10, start_step=7)
    assert list(map(samples, resumed)) == list(map(samples, straight[7:]))


def test_samples_do_not_depend_on_the_number_of_worker_processes(records):
    dataset = PretrainingDataset(records, SEED, tokens_per_micro_batch=1500)

    def loaded(num_workers):
        sampler = GlobalBatchSampler(16, rank=1, world_size=2, num_samples=150)
        loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=same, num_workers=num_workers)
        assert len(loader) == 10
        return [samples(step) for step in loader]

    assert loaded(2) == loaded(0)


@pytest.mark.parametrize("world_size", [1, 3])
def test_validation_takes_every_record_once_in_file_order(records, world_size):
    dataset = PretrainingDataset(records, SEED, shuffle=False, tokens_per_micro_batch=4000)
    samplers = [GlobalBatchSampler(25, rank, world_size, num_samples=len(dataset)) for rank in range(world_size)]
    numbers = [number for share in zip(*samplers, strict=True) for rank in share for number in rank]
    assert dataset.record_names(numbers) == [f"UniRef50_{record}" for record in range(NUM_RECORDS)]
    first = [samples(dataset.__getitems__(share)) for share in samplers[0]]
    assert first == [samples(dataset.__getitems__(share)) for share in samplers[0]]


def test_a_rank_without_samples_has_no_micro_batch(records):
    assert PretrainingDataset(records, SEED, tokens_per_micro_batch=100).__getitems__([]) == []
    assert PretrainingDataset(records, SEED).__getitems__([]) == []


def test_long_proteins_are_cropped(records):
    def proteins(**options):
        dataset = PretrainingDataset(records, SEED, shuffle=False, seq_length=64, **options)
        [batch] = dataset.__getitems__(range(2 * NUM_RECORDS))
        text = ProteinTokenizer().decode(restore_spans(batch["enc_tokens"].numpy(), batch["dec_labels"].numpy()))
        bounds = batch["enc_cu_seqlens"].tolist()
        return [text[a:b] for a, b in pairwise(bounds)]

    assert proteins() == 2 * [records[i][:64] for i in range(NUM_RECORDS)]
    windows = proteins(random_crop=True)
    assert windows == proteins(random_crop=True)
    starts = [records[i % NUM_RECORDS].index(window) for i, window in enumerate(windows)]
    room = [max(0, len(records[i]) - 64) for i in range(NUM_RECORDS)]
    assert all(len(window) == min(64, len(records[i % NUM_RECORDS])) for i, window in enumerate(windows))
    assert np.mean(np.array(starts) / np.maximum(1, 2 * room)) == pytest.approx(0.45, abs=0.1)  # windows start anywhere
    assert starts[:NUM_RECORDS] != starts[NUM_RECORDS:]  # at other positions in the next epoch


def test_a_character_that_is_not_a_residue_is_reported(tmp_path):
    (tmp_path / "val").mkdir()
    header = "record_id,record_name,sequence_length,sequence\n"
    (tmp_path / "val" / "x000.csv").write_text(header + "0,UniRef50_A,3,MKV\n1,UniRef50_B,4,MK V\n")
    dataset = PretrainingDataset(CSVDataset(tmp_path, "val", "x000"), SEED, shuffle=False)
    with pytest.raises(ProtT5nvError, match=r"UniRef50_B\), position 3"):
        dataset.__getitems__([0, 1])
