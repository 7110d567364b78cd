"""Adapters that PEFT trained: what is imported computes the same, is certified and verified; the rest is refused."""

import hashlib
import json
import shutil

import numpy as np
import peft
import pytest
import torch
from peft.tuners.unilora.model import UniLoraModel
from peft.tuners.vera.model import _kaiming_init
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import sublora
from sublora.certificate.reading import read_certificate
from sublora.cli import main
from sublora.coding.message import decode_message
from sublora.foreign.plain import Sides, balanced
from sublora.nn.create_model import get_model
from sublora.nn.unilora import assigned
from sublora.nn.vera import shared_matrices
from sublora.run_folder import RunFolder
from sublora.training.checkpoint import load_checkpoint

TOKENS = torch.arange(60).reshape(2, 30)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A Llama of random weights in a folder, with projections of different sizes."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=257, num_key_value_heads=2, max_position_embeddings=64, **sizes)
    folder = tmp_path_factory.mktemp("base") / "llama"
    seeded(lambda: LlamaForCausalLM(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 in a folder: its linear layers keep their weights transposed."""
    folder = tmp_path_factory.mktemp("base") / "gpt2"
    config = GPT2Config(vocab_size=257, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=None)
    seeded(lambda: GPT2LMHeadModel(config)).save_pretrained(folder)
    return folder


def fit(base, config, steps=5):
    """A model of PEFT, trained for some steps in a plain loop."""
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    for _ in range(steps):
        model(TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def saved(base, config, folder, **options):
    """Train an adapter, save it, and return its logits."""
    model = seeded(lambda: fit(base, config))
    model.save_pretrained(folder, **options)
    with torch.no_grad():
        return model(TOKENS).logits


def words(adapter, run, base, data):
    return ["import", str(adapter), "--to", str(run), "--base", str(base), "--data", str(data), "--block-size=48"]


def imported_logits(run):
    """Of the model that `sublora bounds` is about to quantize."""
    checkpoint = load_checkpoint(run)
    model = get_model(checkpoint.config, checkpoint.vocab_size).eval()
    with torch.no_grad():
        model.subspace_params.copy_(checkpoint.tensors["subspace_params"])
        return model(TOKENS).logits


def base_logits(base):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(TOKENS).logits


def lora(*targets, **settings):
    return peft.LoraConfig(target_modules=list(targets), task_type="CAUSAL_LM", **{"r": 3, "lora_alpha": 7, **settings})


def uni(*targets, **settings):
    usual = {"r": 2, "theta_d_length": 40, "proj_seed": 5}
    return peft.UniLoraConfig(target_modules=list(targets), **usual | settings)


def vera(*targets, **settings):
    return peft.VeraConfig(target_modules=list(targets), **{"r": 5, **settings})


CASES = {
    "attention": ("llama", lambda: lora("q_proj", "v_proj")),
    "one layer": ("llama", lambda: lora("q_proj", layers_to_transform=[1])),
    "all linear layers, of several ranks and scales": (
        "llama", lambda: lora("k_proj", "down_proj", "v_proj", alpha_pattern={"k_proj": 20},
                              rank_pattern={"down_proj": 1, "layers.1.self_attn.k_proj": 5})),
    "rank-stabilised": ("llama", lambda: lora("o_proj", use_rslora=True, init_lora_weights="gaussian")),
    "head": ("llama", lambda: lora("lm_head")),
    "head and layers": ("llama", lambda: lora("lm_head", "q_proj", rank_pattern={"lm_head": 2})),
    "transposed weights": ("gpt2", lambda: lora("c_attn", "c_fc")),
    "tiny": ("llama", lambda: peft.TinyLoraConfig(r=3, u=5, target_modules=["q_proj", "o_proj"])),
    "tiny, tied, uniform": (
        "gpt2", lambda: peft.TinyLoraConfig(r=2, u=4, weight_tying=0.5, init_weights="uniform",
                                            target_modules=["c_attn", "c_proj"])),
    "UniLoRA": ("llama", lambda: uni("q_proj", "v_proj")),
    "UniLoRA, with its places in the file": ("llama", lambda: uni("down_proj", "k_proj", save_indices=True)),
    "UniLoRA on all linear layers": ("llama", lambda: peft.UniLoraConfig(r=1, theta_d_length=401, proj_seed=2**40,
                                                                        target_modules="all-linear")),
    "UniLoRA on transposed weights": ("gpt2", lambda: uni("c_proj", unilora_dropout=0.1)),
    "UniLoRA on one of two layers of one name": ("gpt2", lambda: uni("attn.c_proj", theta_d_length=30)),
    "VeRA": ("llama", lambda: vera("q_proj", "v_proj")),
    "VeRA without its matrices": ("llama", lambda: vera("down_proj", "k_proj", save_projection=False,
                                                        projection_prng_key=77)),
    "VeRA on one layer": ("llama", lambda: vera("k_proj", layers_to_transform=[1], d_initial=3.0)),
    "VeRA on transposed weights": ("gpt2", lambda: vera("c_attn", "c_fc", d_initial=0.5)),
    # The other c_proj has four times the inputs: with it, the shared matrices would be others.
    "VeRA on one of two layers of one name": ("gpt2", lambda: vera("attn.c_proj")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_imported_computes_what_peft_computes(case, request, data_dir, tmp_path):
    name, config = CASES[case]
    base = request.getfixturevalue(name)
    theirs = saved(base, config(), tmp_path / "adapter")
    assert main(words(tmp_path / "adapter", tmp_path / "run", base, data_dir)) == 0
    torch.testing.assert_close(imported_logits(tmp_path / "run"), theirs, atol=1e-5, rtol=0)
    # The adapter does something, so that a base alone would fail.
    assert (theirs - base_logits(base)).abs().max() > 1e-3


@pytest.mark.parametrize("make", [uni, vera])
def test_one_of_two_layers_of_one_name_is_all_that_is_said_and_paid_for(make, gpt2, data_dir, tmp_path):
    saved(gpt2, make("attn.c_proj"), tmp_path / "adapter")
    assert main(words(tmp_path / "adapter", tmp_path / "run", gpt2, data_dir)) == 0
    checkpoint = load_checkpoint(tmp_path / "run")
    # attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj: the second bit.
    assert checkpoint.config.sublora.kinds == 0b10
    # The vector, or a rank of 5 and 16 outputs in each of two layers.
    assert len(checkpoint.tensors["subspace_params"]) == (40 if make is uni else 2 * (5 + 16))


def test_what_has_no_adapter_is_a_zero(llama, data_dir, tmp_path):
    saved(llama, lora("k_proj", r=2), tmp_path / "adapter")
    assert main(words(tmp_path / "adapter", tmp_path / "run", llama, data_dir)) == 0
    alpha = load_checkpoint(tmp_path / "run").tensors["subspace_params"]
    # Two layers, A of 2 x 16 and B of 8 x 2 each; LoRA of the message is on all seven linear layers of both.
    assert int((alpha != 0).sum()) == 2 * (2 * 16 + 8 * 2) and len(alpha) > 700


def test_an_imported_adapter_is_certified_verified_and_exported(llama, data_dir, tmp_path, capsys):
    theirs = saved(llama, lora("q_proj", "v_proj", r=1), tmp_path / "adapter")
    run = tmp_path / "run"
    assert main(words(tmp_path / "adapter", run, llama, data_dir)) == 0
    settings = ["--bounds.bound_samples=20", "--bounds.curvature_samples=32", "--system.device=cpu"]
    assert main(["bounds", f"--config-file={RunFolder(run).config}", *settings]) == 0
    certificate = read_certificate(run)
    message = decode_message(RunFolder(run).message.read_bytes(), max_symbols=1 << 20)
    # d = D: every value is a symbol of the message.
    assert message.spec.intrinsic_dim == 0 and len(message.alpha) == certificate.message.coordinates == 2 * (32 + 24)
    assert main(["verify", str(run), "--data", str(data_dir), "--base", str(llama)]) == 0
    assert "verified" in capsys.readouterr().out
    assert main(["export", str(run), "--to", str(tmp_path / "back"), "--base", str(llama)]) == 0
    back = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "back")
    with torch.no_grad():
        decoded, base = back(TOKENS).logits, base_logits(llama)
    # Quantized, it is still nearer to what was trained than the base is.
    assert (decoded - theirs).square().mean() < 0.5 * (base - theirs).square().mean()


SHARED = {"UniLoRA": lambda: uni("q_proj", "v_proj"), "VeRA": lambda: vera("q_proj", "v_proj")}


@pytest.mark.parametrize("kind", SHARED)
def test_shared_adapters_are_paid_for_by_their_trained_numbers(kind, llama, data_dir, tmp_path, capsys):
    theirs = saved(llama, SHARED[kind](), tmp_path / "adapter")
    run = tmp_path / "run"
    assert main(words(tmp_path / "adapter", run, llama, data_dir)) == 0
    settings = ["--bounds.bound_samples=20", "--bounds.quantizer=uniform", "--bounds.levels=99", "--system.device=cpu"]
    assert main(["bounds", f"--config-file={RunFolder(run).config}", *settings]) == 0
    message = decode_message(RunFolder(run).message.read_bytes(), max_symbols=1 << 20)
    # Two layers of q and v, 16 and 8 outputs.
    assert len(message.alpha) == (40 if kind == "UniLoRA" else 2 * (5 + 16 + 5 + 8))
    assert (message.spec.adapter, message.spec.seed) == (kind.lower(), 5 if kind == "UniLoRA" else 0)
    assert main(["verify", str(run), "--data", str(data_dir), "--base", str(llama)]) == 0
    assert "verified" in capsys.readouterr().out
    assert main(["export", str(run), "--to", str(tmp_path / "back"), "--base", str(llama)]) == 0
    back = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "back")
    merged = sublora.load(run, base=str(llama))
    with torch.no_grad():
        decoded, base = back(TOKENS).logits, base_logits(llama)
        torch.testing.assert_close(merged(TOKENS).logits, decoded, atol=1e-5, rtol=0)
    assert not [name for name, _ in merged.named_parameters() if "unilora" in name or "lambda" in name]
    assert (decoded - theirs).square().mean() < 0.5 * (base - theirs).square().mean()


def test_a_lora_of_the_same_rank_is_imported_too(llama, data_dir, tmp_path):
    """What errors about places and matrices of another origin say to do."""
    model = seeded(lambda: fit(llama, uni("q_proj")))
    peft.save_as_lora(tmp_path / "lora", model, rank=2)
    assert main(words(tmp_path / "lora", tmp_path / "run", llama, data_dir)) == 0
    with torch.no_grad():
        torch.testing.assert_close(imported_logits(tmp_path / "run"), model(TOKENS).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sizes", [(352, 20, 42), (100_003, 256, 7), (30_011, 20_011, 3)])
def test_places_are_those_of_peft_and_will_stay(sizes):
    """The hash stands for numpy's way of shuffling: messages depend on it."""
    hashes = {
        352: "f771075aef86b3534fe6fdf838e271f1ef7f13401815dffb8b31b364b25e5019",
        100_003: "ad41729de4b87e492afff95bf07a3874f49ba58c1c193d2945bf15e76a7940c7",
        30_011: "b853a7b2ebbb89db87a8b1a3010548b0d872c1a79d25d9c43a1f60ff3a79b75d",
    }
    found = assigned(*sizes)
    assert np.array_equal(found, UniLoraModel.generate_index(*sizes).numpy())
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest() == hashes[sizes[0]]
    assert not np.array_equal(found, assigned(*sizes[:2], sizes[2] + 1))


@pytest.mark.parametrize("key", [0, 77, 2**40 + 1])
def test_matrices_are_those_of_peft(key):
    theirs = _kaiming_init((6, 33), generator := torch.Generator().manual_seed(key)), _kaiming_init((20, 6), generator)
    ours = shared_matrices(6, 33, 20, key)
    for made, drawn in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.from_numpy(made), drawn, atol=0, rtol=1e-6)
    assert not np.array_equal(ours[0], shared_matrices(6, 33, 20, key + 1)[0])


def test_balanced_sides_have_the_product_and_one_length():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator) for shape in ((3, 9), (7, 3)))
    # The third row repeats the first: the product has rank 2.
    a[2] = a[0]
    sides = balanced(Sides(100 * a, b))
    assert sides.rank == 2
    torch.testing.assert_close(sides.b_or @ sides.a_ri, 100 * b @ a, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sides.a_ri.norm(dim=1), sides.b_or.norm(dim=0))
    assert balanced(Sides(a, torch.zeros(7, 3))).rank == 0


@pytest.fixture(scope="module")
def plain(llama, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "adapter"
    saved(llama, lora("q_proj"), folder)
    return folder


def with_settings(folder, **settings):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def with_tensor(folder, change):
    tensors = load_file(folder / WEIGHTS)
    name = min(n for n in tensors if "lora_A" in n)
    changed = change(tensors.pop(name))
    save_file(tensors | ({} if changed is None else {name: changed}), folder / WEIGHTS)


def as_pickle(folder):
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def truncated(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])


def enormous(folder):
    save_file({n: torch.full_like(t, 3e38) for n, t in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    with_settings(folder, lora_alpha=1e9)


def with_a_name(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors | {"base_model.model.lm_head.weight\x1b[2J": torch.ones(3)}, folder / WEIGHTS)


DAMAGES = {
    "rank 0": (lambda f: with_settings(f, r=0), "r is 0, and must be a number above 0"),
    "another rank": (lambda f: with_settings(f, r=2), "have shapes (3, 16) and (16, 3), and this base needs (2, 16)"),
    "half a rank": (lambda f: with_settings(f, r=2.5), "rank is 2.5"),
    "a rank that is text": (lambda f: with_settings(f, r="3"), "r is '3'"),
    "a scale that is infinite": (lambda f: with_settings(f, lora_alpha=float("inf")), "lora_alpha is inf"),
    "a scale without end": (lambda f: with_settings(f, lora_alpha=10**400), "at most 1e+09"),
    "values that overflow together": (enormous, "too large for float32"),
    "a switch that is text": (lambda f: with_settings(f, use_rslora="yes"), "use_rslora is 'yes'"),
    "DoRA": (lambda f: with_settings(f, use_dora=True), "sets 'use_dora' to True"),
    "biases": (lambda f: with_settings(f, bias="lora_only"), "sets 'bias' to 'lora_only'"),
    "whole modules": (lambda f: with_settings(f, modules_to_save=["lm_head"]), "sets 'modules_to_save'"),
    "a setting of tomorrow": (lambda f: with_settings(f, use_magic={"a": 1}), "sets 'use_magic'"),
    "PiSSA": (lambda f: with_settings(f, init_lora_weights="pissa"), "started from 'pissa'"),
    "an expression": (lambda f: with_settings(f, rank_pattern={"(a+)+$": 3}), "the expression '(a+)+$'"),
    "a pattern that is none": (lambda f: with_settings(f, alpha_pattern=[1]), "alpha_pattern is [1]"),
    "an unknown type": (lambda f: with_settings(f, peft_type="IA3"), "adapters of type 'IA3' are not imported"),
    "no type": (lambda f: with_settings(f, peft_type=None), "names no peft_type"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "it is no object"),
    "no JSON": (lambda f: (f / CONFIG).write_text("[" * 100_000), "it is not JSON"),
    "no configuration": (lambda f: (f / CONFIG).unlink(), "cannot read the adapter's configuration"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "cannot read the adapter's weights"),
    "a pickle": (as_pickle, "is a pickle, which can run code"),
    "a short file": (truncated, "are damaged"),
    "NaN": (lambda f: with_tensor(f, lambda a: a * float("nan")), "values that are not finite"),
    "overflow": (lambda f: with_tensor(f, lambda a: a.double() * 1e300), "values that are not finite"),
    "integers": (lambda f: with_tensor(f, lambda a: a.int()), "must be of floats"),
    "a wrong shape": (lambda f: with_tensor(f, lambda a: a[:, :8].contiguous()), "have shapes (3, 8) and (16, 3)"),
    "one side": (lambda f: with_tensor(f, lambda a: None), "one side of model.layers.0.self_attn.q_proj only"),
    "another tensor": (with_a_name, "no side of a plain LoRA"),
}  # fmt: skip


def says(capsys, tmp_path, arguments, error):
    # Loading a base in a test shows progress.
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("sublora: error: ") and said.count("\n") == 1 and "\x1b" not in said
    assert error in said
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_imported_is_said_in_one_line(damage, plain, llama, data_dir, tmp_path, capsys):
    harm, error = DAMAGES[damage]
    shutil.copytree(plain, tmp_path / "adapter")
    harm(tmp_path / "adapter")
    says(capsys, tmp_path, words(tmp_path / "adapter", tmp_path / "run", llama, data_dir), error)


def test_an_adapter_of_another_base_is_refused(plain, llama, gpt2, data_dir, tmp_path, capsys):
    says(capsys, tmp_path, words(plain, tmp_path / "run", gpt2, data_dir), "which the base does not have")
    # The same names and shapes: plain LoRA fits any weights, TinyLoRA only those that it was made of.
    saved(llama, peft.TinyLoraConfig(r=2, u=4, target_modules=["q_proj"]), tmp_path / "tiny")
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.t_()
    model.save_pretrained(tmp_path / "other")
    arguments = words(tmp_path / "tiny", tmp_path / "run", tmp_path / "other", data_dir)
    says(capsys, tmp_path, arguments, "are not made of this base's singular vectors")


def test_layers_that_no_message_names_are_refused(llama, data_dir, tmp_path, capsys):
    saved(llama, lora("embed_tokens"), tmp_path / "adapter")
    says(capsys, tmp_path, words(tmp_path / "adapter", tmp_path / "run", llama, data_dir), "no side of a plain LoRA")


def test_a_tiny_adapter_that_lacks_something_is_refused(llama, data_dir, tmp_path, capsys):
    arguments = words(tmp_path / "tiny", tmp_path / "run", llama, data_dir)
    saved(llama, peft.TinyLoraConfig(r=2, u=4, target_modules=["q_proj"], save_projection=False), tmp_path / "tiny")
    says(capsys, tmp_path, arguments, "save_projection=True")
    saved(llama, peft.TinyLoraConfig(r=2, u=4, target_modules=["q_proj"]), tmp_path / "tiny")
    tensors = load_file(tmp_path / "tiny" / WEIGHTS)
    del tensors["base_model.tinylora_v.1"]
    save_file(tensors, tmp_path / "tiny" / WEIGHTS)
    says(capsys, tmp_path, arguments, "numbers for model.layers.1.self_attn.q_proj are missing")
    with_settings(tmp_path / "tiny", weight_tying="all")
    says(capsys, tmp_path, arguments, "weight_tying is 'all'")


def test_an_untrained_adapter_and_a_full_folder_are_refused(plain, llama, data_dir, tmp_path, capsys):
    model = AutoModelForCausalLM.from_pretrained(llama)
    peft.get_peft_model(model, lora("q_proj")).save_pretrained(tmp_path / "adapter")
    says(
        capsys, tmp_path, words(tmp_path / "adapter", tmp_path / "run", llama, data_dir), "the adapter changes nothing"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    says(capsys, tmp_path, words(plain, tmp_path / "full", llama, data_dir), "is not empty")
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def with_part(folder, ending, change):
    tensors = load_file(folder / WEIGHTS)
    name = min(n for n in tensors if n.endswith(ending))
    changed = change(tensors.pop(name))
    save_file(tensors | ({} if changed is None else {name: changed}), folder / WEIGHTS)


UNI_DAMAGES = {
    "another length": (lambda f: with_settings(f, theta_d_length=41), "has no vector of 41 numbers"),
    "no seed": (lambda f: with_settings(f, proj_seed=None), "proj_seed is None"),
    "a seed below 0": (lambda f: with_settings(f, proj_seed=-1), "proj_seed is -1"),
    "a rank that is text": (lambda f: with_settings(f, r="2"), "r is '2'"),
    "another seed than its places": (lambda f: with_settings(f, proj_seed=6), "is not what its proj_seed gives"),
    "another rank than its places": (lambda f: with_settings(f, r=3), "is not what its proj_seed gives"),
    "some layers of a kind": (lambda f: with_settings(f, layers_to_transform=[1]), "can only say kinds of layers"),
    "a name of one layer": (lambda f: with_settings(f, target_modules=["model.layers.0.self_attn.q_proj"]),
                            "and not on model.layers.1.self_attn.q_proj"),
    "an expression": (lambda f: with_settings(f, target_modules=".*q_proj"), "only a list of names"),
    "expressions": (lambda f: with_settings(f, target_modules=["(a+)+$"]), "only a list of names"),
    "other layers": (lambda f: with_settings(f, target_modules=["c_attn"]), "which the base does not have"),
    "the head": (lambda f: with_settings(f, target_modules=["lm_head"]), "inside the transformer layers for one of"),
    "places that are no integers": (lambda f: with_part(f, "indices_A", lambda t: t.float()), "of 64-bit integers"),
    "one other place": (lambda f: with_part(f, "indices_A", lambda t: t.index_fill(1, torch.tensor([3]), 9)),
                        "is not what its proj_seed gives"),
    "a vector that is too long": (lambda f: (with_settings(f, theta_d_length=10**6), with_part(
        f, "theta_d", lambda t: torch.zeros(10**6))), "has 1000000 numbers for 128 places"),
    "biases": (lambda f: with_settings(f, bias="all"), "sets 'bias' to 'all'"),
    "something else": (lambda f: save_file(load_file(f / WEIGHTS) | {"else": torch.ones(1)}, f / WEIGHTS),
                       "'else' is no part of a plain UniLoRA"),
}  # fmt: skip


@pytest.mark.parametrize("damage", UNI_DAMAGES)
def test_a_unilora_that_no_message_says_is_refused(damage, llama, data_dir, tmp_path, capsys):
    harm, error = UNI_DAMAGES[damage]
    saved(llama, uni("q_proj", save_indices=True), tmp_path / "adapter")
    harm(tmp_path / "adapter")
    says(capsys, tmp_path, words(tmp_path / "adapter", tmp_path / "run", llama, data_dir), error)


VERA_DAMAGES = {
    "another key than its matrices": (lambda f: with_settings(f, projection_prng_key=1), "is not what its projection_"),
    "other matrices": (lambda f: with_part(f, "vera_A", lambda t: t * 1.001), "is not what its projection_prng_key"),
    "another rank": (lambda f: with_settings(f, r=4), "has shape (5,), and this base needs (4,)"),
    "one scale": (lambda f: with_part(f, "vera_lambda_d", lambda t: None), "only one of a layer's two"),
    "scales of another base": (lambda f: with_part(f, "vera_lambda_b", lambda t: t[:3].clone()), "has shape (3,)"),
    "a rank without end": (lambda f: with_settings(f, r=10**7), "has shape (5,)"),
    "something else": (lambda f: save_file(load_file(f / WEIGHTS) | {"else": torch.ones(1)}, f / WEIGHTS),
                       "'else' is no part of a plain VeRA"),
}  # fmt: skip


@pytest.mark.parametrize("damage", VERA_DAMAGES)
def test_a_vera_that_no_message_says_is_refused(damage, llama, data_dir, tmp_path, capsys):
    harm, error = VERA_DAMAGES[damage]
    saved(llama, vera("q_proj", "v_proj"), tmp_path / "adapter")
    harm(tmp_path / "adapter")
    says(capsys, tmp_path, words(tmp_path / "adapter", tmp_path / "run", llama, data_dir), error)


@pytest.mark.parametrize("adapter", ["unilora", "vera"])
def test_they_are_not_trained_here(adapter, llama, data_dir, tmp_path, capsys):
    arguments = [f"--sublora.adapter={adapter}", f"--login.out_dir={tmp_path}", f"--data.dataset_dir={data_dir}"]
    assert main(["train", *arguments]) == 2
    assert "train it with PEFT, and sublora import it" in capsys.readouterr().err
