"""The subspace around a model: what moves, what is trained, what the gradient is, against the definition."""

import math

import pytest
import torch
from torch import nn

from sublora.coding.architecture import Architecture
from sublora.coding.spec import ModelSpec
from sublora.errors import ConfigError, SubloraError
from sublora.nn.allocation import split_budget
from sublora.nn.base import create_base
from sublora.nn.create_model import build_model, merge
from sublora.nn.lora import add_lora
from sublora.nn.projectors import SharedIDModule, StructuredIDModule, create_intrinsic_model

TINY = Architecture("random", n_layer=3, n_head=2, n_embd=16, block_size=12, vocab_size=11)
SPEC = {"seed": 3, "rank": 2, "head_rank": 2, "lora_alpha": 8, "intrinsic_mode": "dense"}
MODES = [
    {"allocation_mode": "uniform"},
    {"allocation_mode": "fixed", "budget_b": 30},
    {"allocation_mode": "learned", "allocation_scope": "shared"},
    {"allocation_mode": "learned", "allocation_scope": "layer"},
    {"allocation_mode": "learned", "gating_granularity": "module"},
]
IDS = ["uniform", "fixed", "learned-shared", "learned-layer", "learned-module"]


def tiny(d=37, **mode):
    start = {"gating_init": mode.pop("gating_init")} if "gating_init" in mode else {}
    return build_model(TINY, ModelSpec(**{**SPEC, "intrinsic_dim": d, "gating_steepness": 10, **mode}), **start)


def flat(model):
    return torch.cat([v.detach().reshape(-1) for v in model.parameters_by_name().values()])


def fill(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.subspace_params.copy_(torch.randn(model.d, generator=generator))


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_alpha_is_the_one_trainable_tensor_and_zero_is_theta0(mode):
    model = tiny(**mode)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"subspace_params"} | ({"gating_params"} if mode["allocation_mode"] == "learned" else set())
    assert torch.equal(flat(model), model.theta0)
    lora = add_lora(create_base(TINY, 3), seed=3, rank=2, head_rank=2, lora_alpha=8).eval()
    tokens = torch.arange(10)[None]
    assert torch.equal(model.eval()(input_ids=tokens).logits, lora(input_ids=tokens).logits)


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_every_coordinate_moves_parameters_and_every_parameter_is_moved(mode):
    model = tiny(**mode)
    moved = torch.zeros(model.D, dtype=torch.bool)
    for i in range(model.d):
        with torch.no_grad():
            model.subspace_params.zero_()
            model.subspace_params[i] = 1.0
        change = flat(model) != model.theta0
        assert change.any(), f"coordinate {i} moves nothing"
        moved |= change
    assert moved.all()


def test_fixed_coordinates_move_their_own_side_only():
    model = tiny(allocation_mode="fixed", budget_b=30)
    side = torch.cat([torch.full((n,), ".lora_B." in name) for name, n in zip(model.names, model.sizes, strict=True)])
    d_b = 30
    for i, is_b in ((0, False), (model.d - d_b - 1, False), (model.d - d_b, True), (model.d - 1, True)):
        with torch.no_grad():
            model.subspace_params.zero_()
            model.subspace_params[i] = 1.0
        change = flat(model) != model.theta0
        assert change[side == is_b].all() and not change[side != is_b].any()


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_side_without_coordinates_stays_at_theta0(ratio):
    model = tiny(d=20, allocation_mode="fixed", budget_b=split_budget(20, ratio)[1])
    fill(model)
    for name, value in model.parameters_by_name().items():
        assert torch.equal(value, model.net.get_parameter(name)) == ((".lora_B." in name) != (ratio == 1.0))


def changes(model):
    """The change of every parameter, by name."""
    return {name: value - model.net.get_parameter(name) for name, value in model.parameters_by_name().items()}


def test_learned_by_layer_is_the_formula():
    model = tiny(allocation_mode="learned", allocation_scope="layer", gating_init=0.3, gating_steepness=7)
    assert isinstance(model, StructuredIDModule)
    fill(model)
    moved = changes(model)
    start = 0
    for layer in (0, 1, 2, None):
        readings = [r for r in model.readings if r.group.layer == layer]
        (width,) = {r.width for r in readings}
        assert all(r.start == start for r in readings)
        mask = torch.sigmoid(7 * (0.3 - (torch.arange(width) + 0.5) / width))
        for reading in readings:
            operator = model.operators[model.readings.index(reading)]
            share = torch.ones(width) if layer is None else {"A": 1 - mask, "B": mask}[reading.group.side]
            rows = sum(model.sizes[m] for m in reading.group.members)
            P = operator.operator.to_dense()[:rows] * operator.scale
            expected = P @ (model.subspace_params.detach()[start : start + width] * share)
            got = torch.cat([moved[model.names[m]].reshape(-1) for m in reading.group.members])
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
        start += width
    assert start == model.d


def test_shared_scales_the_uniform_change_of_each_group():
    model = tiny(allocation_mode="learned", gating_init=0.3)
    uniform = tiny(allocation_mode="uniform")
    fill(model)
    fill(uniform)
    sizes = {
        (layer, side): sum(p.numel() for n, p in changes(model).items() if layer in n and f".lora_{side}." in n)
        for layer in (".h.0.", ".h.1.", ".h.2.", "lm_head")
        for side in "AB"
    }
    plain = changes(uniform)
    for name, change in changes(model).items():
        (key,) = [k for k in sizes if k[0] in name and f".lora_{k[1]}." in name]
        # Half of the energy is outside the layers, a third of the rest is each layer's, 0.3 of a region's is B's.
        share = (0.5 if key[0] == "lm_head" else 0.5 / 3) * {"B": 0.3, "A": 0.7}[key[1]]
        expected = plain[name] * math.sqrt(share * model.D / sizes[key])
        torch.testing.assert_close(change, expected, atol=1e-6, rtol=1e-4)
    assert model.gates() == pytest.approx(
        {"layer0": 0.3, "layer1": 0.3, "layer2": 0.3, "outside": 0.3, "outside_share": 0.5}
    )


def test_shared_with_the_shares_of_the_parameters_is_uniform():
    model = tiny(allocation_mode="learned")
    assert isinstance(model, SharedIDModule)
    uniform = tiny(allocation_mode="uniform")
    sides = {"A": 0, "B": 0}
    outside = 0
    for name, size in zip(model.names, model.sizes, strict=True):
        outside += size if "lm_head" in name else 0
        sides["B" if ".lora_B." in name else "A"] += size if "lm_head" not in name else 0
    gamma = sides["B"] / (sides["A"] + sides["B"])
    head_b = sum(s for n, s in zip(model.names, model.sizes, strict=True) if "lm_head" in n and ".lora_B." in n)
    with torch.no_grad():
        model.gating_params.copy_(torch.logit(torch.tensor([gamma] * 3 + [head_b / outside, outside / model.D])))
    fill(model)
    fill(uniform)
    torch.testing.assert_close(flat(model), flat(uniform), atol=1e-6, rtol=1e-5)


def test_gates_of_modules_scale_the_uniform_change_of_each():
    model = tiny(allocation_mode="learned", gating_granularity="module", gating_init=0.3, targets="linear")
    uniform = tiny(allocation_mode="uniform", targets="linear")
    with torch.no_grad():
        # Energy that is not in proportion to the parameters: no scale is 1.
        model.gating_params += torch.linspace(-1, 1, len(model.gating_params))
    fill(model)
    fill(uniform)
    gates, plain, sizes = model.gates(), changes(uniform), dict(zip(model.names, model.sizes, strict=True))
    assert len(gates) == 3 * (3 + 4) + 2
    modules = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    for name, change in changes(model).items():
        place, side = name.split(".lora_")[0].removeprefix("base_model.model."), name.split(".lora_")[1][0]
        if place == "lm_head":
            share, gate = gates["outside_share"], gates["outside"]
        else:
            _, _, layer, module = place.split(".", 3)
            own = [gates.get(f"layer{layer}.{each}_share", 1) for each in modules[: modules.index(module) + 1]]
            share = (1 - gates["outside_share"]) / 3 * own[-1] * math.prod(1 - gate for gate in own[:-1])
            gate = gates[f"layer{layer}.{module}"]
        share *= gate if side == "B" else 1 - gate
        torch.testing.assert_close(change, plain[name] * math.sqrt(share * model.D / sizes[name]), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(
    "nowhere", [{"rank": 0}, {"adapter": "spectral", "rank": 2, "tied": True}], ids=["head alone", "tied cores"]
)
def test_gates_of_modules_need_modules(nowhere):
    """Else they would be the gates of layers under another name, and another message would mean the same model."""
    mode = {"allocation_mode": "learned", "targets": "linear", **nowhere}
    assert tiny(d=9, **mode).gate_names
    with pytest.raises(ConfigError, match="stands in none"):
        tiny(d=9, **mode, gating_granularity="module")


def test_states_with_other_gates_are_refused():
    by_layer, by_module = (
        tiny(allocation_mode="learned", gating_granularity=granularity) for granularity in ("layer", "module")
    )
    # On one module a layer both have as many gates, of other names.
    assert by_layer.gating_params.shape == by_module.gating_params.shape
    with pytest.raises(SubloraError):
        by_layer.load_state_dict(by_module.state_dict())


@pytest.mark.parametrize("scope", ["shared", "layer"])
def test_gates_start_at_gating_init_and_receive_gradients(scope):
    model = tiny(allocation_mode="learned", allocation_scope=scope, gating_init=0.3)
    gammas = [gamma for name, gamma in model.gates().items() if name.startswith("layer")]
    assert gammas == pytest.approx([0.3] * 3)
    fill(model)
    model(input_ids=torch.arange(10)[None]).logits.logsumexp(-1).sum().backward()
    assert (model.gating_params.grad != 0).all()


def test_the_mask_is_wider_while_training_only():
    model = tiny(allocation_mode="learned", allocation_scope="layer", gating_steepness=40)
    fill(model)
    before = flat(model)
    model.steepness_factor = 0.1
    assert not torch.equal(flat(model.train()), before)
    assert torch.equal(flat(model.eval()), before)


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_gradient_is_the_directional_derivative(mode):
    model = tiny(**mode).double()
    fill(model)
    tokens = torch.arange(10)[None]

    def loss():
        return model(input_ids=tokens).logits.logsumexp(-1).mean()

    loss().backward()
    gradient = model.subspace_params.grad.clone()
    direction = torch.randn(model.d, generator=torch.Generator().manual_seed(1)).to(gradient)
    step = 1e-3
    with torch.no_grad():
        model.subspace_params += step * direction
        up = loss()
        model.subspace_params -= 2 * step * direction
        down = loss()
    assert math.isclose(float((up - down) / (2 * step)), float(gradient @ direction), rel_tol=2e-3, abs_tol=1e-6)


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_gradient_norms_of_the_groups_match_autograd(mode):
    model = tiny(**mode)
    fill(model)
    model.record_gradients = True
    model(input_ids=torch.arange(10)[None]).logits.logsumexp(-1).sum().backward()
    norms = model.pop_gradient_norms()
    assert set(norms) == {group.name for group in model.groups}
    group = model.groups[1]
    # Freeze everything but the group: what is left of alpha's gradient is the group's part.
    model.record_gradients = False
    values = {n: v if i in group.members else v.detach() for i, (n, v) in enumerate(model.parameters_by_name().items())}
    model.subspace_params.grad = None
    torch.func.functional_call(model.net, values, (), {"input_ids": torch.arange(10)[None]}).logits.logsumexp(
        -1
    ).sum().backward()
    assert norms[group.name] == pytest.approx(float(model.subspace_params.grad.norm()), rel=1e-4)
    assert model.pop_gradient_norms() == {}


@pytest.mark.parametrize("mode", MODES, ids=IDS)
def test_merging_changes_nothing_but_the_form(mode):
    model = tiny(**mode).eval()
    fill(model)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        embedding = model.net.get_input_embeddings().weight.clone()
        plain = merge(model)
        after = plain(input_ids=tokens).logits
    assert not any("lora" in name for name, _ in plain.named_parameters())
    assert torch.equal(plain.get_input_embeddings().weight, embedding)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-4)
    at_theta0 = tiny(**mode).eval()(input_ids=tokens).logits
    assert (after - at_theta0).abs().max() > 1e-3


def test_any_module_can_be_wrapped():
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    net[0].bias.requires_grad_(False)
    model = create_intrinsic_model(net, intrinsic_dim=3, seed=0, intrinsic_mode="dense")
    x = torch.ones(1, 5)
    before = model(x)
    fill(model)
    assert model.D == 20 + 8 + 2
    assert not torch.equal(model(x), before)
    assert torch.equal(net[0].bias, model.net[0].bias)


def test_no_subspace_trains_every_parameter():
    model = tiny(d=0)
    fill(model)
    assert model.d == model.D
    torch.testing.assert_close(flat(model), model.theta0 + model.subspace_params.detach())


def test_base_weights_follow_the_seed_alone():
    torch.manual_seed(1)
    one = tiny().base_sha256
    torch.manual_seed(2)
    assert tiny().base_sha256 == one
    assert tiny(d=5, seed=4).base_sha256 != one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intrinsic_dim": 10**6}, "intrinsic_dim is 1000000, but must lie between 1 and the"),
        ({"intrinsic_dim": 5, "adapter": "weights", "allocation_mode": "fixed"}, "set sublora.adapter=lora"),
        ({"intrinsic_dim": 5, "adapter": "none"}, "nothing can be trained: set sublora.adapter"),
        ({"intrinsic_dim": 5, "rank": 0, "head_rank": 0}, "LoRA is on nothing"),
        ({"intrinsic_dim": 5, "allocation_mode": "learnt"}, "allocation_mode 'learnt' is none of"),
        ({"intrinsic_dim": 400, "allocation_mode": "fixed", "budget_b": 0}, "side A has"),
    ],
)
def test_what_does_not_fit_is_said(change, message):
    with pytest.raises(SubloraError, match=message):
        build_model(TINY, ModelSpec(**{**SPEC, **change}))


def test_a_frozen_module_is_refused():
    net = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameters"):
        create_intrinsic_model(net, intrinsic_dim=1, seed=0)
