"""ProtT5nvModel: the NeMo model that is pretrained.

One batch of Lightning is one optimizer step: a list of packed micro-batches. Their gradients add up to the gradient of
the mean loss over all target tokens of the global batch, on all ranks together.

Shapes: S packed decoder tokens, V vocabulary rows of this tensor-parallel rank.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import prott5nv.pretraining.quiet_imports  # noqa: F401  # comes before Megatron-Core and NeMo

# isort: split
import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.trainer.states import TrainerFn
from megatron.core import parallel_state
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prott5nv.data.dataset import PretrainingDataset
from prott5nv.data.micro_batch import MicroBatch
from prott5nv.errors import ProtT5nvError
from prott5nv.pretraining.checkpoint_files import plain
from prott5nv.pretraining.config import as_dict
from prott5nv.pretraining.hardware import choose_micro_batch_tokens, choose_num_workers
from prott5nv.pretraining.loader import check_records, constant_shape, raise_together, split_dataset, step_loader
from prott5nv.pretraining.losses import SUMS, StepChecks, in_float64, metrics_from_sums, token_losses
from prott5nv.pretraining.network import NetworkModel
from prott5nv.pretraining.optimizers import skips_on_device
from prott5nv.pretraining.parallel import all_reduce_gradients, clip_gradients, sum_on_hosts
from prott5nv.pretraining.resume import check_resumable, check_training_state, loops_at
from prott5nv.pretraining.tensor_parallel import gather_shards, map_optimizer_state, map_state, own_shard, whole_shape

logger = logging.getLogger(__name__)

#: The micro-batches of this rank for one optimizer step, or the error that reading them raised.
StepInput = list[MicroBatch] | ProtT5nvError

#: Devices that the host reads from in every step.
HOST_DEVICES: tuple[str, ...] = ("cpu", "mps")


class NotFiniteError(ProtT5nvError):
    """The loss of a step is infinite or not a number.

    Parameters
    ----------
    message : str
    step : int
        The step. It and all later steps have not been applied.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class ProtT5nvModel(NetworkModel):
    """Encoder-decoder that is pretrained by span corruption.

    Parameters
    ----------
    cfg : DictConfig
        The ``model`` section of ``conf/pretrain.yaml``: architecture (the fields of :class:`prott5nv.ModelConfig`),
        ``data``, ``optim``, batch sizes, ``seed`` and ``gradient_clip_val``.
    trainer : lightning.pytorch.Trainer, optional
    """

    def __init__(self, cfg: DictConfig, trainer: pl.Trainer | None = None):
        super().__init__(cfg, trainer)
        # Lightning cannot accumulate these gradients: the loss is divided by the number of target tokens in all
        # micro-batches of all ranks.
        self.automatic_optimization = False
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64)  # of a validation, which has millions of tokens
        self._validation_error: ProtT5nvError | None = None  # of this rank only
        deviations = self.cfg.get("skip_loss_spikes")
        self._checks = StepChecks(math.inf if deviations is None else float(deviations))
        self._validated_step: int | None = None
        self.stop_requested = False  # a signal has reached this rank
        self.stopping = False  # all ranks have agreed to stop
        self.reads_device = True  # whether the host may read from the device in this step
        self.encoder_tokens = 0.0  # of the last step, over all ranks

    # ------------------------------------------------------------------ data

    def on_fit_start(self) -> None:
        """Check all training and validation data, so that a bad record cannot stop a run in the middle."""
        super().on_fit_start()
        for split in ("train", "val") if self.trainer.limit_val_batches else ("train",):
            check_records(self._dataset(split, shuffle=False), split)

    def on_test_start(self) -> None:
        """Check all test data."""
        super().on_test_start()
        check_records(self._dataset("test", shuffle=False), "test")

    def train_dataloader(self) -> DataLoader[StepInput]:
        """Return an endless stream of optimizer steps that starts at the trainer's current step."""
        return self._loader(self._dataset("train", shuffle=True), start_step=self.trainer.global_step)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the validation split: each protein once, with the same masks in every validation.

        NeMo also asks a run that validates nothing. It gets an empty list, since its data may have no such split.
        """
        if not self.trainer.limit_val_batches:
            return []
        dataset = self._dataset("val", shuffle=False)
        return self._loader(dataset, num_samples=len(dataset))

    def test_dataloader(self) -> DataLoader:
        """Return the test split: each protein once."""
        dataset = self._dataset("test", shuffle=False)
        return self._loader(dataset, num_samples=len(dataset))

    def _dataset(self, split: str, *, shuffle: bool) -> PretrainingDataset:
        random_crop = split == "train" and bool(self.cfg.data.get("random_crop", False))
        return split_dataset(self.cfg, self.config, split, shuffle=shuffle, random_crop=random_crop)

    def _loader(self, dataset: PretrainingDataset, **stream: int) -> DataLoader:
        if dataset.tokens_per_micro_batch is None and dataset.micro_batch_size is None:
            dataset.tokens_per_micro_batch = self._micro_batch_tokens
        if self.compiles:
            proteins = -(-self.cfg.global_batch_size // parallel_state.get_data_parallel_world_size())
            dataset.batch_shape = constant_shape(dataset, proteins, self.config)
        num_workers = self.cfg.data.get("num_workers")
        if num_workers is None:
            num_workers = choose_num_workers(self.root_device, self.trainer.num_devices)
        return step_loader(dataset, self.cfg.global_batch_size, num_workers, device=self.root_device, **stream)

    @cached_property
    def _micro_batch_tokens(self) -> int:
        return choose_micro_batch_tokens(
            self.config,
            self.root_device,
            precision=str(self.trainer.precision),
            recompute=self.cfg.get("activations_checkpoint_granularity") == "full",
            tensor_parallel=parallel_state.get_tensor_model_parallel_world_size(),
        )

    def setup_training_data(self, train_data_config: DictConfig | dict[str, Any] | None = None) -> None:
        """Do nothing: NeMo requires this method, but the loaders above need no set-up."""

    def setup_validation_data(self, val_data_config: DictConfig | dict[str, Any] | None = None) -> None:
        """Do nothing: NeMo requires this method, but the loaders above need no set-up."""

    @classmethod
    def list_available_models(cls) -> list[Any]:
        """Return an empty list: NeMo requires this method, and there are no models to download."""
        return []

    # ------------------------------------------------------------------ steps

    def forward(self, batch: MicroBatch) -> Tensor:
        """Return the logits of each target token.

        See :meth:`prott5nv.pretraining.megatron.MegatronProtT5.forward`.
        """
        return cast(Tensor, self.built(batch))

    def training_step(self, step_input: StepInput, batch_idx: int) -> None:
        """Take one optimizer step over the micro-batches of this rank.

        On a GPU, nothing is read from it here, so that it never waits for the host. Whether the step is applied is
        decided there, and the host reads the decisions every ``trainer.log_every_n_steps`` steps.
        """
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        step = self.trainer.global_step
        self.reads_device = self.device.type in HOST_DEVICES or (step + 1) % self.trainer.log_every_n_steps == 0
        self._seed_dropout()
        micro_batches, num_targets = self._agree_on_targets(step_input)
        sums = torch.zeros(len(SUMS), device=self.device)
        for batch in micro_batches:
            loss_S, batch_sums = self._losses(batch)
            self.manual_backward(loss_S.sum() / num_targets)
            sums += batch_sums
        all_reduce_gradients(self.built.parameters())
        self._reduce(sums)
        metrics = metrics_from_sums(sums, prefix="train")
        skips = self._checks.add(step, metrics["train_loss"])
        if self._reads_later(optimizer.optimizer):
            optimizer.optimizer.found_inf = skips.float()
        elif self._read_checks():
            # Without gradients the step counts, but leaves the weights and the optimizer's moments as they are.
            optimizer.zero_grad()
        self.log("loss", metrics.pop("train_loss"))  # Lightning would read a metric of its progress bar in every step
        self.log_dict(metrics)
        if self.cfg.get("skip_loss_spikes") is not None:
            self.log("skipped_step", skips.float())
        if self.reads_device:
            self.log("lr", scheduler.get_last_lr()[0])
            self._log_step(step + 1)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if self.reads_device:
            self._read_checks()

    def on_train_start(self) -> None:
        """Set Lightning's counters to the step, and let a validation follow that the last step has missed."""
        super().on_train_start()
        trainer, loop, step = self.trainer, self.trainer.fit_loop.epoch_loop, self.trainer.global_step
        loop.batch_progress.total.ready = loop.batch_progress.total.completed = step
        # A run that had to stop may have missed the validation of its last step. A loop that is restarting begins with
        # it. Without this, Lightning would validate each such step again.
        is_due = trainer.enable_validation and step > 0 and step % trainer.val_check_batch == 0
        is_due = is_due and self._validated_step != step
        loop.restarting = is_due
        loop.val_loop.restarting = False
        loop._batches_that_stepped = step - is_due

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradients, which a gradient scaler has unscaled by now."""
        max_norm = float(self.cfg.get("gradient_clip_val") or math.inf)
        self.log("grad_norm", clip_gradients(list(self.built.parameters()), max_norm))

    def on_validation_start(self) -> None:
        """Stop if the loss of a training step was not finite."""
        super().on_validation_start()
        self._read_checks()

    def on_train_end(self) -> None:
        """Stop if the loss of one of the last steps was not finite."""
        super().on_train_end()
        self._read_checks()

    def validation_step(self, step_input: StepInput, batch_idx: int) -> None:
        """Add up the losses; the end of the epoch divides them by the number of tokens."""
        if isinstance(step_input, ProtT5nvError):
            self._validation_error = self._validation_error or step_input
            return
        for batch in step_input:
            sums = in_float64(self._losses(batch)[1])
            self._sums = self._sums.to(sums.device) + sums

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation split."""
        self._log_split("val")
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._log_step(self.trainer.global_step)
            self._validated_step = self.trainer.global_step

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split."""
        self._log_split("test")

    def _log_step(self, step: int) -> None:
        """Log other metrics at this step. Lightning would count from 0, and add an epoch that is always 0."""
        self.log("step", float(step))

    def _log_split(self, prefix: str) -> None:
        raise_together(self._validation_error)
        sums = self._sums.to(self.device, torch.float32)
        self._sums.zero_()
        self._reduce(sums)
        metrics = metrics_from_sums(sums, prefix)
        self.log_dict(metrics)

    def _losses(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return token_losses(self(batch), batch)

    def _seed_dropout(self) -> None:
        """Seed dropout by seed, step and data-parallel rank, so that resuming needs no saved generator state.

        Tensor-parallel ranks draw the same numbers, because the activations that all of them hold must stay equal.
        """
        rank = parallel_state.get_data_parallel_rank()
        torch.manual_seed(hash((self.cfg.seed, self.trainer.global_step, rank)))

    @staticmethod
    def _reduce(tensor: Tensor) -> None:
        if parallel_state.get_data_parallel_world_size() > 1:
            dist.all_reduce(tensor, group=parallel_state.get_data_parallel_group())

    def _agree_on_targets(self, step_input: StepInput) -> tuple[list[MicroBatch], float]:
        """Return this rank's micro-batches, and the number of target tokens in the global batch.

        The same exchange tells all ranks if one of them could not read its proteins or has been asked to stop.
        """
        error = step_input if isinstance(step_input, ProtT5nvError) else None
        micro_batches = [] if isinstance(step_input, ProtT5nvError) else step_input
        lengths = [batch["lengths"].sum(axis=0) for batch in micro_batches]
        own_encoder_tokens, own_targets = sum(lengths, np.zeros(2)).tolist()
        counts = [own_encoder_tokens, own_targets, float(error is not None), float(self.stop_requested)]
        encoder_tokens, targets, num_errors, num_stops = sum_on_hosts(counts)
        if num_errors:
            raise_together(error)
        self.stopping = num_stops > 0
        copies = parallel_state.get_tensor_model_parallel_world_size()  # ranks that hold the same proteins
        self.encoder_tokens = encoder_tokens / copies
        return micro_batches, targets / copies

    def _reads_later(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether the decision about a step is applied on the device, and read by the host later.

        With fp16, the gradient scaler waits for the GPU in every step anyway.
        """
        deferred = self.device.type not in HOST_DEVICES and self.trainer.precision != "16-mixed"
        return deferred and skips_on_device(optimizer)

    def _read_checks(self) -> bool:
        """Read the decisions about the last steps, and return whether the newest step is skipped as a spike.

        Raises
        ------
        NotFiniteError
            If the loss of a step is not finite.
        """
        verdicts = self._checks.read()
        for verdict in verdicts:
            names = self._record_names(verdict.step) if verdict.failed or verdict.spike else ""
            if verdict.failed:
                raise NotFiniteError(
                    f"the loss is not finite at step {verdict.step}, so training stops before the weights change; "
                    f"the batch holds {names}. Lower model.optim.lr or use trainer.precision=32 in a run with another "
                    "name=",
                    verdict.step,
                )
            if verdict.spike:
                logger.info(
                    "step %d is skipped: its loss of %.4f is far above the recent losses; the batch holds %s",
                    verdict.step,
                    verdict.loss,
                    names,
                )
        return bool(verdicts) and verdicts[-1].spike

    def _record_names(self, step: int) -> str:
        """Return the first names of the records in the global batch of a step."""
        size = self.cfg.global_batch_size
        samples = self.trainer.train_dataloader.dataset.samples
        names = samples.record_names(range(step * size, min((step + 1) * size, step * size + 20)))
        return ", ".join(names) + (" ..." if size > len(names) else "")

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Gather the tensor-parallel shards, add what resuming needs, and leave only tensors and plain data."""
        self._read_checks()
        self._map_tensors(checkpoint, gather_shards)
        for name in ("loops", "hparams_name", "hparams_type"):  # the step determines the loops
            checkpoint.pop(name, None)
        checkpoint["hyper_parameters"] = {"cfg": as_dict(self.cfg)}
        checkpoint["prott5nv"] = {
            **self._description(),
            "recent_losses": self._checks.recent.tolist(),
            "validated_step": self._validated_step,
        }
        content = plain(checkpoint)
        checkpoint.clear()
        checkpoint.update(content)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, and extend the schedule to the new ``max_steps``.

        The saved schedule ends at the old ``max_steps``, after which the learning rate would be zero.
        """
        [optimizer], [schedule] = self.configure_optimizers()
        optimized = [whole_shape(parameter) for group in self._parameter_groups() for parameter in group]
        try:
            check_resumable(checkpoint, self._description(), self._whole_shapes())
            check_training_state(checkpoint, optimizer, schedule["scheduler"], optimized, self.trainer.precision_plugin)
        except ProtT5nvError as error:
            raise ProtT5nvError(f"{self.trainer.ckpt_path}: {error}") from None
        checkpoint["loops"] = loops_at(self.trainer, checkpoint["global_step"])
        for state in checkpoint["lr_schedulers"]:
            state["max_steps"] = self.trainer.max_steps
        self._map_tensors(checkpoint, own_shard)
        self._checks.recent = torch.tensor(checkpoint["prott5nv"]["recent_losses"], dtype=torch.float64)
        self._validated_step = checkpoint["prott5nv"].get("validated_step")

    def _description(self) -> dict[str, Any]:
        """Return what a run must have in common with a checkpoint to resume from it, beside the model."""
        return {
            "optimizer": self.cfg.optim.name,
            "stream": {  # decides, together with the step, which samples a step takes
                "model.seed": self.cfg.seed,
                "model.global_batch_size": self.cfg.global_batch_size,
                "model.data.dataset (number of records)": len(self._dataset("train", shuffle=True)),
            },
        }

    def _map_tensors(self, checkpoint: dict[str, Any], function: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
        checkpoint["state_dict"] = map_state(checkpoint["state_dict"], dict(self.named_parameters()), function)
        optimized = [parameter for group in self._parameter_groups() for parameter in group]
        checkpoint["optimizer_states"] = [
            map_optimizer_state(state, optimized, function) for state in checkpoint.get("optimizer_states", [])
        ]
