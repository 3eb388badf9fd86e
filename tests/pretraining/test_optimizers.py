import pytest
import torch
from helpers.fitting import Losses, fit
from omegaconf import OmegaConf
from torch import nn

from prott5nv.errors import ProtT5nvError
from prott5nv.model.device import Hardware
from prott5nv.pretraining import optimizers
from prott5nv.pretraining.config import checked
from prott5nv.pretraining.optimizers import BatchedMuon, make_optimizer, orthogonalize, parameter_groups

OPTIM = {"name": "muon", "lr": 1e-2, "betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.1}


def toy():
    torch.manual_seed(0)
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 4), "layers": nn.ModuleList([nn.Linear(4, 6)])})
    return nn.ModuleDict({"encoder": model})


def train(model, parts, steps=3):
    torch.manual_seed(1)
    for _ in range(steps):
        rows = model["encoder"]["layers"][0](model["encoder"]["embedding"](torch.randint(0, 5, (7,))))
        rows.square().mean().backward()
        for optimizer in parts:
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("shapes", [[(6, 4)] * 3, [(16, 64), (64, 16), (16, 64), (48, 48)]])
def test_batched_muon_takes_the_steps_of_pytorchs_muon(shapes):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    settings = dict(lr=2e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    batched, plain = BatchedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for step in range(4):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            its.grad = mine.grad.clone()
        if step == 2:
            ours[0].grad = theirs[0].grad = None
        batched.step()
        plain.step()
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-5)
    assert batched.state_dict()["state"].keys() == plain.state_dict()["state"].keys()


def test_muon_steps_along_the_layers_matrices_and_adamw_along_the_rest(monkeypatch):
    monkeypatch.setattr(optimizers, "choose_hardware", lambda device: Hardware(torch.device(device), "bf16", "a test"))
    ours, apart = toy(), toy()
    train(ours, [make_optimizer(parameter_groups(ours.named_parameters(), "muon"), **OPTIM, fused=False)])
    weight, embedding, bias = (
        apart.encoder.layers[0].weight,
        apart.encoder.embedding.weight,
        apart.encoder.layers[0].bias,
    )
    groups = [{"params": [embedding]}, {"params": [bias], "weight_decay": 0.0}]
    muon = torch.optim.Muon([weight], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    train(apart, [muon, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)])
    for name, parameter in apart.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name), parameter, rtol=0, atol=1e-5, msg=name)
        assert not torch.equal(toy().get_parameter(name), parameter), name


def test_muon_in_fp32_takes_almost_the_same_step():
    torch.manual_seed(0)
    matrices_PRC = torch.randn(3, 8, 20)
    constants = (3.4445, -4.7750, 2.0315), 5, 1e-7
    in_fp32, in_bf16 = (orthogonalize(matrices_PRC.to(dtype), *constants) for dtype in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(in_fp32, in_bf16.float(), rtol=0, atol=0.02)
    assert torch.linalg.svdvals(in_fp32).min() > 0.6 and torch.linalg.svdvals(in_fp32).max() < 1.3


def test_the_models_matrices_are_those_of_attention_and_mlp(cfg):
    cfg.model.optim.name = "muon"
    trainer, model = fit(cfg)
    matrices, decayed, undecayed = (group["params"] for group in trainer.optimizers[0].param_groups)
    names = {id(p): name for name, p in model.megatron.named_parameters()}
    assert {names[id(p)].split(".")[-2] for p in matrices} == {
        *("linear_qkv", "linear_proj", "linear_q", "linear_kv", "linear_fc1", "linear_fc2")
    }
    assert all("embedding" in names[id(p)] for p in decayed)
    assert sum(map(len, (matrices, decayed, undecayed))) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "nadam"])
def test_a_run_with_another_optimizer_resumes_exactly(cfg, tmp_path, optimizer, monkeypatch):
    """Also with one of the user's own."""
    monkeypatch.setitem(
        optimizers.OPTIMIZERS, "nadam", lambda groups, lr, betas, eps: torch.optim.NAdam(groups, lr, betas, eps)
    )
    cfg.model.optim.name = optimizer
    cfg.trainer.max_steps = 6
    straight = Losses()
    _, model = fit(cfg, callbacks=[straight])
    trainer, _ = fit(cfg, max_steps=3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    resumed = Losses()
    _, again = fit(cfg, ckpt_path=tmp_path / "three.ckpt", callbacks=[resumed])
    assert resumed.values == straight.values[3:]
    for name, weight in model.megatron.named_parameters():
        assert torch.equal(again.megatron.get_parameter(name), weight), name


def test_another_optimizer_cannot_resume(cfg, tmp_path):
    trainer, _ = fit(cfg)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    with pytest.raises(ProtT5nvError, match=r"optimizer state is of .*fused_adam"):
        fit(OmegaConf.merge(cfg, {"model": {"optim": {"name": "muon"}}}), ckpt_path=tmp_path / "three.ckpt")


def test_muon_needs_whole_matrices(cfg):
    cfg.model.optim.name, cfg.model.tensor_model_parallel_size = "muon", 2
    with pytest.raises(ProtT5nvError, match="muon needs whole matrices"):
        checked(cfg)


def test_an_unknown_optimizer_is_named(cfg):
    cfg.model.optim.name = "lion"
    with pytest.raises(ProtT5nvError, match="lion: choose one of fused_adam, muon"):
        checked(cfg)
