"""Configuration: files of the field load, mistakes are named, nothing is overridden silently."""

import json
import logging

import pytest
import yaml

from sublora.config import SECTIONS, config_from_json, load_config
from sublora.errors import ConfigError

REFERENCE_FILE = """
login: {wandb_log: True, wandb_project: SubLoRA_Pretrain, wandb_run_name: training, out_dir: TOADD}
data:
  batch_size: 8
  block_size: 1024
  perturb_word_order_window_size: 0
  dataset_dir: TOADD
  openwebtext_train_eot_indices_file: TOADD
  empirical_document_length_distribution_file: TOADD
training: {gradient_accumulation_steps: 40, max_iters: 600000, eval_interval: 10, eval_iters: 10, log_interval: 10}
optimizer: {beta1: 0.9, learning_rate: 5e-3, weight_decay: 1e-2, correct_bias: True, adam_epislon: 1e-06}
learning_rate: {lr_decay_iters: 600000}
model: {n_layer: 12, n_head: 12, n_embd: 768, apply_rope: False, use_mistral_sliding_window: False, init_from: scratch}
sublora:
  use_lora: True
  lora_alpha: 32
  lora_dropout: 0.1
  attention_linear_use_lora: True
  attention_linear_lora_r: 4
  linear_head_lora_r: 4
  linear_head_enable_lora: True
  intrinsic_dim: 50000
bounds: {levels: 11, bound_samples: 10000, sliding_window_size: 100, misc_extra_bits: 7}
"""


def test_a_file_of_the_research_code_loads(tmp_path, caplog):
    path = tmp_path / "train.yaml"
    path.write_text(REFERENCE_FILE)
    with caplog.at_level(logging.WARNING):
        config = load_config([f"--config-file={path}"])
    assert config.optimizer.adam_epsilon == 1e-6
    assert config.optimizer.learning_rate == 5e-3
    assert config.training.gradient_accumulation_steps == 40
    ignored = [r.getMessage() for r in caplog.records]
    assert any(m.startswith("bounds.misc_extra_bits is ignored: ") for m in ignored)
    assert any(m.startswith("data.openwebtext_train_eot_indices_file is ignored: ") for m in ignored)


def test_flags_win_over_the_file_and_both_spellings_work(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("sublora: {intrinsic_dim: 7}\ntraining: {max_iters: 5}\n")
    config = load_config(["--sublora.intrinsic_dim=9", "--config-file", str(path), "--optimizer.learning_rate", "3e-4"])
    assert (config.sublora.intrinsic_dim, config.training.max_iters, config.optimizer.learning_rate) == (9, 5, 3e-4)
    assert config.explicit == {"sublora.intrinsic_dim", "training.max_iters", "optimizer.learning_rate"}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--sublora.allocation_mode=learnt", "allocation_mode 'learnt' not recognized: uniform, fixed or learned"),
        ("--sublora.intrinsic_dimm=3", "unknown key 'intrinsic_dimm' of sublora; the nearest is 'intrinsic_dim'"),
        ("--trainning.max_iters=3", "unknown section 'trainning'; the nearest is 'training'"),
        ("--sublora.allocation_ratio=1.5", "sublora.allocation_ratio is 1.5, but must be between 0 and 1"),
        ("--sublora.intrinsic_dim=-1", "sublora.intrinsic_dim is -1, but must be at least 0"),
        ("--bounds.levels=many", 'Parser key "bounds.levels"'),
        ("--bounds.delta=1", "bounds.delta is 1"),
        ("--model.n_head=5", "model.n_embd 768 is not a multiple of model.n_head 5"),
        ("--model.size=smal", "model.size 'smal' not recognized: small, medium, large, xlarge or vlarge"),
        ("--optimizer.correct_bias=false", "optimizer.correct_bias=false is not supported"),
        ("--model.init_from=gpt2", "model.init_from 'gpt2' not recognized: scratch or best_ckpt; a pretrained base is"),
        ("--sublora.adapter=lorra", "sublora.adapter 'lorra' not recognized: none, lora, spectral, weights,"),
        ("--sublora.targets=mlp", "sublora.targets 'mlp' not recognized: attention or linear"),
        ("--sublora.spectral_r=0", "sublora.spectral_r is 0, but must be at least 1"),
        ("--prior.published=2024-11-01", "prior.published is the date of prior.base"),
        ("stray", "unrecognized arguments: stray"),
        ("--config-file=missing.yaml", "cannot read the config file missing.yaml"),
    ],
)
def test_mistakes_are_one_clear_line(flag, message):
    with pytest.raises(ConfigError, match="^" + __import__("re").escape(message)) as caught:
        load_config([flag])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "expected"), [("small", (12, 12, 768)), ("vlarge", (48, 25, 1600))])
def test_sizes_have_names(size, expected):
    model = load_config([f"--model.size={size}"]).model
    assert (model.n_layer, model.n_head, model.n_embd) == expected
    with pytest.raises(ConfigError, match=r"model\.n_layer=3 contradicts"):
        load_config([f"--model.size={size}", "--model.n_layer=3"])


@pytest.mark.parametrize("flag", ["--model.apply_rope=true", "--model.use_mistral_sliding_window=true"])
def test_rotations_need_heads_of_even_width(flag):
    assert load_config([flag]).model.family in ("llama", "mistral")
    with pytest.raises(ConfigError, match="heads of even width"):
        load_config([flag, "--model.n_head=256"])


@pytest.mark.parametrize(
    "flag", ["--model.size=medium", "--model.n_layer=30", "--model.bias=true", "--model.apply_rope=true"]
)
def test_a_pretrained_base_has_sizes_of_its_own(flag):
    assert load_config(["--prior.base=gpt2"]).model.init_from == "scratch"
    name = flag[2:].partition("=")[0]
    with pytest.raises(ConfigError, match=f"prior.base=gpt2 has sizes of its own, which {name} contradicts"):
        load_config([flag, "--prior.base=gpt2"])


def test_a_date_is_a_date(tmp_path):
    path = tmp_path / "c.yaml"
    # YAML reads this as a date, not as text.
    path.write_text("prior: {base: gpt2, published: 2024-11-01}\n")
    config = load_config([f"--config-file={path}"])
    assert config.prior.published == "2024-11-01"
    assert yaml.safe_load(config.to_yaml()) == config.to_dict()
    assert config_from_json(json.dumps(config.to_dict())).to_dict() == config.to_dict()


def test_without_lora_all_weights_are_the_adapter():
    assert load_config([]).sublora.adapter == "lora"
    assert load_config(["--sublora.use_lora=false"]).sublora.adapter == "weights"
    spectral = load_config(["--sublora.adapter=spectral", "--sublora.spectral_r=3"]).sublora
    assert (spectral.rank, spectral.head_rank, spectral.use_lora) == (3, 0, False)
    assert load_config(["--sublora.targets=linear"]).sublora.rank == 4
    for adapter in ("spectral", "weights", "none"):
        config = load_config([f"--sublora.adapter={adapter}"])
        assert config_from_json(json.dumps(config.to_dict())).sublora == config.sublora


@pytest.mark.parametrize("name", ["sublora_train", "sublora_bounds", "demo", "gpt2_small_sotu"])
def test_shipped_files_load(name):
    load_config([f"--config-file=config/{name}.yaml"])


def test_the_prompt_alone_is_certified_in_the_setting_of_the_trained_run():
    """Whatever decides what is claimed, and what could explain a difference, is the same but for the adapter."""
    prompt, trained = (load_config([f"--config-file=config/smollm2_{name}.yaml"]) for name in ("prompt", "docs"))
    for section in ("corpus", "data", "prior", "prompt", "model"):
        assert getattr(prompt, section) == getattr(trained, section)
    assert (prompt.sublora.adapter, prompt.training.max_iters) == ("none", 0)
    assert (trained.sublora.adapter, prompt.bounds.bound_samples) == ("lora", 3000)


def test_a_candidate_has_a_name():
    assert load_config(["--bounds.candidates=[out/a, out/b]"]).bounds.candidates == ["out/a", "out/b"]
    with pytest.raises(ConfigError, match=r"bounds\.candidates has an empty entry"):
        load_config(["--bounds.candidates=['']"])


def test_round_trips():
    config = load_config(["--sublora.allocation_mode=fixed", "--bounds.sliding_window_size=3"])
    assert config_from_json(json.dumps(config.to_dict())).to_dict() == config.to_dict()
    assert yaml.safe_load(config.to_yaml()) == config.to_dict()


def test_every_key_is_documented():
    import ast
    import inspect

    for cls in SECTIONS.values():
        body = ast.parse(inspect.getsource(cls)).body[0].body
        fields = [i for i, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
        assert fields
        for i in fields:
            follows = body[i + 1]
            assert isinstance(follows, ast.Expr) and isinstance(follows.value, ast.Constant), (
                f"{cls.__name__}.{body[i].target.id}"
            )
