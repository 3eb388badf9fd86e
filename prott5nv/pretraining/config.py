"""Settings of a pretraining run: a dataclass for each section of ``conf/pretrain.yaml`` and ``conf/model.yaml``.

The YAML files hold the values and explain them. The dataclasses hold the types, the ranges and the rules that involve
several settings. Hydra merges the values into these types, so it reports an unknown name or a wrong type by itself.

The dataclasses share this module, because the modules that use them import NeMo, Megatron and Lightning. These imports
take seconds, and Hydra needs the dataclasses before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from typing import Any, ClassVar, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf

from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig
from prott5nv.pretraining.optimizer_names import OPTIMIZERS


def at_least(minimum: float, below: float | None = None) -> Any:
    """Declare a field whose value must not be smaller than `minimum`, and may have to be smaller than `below`.

    None is not checked here, because the field's type decides whether it is allowed.
    """
    return field(metadata={"minimum": minimum, "below": below})


def one_of(*choices: str | None) -> Any:
    """Declare a field whose value must be one of `choices`."""
    return field(metadata={"choices": choices})


#: Other names of precisions that Lightning has, or had at the time of BioNeMo v1.
PRECISIONS = {"32-true": "32", "16": "16-mixed", "bf16": "bf16-mixed"}

#: Metadata of a field that takes a text, which the command line passes on literally, or a list of texts.
TEXT_OR_LIST = {"text": True}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


@dataclass(kw_only=True)
class Section:
    """Base class of the sections: checks each value against what its field declares.

    Raises
    ------
    ProtT5nvError
        If a value is out of range. The message gives the setting's name on the command line.
    """

    path: ClassVar[str] = ""  # prefix of this section's settings on the command line
    is_open: ClassVar[bool] = False  # whether +NAME=VALUE can add a setting that the class does not declare
    fixed: ClassVar[frozenset[str]] = frozenset()  # settings that cannot be added, because the package chooses them

    def __post_init__(self) -> None:
        for declared in fields(self):
            value = getattr(self, declared.name)
            name = f"{self.path}{declared.name}"
            minimum, below, choices = map(declared.metadata.get, ("minimum", "below", "choices"))
            if minimum is not None and value is not None and not value >= minimum:  # "not >=" also refuses NaN
                raise ProtT5nvError(f"{name}={value}: choose a value of at least {minimum}")
            if below is not None and value >= below:
                raise ProtT5nvError(f"{name}={value}: choose a value below {below}")
            if choices is not None and value not in choices:
                names = ", ".join("null" if choice is None else choice for choice in choices)
                raise ProtT5nvError(f"{name}={value}: choose one of {names}")


# ---------------------------------------------------------------------- model


@dataclass(kw_only=True)
class SplitFilesConfig(Section):
    """``model.data.dataset``: the CSV files of each split, as a file name, a pattern, a range or a list of these."""

    path: ClassVar[str] = "model.data.dataset."

    train: Any = field(metadata=TEXT_OR_LIST)
    val: Any = field(metadata=TEXT_OR_LIST)
    test: Any = field(metadata=TEXT_OR_LIST)


@dataclass(kw_only=True)
class DataConfig(Section):
    """``model.data``: the prepared proteins, their masking, and how they are cut into micro-batches."""

    path: ClassVar[str] = "model.data."
    fixed: ClassVar[frozenset[str]] = _words(  # settings of BioNeMo v1
        "data_impl_kwargs dataloader_type micro_batch_size index_mapping_dir"
    )

    dataset_path: str
    dataset: SplitFilesConfig
    data_impl: str = one_of("csv_mmap")
    seq_length: int = at_least(1)
    seq_length_dec: int = at_least(1)
    masked_lm_prob: float = at_least(0, below=1)
    mean_span_length: float = at_least(1)
    random_crop: bool
    tokens_per_micro_batch: int | None = at_least(1)
    num_workers: int | None = at_least(0)


@dataclass(kw_only=True)
class ScheduleConfig(Section):
    """``model.optim.sched``: one of NeMo's learning-rate schedules.

    ``+model.optim.sched.NAME=VALUE`` passes a further argument to the schedule. ``warmup_steps`` takes precedence over
    ``warmup_ratio``.
    """

    path: ClassVar[str] = "model.optim.sched."
    is_open: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = _words("last_epoch max_steps")

    name: str
    min_lr: float = at_least(0)
    warmup_ratio: float | None = at_least(0)
    warmup_steps: int | None = at_least(0)


@dataclass(kw_only=True)
class OptimizerConfig(Section):
    """``model.optim``: the optimizer and its learning-rate schedule."""

    path: ClassVar[str] = "model.optim."

    name: str
    lr: float = at_least(0)
    betas: list[float]
    eps: float = at_least(0)
    weight_decay: float = at_least(0)
    sched: ScheduleConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in OPTIMIZERS:
            raise ProtT5nvError(f"model.optim.name={self.name}: choose one of {', '.join(OPTIMIZERS)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ProtT5nvError(f"model.optim.betas={self.betas}: give two numbers from 0 to below 1")


@dataclass(kw_only=True)
class HeadOptimizerConfig(Section):
    """``model.dwnstr_task_validation.dataset.optim``: the optimizer of the head."""

    path: ClassVar[str] = "model.dwnstr_task_validation.dataset.optim."
    fixed: ClassVar[frozenset[str]] = _words("name betas eps weight_decay sched")

    lr: float = at_least(0)


@dataclass(kw_only=True)
class DownstreamDataConfig(Section):
    """``model.dwnstr_task_validation.dataset``: the FLIP task of the validation, and how its head is trained."""

    path: ClassVar[str] = "model.dwnstr_task_validation.dataset."
    fixed: ClassVar[frozenset[str]] = _words(  # settings of BioNeMo v1
        "class task_type train val test sequence_column target_column target_sizes mask_column num_classes "
        "infer_target max_seq_length emb_batch_size num_workers shuffle"
    )

    dataset_path: str | None
    task_name: str
    proteins_per_set: int | None = at_least(1)
    num_epochs: int = at_least(1)
    batch_size: int = at_least(1)
    optim: HeadOptimizerConfig
    random_seed: int


@dataclass(kw_only=True)
class DownstreamConfig(Section):
    """``model.dwnstr_task_validation``: whether each validation trains a head on frozen embeddings, and on what."""

    path: ClassVar[str] = "model.dwnstr_task_validation."

    enabled: bool
    dataset: DownstreamDataConfig


# The fields of ModelConfig with their types, but not its defaults: these reach Hydra through the presets. The masked
# fraction is the exception, since BioNeMo v1 has it under `data`.
_types = get_type_hints(ModelConfig)
_ArchitectureSection: Any = make_dataclass(
    "_ArchitectureSection",
    [(item.name, _types[item.name]) for item in fields(ModelConfig) if item.name != "masked_lm_prob"],
    bases=(Section,),
    kw_only=True,
)


@dataclass(kw_only=True)
class ModelTrainingConfig(_ArchitectureSection):
    """``model``: the architecture (the fields of :class:`prott5nv.ModelConfig`) and how it is trained."""

    path: ClassVar[str] = "model."
    fixed: ClassVar[frozenset[str]] = _words(  # settings of BioNeMo v1
        "tokenizer precision megatron_amp_O2 nsys_profile apply_query_key_layer_scaling"
    )

    micro_batch_size: int | None = at_least(1)
    global_batch_size: int = at_least(1)
    tensor_model_parallel_size: int = at_least(1)
    pipeline_model_parallel_size: int = at_least(1)
    activations_checkpoint_granularity: str | None = one_of(None, "full")
    compile: Any  # trainer.compile
    seed: int
    init_method: str = one_of("normal", "mimetic")
    gradient_clip_val: float = at_least(0)
    skip_loss_spikes: float | None = at_least(0)
    data: DataConfig
    optim: OptimizerConfig
    dwnstr_task_validation: DownstreamConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pipeline_model_parallel_size != 1:
            raise ProtT5nvError(
                "model.pipeline_model_parallel_size must be 1: this model is too small to gain from pipelining"
            )
        if self.optim.name == "muon" and self.tensor_model_parallel_size != 1:
            raise ProtT5nvError(
                "model.optim.name=muon needs whole matrices: choose another optimizer, or "
                "model.tensor_model_parallel_size=1"
            )
        if self.compile is True and self.tensor_model_parallel_size != 1:
            raise ProtT5nvError("trainer.compile=true needs model.tensor_model_parallel_size=1")
        if self.init_method == "mimetic" and self.num_attention_heads < 3:
            raise ProtT5nvError(
                "model.init_method=mimetic needs at least three attention heads: it divides the hidden size into "
                "columns for the position, the sentinel and the residue, each as wide as a head or wider"
            )
        for name in ("num_attention_heads", "ffn_hidden_size"):
            if getattr(self, name) % self.tensor_model_parallel_size:
                raise ProtT5nvError(
                    f"model.tensor_model_parallel_size={self.tensor_model_parallel_size} does not divide "
                    f"model.{name}={getattr(self, name)}"
                )
        try:
            config = architecture(asdict(self))
        except ProtT5nvError as error:  # it begins with the name of a field
            raise ProtT5nvError(f"{self.path}{error}") from None
        config.check_pretraining(self.data.mean_span_length)


def architecture(section: Mapping[str, Any]) -> ModelConfig:
    """Read the architecture out of a ``model`` section.

    Parameters
    ----------
    section : mapping
        Fields of :class:`prott5nv.ModelConfig`. ``seq_length``, ``seq_length_dec`` and ``masked_lm_prob`` may stand
        under ``data``, as in BioNeMo v1, and are taken from there first. Other keys are ignored.

    Returns
    -------
    ModelConfig

    Raises
    ------
    ProtT5nvError
        If a value is not valid.
    """
    data = section.get("data") or {}
    names = ("seq_length", "seq_length_dec", "masked_lm_prob")
    return ModelConfig.from_dict({**section, **{name: data[name] for name in names if data.get(name) is not None}})


# ---------------------------------------------------------------------- trainer and experiment


@dataclass(kw_only=True)
class TrainerConfig(Section):
    """``trainer``: ``compile``, and arguments of Lightning's ``Trainer``; ``+trainer.X=`` passes another one."""

    path: ClassVar[str] = "trainer."
    is_open: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = _words(
        "logger plugins callbacks enable_checkpointing use_distributed_sampler replace_sampler_ddp max_epochs "
        "min_epochs check_val_every_n_epoch num_sanity_val_steps enable_model_summary"
    )

    devices: Any
    num_nodes: int = at_least(1)
    accelerator: str
    strategy: str
    precision: str = one_of("auto", "32", "bf16-mixed", "16-mixed", *PRECISIONS)
    compile: Any  # true, false or auto; Hydra cannot merge a union
    max_steps: int = at_least(1)
    val_check_interval: int = at_least(1)
    limit_val_batches: Any  # int (batches) or float (fraction), which Lightning checks; Hydra cannot merge a union
    gradient_clip_val: float = at_least(0)
    accumulate_grad_batches: int = at_least(1)
    log_every_n_steps: int = at_least(1)
    enable_progress_bar: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile not in (True, False, "auto"):
            raise ProtT5nvError(f"trainer.compile={self.compile}: choose one of true, false, auto")
        if self.strategy != "auto":
            raise ProtT5nvError(
                "trainer.strategy must be auto: trainer.devices and model.tensor_model_parallel_size decide how the "
                "processes divide the work, and this model is too small for sharding (FSDP) to help"
            )
        if self.accumulate_grad_batches != 1:
            raise ProtT5nvError(
                "trainer.accumulate_grad_batches must be 1: model.global_batch_size is the number of proteins in a "
                "step, and model.micro_batch_size is how many of them are processed at once"
            )


@dataclass(kw_only=True)
class CheckpointConfig(Section):
    """``exp_manager.checkpoint_callback_params``: which checkpoints to keep."""

    path: ClassVar[str] = "exp_manager.checkpoint_callback_params."
    fixed: ClassVar[frozenset[str]] = _words("monitor mode filename model_parallel_size")

    save_top_k: int = at_least(-1)
    always_save_nemo: bool


@dataclass(kw_only=True)
class ExperimentConfig(Section):
    """``exp_manager``: arguments of NeMo's ``exp_manager``; ``+exp_manager.X=`` passes another one."""

    path: ClassVar[str] = "exp_manager."
    is_open: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = _words(
        "create_checkpoint_callback explicit_log_dir version use_datetime_version resume_from_checkpoint"
    )

    exp_dir: str
    name: str
    create_tensorboard_logger: bool
    create_wandb_logger: bool
    wandb_logger_kwargs: dict[str, Any]
    resume_if_exists: bool
    resume_ignore_no_checkpoint: bool
    seconds_to_sleep: float = at_least(0)
    log_step_timing: bool
    log_tflops_per_sec_per_gpu: bool
    checkpoint_callback_params: CheckpointConfig


@dataclass(kw_only=True)
class PretrainConfig(Section):
    """All settings of a run."""

    name: str
    do_training: bool
    do_testing: bool
    restore_from_path: str | None
    callbacks: dict[str, Any]
    model: ModelTrainingConfig
    trainer: TrainerConfig
    exp_manager: ExperimentConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name.strip(" /"):  # for example, from an environment variable that is not set
            raise ProtT5nvError("name is empty: it names the folder and the model of the run")


def checked(cfg: DictConfig) -> PretrainConfig:
    """Convert a composed configuration to dataclasses, which check their values.

    Parameters
    ----------
    cfg : DictConfig
        ``conf/pretrain.yaml``, composed after :func:`prott5nv.pretraining.presets.register`.

    Returns
    -------
    PretrainConfig

    Raises
    ------
    ProtT5nvError
        If a value is out of range, or settings do not go together.
    """
    return cast(PretrainConfig, OmegaConf.to_object(cfg))


def as_dict(section: DictConfig) -> dict[str, Any]:
    """Convert a section to a dictionary, with interpolations resolved and with values added by ``+NAME=``."""
    return cast(dict[str, Any], OmegaConf.to_container(section, resolve=True))
