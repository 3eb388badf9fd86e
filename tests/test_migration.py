"""Rows of the table of BioNeMo v1 in docs/guides/migration.md, executed on files of its layout."""

import pytest

from prott5nv.cli import main
from prott5nv.data.memmap import CSVDataset
from prott5nv.embedding.store import EmbeddingStore

pytest.importorskip("hydra", reason="needs the train extra")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder as BioNeMo v1 wrote it, with two files of training data."""
    monkeypatch.chdir(tmp_path)
    for split, numbers in (("train", (0, 1)), ("val", (0,)), ("test", (0,))):
        (tmp_path / "data" / split).mkdir(parents=True)
        for number in numbers:
            rows = f"{number},UniRef50_A{number},{7 + number},MSLKRAV{'K' * number}\n"
            (tmp_path / "data" / split / f"x{number:03d}.csv").write_text(
                "record_id,record_name,sequence_length,sequence\n" + rows
            )
    return tmp_path / "data"


@pytest.mark.parametrize("files", ["x[000..001]", "x_OP_000..001_CL_", "x*"])
def test_ranges_of_files(data, files):
    assert [path.name for path in CSVDataset(data, "train", files).paths] == ["x000.csv", "x001.csv"]


@pytest.mark.parametrize("files", ["x[000..049]", "x_OP_000..049_CL_"])
def test_settings_need_no_quotes(data, files, capsys):
    arguments = [f"model.data.dataset.train={files}", "exp_manager.exp_dir=a b", "model.optim.lr=2e-4"]
    main_ok(["pretrain", "--cfg", "job", "trainer.devices=8", "model.micro_batch_size=12", *arguments])
    assert f"train: {files}\n" in capsys.readouterr().out


def test_short_names_of_precisions(data, capsys):
    main_ok(["pretrain", "--cfg", "job", "trainer.precision=16"])
    assert "precision: '16'\n" in capsys.readouterr().out


WITHOUT_COUNTERPART = """
exp_manager.create_checkpoint_callback exp_manager.explicit_log_dir exp_manager.checkpoint_callback_params.monitor
exp_manager.checkpoint_callback_params.mode exp_manager.checkpoint_callback_params.filename
exp_manager.checkpoint_callback_params.model_parallel_size trainer.logger trainer.enable_checkpointing
trainer.replace_sampler_ddp trainer.use_distributed_sampler model.tokenizer model.precision model.megatron_amp_O2
model.optim.sched.last_epoch model.optim.sched.max_steps trainer.max_epochs model.nsys_profile
model.apply_query_key_layer_scaling model.data.data_impl_kwargs model.data.index_mapping_dir model.data.dataloader_type
model.data.micro_batch_size
"""
OF_THE_TASK = """
class task_type train val test sequence_column target_column target_sizes mask_column num_classes infer_target
max_seq_length emb_batch_size num_workers shuffle optim.name
"""
NAMES = WITHOUT_COUNTERPART.split() + [f"model.dwnstr_task_validation.dataset.{name}" for name in OF_THE_TASK.split()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trainer: {logger: false}", "trainer.logger cannot be set"),
        ("model: {kv_channels: 64}", "there is no setting model.kv_channels"),
        ("model: {global_batch_size: null}", "model.global_batch_size: must be an integer"),
    ],
)
def test_a_line_of_its_yaml_file_is_refused_as_on_the_command_line(data, capsys, line, message):
    (data.parent / "mine" / "experiment").mkdir(parents=True)
    (data.parent / "mine" / "experiment" / "old.yaml").write_text(f"# @package _global_\n{line}\n")
    with pytest.raises(SystemExit):
        main(["pretrain", "model.data.dataset_path=data", "--config-dir=mine", "+experiment=old"])
    error = capsys.readouterr().err
    assert error.startswith(f"prott5nv: error: experiment/old.yaml: {message}") and error.count("\n") == 1


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize("name", NAMES)
def test_settings_without_counterpart_are_refused_by_name(data, capsys, name, plus):
    with pytest.raises(SystemExit) as exit:
        main(["pretrain", "model.data.dataset_path=data", "model=tiny", f"{plus}{name}=1"])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"prott5nv: error: {name} cannot be set")


@pytest.mark.parametrize("arguments", [["do_training=False"], ["do_training=False", "model.data.dataset_path=data"]])
def test_preprocessing_points_to_prepare(data, arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["pretrain", *arguments])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and "`prott5nv prepare uniref50` prepares data" in error


def test_prepare_gives_a_few_proteins_one_for_validation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.fasta").write_text("".join(f">P{i}\n{'MSLKRAVW' * 3}{'K' * i}\n" for i in range(1, 9)))
    main_ok(["prepare", "uniref50", "few.fasta", "-o", "out"])
    assert "validation and test set get one protein each" in capsys.readouterr().err
    sizes = {s: len((tmp_path / "out" / s / "x000.csv").read_text().splitlines()) - 1 for s in ("train", "val", "test")}
    assert sizes == {"train": 6, "val": 1, "test": 1}


def test_its_csv_files_are_embedded(data, tiny_checkpoint):
    main_ok(["embed", "data/train", "-o", "out.h5", "--model", str(tiny_checkpoint)])
    with EmbeddingStore("out.h5") as store:
        assert sorted(store) == ["UniRef50_A0", "UniRef50_A1"]


def main_ok(arguments):
    try:
        main(arguments)
    except SystemExit as exit:
        assert not exit.code
