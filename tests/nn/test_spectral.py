"""Cores between a base's singular vectors: the frame, the forward pass, what merging and LoRA's form make of it."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sublora.coding.architecture import Architecture
from sublora.coding.spec import ModelSpec
from sublora.errors import ConfigError
from sublora.nn import spectral
from sublora.nn.base import create_base
from sublora.nn.checkpointing import enable_gradient_checkpointing
from sublora.nn.create_model import build_model, merge
from sublora.nn.loss import SubspaceLoss
from sublora.nn.precision import prepare_for_bfloat16
from sublora.nn.spectral import Frame, SpectralLinear, frame_sha256, frames_of, leading_singular_triples
from sublora.nn.targets import find_targets
from sublora.seeds import stream

GPT2 = Architecture("random", n_layer=2, n_head=2, n_embd=16, block_size=12, vocab_size=11)
LLAMA = Architecture("random", n_layer=2, n_head=2, n_embd=16, block_size=12, vocab_size=11, family="llama")
TOKENS = torch.arange(10)[None]
ALLOCATIONS = [
    {},
    {"allocation_mode": "fixed", "budget_b": 11},
    {"allocation_mode": "learned"},
    {"allocation_mode": "learned", "allocation_scope": "layer", "gating_steepness": 10},
]


def normal(name, *shape):
    return stream(0, "test", name).standard_normal(shape)


def moved(architecture=LLAMA, d=20, **spec):
    spec = {"adapter": "spectral", "targets": "linear", "rank": 3, "intrinsic_mode": "dense", **spec}
    model = build_model(architecture, ModelSpec(seed=1, intrinsic_dim=d, **spec)).eval()
    with torch.no_grad():
        model.subspace_params.copy_(torch.from_numpy(normal("alpha", model.d)))
    return model


def layers(model):
    return {name: m for name, m in model.net.named_modules() if isinstance(m, SpectralLinear)}


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (300, 340), (340, 300)], ids=str)
def test_the_triples_are_those_of_the_svd(shape):
    matrix = normal("matrix", *shape).astype(np.float32)
    left, values, right = leading_singular_triples(matrix, 4)
    u, s, vt = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(values, s[:4], rtol=1e-12)
    signs = np.sign(left[np.abs(left).argmax(0), range(4)])
    assert (signs == 1).all()
    # Both sides turn together: the products have no sign to choose.
    for k in range(4):
        np.testing.assert_allclose(np.outer(left[:, k], right[k]), np.outer(u[:, k], vt[k]), atol=1e-9)


def test_signs_are_a_rule():
    left, values, right = leading_singular_triples(np.diag([-3.0, 2.0, 1.0]), 2)
    np.testing.assert_allclose(left, [[1, 0], [0, 1], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(right, [[-1, 0, 0], [0, 1, 0]], atol=1e-12)
    assert values == pytest.approx([3, 2])


def test_a_matrix_without_so_many_dimensions_has_no_change_there():
    left, values, right = leading_singular_triples(np.outer(normal("u", 6), normal("v", 7)), 3)
    assert values[1:] == pytest.approx(0, abs=1e-6) and np.isfinite(left).all() and np.isfinite(right).all()
    with pytest.raises(ConfigError, match="6 x 7 has no 7 singular vectors"):
        leading_singular_triples(np.ones((6, 7)), 7)


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("targets", ["attention", "linear"])
def test_a_core_of_zeros_is_the_base_and_only_cores_are_trained(architecture, targets):
    model = moved(architecture, d=8, targets=targets)
    base = create_base(architecture, 1).eval()
    kinds = {name.rpartition(".")[2] for name in layers(model)}
    expected = {
        ("gpt2", "attention"): {"c_attn"},
        ("gpt2", "linear"): {"c_attn", "c_proj", "c_fc"},
        ("llama", "attention"): {"q_proj", "v_proj"},
        ("llama", "linear"): {f"{kind}_proj" for kind in ("q", "k", "v", "o", "gate", "up", "down")},
    }
    assert kinds == expected[architecture.family, targets]
    assert all(name.endswith(".core") for name in model.names)
    assert 9 * len(layers(model)) == model.D
    with torch.no_grad():
        there = model(input_ids=TOKENS).logits
        model.subspace_params.zero_()
        here = model(input_ids=TOKENS).logits
    torch.testing.assert_close(here, base(input_ids=TOKENS).logits, atol=1e-6, rtol=1e-5)
    assert (there - here).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=str)
def test_merging_is_the_formula_and_changes_only_the_form(architecture, allocation):
    model = moved(architecture, **allocation)
    cores = model.parameters_by_name()
    expected = {}
    for name, module in find_targets(create_base(architecture, 1), "linear"):
        weight = module.weight.detach().double().numpy()
        u, s, vt = np.linalg.svd(weight.T if architecture is GPT2 else weight, full_matrices=False)
        # The signs of the frame: the largest entry of every left vector is positive.
        signs = np.sign(u[np.abs(u).argmax(0), range(u.shape[1])])
        u, vt, root = (u * signs)[:, :3], (vt * signs[:, None])[:3], np.sqrt(s[:3])
        change = (u * root) @ cores[f"{name}.core"].detach().double().numpy() @ (root[:, None] * vt)
        expected[name] = weight + (change.T if architecture is GPT2 else change)
    with torch.no_grad():
        before = model(input_ids=TOKENS).logits
        plain = merge(model)
        after = plain(input_ids=TOKENS).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in create_base(architecture, 1).named_parameters()]
    for name, weight in expected.items():
        np.testing.assert_allclose(plain.get_parameter(f"{name}.weight").numpy(), weight, atol=1e-5)


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("allocation", ALLOCATIONS[:2], ids=str)
def test_tied_cores_are_equal_cores(architecture, allocation):
    """The model with a core of its own on every layer, where equal kinds have equal cores, computes the same."""
    model = moved(architecture, tied=True, **allocation)
    tied = model.parameters_by_name()
    kinds = ["attn-c_attn", "attn-c_proj", "mlp-c_fc", "mlp-c_proj"]
    if architecture is LLAMA:
        kinds = [f"self_attn-{x}_proj" for x in "qkvo"] + [f"mlp-{x}_proj" for x in ("gate", "up", "down")]
    assert list(tied) == [f"tied.{kind}.core" for kind in kinds] and 9 * len(kinds) == model.D
    own = moved(architecture, d=0)
    values = {name: tied[f"tied.{name.split('.', 3)[-1][:-5].replace('.', '-')}.core"] for name in own.names}
    with torch.no_grad():
        own.subspace_params.copy_(torch.cat([values[name].flatten() for name in own.names]))
        there, here = model(input_ids=TOKENS).logits, own(input_ids=TOKENS).logits
        torch.testing.assert_close(there, here, atol=1e-6, rtol=1e-5)
        plain = merge(model)
        torch.testing.assert_close(plain(input_ids=TOKENS).logits, here, atol=1e-5, rtol=1e-4)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in create_base(architecture, 1).named_parameters()]


def test_sides_of_tied_cores_are_those_of_their_layers():
    model = moved(d=18, tied=True, allocation_mode="fixed", budget_b=18)
    for name, core in model.parameters_by_name().items():
        assert bool(core.any()) == name.endswith(("o_proj.core", "down_proj.core"))


def test_the_gradient_of_a_tied_core_is_the_sum_of_its_layers():
    gradients = {}
    for tied in (True, False):
        model = moved(d=0, tied=tied)
        with torch.no_grad():
            model.subspace_params.zero_()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        parts = model.subspace_params.grad.split(9)
        gradients[tied] = dict(zip(model.names, parts, strict=True))
    both = [gradients[False][f"model.layers.{layer}.mlp.up_proj.core"] for layer in range(2)]
    torch.testing.assert_close(gradients[True]["tied.mlp-up_proj.core"], sum(both))


def test_a_core_is_a_lora():
    model = moved()
    model.materialize()
    x = torch.from_numpy(normal("x", 2, 5, 16)).float()
    module = layers(model)["model.layers.1.mlp.up_proj"]
    a, b = module.lora_form()
    assert a.shape == (3, 16) and b.shape == (module.base_layer.out_features, 3)
    expected = F.linear(x, module.base_layer.weight) + F.linear(F.linear(x, a), b)
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(module(x), F.linear(x, module.base_layer.weight), atol=1e-3)


def test_gradients_reach_alpha_and_nothing_that_is_frozen():
    model = moved().train()
    loss = SubspaceLoss(model)
    x, y = TOKENS, TOKENS.roll(1)
    value = loss(x, y)
    (gradient,) = torch.autograd.grad(value, model.subspace_params)
    plain = F.cross_entropy(model(input_ids=x).logits.flatten(0, 1), y.flatten())
    (expected,) = torch.autograd.grad(plain, model.subspace_params)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"subspace_params"}
    # A difference of losses along the gradient.
    step = 1e-3 / float(gradient.norm())
    with torch.no_grad():
        model.subspace_params += step * gradient
        up = loss(x, y)
        model.subspace_params -= 2 * step * gradient
        down = loss(x, y)
    assert float(up - down) / (2 * step) == pytest.approx(float(gradient.square().sum()), rel=0.05)


def test_checkpointed_layers_and_bfloat16_give_the_same_gradient():
    def gradient(prepare, bfloat16=False):
        model = moved().train()
        prepare(model.net)
        with torch.autocast("cpu", torch.bfloat16, bfloat16):
            value = SubspaceLoss(model)(TOKENS, TOKENS.roll(1))
        return torch.autograd.grad(value, model.subspace_params)[0]

    plain = gradient(lambda net: None)
    torch.testing.assert_close(gradient(enable_gradient_checkpointing), plain, atol=1e-7, rtol=1e-5)
    half = gradient(lambda net: prepare_for_bfloat16(net, torch.device("cpu")), bfloat16=True)
    assert float((half - plain).norm()) < 0.05 * float(plain.norm())


def test_sides_are_reading_and_writing():
    model = moved(allocation_mode="fixed", budget_b=20)
    writing = ("o_proj.core", "down_proj.core")
    for name, core in model.parameters_by_name().items():
        assert bool(core.any()) == name.endswith(writing)
    assert set(moved(allocation_mode="learned").gates()) == {"layer0", "layer1"}
    with pytest.raises(ConfigError, match=r"set sublora\.targets=linear"):
        moved(targets="attention", allocation_mode="learned")


@pytest.mark.parametrize(
    ("spec", "message"),
    [({"rank": 0}, "cores of rank 0"), ({"rank": 17}, r"q_proj has 16 singular vectors: set sublora\.spectral_r")],
)
def test_ranks_that_do_not_fit_are_said(spec, message):
    with pytest.raises(ConfigError, match=message):
        moved(**spec)


def test_frames_are_made_once_for_the_same_weights(monkeypatch):
    base, calls = create_base(LLAMA, 1), []
    nothing = Frame(*(np.zeros((1, 1), np.float32) for _ in range(3)))
    monkeypatch.setattr(spectral, "_frame", lambda *a: calls.append(a) or nothing)
    monkeypatch.setattr(spectral._Latest, "key", None)
    for sha256, rank in (("a", 2), ("a", 2), ("b", 2), ("b", 3)):
        frames_of(base, "attention", rank, sha256)
    assert len(calls) == 3 * 4
    monkeypatch.setattr(spectral._Latest, "key", None)


def test_the_name_of_frames_sees_turns_and_not_rounding():
    ones = np.ones((3, 3), np.float32)
    frames = {
        "layer": Frame(normal("l", 40, 3).astype(np.float32), normal("r", 3, 30).astype(np.float32), ones),
        "next": Frame(normal("l2", 40, 3).astype(np.float32), normal("r2", 3, 30).astype(np.float32), ones),
    }
    name = frame_sha256(frames)
    frame = frames["next"]
    noisy = Frame(frame.left_or * (1 + 1e-6 * normal("n", 40, 3).astype(np.float32)), frame.right_ri + 1e-7, ones)
    assert frame_sha256({**frames, "next": noisy}) == name
    order = [1, 0, 2]
    sign = np.float32([1, -1, 1])
    turn = np.linalg.qr(normal("q", 3, 3))[0].astype(np.float32)
    for other in (
        Frame(frame.left_or[:, order], frame.right_ri[order], ones),
        Frame(frame.left_or * sign, frame.right_ri * sign[:, None], ones),
        Frame(frame.left_or @ turn, turn.T @ frame.right_ri, ones),
    ):
        assert frame_sha256({**frames, "next": other}) != name
    assert frame_sha256({"layer": frames["layer"]}) != name


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_lora_on_all_linear_layers(architecture):
    spec = ModelSpec(seed=1, intrinsic_dim=15, targets="linear", rank=2, head_rank=0, intrinsic_mode="dense")
    model = build_model(architecture, spec)
    adapted = {n.partition(".lora_A")[0] for n in model.names if ".lora_A." in n}
    names = {f"base_model.model.{n}" for n, _ in find_targets(create_base(architecture, 1), "linear")}
    assert adapted == names
    assert all(s[0] == 2 for n, s in zip(model.names, model.shapes, strict=True) if ".lora_A." in n)
