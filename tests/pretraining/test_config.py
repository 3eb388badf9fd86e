"""Settings of pretraining: names, types, ranges, and rules that involve several of them."""

from dataclasses import fields

import pytest

pytest.importorskip("hydra", reason="needs the train extra")

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from prott5nv import ModelConfig, ProtT5nvError
from prott5nv.assets import config_folder
from prott5nv.cli.overrides import refuse_unknown_settings
from prott5nv.pretraining.config import ModelTrainingConfig, PretrainConfig, checked
from prott5nv.pretraining.presets import register
from prott5nv.settings import describe


def composed(*overrides):
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose("pretrain", ["model=tiny", "model.data.dataset_path=data", *overrides])


@pytest.mark.parametrize("preset", ModelConfig.preset_names())
def test_the_yaml_files_give_every_setting_but_the_data(preset):
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("pretrain", [f"model={preset}"])
    assert OmegaConf.missing_keys(cfg) == {"model.data.dataset_path"}
    cfg.model.data.dataset_path = "data"
    config = checked(cfg)
    assert isinstance(config, PretrainConfig)
    assert config.model.hidden_size == ModelConfig.preset(preset).hidden_size


def test_the_model_section_has_the_fields_of_the_architecture():
    ours, architecture = ({field.name for field in fields(cls)} for cls in (ModelTrainingConfig, ModelConfig))
    assert architecture - ours == {"masked_lm_prob"}


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.optim.lr=fast", "model.optim.lr=fast: must be a number"),
        ("model.optim.betas=0.9", "model.optim.betas=0.9: must be a list of numbers: write 'model.optim.betas=[0.9]'"),
        ("model.micro_batch_size=1.5", "model.micro_batch_size=1.5: must be an integer or null"),
        ("model.skip_loss_spikes=often", "model.skip_loss_spikes=often: must be a number or null"),
        ("trainer.max_steps=null", "trainer.max_steps=null: must be an integer"),
        ("trainer.max_steps=1e6", "trainer.max_steps=1e6: must be an integer, such as 1000000"),
        ("model.hidden=3", "there is no setting model.hidden; did you mean model.hidden_size?"),
        ("trainer.max_step=3", "there is no setting trainer.max_step; did you mean trainer.max_steps?"),
        ("max_steps=3", "there is no setting max_steps; did you mean trainer.max_steps?"),
        (
            "model.optim.sched.warmup=3",
            "there is no setting model.optim.sched.warmup; did you mean model.optim.sched.w",
        ),
        (
            "exp_manager.checkpoint_callback_params.save_top=3",
            "did you mean exp_manager.checkpoint_callback_params.save_top_k?",
        ),
    ],
)
def test_unknown_names_and_wrong_types_are_reported_by_name(override, message):
    with pytest.raises(HydraException) as caught:
        composed(override)
    described = describe(caught.value, PretrainConfig)
    assert message in described and "\n" not in described


@pytest.mark.parametrize(
    "override, name",
    [
        ("+model.optim.lrr=3", "model.optim.lr"),
        ("+model.micro_batchsize=3", "model.micro_batch_size"),
        ("+nam=x", "name"),
        ("+exp_manager.checkpoint_callback_params.save_topk=3", "exp_manager.checkpoint_callback_params.save_top_k"),
    ],
)
def test_unknown_names_are_refused_also_if_they_are_added(override, name):
    with pytest.raises(ProtT5nvError, match=f"; did you mean {name}[?]"):
        refuse_unknown_settings(OmegaConf.to_container(composed(override)), PretrainConfig)


def test_open_sections_take_further_arguments():
    added = composed("+trainer.fast_dev_run=true", "+model.optim.sched.constant_steps=3", "+callbacks.a.b=3")
    refuse_unknown_settings(OmegaConf.to_container(added), PretrainConfig)


@pytest.mark.parametrize(
    "override, message",
    [
        ("model.micro_batch_size=0", "model.micro_batch_size=0: choose a value of at least 1"),
        ("model.optim.lr=-1", "model.optim.lr=-1.0: choose a value of at least 0"),
        ("model.optim.lr=nan", "model.optim.lr=nan: choose"),
        ("model.optim.betas=[0.9]", "model.optim.betas="),
        ("model.optim.betas=[0.9,1]", "model.optim.betas="),
        ("model.optim.name=lion", "model.optim.name=lion: choose one of fused_adam, muon, apex_fused_adam"),
        ("model.data.mean_span_length=0.5", "model.data.mean_span_length=0.5: choose a value of at least 1"),
        ("model.data.masked_lm_prob=1.5", "model.data.masked_lm_prob=1.5: choose a value below 1"),
        ("model.hidden_dropout=1.5", "model.hidden_dropout=1.5 is not a number from 0 to below 1"),
        ("model.hidden_size=33", "model.hidden_size=33 is not divisible by num_attention_heads="),
        ("model.data.data_impl=text_mmap", "choose one of csv_mmap"),
        ("model.skip_loss_spikes=-6", "model.skip_loss_spikes=-6.0"),
        ("model.dwnstr_task_validation.dataset.num_epochs=0", "model.dwnstr_task_validation.dataset.num_epochs=0"),
        ("model.activations_checkpoint_granularity=selective", "choose one of null, full"),
        ("model.init_method=xavier", "choose one of normal, mimetic"),
        ("trainer.precision=64", "trainer.precision=64: choose one of auto, 32"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0"),
        ("exp_manager.checkpoint_callback_params.save_top_k=-2", "save_top_k=-2"),
    ],
)
def test_values_out_of_range_are_refused_by_name(override, message):
    cfg = composed(override)
    with pytest.raises(ProtT5nvError) as caught:
        checked(cfg)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["model.pipeline_model_parallel_size=2"], "pipeline"),
        (["model.tensor_model_parallel_size=3"], "num_attention_heads=4"),
        (["model.tensor_model_parallel_size=2", "model.optim.name=muon"], "muon needs whole matrices"),
        (["model.init_method=mimetic", "model.num_attention_heads=2"], "three attention heads"),
        (["model.hidden_size=30"], "hidden_size=30"),
        (["model.seq_length=1000", "model.max_position_embeddings=1000"], "seq_length=640"),
        (["model.data.masked_lm_prob=0.5"], "seq_length=192"),
        (["trainer.accumulate_grad_batches=4"], "global_batch_size"),
        (["trainer.strategy=fsdp"], "too small for sharding"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, message):
    cfg = composed(*overrides)
    with pytest.raises(ProtT5nvError, match=message):
        checked(cfg)


def test_settings_can_be_added_for_lightning_nemo_and_the_schedule():
    cfg = composed("+trainer.fast_dev_run=true", "+exp_manager.log_step=1", "+model.optim.sched.constant_steps=3")
    assert checked(cfg).trainer.fast_dev_run is True
    assert OmegaConf.to_container(cfg.model.optim.sched, resolve=True)["constant_steps"] == 3
    assert OmegaConf.to_container(cfg.exp_manager, resolve=True)["log_step"] == 1
