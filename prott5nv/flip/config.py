"""Configuration of fine-tuning: the type and the limits of every setting.

The values, and a comment about each, are in ``conf/finetune.yaml``, ``conf/task.yaml`` and ``conf/task/``; there are no
defaults here. Hydra merges the YAML into these classes, so a wrong type or an unknown key is refused with the key's
name, and :func:`finetune_config` returns them as objects, whose limits are checked on creation.

This module imports no PyTorch, so that a misspelt setting is reported at once.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from prott5nv.errors import ProtT5nvError
from prott5nv.extras import load_extensions
from prott5nv.flip.description import read_description
from prott5nv.io.text import valid_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

LEVELS = ("residue", "protein")
LABELS = ("class", "number")
MODES = ("frozen", "lora", "full")

#: Suffixes of a table of the user's own.
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")

#: Names of the heads that :func:`prott5nv.register_head` added.
REGISTERED_HEADS: set[str] = set()

# Files in the folder of a run
RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.csv"


@dataclass
class TrainingConfig:
    """How to train a head, and the encoder if it is trained.

    Attributes
    ----------
    epochs : int
        Maximum number of passes over the training set.
    patience : int
        Number of epochs without a better validation score after which training stops.
    batch_size : int
        Proteins per optimizer step.
    lr, encoder_lr : float
        AdamW's learning rates for the head and for the trained parameters of the encoder.
    weight_decay : float
        AdamW's weight decay.
    warmup : float
        Fraction of the steps during which the learning rate rises; after that it decays linearly to zero.
    balanced : bool
        Whether to weight classes by their inverse frequency, and to select the epoch by macro F1 instead of accuracy.
    max_tokens : int
        Residues per micro-batch. A larger batch is cut into micro-batches whose gradients are summed.
    """

    epochs: int
    patience: int
    batch_size: int
    lr: float
    encoder_lr: float
    weight_decay: float
    warmup: float
    balanced: bool
    max_tokens: int

    def __post_init__(self) -> None:
        _check_at_least(1, self, "task.training", "epochs", "patience", "batch_size", "max_tokens")
        _check_at_least(0, self, "task.training", "lr", "encoder_lr", "weight_decay", "warmup")
        if self.warmup > 1:
            raise ProtT5nvError(f"task.training.warmup={self.warmup}: must be a fraction, at most 1")

    def steps_per_epoch(self, proteins: int) -> int:
        """Return the number of optimizer steps in which all proteins of a training set are used once."""
        return -(-proteins // self.batch_size)


@dataclass
class ConvNetConfig:
    """Settings of :class:`prott5nv.flip.heads.ConvNet`."""

    channels: int
    kernel: int
    dropout: float

    def __post_init__(self) -> None:
        _check_at_least(1, self, "task.head.convnet", "channels", "kernel")
        _check_dropout(self.dropout, "task.head.convnet")


@dataclass
class WindowConfig:
    """Settings of :class:`prott5nv.flip.heads.WindowLinear`."""

    kernel: int

    def __post_init__(self) -> None:
        _check_at_least(1, self, "task.head.window", "kernel")


@dataclass
class LinearConfig:
    """The linear heads have no settings."""


@dataclass
class MLPConfig:
    """Settings of :class:`prott5nv.flip.heads.MLP`."""

    hidden_size: int
    dropout: float

    def __post_init__(self) -> None:
        _check_at_least(1, self, "task.head.mlp", "hidden_size")
        _check_dropout(self.dropout, "task.head.mlp")


@dataclass
class LightAttentionConfig:
    """Settings of :class:`prott5nv.flip.heads.LightAttention`."""

    kernel: int
    hidden_size: int
    dropout: float

    def __post_init__(self) -> None:
        _check_at_least(1, self, "task.head.light_attention", "kernel", "hidden_size")
        _check_dropout(self.dropout, "task.head.light_attention")


@dataclass
class HeadConfig:
    """The chosen head, and the settings of every head.

    Attributes
    ----------
    name : str
        Name of the head to train; the other attributes are named after the heads.
    custom : dict
        Settings of a head that :func:`prott5nv.register_head` added.
    """

    name: str
    convnet: ConvNetConfig
    window: WindowConfig
    linear: LinearConfig
    mlp: MLPConfig
    light_attention: LightAttentionConfig
    custom: dict[str, Any]

    def __post_init__(self) -> None:
        if self.name not in head_names():
            raise ProtT5nvError(
                f"task.head.name={self.name}: must be one of {', '.join(head_names())}, or a head that an installed "
                "extension registers"
            )

    def settings(self, name: str) -> dict[str, Any]:
        """Return the name and the settings of a head, as :func:`prott5nv.flip.heads.make_head` takes them."""
        return {"name": name, **(self.custom if name in REGISTERED_HEADS else asdict(getattr(self, name)))}


def head_names() -> list[str]:
    """Return the names of all heads."""
    builtin = [field.name for field in fields(HeadConfig) if field.name not in ("name", "custom")]
    return [*builtin, *sorted(REGISTERED_HEADS)]


def own_table_settings(path: str, level: str | None, label: str | None) -> dict[str, str]:
    """Return the settings that a table of the user's own needs, by name.

    Parameters
    ----------
    path : str
        The table.
    level, label : str or None
        ``residue`` or ``protein``, and ``class`` or ``number``. The description beside a prepared table overrides them.

    Returns
    -------
    dict of str to str
        It is empty if the level or the label is not known.

    Raises
    ------
    ProtT5nvError
        If there is no such table, or its description is damaged or that of another table.
    """
    if not os.path.exists(path):
        raise ProtT5nvError(f"{path}: no such file")
    description = read_description(Path(path)) if os.path.isfile(path) else {}
    level, label = description.get("level", level), description.get("label", label)
    if level not in LEVELS or label not in LABELS:
        return {}
    return {
        "task.file": path,
        "task.name": valid_text(path.replace("\\", "/").rpartition("/")[2].split(".")[0]),
        "task.level": level,
        "task.label": label,
        "task.head.name": {"residue": "convnet", "protein": "mlp"}[level],
    }


@dataclass
class TaskConfig:
    """The table of a task, its columns, the head and its training.

    Attributes
    ----------
    name, split : str
        Names of the task and of its split, used in results.
    file : str
        The CSV table.
    level, label : str, optional
        ``residue`` or ``protein``, and ``class`` or ``number``. Required unless a description is next to the table.
    sequence_column, target_column, set_column, mask_column : str
        Names of the columns.
    id_column : str, optional
        Name of the column of ids. By default it is found by the names that ``embed`` knows.
    gaps : str
        What to do with gaps in a sequence: ``error``, ``keep`` or ``remove``.
    allow_nucleotides : bool
        Whether to accept a table whose sequences seem to be nucleotides.
    skip_missing : bool
        Whether to leave out proteins whose sequence, target or set is missing.
    head : HeadConfig
    training : TrainingConfig
    """

    name: str
    split: str
    file: str
    level: str | None
    label: str | None
    sequence_column: str
    target_column: str
    id_column: str | None
    set_column: str
    mask_column: str
    gaps: str
    allow_nucleotides: bool
    skip_missing: bool
    head: HeadConfig
    training: TrainingConfig


@dataclass
class EncoderConfig:
    """The encoder and the hardware it runs on.

    Attributes
    ----------
    restore_encoder_path : str, optional
        A ``.nemo`` file, or the folder or Hub name of a T5 model; None is the built-in model.
    device, precision : str
        As for :class:`prott5nv.embedding.embedder.Embedder`.
    """

    restore_encoder_path: str | None
    device: str
    precision: str


@dataclass
class LoraConfig:
    """Low-rank adapters, as Hugging Face's ``peft`` defines them.

    Attributes
    ----------
    rank, alpha : int
        Rank of the update, and its scale times the rank.
    dropout : float
        Dropout probability of the input of the adapters.
    target_modules : list of str
        Names of the linear layers of the encoder that get an adapter.
    """

    rank: int
    alpha: int
    dropout: float
    target_modules: list[str]

    def __post_init__(self) -> None:
        _check_at_least(1, self, "lora", "rank", "alpha")
        _check_dropout(self.dropout, "lora")
        if not self.target_modules:
            raise ProtT5nvError("lora.target_modules is empty: name at least one layer, such as [query_key_value]")


@dataclass
class FinetuneConfig:
    """The whole of ``conf/finetune.yaml``.

    Attributes
    ----------
    task : TaskConfig
    model : EncoderConfig
    mode : str
        ``frozen`` trains the head only, ``lora`` adapters in the encoder as well, ``full`` the whole encoder.
    seeds : list of int
        Training runs once for each seed.
    baselines : bool
        Whether to score baselines as well.
    proteins_per_set : int, optional
        Number of proteins to draw from each set for a trial; None takes all of them.
    data_dir, output_dir : str
        Folders of the prepared tasks and of the run.
    cache_dir : str, optional
        Folder of the cached embeddings and baselines. By default it is the one that ``prott5nv cache`` shows.
    overwrite : bool
        Whether to replace results in `output_dir`.
    lora : LoraConfig
    """

    task: TaskConfig
    model: EncoderConfig
    mode: str
    seeds: list[int]
    baselines: bool
    proteins_per_set: int | None
    data_dir: str
    cache_dir: str | None
    output_dir: str
    overwrite: bool
    lora: LoraConfig

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ProtT5nvError(f"mode={self.mode}: must be one of {', '.join(MODES)}")
        if not self.seeds:
            raise ProtT5nvError("seeds is empty: give at least one, such as seeds=[1]")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ProtT5nvError(f"seeds={self.seeds}: must be different numbers, not negative")
        if self.proteins_per_set is not None and self.proteins_per_set < 2:
            raise ProtT5nvError(f"proteins_per_set={self.proteins_per_set}: must be at least 2, or null for all")


def register_configs() -> None:
    """Load the extensions, and register the schema in Hydra's ``ConfigStore``.

    ``conf/finetune.yaml`` names the schema in its defaults list. Every way to fine-tune begins here: the command, the
    script and the Python function.

    Raises
    ------
    ProtT5nvError
        If an extension cannot be imported.
    """
    from hydra.core.config_store import ConfigStore

    load_extensions()
    ConfigStore.instance().store("finetune_schema", FinetuneConfig)


def finetune_config(cfg: DictConfig) -> FinetuneConfig:
    """Turn a composed Hydra configuration into a checked object.

    Parameters
    ----------
    cfg : DictConfig
        ``conf/finetune.yaml`` with overrides.

    Returns
    -------
    FinetuneConfig

    Raises
    ------
    ProtT5nvError
        If a value is outside its limits; the message names the key.
    omegaconf.errors.OmegaConfBaseException
        If a value has the wrong type or is missing, or a key is unknown.
    """
    from omegaconf import OmegaConf

    # Hydra lets an override with a plus, such as +task.lr=1, add any key; a second merge refuses it.
    values = OmegaConf.to_container(cfg, resolve=True)
    merged = OmegaConf.merge(OmegaConf.structured(FinetuneConfig), values)
    return cast(FinetuneConfig, OmegaConf.to_object(merged))


def _check_at_least(lowest: int, config: object, section: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and value >= lowest):
            raise ProtT5nvError(f"{section}.{name}={value}: must be at least {lowest} and finite")


def _check_dropout(dropout: float, section: str) -> None:
    if not 0 <= dropout < 1:
        raise ProtT5nvError(f"{section}.dropout={dropout}: must be at least 0 and below 1")
