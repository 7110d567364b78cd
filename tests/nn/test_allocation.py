"""Groups, budgets: exact for every ratio, every number of layers, every naming scheme."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sublora.nn.allocation import (
    OUTSIDE_SHARE,
    Group,
    energy_tree,
    find_groups,
    largest_remainder,
    layer_of,
    layers_of,
    side_of,
    split_budget,
)


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=100), st.integers(0, 10**6))
def test_budgets_add_up_and_stay_within_one_of_their_quota(shares, total):
    budgets = largest_remainder(shares, total)
    assert sum(budgets) == total
    for share, budget in zip(shares, budgets, strict=True):
        assert abs(budget - share / sum(shares) * total) < 1 + 1e-6


def test_largest_remainder_by_hand():
    assert largest_remainder([47.0, 16.0, 15.8, 12.0, 6.1, 3.1], 10) == [5, 2, 1, 1, 1, 0]
    assert largest_remainder([1.0, 1.0, 1.0], 2) == [1, 1, 0]


@given(st.integers(1, 10**7), st.floats(0, 1))
def test_sides_add_up(d, ratio):
    d_a, d_b = split_budget(d, ratio)
    assert d_a + d_b == d and d_a >= 0 and d_b >= 0
    assert abs(d_b - ratio * d) <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("base_model.model.transformer.h.11.attn.c_attn.lora_A.default.weight", 11),
        ("base_model.model.model.layers.3.self_attn.q_proj.lora_B.default.weight", 3),
        ("gpt_neox.layers.5.attention.query_key_value.weight", 5),
        ("model.decoder.layers.7.self_attn.v_proj.weight", 7),
        ("bert.encoder.layer.2.attention.self.query.weight", 2),
        ("base_model.model.lm_head.lora_A.default.weight", None),
        ("transformer.wte.weight", None),
    ],
)
def test_layers_are_found_in_every_naming_scheme(name, layer):
    assert layer_of(name) == layer


def test_groups_cover_every_parameter_once():
    names = [f"transformer.h.{i}.c_attn.lora_{s}.default.weight" for i in (0, 1, 10, 2) for s in "AB"]
    names += ["lm_head.lora_A.default.weight", "lm_head.lora_B.default.weight", "extra.weight"]
    groups = find_groups(names)
    assert sorted(i for g in groups for i in g.members) == list(range(len(names)))
    assert [g.layer for g in groups if g.side == "A"] == [0, 1, 2, 10, None]
    assert side_of("extra.weight") == "other"


def test_no_layers_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        groups = find_groups(["linear.weight", "linear.bias"])
    assert len(groups) == 1
    assert "no transformer layers" in caplog.text


def shares(tree, gates):
    gates = np.asarray(gates)
    return tree.constants * np.where(tree.taken, gates, 1).prod(1) * np.where(tree.left, 1 - gates, 1).prod(1)


@given(st.data())
def test_shares_of_energy_add_up_to_one_whatever_the_gates_are(data):
    layers = data.draw(st.lists(st.sampled_from([None, 0, 1, 2, 5]), min_size=1, unique=True))
    groups = [
        Group(side, layer, (), module)
        for layer in layers
        for module in data.draw(st.sampled_from([[""], ["q"], ["q", "mlp.up", "k"]] if layer is not None else [[""]]))
        for side in data.draw(st.lists(st.sampled_from(["A", "B", "other"]), min_size=1, unique=True))
    ]
    sizes = data.draw(st.lists(st.integers(1, 1000), min_size=len(groups), max_size=len(groups)))
    tree = energy_tree(groups, sizes)
    gates = data.draw(st.lists(st.floats(0.01, 0.99), min_size=len(tree.gates), max_size=len(tree.gates)))
    assert shares(tree, gates).sum() == pytest.approx(1)
    assert (shares(tree, gates) > 0).all()
    for i in range(len(gates)):
        moved = [*gates[:i], gates[i] / 2, *gates[i + 1 :]]
        assert not np.allclose(shares(tree, moved), shares(tree, gates)), "a gate without an effect"


def test_energy_tree_by_hand():
    groups = [Group("A", 0, ()), Group("B", 0, ()), Group("A", 1, ()), Group("B", 1, ()), Group("other", None, ())]
    tree = energy_tree(groups, [1, 3, 2, 2, 10])
    assert tree.gates == ("layer0", "layer1", OUTSIDE_SHARE)
    expected = [0.75 * 0.5 * 0.4, 0.75 * 0.5 * 0.6, 0.75 * 0.5 * 0.7, 0.75 * 0.5 * 0.3, 0.25]
    np.testing.assert_allclose(shares(tree, [0.6, 0.3, 0.25]), expected)


def test_energy_tree_of_modules_by_hand():
    q, up = [Group(side, 0, (), "self_attn.q_proj") for side in "AB"], [Group("A", 0, (), "mlp.up_proj")]
    tree = energy_tree([*q, *up, Group("B", None, ())], [1, 3, 6, 10])
    assert tree.gates == ("layer0.self_attn.q_proj_share", "layer0.self_attn.q_proj", OUTSIDE_SHARE)
    # What q has of the layer's parameters; B's share, which the user chooses; half.
    assert tree.starts == (0.4, None, 0.5)
    np.testing.assert_allclose(shares(tree, [0.7, 0.2, 0.1]), [0.9 * 0.7 * 0.8, 0.9 * 0.7 * 0.2, 0.9 * 0.3, 0.1])


def test_energy_starts_in_proportion_to_the_parameters_of_modules():
    sizes = [3, 1, 4, 1, 5]
    tree = energy_tree([Group("A", 0, (), name) for name in "abcde"], sizes)
    assert len(tree.gates) == 4
    np.testing.assert_allclose(shares(tree, tree.starts), np.array(sizes) / sum(sizes))


def test_groups_of_modules():
    names = [
        "model.layers.1.self_attn.q_proj.lora_A.default.weight",
        "model.layers.1.self_attn.q_proj.lora_B.default.weight",
        "model.layers.0.mlp.up_proj.core",
        "model.layers.0.mlp.experts.3.w1.core",
        "model.layers.0.mlp.experts.5.w1.core",
        "lm_head.lora_A.default.weight",
    ]
    groups = find_groups(names, by_module=True)
    assert [(group.name, group.members) for group in groups] == [
        ("layer0.mlp.up_proj.A", (2,)), ("layer0.mlp.experts.w1.A", (3, 4)), ("layer1.self_attn.q_proj.A", (0,)),
        ("layer1.self_attn.q_proj.B", (1,)), ("outside.A", (5,)),
    ]  # fmt: skip
    # By layer nothing is named by its module: the names are those of random streams.
    assert [group.name for group in find_groups(names)] == ["layer0.A", "layer1.A", "layer1.B", "outside.A"]


def test_the_layers_of_a_decoder_follow_those_of_its_encoder():
    """T5 numbers both from 0; what it calls `layer` inside a block is no layer of the model."""
    names = [
        f"base.{stack}.block.{i}.layer.{part}.{kind}.q.lora_{side}.default.weight"
        for stack, parts in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"]))
        for i in range(2)
        for part, kind in enumerate(parts)
        for side in "AB"
    ]
    assert layers_of([*names, "base.lm_head.lora_A.default.weight"]) == [0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, None]
    groups = find_groups(names)
    assert [g.name for g in groups] == [f"layer{i}.{side}" for i in range(4) for side in "AB"]
    for group in groups:
        assert len({names[i].split(".")[1] for i in group.members}) == 1


@pytest.mark.parametrize("layers", ["h", "model.layers", "model.decoder.layers", "encoder.layer"])
def test_one_stack_of_layers_keeps_its_numbers(layers):
    """Also where an adapter is on some of the layers only, and layers hold lists of their own."""
    names = ["lm_head.weight", *(f"m.{layers}.{i}.experts.layers.7.weight" for i in (3, 5, 4))]
    assert layers_of(names) == [None, 3, 5, 4] == [layer_of(name) for name in names]
