"""Steps whose loss is a spike are skipped if the settings ask for it: on all ranks, and equally in a resumed run."""

import io
import logging
from contextlib import redirect_stdout

import numpy as np
import pytest

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import Losses, fit

from prott5nv.cli.hydra_app import configure_logging
from prott5nv.data.dataset import shuffled_records
from prott5nv.pretraining.parallel import MegatronStrategy

RECORDS, ODD_STEP = 300, 100


@pytest.fixture
def uniform_data(cfg, tmp_path):
    """Proteins of leucine only, except for one that the second rank gets in a known step."""
    (odd,) = shuffled_records(np.array([2 * ODD_STEP + 1]), RECORDS, cfg.model.seed)
    proteins = [("odd", 50 * "WHCM") if i == odd else (i, 20 * "L") for i in range(RECORDS)]
    rows = [f"{i},{name},{len(sequence)},{sequence}" for i, (name, sequence) in enumerate(proteins)]
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        text = "\n".join(["record_id,record_name,sequence_length,sequence", *rows, ""])
        (tmp_path / split / "x000.csv").write_text(text)
    cfg.model.data.dataset_path = str(tmp_path)
    cfg.model.global_batch_size = 2
    cfg.model.num_layers = 1
    cfg.model.optim.sched.warmup_steps = 50
    cfg.trainer.max_steps = ODD_STEP + 5
    return cfg


class Recorder(Losses):
    """Records the losses and the steps that did not change the weights, and saves a checkpoint before the spike."""

    def __init__(self, save):
        super().__init__()
        self.save, self.idle, self.weight = save, [], None

    def on_train_batch_end(self, trainer, model, *_):
        super().on_train_batch_end(trainer)
        weight = model.megatron.tokens_head.bias.detach().clone()
        if self.weight is not None and weight.equal(self.weight):
            self.idle.append(trainer.global_step - 1)
        self.weight = weight
        if trainer.global_step == ODD_STEP - 10:
            trainer.save_checkpoint(self.save)


def run(cfg, folder, ckpt_path=None, devices=2):
    recorder = Recorder(folder / "before.ckpt")
    strategy = MegatronStrategy() if devices > 1 else "auto"
    package = logging.getLogger("prott5nv")
    with redirect_stdout(io.StringIO()) as output:
        configure_logging()
        try:
            fit(cfg, ckpt_path, devices=devices, strategy=strategy, callbacks=[recorder])
        finally:
            package.handlers, package.propagate = [], True
    return recorder.values, recorder.idle, output.getvalue()


@pytest.mark.slow
def test_a_spike_is_skipped_by_all_ranks_and_on_resuming(uniform_data, on_ranks, tmp_path):
    uniform_data.model.skip_loss_spikes = 1  # the window has the losses of the first steps, which fall steeply
    (straight, idle, output), (_, idle_of_second, output_of_second) = on_ranks(2, run, uniform_data, tmp_path)
    assert straight[ODD_STEP] > 10 * straight[ODD_STEP - 1]
    assert idle == idle_of_second == [ODD_STEP]
    assert f"step {ODD_STEP} is skipped" in output and output.endswith(", odd\n") and not output_of_second

    resumed, idle, _ = on_ranks(2, run, uniform_data, tmp_path, tmp_path / "before.ckpt")[0]
    assert resumed == straight[ODD_STEP - 10 :] and idle == [ODD_STEP]

    uniform_data.model.skip_loss_spikes = None
    _, idle, output = run(uniform_data, tmp_path, tmp_path / "before.ckpt", devices=1)
    assert not idle and "skipped" not in output
