"""One optimizer step against a reference that is computed by hand, with the plain PyTorch model."""

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("nemo", reason="needs the train extra")

from helpers.fitting import fit

from prott5nv import ProtT5
from prott5nv.pretraining.model import ProtT5nvModel

CLIP, LR, EPS, WEIGHT_DECAY = 0.1, 0.05, 1e-3, 0.1


class LearningRate(pl.Callback):
    """Records the learning rate of the last step."""

    def on_before_optimizer_step(self, trainer, model, optimizer):
        self.value = optimizer.param_groups[0]["lr"]


@pytest.fixture
def one_step(cfg):
    """Settings of one step whose gradient is clipped, and whose three micro-batches have different numbers of targets.

    A large eps makes the first AdamW update depend on the size of the gradient, and not only on its sign.
    """
    cfg.trainer.max_steps = 1
    cfg.model.micro_batch_size = 3
    cfg.model.gradient_clip_val = CLIP
    cfg.model.optim.lr, cfg.model.optim.eps, cfg.model.optim.weight_decay = LR, EPS, WEIGHT_DECAY
    return cfg


@pytest.fixture
def reference(one_step):
    """The plain model with the same initial weights, the loss of the global batch, and the gradient norm."""
    model = ProtT5nvModel(one_step.model)
    model.configure_model()
    plain = ProtT5(model.config)
    plain.load_state_dict(model._whole_weights())
    batches = model._dataset("train", shuffle=True).__getitems__(range(8))
    assert [len(batch["sample_numbers"]) for batch in batches] == [3, 3, 2]
    total, num_targets = 0.0, 0
    for batch in batches:
        hidden = plain.encode(batch["enc_tokens"], batch["enc_cu_seqlens"])
        decoded = plain.decode(batch["dec_tokens"], batch["dec_cu_seqlens"], hidden, batch["enc_cu_seqlens"])
        total = total + F.cross_entropy(plain.logits(decoded), batch["dec_labels"], reduction="sum")
        num_targets += len(batch["dec_labels"])
    loss = total / num_targets
    loss.backward()
    norm = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()]).norm().item()
    return plain, loss.item(), norm


@pytest.mark.slow
def test_a_step_has_the_reference_loss_gradient_norm_and_weights(one_step, reference):
    plain, loss, norm = reference
    learning_rate = LearningRate()
    trainer, model = fit(one_step, callbacks=[learning_rate])
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert norm > 2 * CLIP

    lr = learning_rate.value
    assert 0 < lr <= LR
    weights = model._whole_weights()
    for name, parameter in plain.named_parameters():
        gradient = parameter.grad * CLIP / (norm + 1e-6)
        decay = WEIGHT_DECAY if parameter.ndim > 1 else 0.0
        # In AdamW's first step, the corrected moments are the gradient and its square.
        expected = parameter.detach() * (1 - lr * decay) - lr * gradient / (gradient.abs() + EPS)
        torch.testing.assert_close(weights[name].reshape(expected.shape), expected, atol=2e-5, rtol=0, msg=name)
