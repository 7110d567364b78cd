"""The training step's shortcuts compute what the plain model computes: loss, gradients, and any precision."""

import logging

import pytest
import torch
from peft.tuners import lora
from torch.nn import functional as F

from sublora.coding.architecture import Architecture
from sublora.coding.spec import ModelSpec
from sublora.nn import loss as loss_module
from sublora.nn.checkpointing import enable_gradient_checkpointing
from sublora.nn.create_model import build_model
from sublora.nn.loss import SubspaceLoss, head_cross_entropy
from sublora.nn.precision import bfloat16_hardware, prepare_for_bfloat16, resolve_dtype
from sublora.seeds import stream

V = 53


def numbers(name, *shape):
    return torch.from_numpy(stream(0, "test", name).standard_normal(shape, dtype="float32"))


def tokens(name):
    return torch.from_numpy(stream(0, "test", name).integers(0, V, (3, 10)))


def model_of(family="gpt2", window=0, **extra):
    architecture = Architecture("random", 2, 2, 16, 12, V, family=family, attention_window=window)
    dropouts = {name: extra.pop(name) for name in ("dropout", "lora_dropout") if name in extra}
    spec = {"seed": 1, "rank": 2, "head_rank": 3, "lora_alpha": 8, "intrinsic_dim": 40, **extra}
    model = build_model(architecture, ModelSpec(**spec), **dropouts)
    with torch.no_grad():
        model.subspace_params.copy_(0.1 * numbers("alpha", model.d))
    return model.train()


def loss_and_gradient(model, loss):
    value = loss()
    return value.item(), torch.autograd.grad(value, model.subspace_params)[0]


def plain(model):
    return lambda: F.cross_entropy(model(input_ids=tokens("x")).logits.flatten(0, 1), tokens("y").flatten())


def ours(model):
    loss = SubspaceLoss(model)
    return lambda: loss(tokens("x"), tokens("y"))


def assert_close(one, other, tolerance=1e-5):
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    assert float((one[1] - other[1]).norm()) <= tolerance * float(other[1].norm())
    assert float(other[1].norm()) > 0


@pytest.mark.parametrize("chunk", [1 << 24, 7 * V])
def test_head_cross_entropy(monkeypatch, chunk):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", chunk)
    inputs = [
        numbers(n, *s).requires_grad_() for n, s in {"h": (30, 8), "w": (V, 8), "a": (30, 3), "b": (V, 3)}.items()
    ]
    hidden, weight, low, up = inputs
    targets = tokens("y").flatten()
    expected = F.cross_entropy(hidden @ weight.t() + low @ up.t(), targets)
    found = head_cross_entropy(hidden, weight, low, up, targets)
    torch.testing.assert_close(found, expected)
    # The gradient arrives scaled, as it does from a mean over micro-batches.
    torch.testing.assert_close(torch.autograd.grad(found / 3, inputs), torch.autograd.grad(expected / 3, inputs))
    with torch.no_grad():
        torch.testing.assert_close(head_cross_entropy(hidden, weight, low, up, targets), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"family": "llama"},
        {"family": "mistral", "window": 4},
        {"head_rank": 0},
        {"intrinsic_dim": 0},
        {"adapter": "weights", "intrinsic_mode": "partition"},
        {"allocation_mode": "learned"},
    ],
    ids=str,
)
def test_the_loss_is_that_of_the_logits(monkeypatch, options):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 7 * V)
    model = model_of(**options)
    assert_close(loss_and_gradient(model, ours(model)), loss_and_gradient(model, plain(model)))


def test_logits_are_never_all_there(monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 7 * V)
    model, seen = model_of(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(tuple(t.shape)) or t, lambda t: t):
        ours(model)()
    assert (V, 3) in seen or (53, 16) in seen
    assert not any(shape[-1:] == (V,) for shape in seen)


def test_our_lora_layer_is_that_of_peft(monkeypatch):
    model = model_of()
    found = loss_and_gradient(model, plain(model))
    monkeypatch.setattr("sublora.nn.lora.LoraLinear.forward", lora.Linear.forward)
    assert_close(found, loss_and_gradient(model, plain(model)))


def test_our_lora_layer_can_be_merged_and_switched_off():
    model = model_of()
    net = model.materialize().eval()
    layer = net.base_model.model.transformer.h[0].attn.c_attn
    x = numbers("input", 2, 5, 16)
    with torch.no_grad():
        adapted, base = layer(x), layer.base_layer(x)
        assert float((adapted - base).norm()) > 1e-3
        with net.disable_adapter():
            torch.testing.assert_close(layer(x), base)
        layer.merge()
        torch.testing.assert_close(layer(x), adapted)


def test_gradient_checkpointing_changes_nothing():
    model = model_of()
    expected = loss_and_gradient(model, ours(model))
    enable_gradient_checkpointing(model.net)
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        found = loss_and_gradient(model, ours(model))
    assert_close(found, expected, 1e-6)
    assert all(p is model.net.get_parameter(name) for name, p in model.net.named_parameters())


def test_gradient_checkpointing_repeats_dropout():
    def gradients():
        torch.manual_seed(3)
        model = model_of(dropout=0.2, lora_dropout=0.3)
        yield model
        torch.manual_seed(4)
        yield loss_and_gradient(model, ours(model))

    without, saved = gradients(), gradients()
    next(without)
    enable_gradient_checkpointing(next(saved).net)
    assert_close(next(saved), next(without), 1e-6)


@pytest.mark.parametrize(("hardware", "attention"), [("amx_bf16", "sdpa"), ("avx512_bf16", "sdpa_float32")])
def test_bfloat16_is_close(monkeypatch, hardware, attention):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {hardware: True})
    model = model_of()
    expected = loss_and_gradient(model, ours(model))
    prepare_for_bfloat16(model.net, torch.device("cpu"))
    assert model.net.get_base_model().config._attn_implementation == attention
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_and_gradient(model, ours(model))
    assert found[0] != expected[0]
    assert_close(found, expected, 0.05)
    kinds = {name: p.dtype for name, p in model.net.named_parameters()}
    assert {d for n, d in kinds.items() if "c_attn.base_layer.weight" in n or "c_fc.weight" in n} == {torch.bfloat16}
    assert {d for n, d in kinds.items() if "wte" in n or "ln_" in n or "lora" in n} == {torch.float32}


@pytest.mark.parametrize(("features", "dtype"), [({"amx_bf16": True}, "bfloat16"), ({}, "float32")])
def test_auto_takes_bfloat16_where_the_processor_has_it(monkeypatch, caplog, features, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    with caplog.at_level(logging.INFO):
        assert resolve_dtype("auto", torch.device("cpu")) == dtype
    assert f"training in {dtype}: " in caplog.text
    assert resolve_dtype("float32", torch.device("cpu")) == "float32"
    assert bfloat16_hardware(torch.device("cpu")) == next(iter(features), None)
