"""A model that somebody has, of every family: wrapped, trained by Trainer, saved, loaded, exported to PEFT."""

import copy
import subprocess
import sys

import pytest
import torch
from families import FAMILIES, VOCABULARY, make_base
from peft import (
    LoraConfig,
    PeftModel,
    TinyLoraConfig,
    UniLoraConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file
from torch.utils.checkpoint import CheckpointError
from transformers import T5Config, T5ForConditionalGeneration, Trainer, TrainingArguments

import sublora
from sublora.errors import ConfigError
from sublora.nn.lora import add_lora
from sublora.nn.targets import find_targets

TOKENS = torch.arange(20).reshape(2, 10)
TEXTS = [(3 * i + torch.arange(10)) % VOCABULARY for i in range(8)]
# Not every token counts, and not as many in every text.
EXAMPLES = [{"input_ids": t, "labels": t.where(torch.arange(10) >= i, -100)} for i, t in enumerate(TEXTS)]


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def trainer(model, folder, **options):
    usual = {"max_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 0.3}
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = TrainingArguments(str(folder), **usual | quiet | options)
    return Trainer(model, arguments, train_dataset=EXAMPLES, eval_dataset=EXAMPLES)


def wrapped(base=None, **options):
    return sublora.wrap(base or make_base("llama"), **{"d": 20, "allocation": "learned", "seed": 1} | options)


def moved(model, seed=0):
    """The model somewhere, as if it was trained."""
    with torch.no_grad():
        model.subspace_params.normal_(std=0.5, generator=torch.Generator().manual_seed(seed))
    return model


def differ(a, b):
    return float((a - b).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_from_wrapping_to_an_adapter_of_peft(family, tmp_path):
    base = make_base(family)
    model = wrapped(copy.deepcopy(base))
    assert differ(logits(model), logits(base)) < 1e-6
    run = trainer(model, tmp_path / "out")
    run.train()
    run.save_model(tmp_path / "saved")
    trained = logits(model)
    assert differ(trained, logits(base)) > 0.01
    # The state of the training, in a new process.
    again = wrapped(copy.deepcopy(base))
    again.load_state_dict(load_file(tmp_path / "saved" / "model.safetensors"))
    assert differ(logits(again), trained) == 0
    # The adapter, for those who do not have this package.
    model.materialize().save_pretrained(tmp_path / "adapter")
    assert differ(logits(PeftModel.from_pretrained(base, tmp_path / "adapter")), trained) < 1e-5


@pytest.mark.parametrize("allocation", ["uniform", "fixed", "learned"])
def test_a_users_own_adapter_is_trained_and_saved(allocation, tmp_path):
    base = make_base("qwen2_tied")
    model = sublora.wrap(
        get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])),
        d=20, allocation=allocation, ratio=0.8, operator="partition",
    )  # fmt: skip
    trainer(model, tmp_path / "out").train()
    trained = logits(model)
    assert differ(trained, logits(base)) > 0.001
    model.save_pretrained(tmp_path / "adapter")
    assert differ(logits(PeftModel.from_pretrained(base, tmp_path / "adapter")), trained) < 1e-5
    with pytest.raises(ConfigError, match=r"call sublora.wrap with the base itself") as error:
        sublora.compress(model, tmp_path)
    assert "\n" not in str(error.value)


SHARED = {
    "UniLoRA": lambda: UniLoraConfig(theta_d_length=40, r=2, target_modules=["q_proj", "v_proj"]),
    "TinyLoRA": lambda: TinyLoraConfig(r=2, u=8, weight_tying=1.0, target_modules=["q_proj", "v_proj"]),
    "VB-LoRA": lambda: VBLoRAConfig(r=4, num_vectors=20, vector_length=4, topk=2, target_modules=["q_proj", "v_proj"]),
    "VeRA": lambda: VeraConfig(r=4, target_modules=["q_proj", "v_proj"]),
}


@pytest.mark.parametrize("kind", SHARED)
def test_parameters_that_layers_share_are_replaced_in_all_their_places(kind, tmp_path):
    """PEFT puts one module under many names: every call must read what is trained now, and leave nothing behind."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = sublora.wrap(get_peft_model(make_base("llama"), SHARED[kind]()), d=6)
    before = logits(model)
    trainer(model, tmp_path, max_steps=2).train()
    trained = logits(model)
    assert differ(trained, before) > 1e-4 and differ(trained, logits(model)) == 0
    assert all(isinstance(model.net.get_parameter(name), torch.nn.Parameter) for name in model.names)
    # Written into the parameters themselves, the same is computed; and theta0 has not moved.
    assert differ(logits(model.materialize()), trained) < 1e-6
    with torch.no_grad():
        model.subspace_params.zero_()
    assert differ(logits(model), before) == 0


def test_the_state_is_alpha_gates_and_a_fingerprint():
    model = moved(wrapped())
    state = model.state_dict()
    assert list(state) == ["subspace_params", "gating_params", "fingerprint"]
    holder = torch.nn.ModuleDict({"inner": model})
    assert list(holder.state_dict()) == [f"inner.{name}" for name in state]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2},
        {"ratio": 0.8, "allocation": "fixed"},
        {"allocation": "uniform"},
        {"operator": "dense"},
        {"d": 21},
        {"lora_alpha": 32, "rank": 3},
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_another_start_is_refused(other, strict):
    state, model = moved(wrapped()).state_dict(), wrapped(**other)
    before = logits(model)
    with pytest.raises(ConfigError, match="another theta0, operator or allocation") as error:
        model.load_state_dict(state, strict)
    assert "\n" not in str(error.value) and differ(logits(model), before) == 0
    same = wrapped()
    same.load_state_dict(state, strict)
    assert differ(logits(same), logits(moved(wrapped()))) == 0


def test_another_initialisation_by_peft_is_refused():
    def made(seed):
        torch.manual_seed(seed)
        return sublora.wrap(get_peft_model(make_base("llama"), LoraConfig(target_modules=["q_proj"])), d=20)

    state = moved(made(1)).state_dict()
    made(1).load_state_dict(state)
    for wrong in (state | {"fingerprint": state["fingerprint"] + 1}, {"subspace_params": state["subspace_params"]}):
        with pytest.raises(ConfigError):
            made(1).load_state_dict(wrong, strict=False)
    with pytest.raises(ConfigError):
        made(2).load_state_dict(state)


def test_names_are_checked_where_they_are_asked_for():
    model, state = wrapped(), moved(wrapped()).state_dict()
    with pytest.raises(ConfigError, match="gating_params is missing"):
        model.load_state_dict({k: v for k, v in state.items() if k != "gating_params"})
    result = model.load_state_dict(state | {"else": TOKENS}, strict=False)
    assert result.unexpected_keys == ["else"] and not result.missing_keys


@pytest.mark.parametrize("by", ["the adapter", "the wrapper", "the state"])
def test_the_wrapped_model_never_saves_what_is_not_trained(by, tmp_path):
    base = make_base("llama")
    adapted = add_lora(copy.deepcopy(base), seed=5, rank=2, head_rank=2, lora_alpha=8)
    model = moved(sublora.wrap(adapted, d=20))
    trained = logits(model)
    if by == "the state":
        assert max(differ(v, model.net.get_parameter(n)) for n, v in model.parameters_by_name().items()) > 0.1
        state = adapted.state_dict()
        assert all(torch.equal(state[name], value) for name, value in model.parameters_by_name().items())
        return
    (adapted if by == "the adapter" else model).save_pretrained(str(tmp_path))
    assert differ(logits(PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)), trained) < 1e-5
    # Saving has not moved theta0: the model goes on as it was, and so does the next saving.
    assert differ(logits(model), trained) == 0
    moved(model, seed=1)
    model.save_pretrained(tmp_path)
    assert differ(logits(PeftModel.from_pretrained(base, tmp_path)), logits(model)) < 1e-5
    assert differ(logits(model), trained) > 0.01


def test_trainer_resumes_and_evaluates(tmp_path):
    whole = trainer(wrapped(), tmp_path / "a", max_steps=4, save_steps=2)
    whole.train()
    second = trainer(wrapped(), tmp_path / "b", max_steps=4, save_steps=2)
    second.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert differ(logits(second.model), logits(whole.model)) == 0
    assert differ(whole.model.subspace_params, torch.zeros(20)) > 0.1
    loss = whole.evaluate()["eval_loss"]
    assert loss == pytest.approx(second.evaluate()["eval_loss"]) and loss != trainer(wrapped(), tmp_path).evaluate()
    with pytest.raises(ConfigError, match="another theta0"):
        trainer(wrapped(seed=2), tmp_path / "c").train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))


def test_gradients_of_accumulated_batches_are_those_of_one(tmp_path):
    """Trainer divides the loss by the tokens of all micro-batches where the model says that it takes their number."""
    steps = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 1e9}
    found = []
    for size, accumulated in ((4, 1), (1, 4)):
        model = wrapped()
        sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
        trainer(model, tmp_path, **steps, **sizes).train()
        found.append(model.subspace_params.detach())
    torch.testing.assert_close(found[0], found[1])
    assert found[0].abs().max() > 1e-3


def test_gradient_checkpointing_changes_nothing(tmp_path):
    def gradient(prepare):
        model = moved(wrapped()).train()
        prepare(model)
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        return torch.cat([model.subspace_params.grad, model.gating_params.grad])

    plain = gradient(lambda model: None)
    torch.testing.assert_close(gradient(lambda model: model.gradient_checkpointing_enable()), plain)
    torch.testing.assert_close(gradient(lambda model: model.gradient_checkpointing_disable()), plain)
    # What transformers does by itself computes layers again at theta0, where nothing is trained.
    with pytest.raises(CheckpointError):
        gradient(lambda model: model.net.get_base_model().activation_checkpointing_enable({"use_reentrant": False}))
    base = make_base("llama")
    base.activation_checkpointing_enable({"use_reentrant": False})
    before = moved(wrapped(base)).train()
    before(input_ids=TOKENS, labels=TOKENS).loss.backward()
    torch.testing.assert_close(torch.cat([before.subspace_params.grad, before.gating_params.grad]), plain)
    model = wrapped()
    trainer(
        model, tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": False}
    ).train()
    other = wrapped()
    trainer(other, tmp_path).train()
    torch.testing.assert_close(model.subspace_params, other.subspace_params)
    with pytest.raises(ConfigError, match="use_reentrant=False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_text_is_generated_by_the_trained_model():
    model = moved(wrapped()).eval()
    expected = TOKENS
    for _ in range(4):
        with torch.no_grad():
            expected = torch.cat([expected, model(input_ids=expected).logits[:, -1:].argmax(-1)], 1)
    found = model.generate(TOKENS, max_new_tokens=4, do_sample=False)
    assert torch.equal(found, expected)
    assert not torch.equal(found, make_base("llama").generate(TOKENS, max_new_tokens=4, do_sample=False))


def test_it_answers_as_the_model_that_it_wraps(capsys):
    model = wrapped()
    assert model.config is model.net.config and model.generation_config is model.net.generation_config
    assert (model.device.type, model.dtype, model.main_input_name) == ("cpu", torch.float32, "input_ids")
    assert model.can_generate() and model.accepts_loss_kwargs
    assert model.get_input_embeddings() is model.net.get_input_embeddings()
    assert model.get_output_embeddings() is model.net.get_output_embeddings()
    model.print_trainable_parameters()
    trained, everything = model.get_nb_trainable_parameters()
    assert trained == 20 + len(model.gates()) and everything == trained + sum(p.numel() for p in model.net.parameters())
    assert f"trainable params: {trained:,d} || all params: {everything:,d}" in capsys.readouterr().out
    plain = sublora.nn.projectors.create_intrinsic_model(torch.nn.Linear(4, 4), intrinsic_dim=2, seed=0)
    assert not hasattr(plain, "config") and not plain.accepts_loss_kwargs


def test_a_copy_is_a_model_of_its_own():
    model = moved(wrapped(adapter="spectral", rank=2, targets="linear"))
    other = copy.deepcopy(model)
    before = logits(model)
    assert differ(logits(other), before) == 0
    moved(other, seed=1)
    other.net.state_dict()
    assert differ(logits(model), before) == 0 and differ(logits(other), before) > 1e-4


def test_a_base_in_bfloat16(tmp_path):
    base = make_base("llama").to(torch.bfloat16)
    model = wrapped(base)
    trainer(model, tmp_path).train()
    assert model.subspace_params.dtype == torch.float32 and differ(model.subspace_params, torch.zeros(20)) > 0.1
    model.save_pretrained(tmp_path / "adapter")
    original = make_base("llama").to(torch.bfloat16)
    assert differ(logits(PeftModel.from_pretrained(original, tmp_path / "adapter")), logits(model)) < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"allocation": "evenly"}, "allocation_mode 'evenly' not recognized"),
        ({"operator": "magic"}, "operator 'magic' not recognized"),
        ({"adapter": "ia3"}, "adapter 'ia3' not recognized"),
        ({"d": 0}, "d is 0"),
        ({"d": 10**9}, "must lie between 1 and"),
        ({"rank": 0, "head_rank": 0}, "LoRA is on nothing"),
        ({"allocation": "learned", "ratio": 1.0}, "inside"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(options, words):
    with pytest.raises(ConfigError, match=words) as error:
        wrapped(**options)
    assert "\n" not in str(error.value)


def test_only_models_of_transformers_get_an_adapter():
    with pytest.raises(ConfigError, match="create_intrinsic_model"):
        sublora.wrap(torch.nn.Linear(4, 4), d=2)
    with pytest.raises(ConfigError, match="in a subspace already"):
        sublora.wrap(wrapped(), d=2)
    with pytest.raises(ConfigError, match="has no output head"):
        sublora.wrap(make_base("llama").model, d=2)


def test_weights_that_are_not_in_memory_are_said():
    base = make_base("llama")
    base.model.layers[1].to("meta")
    with pytest.raises(ConfigError, match="not in memory") as error:
        sublora.wrap(base, d=10)
    assert "\n" not in str(error.value)


def test_encoder_and_decoder_have_gates_of_their_own(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY}
        base = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()
    model = moved(wrapped(copy.deepcopy(base)))
    assert [*model.gates()] == ["layer0", "layer1", "layer2", "layer3", "outside", "outside_share"]
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert (model.gating_params.grad != 0).all()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        trained = model.eval()(input_ids=TOKENS, labels=TOKENS).logits
        assert differ(trained, base(input_ids=TOKENS, labels=TOKENS).logits) > 0.01
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()
        assert differ(loaded(input_ids=TOKENS, labels=TOKENS).logits, trained) < 1e-5


def test_phi3_has_its_targets_where_a_message_says_attention():
    names = {name.rpartition(".")[2] for name, _ in find_targets(make_base("phi3"), "attention")}
    assert names == {"qkv_proj"}


def test_importing_sublora_loads_no_torch():
    code = """
import sys, sublora
assert {"wrap", "compress", "certify", "verify", "prepare"} <= set(sublora.__all__)
assert "torch" not in sys.modules and "transformers" not in sys.modules
sublora.verify
assert "torch" not in sys.modules
sublora.wrap
assert "torch" in sys.modules
try:
    sublora.nothing
except AttributeError:
    sys.exit(7)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7
