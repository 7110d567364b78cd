"""What a device computes is what the processor computes without shortcuts: steps, losses, certificates.

Every test runs on the processor too, against a plainer computation there; those for CUDA are marked `gpu`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from certified_run import flags
from devices import device_or_skip
from runs import worded
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sublora.certificate.issue import certify
from sublora.certificate.reading import read_certificate, write_certificate
from sublora.certificate.verify import verify
from sublora.coding.architecture import Architecture
from sublora.coding.spec import ModelSpec
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.corpus.units import sample_units
from sublora.errors import CertificateError
from sublora.nn import loss as loss_module
from sublora.nn.create_model import build_model, merge
from sublora.nn.loss import SubspaceLoss
from sublora.nn.operators import OPERATORS, make_operator
from sublora.nn.precision import prepare_for_bfloat16
from sublora.run_folder import RunFolder
from sublora.scoring import risk
from sublora.seeds import stream
from sublora.training.checkpoint import LAST, load_checkpoint
from sublora.training.loop import create_optimizer, train

V, WIDTH, HEAD_RANK = 53, 16, 3
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def tokens(name):
    return torch.from_numpy(stream(0, "devices", name).integers(0, V, (3, 12)))


def model_of(**extra):
    spec = {"seed": 1, "rank": 2, "head_rank": HEAD_RANK, "lora_alpha": 8, "intrinsic_dim": 40, **extra}
    model = build_model(Architecture("random", 2, 2, WIDTH, 12, V), ModelSpec(**spec))
    with torch.no_grad():
        values = stream(0, "devices", "alpha").standard_normal(model.d, dtype="float32")
        model.subspace_params.copy_(0.1 * torch.from_numpy(values))
    return model.train()


def of_logits(model):
    """Loss and gradient on the processor, from all logits at once."""
    value = F.cross_entropy(model(input_ids=tokens("x")).logits.flatten(0, 1), tokens("y").flatten())
    return value.item(), torch.autograd.grad(value, model.subspace_params)[0]


def on(device, model, dtype=torch.float32, **options):
    """Loss and gradient of a training step on a device."""
    model = model.to(device)
    if dtype == torch.bfloat16:
        prepare_for_bfloat16(model.net, device)
    loss = SubspaceLoss(model, **options)
    with torch.autocast(device.type, dtype, dtype == torch.bfloat16):
        value = loss(tokens("x").to(device), tokens("y").to(device))
    return value.item(), torch.autograd.grad(value, model.subspace_params)[0].cpu()


def assert_close(one, other, tolerance):
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    assert float((one[1] - other[1]).norm()) <= tolerance * float(other[1].norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.05)], ids=str)
def test_a_step_is_that_of_all_logits(device, dtype, tolerance, monkeypatch):
    """In chunks, with LoRA on the head: without the head's part of alpha's gradient it is another one."""
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 7 * V)
    expected = of_logits(model_of())
    assert_close(on(device, model_of(), dtype), expected, tolerance)
    model = model_of()
    head = next(name for name in model.names if "lm_head" in name and "lora_B" in name)
    monkeypatch.setattr(model, "parameters_by_name", lambda: bypassed(type(model).parameters_by_name(model), head))
    with pytest.raises(AssertionError):
        assert_close(on(device, model, dtype), expected, tolerance)


def bypassed(values, name):
    return {**values, name: values[name].detach()}


def check_a_compiled_step(name):
    """In chunks, on a device. The processor's own kernels take minutes to build: without them the same is traced."""
    loss_module.LOGITS_AT_ONCE = 7 * V
    device, graphs, compiled = torch.device(name), [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    if device.type == "cpu":
        torch.compile = lambda function: compiled(function, backend=backend)
    assert_close(on(device, model_of(), compile=True), of_logits(model_of()), 2e-5)
    assert graphs or device.type != "cpu"


def test_a_compiled_step_is_the_same(device):
    """In a process of its own, since what checks shapes in tests cannot be traced."""
    code = f"import test_devices; test_devices.check_a_compiled_step('{device.type}')"
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


class Products(TorchDispatchMode):
    """The shapes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if "mm" in str(function):
            self.shapes.append(tuple(out.shape))
        return out


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_weights_get_no_gradients(device, frozen):
    """None is computed: a product as large as a weight is one with a gradient, which a weight that learns has."""
    model = model_of().to(device)
    weight = model.net.get_base_model().transformer.h[0].mlp.c_fc.weight.requires_grad_(not frozen)
    head = model.net.get_base_model().get_output_embeddings().base_layer.weight.requires_grad_(not frozen)
    loss = SubspaceLoss(model)(tokens("x").to(device), tokens("y").to(device))
    with Products() as products:
        loss.backward()
    assert (tuple(weight.shape) in products.shapes) == (not frozen)
    assert all(p.grad is None for p in model.net.parameters()) == frozen
    assert (head.grad is None) == frozen and model.subspace_params.grad is not None


def test_adamw_is_fused_on_a_gpu_and_nowhere_else(device):
    config, models = load_config(["--optimizer.weight_decay=0.1"]), [model_of().to(device) for _ in range(2)]
    optimizer = create_optimizer(models[0], config)
    assert {group["fused"] for group in optimizer.param_groups} == {device.type == "cuda"}
    # The two kinds take the same step, but for the last digits.
    other = torch.optim.AdamW(
        [
            {**group, "params": [models[1].subspace_params], "fused": device.type == "cpu"}
            for group in optimizer.param_groups
        ]
    )
    for model, one in zip(models, (optimizer, other), strict=True):
        for _ in range(3):
            model.subspace_params.grad = torch.ones_like(model.subspace_params)
            one.step()
    torch.testing.assert_close(models[0].subspace_params, models[1].subspace_params, rtol=1e-6, atol=1e-7)
    assert not torch.equal(models[0].subspace_params.detach().cpu(), model_of().subspace_params.detach())


def test_a_run_goes_on_on_its_device(device, data_dir, tmp_path):
    """The moments and the counter of steps are put where the optimizer wants them."""
    extra = [f"--system.device={device.type}", "--sublora.allocation_mode=learned", "--training.eval_interval=10"]
    train(load_config(flags(data_dir, tmp_path / "whole", *extra, "--training.max_iters=20")))
    for steps in (10, 20):
        train(load_config(flags(data_dir, tmp_path / "parts", *extra, f"--training.max_iters={steps}")))
    whole, parts = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "parts"))
    # The rate of step 10 depends on how many are planned: the counters and moments are what is compared.
    assert whole.iteration == parts.iteration == 20
    for name in ("subspace_params", "gating_params"):
        assert float(parts.tensors[f"optimizer.{name}.step"]) == 20
        assert float(parts.tensors[f"optimizer.{name}.exp_avg_sq"].abs().max()) > 0


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_an_operator_is_the_same_map_on_a_device(device, kind):
    """As the dense matrix, made on the processor, says."""
    D, d = (40, 40) if kind == "identity" else (60, 7)
    operator = make_operator(kind, D, d, seed=(3, "devices"))
    dense, alpha = operator.to_dense(), torch.from_numpy(stream(0, "devices", kind).standard_normal(d, dtype="float32"))
    found = operator.to(device).matvec(alpha.to(device)).cpu()
    torch.testing.assert_close(found, dense @ alpha, rtol=1e-5, atol=1e-6)


def operations(call):
    """How many kernels a call asks for; a view asks for none."""

    class Counted(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.n += not function.is_view
            return function(*args, **(kwargs or {}))

    with Counted() as counted:
        call()
    return counted.n


def test_the_default_operator_is_a_small_part_of_a_step():
    """Also where starting a kernel is what costs time, and not what it computes."""
    model = build_model(Architecture("random", 12, 2, WIDTH, 12, V), ModelSpec(seed=1, intrinsic_dim=40)).train()
    loss, optimizer = SubspaceLoss(model), create_optimizer(model, load_config([]))

    def step():
        loss(tokens("x"), tokens("y")).backward()
        optimizer.step()

    def products():
        deltas = [delta for _, delta in model.blocks()]
        torch.autograd.grad(deltas, model.subspace_params, deltas)

    step()
    assert 5 <= operations(products) < 0.05 * operations(step)


@pytest.fixture(scope="module")
def merged(data_dir):
    corpus = open_corpus(data_dir)
    model = build_model(Architecture("random", 2, 2, WIDTH, 32, 257), ModelSpec(seed=1, rank=2, intrinsic_dim=40))
    return merge(model).eval(), sample_units(corpus, corpus.train, "document_level", 32)


@pytest.mark.parametrize("pace", [risk.CPU, risk.DEVICE, risk.Pace(2, 7, 600)], ids=str)
def test_losses_do_not_depend_on_device_or_pace(device, pace, merged, monkeypatch):
    model, units = merged
    how = {"block_size": 32, "stride": 16, "batch_size": 5}
    rows = np.arange(12)
    expected = risk.score_units(model.to("cpu"), units, rows, block_size=32, stride=16, batch_size=1)
    monkeypatch.setattr(risk, "CPU" if device.type == "cpu" else "DEVICE", pace)
    found = risk.score_units(model.to(device), units, rows, **how)
    assert np.allclose(found.bits, expected.bits, rtol=1e-5) and expected.bits.min() > 100
    assert np.array_equal(found.misses, expected.misses)
    moved = risk.score_units(model, units, rows[::-1].copy(), **how)
    assert not np.allclose(moved.bits, expected.bits, rtol=1e-5)


@pytest.mark.parametrize("verifier", ["cpu", GPU])
@pytest.mark.parametrize("issuer", ["cpu", GPU])
def test_a_certificate_of_one_device_is_verified_on_the_other(issuer, verifier, data_dir, certified, tmp_path):
    """The claim holds on both, and one that is lower by a hundredth on neither."""
    for name in (issuer, verifier):
        device_or_skip(name)
    run = RunFolder(tmp_path / "run")
    shutil.copytree(certified, run.path)
    if issuer != "cpu":
        certify(load_config(flags(data_dir, run.path, f"--system.device={issuer}")))
    assert verify(run.path, data_dir, device=verifier).measured is not None
    certificate = read_certificate(run.certificate)
    first, *others = certificate.claims
    lower = first.model_copy(update={"bound": first.bound - 0.01})
    write_certificate(run, worded(certificate.model_copy(update={"claims": (lower, *others)})))
    run.losses.unlink()
    with pytest.raises(CertificateError, match=f"the bound on {first.metric} differs"):
        verify(run.path, data_dir, device=verifier)
