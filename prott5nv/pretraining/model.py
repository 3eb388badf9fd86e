"""ProtT5nvModel: the NeMo model that pretrains.

One batch of Lightning's is one optimizer step: a list of packed micro-batches, whose gradients add up to that of the
mean loss over every target token of the global batch, all ranks together.

Shapes: S packed decoder tokens, V vocabulary rows of this tensor-parallel rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from nemo.core.classes import ModelPT
from nemo.core.optim.lr_scheduler import get_scheduler
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from prott5nv.checkpoint import read_nemo, save_nemo
from prott5nv.checkpoint.parameter_names import megatron_to_prott5, parameter_shapes, prott5_to_megatron
from prott5nv.data.dataset import PretrainingDataset
from prott5nv.data.memmap import CSVDataset
from prott5nv.errors import ProtT5nvError
from prott5nv.model.config import ModelConfig
from prott5nv.pretraining.initialization import mimetic
from prott5nv.pretraining.loader import raise_together, step_loader
from prott5nv.pretraining.losses import SUMS, LossSpikes, metrics_of, token_losses
from prott5nv.pretraining.megatron import MegatronProtT5, initialize_parallel
from prott5nv.pretraining.optimizers import make_optimizer, parameter_groups
from prott5nv.pretraining.parallel import all_reduce_gradients, clip_gradients, gather_lists, say
from prott5nv.pretraining.tensor_parallel import change_optimizer_state, change_state, gather_shards, own_shard


class NotFiniteError(ProtT5nvError):
    """A loss that is infinite or not a number."""


class ProtT5nvModel(ModelPT):
    """Encoder-decoder pretraining by span corruption.

    Parameters
    ----------
    cfg : DictConfig
        The ``model`` section of ``conf/pretrain.yaml``: architecture (:class:`prott5nv.ModelConfig`'s fields),
        ``data``, ``optim``, batch sizes, ``seed``, ``gradient_clip_val``.
    trainer : lightning.pytorch.Trainer, optional
    """

    def __init__(self, cfg: DictConfig, trainer=None):
        super().__init__(cfg, trainer)
        values = OmegaConf.to_container(cfg, resolve=True)
        data = values.get("data") or {}
        for name in ("seq_length", "seq_length_dec", "masked_lm_prob"):
            if data.get(name) is not None:
                values[name] = data[name]
        self.config = ModelConfig.from_dict(values)
        # Gradients of several micro-batches make one step, and the loss is divided by a count that only all
        # micro-batches of all ranks give: that is not Lightning's accumulation.
        self.automatic_optimization = False
        self.megatron: MegatronProtT5 | None = None
        self.initial_weights: dict[str, Tensor] | None = None  # by ProtT5's names, to start from instead of a draw
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64)  # millions of tokens add up in validation
        self._mistake: ProtT5nvError | None = None  # met in validation by this rank alone
        deviations = self.cfg.get("skip_loss_spikes")
        self._spikes = LossSpikes(math.inf if deviations is None else float(deviations))
        self.stop_requested = False  # of this rank, by a signal
        self.stopping = False  # agreed by all

    # ------------------------------------------------------------------ building

    def setup(self, stage: str | None = None) -> None:
        """Divide the launched processes into groups before NeMo asks for the data loaders."""
        initialize_parallel(self.cfg.get("tensor_model_parallel_size", 1))
        super().setup(stage)

    def configure_model(self) -> None:
        """Build the Megatron model, once process groups can exist."""
        if self.megatron is None:
            initialize_parallel(self.cfg.get("tensor_model_parallel_size", 1))
            torch.manual_seed(self.cfg.get("seed", 1234))
            recompute = self.cfg.get("activations_checkpoint_granularity") == "full"
            self.megatron = MegatronProtT5(self.config, recompute=recompute)
            if self.cfg.get("init_method", "normal") == "mimetic":
                self.load_weights(mimetic(self._whole_weights(), self.config, self.cfg.seed))
        if self.initial_weights is not None:
            self.load_weights(self.initial_weights)
            self.initial_weights = None
        # Lightning would copy the first rank's slices over the others' before testing.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_parameters()]

    def configure_optimizers(self):
        """The optimizer, without decay on biases and LayerNorms, and NeMo's schedule of that name."""
        optim = OmegaConf.to_container(self.cfg.optim, resolve=True)
        # A gradient scaler unscales before clipping, which the fused kernel would do after it.
        optimizer = make_optimizer(self._optimized_groups(), optim, fused=str(self.trainer.precision) != "16-mixed")
        schedule = dict(optim["sched"])
        name, min_lr = schedule.pop("name"), float(schedule.pop("min_lr", 0.0))
        schedule.pop("warmup_ratio" if schedule.get("warmup_steps") is not None else "warmup_steps", None)
        try:
            scheduler = get_scheduler(name)(optimizer, max_steps=self.trainer.max_steps, min_lr=min_lr, **schedule)
        except (ValueError, TypeError, KeyError) as error:
            raise ProtT5nvError(f"model.optim.sched.name={name}: {error}") from None
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _optimized_groups(self) -> list[list[nn.Parameter]]:
        return parameter_groups(self.named_parameters(), self.cfg.optim.name)

    # ------------------------------------------------------------------ data

    def train_dataloader(self) -> DataLoader:
        """An endless stream of optimizer steps, from the step that the trainer stands at."""
        dataset = self._dataset("train", shuffle=True, random_crop=bool(self.cfg.data.get("random_crop", False)))
        return self._loader(dataset, start_step=self.trainer.global_step)

    def val_dataloader(self) -> DataLoader:
        """The validation split, each protein once, masked alike every time."""
        dataset = self._dataset("val", shuffle=False)
        return self._loader(dataset, num_samples=len(dataset))

    def test_dataloader(self) -> DataLoader:
        """The test split, each protein once."""
        dataset = self._dataset("test", shuffle=False)
        return self._loader(dataset, num_samples=len(dataset))

    def _dataset(self, split: str, *, shuffle: bool, random_crop: bool = False) -> PretrainingDataset:
        data = self.cfg.data
        return PretrainingDataset(
            CSVDataset(data.dataset_path, split, data.dataset[split]),
            seed=self.cfg.seed,
            seq_length=self.config.seq_length,
            micro_batch_size=self.cfg.micro_batch_size,
            tokens_per_micro_batch=data.get("tokens_per_micro_batch"),
            shuffle=shuffle,
            random_crop=random_crop,
            masked_lm_prob=self.config.masked_lm_prob,
            num_sentinels=self.config.num_sentinel_tokens,
            mean_span_length=float(data.get("mean_span_length", 1.0)),
        )

    def _loader(self, dataset: PretrainingDataset, **stream: int) -> DataLoader:
        return step_loader(dataset, self.cfg.global_batch_size, self.cfg.data.num_workers, **stream)

    def setup_training_data(self, train_data_config=None):
        """NeMo's hook; the loaders above need no set-up."""

    def setup_validation_data(self, val_data_config=None):
        """NeMo's hook; the loaders above need no set-up."""

    @classmethod
    def list_available_models(cls) -> list:
        """NeMo's hook: nothing is downloaded."""
        return []

    # ------------------------------------------------------------------ steps

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Scores of each target token: Tensor, shape=(S, V)."""
        return self.megatron(batch)

    def training_step(self, micro_batches: list[dict[str, Tensor]] | ProtT5nvError, batch_idx: int) -> None:
        """One optimizer step over the micro-batches of this rank."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        self._seed_dropout()
        targets = self._count_targets(micro_batches)
        sums = torch.zeros(len(SUMS), device=self.device)
        for batch in micro_batches:
            loss_S, part = self._losses(batch)
            self.manual_backward(loss_S.sum() / targets)
            sums += part
        all_reduce_gradients(self.megatron.parameters())
        self._reduce(sums)
        metrics = metrics_of(sums, prefix="train")
        if not math.isfinite(metrics["train_loss"]):
            raise self._not_finite(micro_batches)
        if self._is_spike(metrics["train_loss"], micro_batches):
            optimizer.zero_grad()  # nothing to step with: weights and moments stay as they are, and the step counts
        self.log("lr", scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        self.encoder_tokens = int(sums[SUMS.index("encoder_tokens")])
        self.log("loss", metrics.pop("train_loss"), prog_bar=True)
        self.log_dict(metrics)

    def on_train_start(self) -> None:
        """Set Lightning's counters by the step: they differ with the moment at which a checkpoint was saved."""
        super().on_train_start()
        loop, step = self.trainer.fit_loop.epoch_loop, self.trainer.global_step
        loop._batches_that_stepped = step
        loop.batch_progress.total.ready = loop.batch_progress.total.completed = step

    def on_before_optimizer_step(self, optimizer) -> None:
        """Clip; a gradient scaler has unscaled by now."""
        clip = float(self.cfg.get("gradient_clip_val") or math.inf)
        self.log("grad_norm", clip_gradients(list(self.megatron.parameters()), clip))

    def validation_step(self, micro_batches: list[dict[str, Tensor]] | ProtT5nvError, batch_idx: int) -> None:
        """Add up losses; the epoch's end divides."""
        if isinstance(micro_batches, ProtT5nvError):
            self._mistake = self._mistake or micro_batches
            return
        for batch in micro_batches:
            self._sums += self._losses(batch)[1].double().cpu()

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log the split's loss, and perplexity and accuracy over residues alone."""
        self._log_split("val")

    def on_test_epoch_end(self) -> None:
        """Log the split's loss, and perplexity and accuracy over residues alone."""
        self._log_split("test")

    def _log_split(self, prefix: str) -> None:
        raise_together(self._mistake)
        sums = self._sums.to(self.device, torch.float32)
        self._sums.zero_()
        self._reduce(sums)
        metrics = metrics_of(sums, prefix)
        self.log(f"{prefix}_residue_perplexity", metrics.pop(f"{prefix}_residue_perplexity"), prog_bar=True)
        self.log_dict(metrics)

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return token_losses(self(batch), batch)

    def _seed_dropout(self) -> None:
        """Dropout follows from seed, step and data-parallel rank, so that a resumed run needs no generator's state.

        Tensor-parallel ranks draw alike, since what they hold whole must stay alike.
        """
        rank = parallel_state.get_data_parallel_rank()
        torch.manual_seed(hash((self.cfg.seed, self.trainer.global_step, rank)))

    @staticmethod
    def _reduce(tensor: Tensor) -> None:
        if parallel_state.get_data_parallel_world_size() > 1:
            dist.all_reduce(tensor, group=parallel_state.get_data_parallel_group())

    def _count_targets(self, micro_batches: list[dict[str, Tensor]] | ProtT5nvError) -> Tensor:
        """Target tokens of the global batch; here all learn that one could not read its share or was told to stop."""
        mistake = micro_batches if isinstance(micro_batches, ProtT5nvError) else None
        targets = 0 if mistake else sum(len(batch["dec_labels"]) for batch in micro_batches)
        counts = torch.tensor([targets, mistake is not None, self.stop_requested], dtype=torch.float32)
        counts = counts.to(self.device)
        if dist.get_world_size() > 1:
            dist.all_reduce(counts)
        targets, mistakes, stops = counts.tolist()
        if mistakes:
            raise_together(mistake)
        self.stopping = stops > 0
        return counts[0] / parallel_state.get_tensor_model_parallel_world_size()

    def _is_spike(self, loss: float, micro_batches: list[dict[str, Tensor]]) -> bool:
        """Whether the step is to be skipped, as the first rank finds: elsewhere the last bit might differ."""
        found = self._spikes.found(loss)  # kept up when nothing is skipped, too, so that it can be switched on later
        if self.cfg.get("skip_loss_spikes") is None:
            return False
        found = self.trainer.strategy.broadcast(found)
        if found:
            names = self._record_names(micro_batches)
            say(
                f"step {self.trainer.global_step} is skipped: its loss, {loss:.4f}, stands out; the batch holds {names}"
            )
        self.log("skipped_step", float(found))
        return found

    def _not_finite(self, micro_batches: list[dict[str, Tensor]]) -> NotFiniteError:
        return NotFiniteError(
            f"the loss is not finite at step {self.trainer.global_step}, and training stops before the weights change; "
            f"the batch holds {self._record_names(micro_batches)}. Lower model.optim.lr, or use trainer.precision=32"
        )

    def _record_names(self, micro_batches: list[dict[str, Tensor]]) -> str:
        """The first of the records of the global batch, to be called by all ranks together."""
        samples = self.trainer.train_dataloader.dataset.samples
        numbers = [number for batch in micro_batches for number in batch["sample_numbers"].tolist()]
        names = gather_lists(samples.record_names(numbers))
        return ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Name the model and the stream of samples, for the message of a resume with others; gather slices."""
        self._change_tensors(checkpoint, gather_shards)
        checkpoint["prott5nv"] = {
            "config": self.config.to_nemo(),
            "stream": self._stream(),
            "optimizer": self.cfg.optim.name,
            "recent_losses": list(self._spikes.recent),
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Refuse another model or other batches, and let a longer run go on.

        The schedule's saved end is the old ``max_steps``, beyond which the rate would be zero.
        """
        saved = checkpoint["prott5nv"]
        if dict(parameter_shapes(ModelConfig.from_nemo(saved["config"]))) != dict(parameter_shapes(self.config)):
            changed = "it is of another model"
        elif different := [name for name, value in self._stream().items() if saved["stream"][name] != value]:
            changed = f"it ran with another {', '.join(different)}, so its place in the data means nothing here"
        elif saved.get("optimizer", self.cfg.optim.name) != self.cfg.optim.name:
            changed = f"its moments are those of model.optim.name={saved['optimizer']}"
        else:
            for state in checkpoint.get("lr_schedulers", []):
                state["max_steps"] = self.trainer.max_steps
            self._change_tensors(checkpoint, own_shard)
            self._spikes.recent.extend(saved.get("recent_losses", ()))
            return
        raise ProtT5nvError(
            f"cannot resume from the checkpoint in the experiment's folder: {changed}; choose another name=, or delete "
            "the folder"
        )

    def _change_tensors(self, checkpoint: dict, change: Callable[[Tensor, nn.Parameter], Tensor]) -> None:
        checkpoint["state_dict"] = change_state(checkpoint["state_dict"], dict(self.named_parameters()), change)
        optimized = [parameter for group in self._optimized_groups() for parameter in group]
        checkpoint["optimizer_states"] = [
            change_optimizer_state(state, optimized, change) for state in checkpoint.get("optimizer_states", [])
        ]

    def _stream(self) -> dict[str, int]:
        return {
            "model.seed": self.cfg.seed,
            "model.global_batch_size": self.cfg.global_batch_size,
            "model.data.dataset (number of records)": len(self._dataset("train", shuffle=True)),
        }

    def save_to(self, save_path: str) -> None:
        """Write a ``.nemo`` file that NeMo 1.x, BioNeMo v1 and this package open.

        All ranks call this together, and the first one writes.

        Parameters
        ----------
        save_path : path
        """
        weights = self._whole_weights()
        if dist.get_rank() == 0:
            Path(save_path).parent.mkdir(parents=True, exist_ok=True)
            save_nemo(save_path, self.config, weights)

    def _whole_weights(self) -> dict[str, Tensor]:
        """Weights by :class:`prott5nv.ProtT5`'s names, to be asked for by all ranks together."""
        parameters = dict(self.megatron.named_parameters())
        return megatron_to_prott5(change_state(self.megatron.state_dict(), parameters, gather_shards))

    @classmethod
    def restore_from(cls, restore_path: str, trainer=None, override_config: dict | None = None) -> ProtT5nvModel:
        """Build a model from a ``.nemo`` file, ours or NeMo 1.x's, through the strict reader.

        Parameters
        ----------
        restore_path : path
        trainer : lightning.pytorch.Trainer, optional
        override_config : dict, optional
            Training settings to lay over the file's.

        Raises
        ------
        ProtT5nvError
            If the file is not a sound checkpoint.
        """
        checkpoint = read_nemo(restore_path)
        cfg = OmegaConf.merge(OmegaConf.create(checkpoint.config.to_nemo()), override_config or {})
        model = cls(cfg, trainer)
        model.configure_model()
        model.load_weights(checkpoint.state_dict)
        return model

    def load_weights(self, state_dict: dict[str, Tensor]) -> None:
        """Take whole weights by :class:`prott5nv.ProtT5`'s names."""
        slices = change_state(prott5_to_megatron(state_dict), dict(self.megatron.named_parameters()), own_shard)
        # Megatron's linears announce an empty extra state that no checkpoint of ours holds.
        missing, unexpected = self.megatron.load_state_dict(slices, strict=False)
        assert not unexpected and all(key.endswith("_extra_state") for key in missing)
