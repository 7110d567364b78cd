"""From a checkpoint to a verified certificate, and no way around it."""

import copy
import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sublora.certificate.certificate import CERTIFICATE, LOSSES, MESSAGE, read_certificate, seal
from sublora.certificate.derive import numbers, words
from sublora.certificate.draw import draw_units
from sublora.certificate.issue import certify
from sublora.certificate.verify import verify
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.errors import CertificateError, ConfigError, CorpusError, SubloraError
from sublora.scoring import chunks, measure
from sublora.scoring.risk import score_units
from sublora.training.loop import train


def write_corpus(folder, seed=0, n=400):
    rng = np.random.default_rng(seed)
    words = ["union", "state", "of", "the", "congress", "treaty", "peace", "revenue"]
    folder.mkdir(parents=True)
    (folder / "speech.txt").write_text("\n\n".join(" ".join(rng.choice(words, 10)) for _ in range(n)))
    prepare("text", folder / "data", paths=[folder / "speech.txt"])
    return folder / "data"


def flags(data_dir, out_dir, *extra):
    return [
        f"--data.dataset_dir={data_dir}", f"--login.out_dir={out_dir}", "--data.batch_size=8", "--data.block_size=32",
        "--model.n_layer=2", "--model.n_head=2", "--model.n_embd=16", "--sublora.intrinsic_dim=40",
        "--training.max_iters=60", "--training.eval_interval=30", "--training.eval_iters=2",
        "--optimizer.learning_rate=0.2", "--optimizer.weight_decay=0", "--system.device=cpu",
        f"--model.best_checkpoint_path={out_dir}", "--bounds.bound_samples=150", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "a")


@pytest.fixture(scope="module")
def certified(data_dir, tmp_path_factory):
    out_dir = tmp_path_factory.mktemp("run")
    train(load_config(flags(data_dir, out_dir)))
    certify(load_config(flags(data_dir, out_dir)))
    return out_dir


@pytest.fixture
def run_copy(certified, tmp_path):
    return shutil.copytree(certified, tmp_path / "run")


def test_the_certificate_verifies_in_another_process(certified, data_dir):
    done = subprocess.run(
        [sys.executable, "-m", "sublora", "verify", str(certified), "--data", str(data_dir)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "verified (full replay): With probability at least 95 %" in done.stdout


def test_arithmetic_needs_no_torch(certified):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from sublora.cli import main; sys.exit(main(['verify', {str(certified)!r}, '--arithmetic']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_it_says(certified):
    certificate = read_certificate(certified)
    claims = {c["metric"]: c for c in certificate["claims"]}
    assert certificate["message"]["bits"] == 8 * len((certified / MESSAGE).read_bytes())
    assert sum(certificate["message"]["ledger"].values()) == pytest.approx(certificate["message"]["bits"])
    for claim in claims.values():
        assert claim["empirical"] < claim["bound"] <= claim["upper"] + 1e-6
    assert claims["bpd"]["bound"] < 8
    assert claims["bpb"]["bound"] == claims["bpd"]["bound"]
    assert claims["bpd"]["bound"] < certificate["comparison"][0]["bound"]
    errors = [claims[f"top_{k}_error"]["empirical"] for k in (1, 2, 10, 100)]
    assert errors == sorted(errors, reverse=True)
    assert sum(certificate["decomposition"].values()) == pytest.approx(claims["bpd"]["bound"])


def test_a_certificate_that_beats_nothing_is_called_uninteresting(certified):
    certificate = read_certificate(certified)
    unigram = next(b for b in certificate["baselines"] if "unigram" in b["name"])["bound"]
    claims = copy.deepcopy(certificate["claims"])
    claims[0]["bound"] = unigram
    assert words(certificate, claims)["limits"][0].startswith("Uninteresting: certified no better than")
    claims[0]["bound"] = min(b["bound"] for b in certificate["baselines"]) - 1e-6
    assert not any(limit.startswith("Uninteresting") for limit in words(certificate, claims)["limits"])


def test_the_same_checkpoint_gives_the_same_certificate(certified, run_copy, data_dir):
    certify(load_config(flags(data_dir, run_copy)))
    for name in (MESSAGE, LOSSES, CERTIFICATE):
        assert (run_copy / name).read_bytes() == (certified / name).read_bytes()


def test_all_documents_can_be_scored(run_copy, data_dir):
    certify(load_config(flags(data_dir, run_copy, "--bounds.bound_samples=0", "--bounds.joint=true")))
    certificate = verify(run_copy, data_dir)
    assert certificate["draw"]["samples"] == 0


@pytest.mark.parametrize(
    ("bound_type", "samples", "unit"),
    [("sequence_level", 150, "block of 32 tokens"), ("sequence_level", 0, "block of 32"), ("token_level", 0, "token")],
)
def test_other_units(run_copy, data_dir, bound_type, samples, unit):
    """All three types are issued and verified, and say what they are about."""
    certify(
        load_config(flags(data_dir, run_copy, f"--bounds.bound_type={bound_type}", f"--bounds.bound_samples={samples}"))
    )
    certificate = verify(run_copy, data_dir)
    assert verify(run_copy, None) == certificate
    tokens = len(open_corpus(data_dir).train.tokens)
    assert certificate["corpus"]["n"] == (tokens // 32 * 32 if bound_type == "token_level" else tokens // 32)
    assert unit in certificate["statement"]
    claims = {c["metric"]: c for c in certificate["claims"]}
    assert "bpb" not in claims
    assert claims["bpd"]["empirical"] < claims["bpd"]["bound"] < claims["bpd"]["upper"]
    assert claims["bpd"]["bound"] < certificate["comparison"][0]["bound"]
    about_new_text = "nothing is claimed about new text" not in certificate["statement"]
    assert about_new_text == (bound_type != "token_level")
    # A forger who calls it something else is found, whatever else the certificate says.
    for other in {"document_level", "sequence_level", "token_level"} - {bound_type}:
        forged = json.dumps(seal(certificate | {"bound_type": other}))
        (run_copy / CERTIFICATE).write_text(forged)
        with pytest.raises(CertificateError):
            verify(run_copy, None)


def test_tokens_are_not_drawn(data_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"set bounds\.bound_samples=0"):
        load_config(flags(data_dir, tmp_path, "--bounds.bound_type=token_level"))


@pytest.fixture
def in_chunks(run_copy, data_dir, monkeypatch):
    """The run, certified in several chunks; and those files as they should be again."""
    monkeypatch.setattr(chunks, "CHUNK_TOKENS", 2000)
    certify(load_config(flags(data_dir, run_copy)))
    expected = {name: (run_copy / name).read_bytes() for name in (MESSAGE, LOSSES, CERTIFICATE)}
    (run_copy / CERTIFICATE).unlink()
    return expected


def test_an_interrupted_certification_goes_on(in_chunks, run_copy, data_dir, monkeypatch):
    def finished():
        return len(list((run_copy / "scoring").rglob("*.safetensors")))

    def interrupted(*arguments, **options):
        if finished() == 2:
            raise KeyboardInterrupt
        return score_units(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "score_units", interrupted)
        with pytest.raises(KeyboardInterrupt):
            certify(load_config(flags(data_dir, run_copy)))
    assert finished() == 2 and not (run_copy / CERTIFICATE).exists()
    certify(load_config(flags(data_dir, run_copy)))
    assert not (run_copy / "scoring").exists()
    assert in_chunks == {name: (run_copy / name).read_bytes() for name in in_chunks}


def test_two_processes_give_the_same_certificate(in_chunks, run_copy, data_dir, tmp_path):
    script = tmp_path / "bounds.py"
    script.write_text(
        "import sys\n"
        "from sublora.scoring import chunks\n"
        "from sublora.cli import main\n"
        "chunks.CHUNK_TOKENS = 2000\n"
        "sys.exit(main(['bounds', *sys.argv[1:]]))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    options = flags(data_dir, run_copy)
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert in_chunks == {name: (run_copy / name).read_bytes() for name in in_chunks}


def test_the_message_and_the_corpus_are_enough(run_copy, data_dir):
    (run_copy / LOSSES).unlink()
    verify(run_copy, data_dir)
    with pytest.raises(CertificateError, match="cannot read the losses"):
        verify(run_copy, None)
    certificate = read_certificate(run_copy)
    certificate["claims"][0]["bound"] -= 0.01
    certificate |= words(certificate, certificate["claims"])
    (run_copy / CERTIFICATE).write_text(json.dumps(seal(certificate)))
    with pytest.raises(CertificateError, match="the bound on bpd differs"):
        verify(run_copy, data_dir)


@pytest.mark.parametrize(
    "extra",
    [
        ["--bounds.quantizer=trellis"],
        ["--bounds.quantizer=feedback", "--bounds.curvature_samples=64"],
        ["--bounds.quantizer=feedback", "--bounds.curvature_samples=64", "--bounds.max_quant_iters=20"],
        ["--bounds.levels=5", "--bounds.max_quant_iters=5", "--bounds.quant_lr=0.01"],
        ["--bounds.use_kmeans=true", "--bounds.levels=4"],
    ],
)
def test_other_codebooks(run_copy, data_dir, extra):
    certify(load_config(flags(data_dir, run_copy, *extra)))
    verify(run_copy, data_dir)


@pytest.mark.parametrize(
    "extra",
    [
        ["--sublora.allocation_mode=fixed", "--sublora.allocation_ratio=0.8"],
        ["--sublora.allocation_mode=learned"],
        ["--sublora.allocation_mode=learned", "--sublora.allocation_scope=layer"],
        ["--sublora.intrinsic_dim=0"],
        ["--sublora.use_lora=false", "--sublora.intrinsic_mode=partition"],
        [
            "--sublora.allocation_mode=learned",
            "--bounds.quantizer=feedback",
            "--bounds.curvature_samples=64",
            "--bounds.max_quant_iters=20",
        ],
        ["--sublora.allocation_mode=learned", "--bounds.max_quant_iters=5"],
        ["--model.apply_rope=true"],
        ["--model.use_mistral_sliding_window=true", "--model.attention_window=8"],
    ],
    ids=[
        "fixed",
        "learned-shared",
        "learned-layer",
        "no-subspace",
        "no-lora",
        "learned-gradual",
        "learned-codebook",
        "llama",
        "mistral",
    ],
)
def test_every_mode_is_certified_and_verified(data_dir, tmp_path, extra):
    config = load_config(flags(data_dir, tmp_path, "--training.max_iters=3", "--bounds.bound_samples=20", *extra))
    train(config)
    certify(config)
    verify(tmp_path, data_dir)


def test_one_changed_bit_of_the_message_is_found(run_copy, data_dir):
    path = run_copy / MESSAGE
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 7):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(SubloraError):
            verify(run_copy, None)
    path.write_bytes(data[:-1])
    with pytest.raises(SubloraError):
        verify(run_copy, None)


def leaves(node, path=()):
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def test_one_changed_number_is_found(run_copy):
    certificate = read_certificate(run_copy)
    rng = random.Random(0)
    numbers = [(path, v) for path, v in leaves(certificate) if isinstance(v, int | float) and not isinstance(v, bool)]
    for path, value in rng.sample(numbers, min(60, len(numbers))):
        changed = copy.deepcopy(certificate)
        node = changed
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value * 0.999 if isinstance(value, float) and value else value + 1
        (run_copy / CERTIFICATE).write_text(json.dumps(changed))
        with pytest.raises(CertificateError):
            verify(run_copy, None)


@pytest.mark.parametrize(
    ("path", "change", "what"),
    [
        (("claims", 0, "bound"), lambda v: v - 1e-6, "the bound on bpd differs"),
        (("claims", 2, "bound"), lambda v: v - 1e-6, "the bound on top_1_error differs"),
        (("message", "bits"), lambda v: v - 8, "the length of the message in bits differs"),
        (("corpus", "n"), lambda v: v + 1, "the bound on bpd differs"),
        (("delta",), lambda v: 0.5, "the bound on bpd differs"),
        (("joint",), lambda v: not v, "the bound on bpd differs"),
        (("draw", "samples"), lambda v: v - 1, "the number of losses differs"),
    ],
)
def test_a_forger_who_seals_again_is_still_found(run_copy, path, change, what):
    certificate = read_certificate(run_copy)
    node = certificate
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = change(node[path[-1]])
    (run_copy / CERTIFICATE).write_text(json.dumps(seal(certificate)))
    with pytest.raises(CertificateError, match=what):
        verify(run_copy, None)


def test_invented_losses_pass_the_arithmetic_but_not_the_replay(run_copy, data_dir):
    import dataclasses

    from sublora.files import sha256
    from sublora.scoring.scores import read_scores

    certificate = read_certificate(run_copy)
    scores = read_scores(run_copy / LOSSES)
    # The model has hardly been trained: only a loss far below that of the fallback code changes its claim.
    lower = dataclasses.replace(scores, bits=scores.bits - 3.0 * scores.lengths)
    (run_copy / LOSSES).write_bytes(lower.to_bytes())
    certificate["losses_sha256"] = sha256(lower.to_bytes())
    certificate |= numbers(certificate, lower)
    certificate |= words(certificate, certificate["claims"])
    (run_copy / CERTIFICATE).write_text(json.dumps(seal(certificate)))
    verify(run_copy, None)
    with pytest.raises(CertificateError, match="the bound on bpd differs"):
        verify(run_copy, data_dir)


def test_another_corpus_is_found(run_copy, tmp_path):
    other = write_corpus(tmp_path / "b", seed=1)
    with pytest.raises(CertificateError, match="the hash of the corpus differs"):
        verify(run_copy, other)


def test_one_changed_document_is_found(run_copy, data_dir, tmp_path):
    changed = shutil.copytree(data_dir, tmp_path / "changed")
    data = bytearray((changed / "train.bin").read_bytes())
    data[0] ^= 1
    (changed / "train.bin").write_bytes(bytes(data))
    with pytest.raises((CertificateError, CorpusError)):
        verify(run_copy, changed)


def test_the_command_line_says_it_in_one_line(run_copy, data_dir):
    (run_copy / MESSAGE).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "sublora", "verify", str(run_copy), "--data", str(data_dir)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip().startswith("sublora: error: cannot read the message")
    assert "\n" not in done.stderr.strip()


def test_the_draw_follows_from_the_message():
    sha = "ab" * 32
    one = draw_units(b"message", sha, 1000, 50)
    assert np.array_equal(one, draw_units(b"message", sha, 1000, 50))
    assert not np.array_equal(one, draw_units(b"messagf", sha, 1000, 50))
    assert not np.array_equal(one, draw_units(b"message", "cd" * 32, 1000, 50))
    assert np.array_equal(draw_units(b"message", sha, 7, 0), np.arange(7))
