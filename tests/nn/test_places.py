"""LoRA on the layers that names choose: as PEFT chooses them, and written down in one way only."""

import copy
import json

import peft
import pytest
import torch
from families import FAMILIES, make_base
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import sublora
from sublora.coding.spec import ModelSpec
from sublora.config import Sublora
from sublora.config.loading import config_from_json, load_config
from sublora.errors import ConfigError, MessageError
from sublora.nn.base import named
from sublora.nn.create_model import adapt, spec_of
from sublora.nn.places import fields_of, linear_places, ranks_by_layer, ranks_by_place
from sublora.nn.targets import find_targets

TOKENS = torch.arange(24).reshape(2, 12)


def base_of(family):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "gpt2":
            return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)).eval()
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
        return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_key_value_heads=2, **sizes)).eval()


BASES = {family: base_of(family) for family in ("gpt2", "llama")}
CASES = {
    "two kinds": ("llama", ["q_proj", "down_proj"], {}),
    "ranks of their own": ("llama", ["q_proj", "mlp.down_proj", "k_proj"], {"down_proj": 2, "q_proj": 5}),
    "the first name that fits": ("llama", ["k_proj", "v_proj"], {"self_attn.v_proj": 2, "v_proj": 7}),
    "one of two layers of one name": ("gpt2", ["mlp.c_proj"], {}),
    "both layers of one name": ("gpt2", ["c_proj", "c_fc"], {"attn.c_proj": 1}),
}


def logits(model):
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.mark.parametrize("case", CASES)
def test_names_choose_what_peft_chooses_and_it_computes_the_same(case):
    family, names, ranks = CASES[case]
    config = peft.LoraConfig(target_modules=names, rank_pattern=ranks, r=3, lora_alpha=7, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(copy.deepcopy(BASES[family]), config)
    ours = sublora.wrap(
        copy.deepcopy(BASES[family]), d=12, target_modules=names, rank_pattern=ranks, rank=3, head_rank=0, lora_alpha=7
    )
    with torch.no_grad():
        ours.subspace_params.copy_(torch.linspace(-2, 2, 12))
    values = {name: p for name, p in ours.materialize().named_parameters() if ".lora_" in name}
    parameters = {name: p for name, p in theirs.named_parameters() if ".lora_" in name}
    assert {name: p.shape for name, p in values.items()} == {name: p.shape for name, p in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=0)
    assert (logits(ours) - logits(BASES[family])).abs().max() > 1e-3


@pytest.mark.parametrize("family", BASES)
def test_kinds_are_the_names_of_one_layer(family):
    expected = {
        "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
        "llama": (*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{x}_proj" for x in ("gate", "up", "down"))),
    }
    assert linear_places(BASES[family]) == expected[family]


def fields(family, **section):
    return fields_of(BASES[family], ranks_by_place(BASES[family], Sublora(**section)))


def test_what_a_word_says_keeps_its_code():
    """One model has one code: that of old messages where there is one."""
    assert fields("llama", target_modules=["v_proj", "q_proj"]) == {"targets": "attention", "rank": 4}
    assert fields("llama", target_modules=["mlp.up_proj", "self_attn.q_proj"])["kinds"] == 0b0100001
    everything = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert fields("llama", target_modules=everything) == {"targets": "linear", "rank": 4}
    assert fields("llama", targets="linear", rank_pattern={"q_proj": 4}) == {"targets": "linear", "rank": 4}
    assert fields("llama", rank_pattern={"v_proj": 2, "q_proj": 2}) == {"targets": "attention", "rank": 2}
    assert fields("llama", rank_pattern={"v_proj": 2}) == {"kinds": 0b101, "ranks": (4, 2)}
    assert fields("gpt2", target_modules=["c_attn"]) == {"targets": "attention", "rank": 4}
    spec = spec_of(Sublora(target_modules=["q_proj", "v_proj"]), 3, base=BASES["llama"])
    assert spec == spec_of(Sublora(), 3)


@pytest.mark.parametrize(
    ("kinds", "ranks", "error"),
    [
        (0b101, (4, 4), "have a code of their own: targets attention"),
        (0b1111111, (4,) * 7, "have a code of their own: targets linear"),
        (0b10000000, (4,), "has 7 kinds of linear layers, and not those of 10000000"),
    ],
)
def test_a_message_that_says_it_in_another_way_is_refused(kinds, ranks, error):
    spec = ModelSpec(seed=1, intrinsic_dim=9, kinds=kinds, ranks=ranks)
    with pytest.raises(MessageError, match=error):
        adapt(named(copy.deepcopy(BASES["llama"]), ""), spec)
    # One rank that differs has no other code.
    differ = (5, *ranks[1:])
    if len(ranks) > 1:
        assert set(ranks_by_layer(BASES["llama"], kinds, differ).values()) == {4, 5}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_places_for_all_its_layers(family):
    """A place stands for layers of every number, and the bits of all but one for all but its layers."""
    base = make_base(family)
    places, layers = linear_places(base), [name for name, _ in find_targets(base, "linear")]
    assert len(places) < 31
    if len(places) > 1:
        some = ranks_by_layer(base, (1 << len(places)) - 2, (2, *[1] * (len(places) - 2)))
        left = [name for name in layers if name not in some]
        assert left and all(name.endswith(places[0].rpartition(".")[2]) for name in left)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"target_modules": ["qq_proj"]}, "has 'qq_proj', and the kinds .* are self_attn.q_proj, .*, mlp.down_proj"),
        # A part of a name is none.
        ({"target_modules": ["proj"]}, "target_modules has 'proj'"),
        ({"target_modules": ["q_proj", ".*"]}, r"target_modules has '\.\*'"),
        ({"target_modules": [""]}, "target_modules has ''"),
        ({"target_modules": "lm_head"}, "has 'lm_head'.*linear_head_enable_lora"),
        ({"target_modules": ["q_proj"], "targets": "linear"}, "targets=linear contradicts sublora.target_modules"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"o_proj": 2}}, "has 'o_proj', where .* on self_attn.q_proj$"),
        ({"rank_pattern": {"o_proj": 2}}, "on self_attn.q_proj, self_attn.v_proj$"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern of q_proj is 0, but must be at least 1"),
        ({"rank_pattern": {"q_proj": 17}}, "a rank of 17 is too large for a base of width 16"),
        ({"target_modules": ["q_proj"], "adapter": "spectral"}, "target_modules is for LoRA on linear layers"),
        ({"rank_pattern": {"q_proj": 2}, "rank": 0}, "rank_pattern is for LoRA on linear layers"),
    ],
)
def test_what_cannot_be_is_one_clear_line(options, error):
    with pytest.raises(ConfigError, match=error) as caught:
        sublora.wrap(copy.deepcopy(BASES["llama"]), d=9, **options)
    assert "\n" not in str(caught.value)


def test_an_adapter_that_is_there_stays_where_it_is():
    config = peft.LoraConfig(target_modules=["o_proj"], r=2, task_type="CAUSAL_LM")
    model = peft.get_peft_model(copy.deepcopy(BASES["llama"]), config)
    with pytest.raises(ConfigError, match="stays on its own layers"):
        sublora.wrap(model, d=9, target_modules=["q_proj"])
    assert all("o_proj.lora_" in name for name in sublora.wrap(model, d=9).names)


def test_the_configuration_keeps_names_and_ranks(tmp_path):
    config = load_config(
        ["--sublora.target_modules=[q_proj,mlp.down_proj]", "--sublora.rank_pattern={mlp.down_proj: 8}"]
    )
    expected = ["q_proj", "mlp.down_proj"], {"mlp.down_proj": 8}
    (tmp_path / "c.yaml").write_text(config.to_yaml())

    for again in (
        config,
        load_config([f"--config={tmp_path / 'c.yaml'}"]),
        config_from_json(json.dumps(config.to_dict())),
    ):
        assert (again.sublora.target_modules, again.sublora.rank_pattern) == expected
        assert again.sublora == config.sublora
