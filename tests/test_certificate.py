"""From a checkpoint to a verified certificate, and no way around it."""

import copy
import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from sublora.bounds.certificate import CERTIFICATE, LOSSES, MESSAGE, read_certificate, seal
from sublora.bounds.certify import certify
from sublora.bounds.measure import draw_documents
from sublora.bounds.verify import verify
from sublora.config import load_config
from sublora.corpus.prepare import prepare
from sublora.errors import CertificateError, CorpusError, SubloraError
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


def test_the_same_checkpoint_gives_the_same_certificate(certified, run_copy, data_dir):
    certify(load_config(flags(data_dir, run_copy)))
    for name in (MESSAGE, LOSSES, CERTIFICATE):
        assert (run_copy / name).read_bytes() == (certified / name).read_bytes()


def test_all_documents_can_be_scored(run_copy, data_dir):
    certify(load_config(flags(data_dir, run_copy, "--bounds.bound_samples=0", "--bounds.joint=true")))
    certificate = verify(run_copy, data_dir)
    assert certificate["draw"]["samples"] == 0


@pytest.mark.parametrize(
    "extra",
    [
        ["--bounds.quantizer=trellis"],
        ["--bounds.quantizer=feedback", "--bounds.curvature_samples=64"],
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
        ["--model.apply_rope=true"],
        ["--model.use_mistral_sliding_window=true", "--model.attention_window=8"],
    ],
    ids=["fixed", "learned-shared", "learned-layer", "no-subspace", "no-lora", "llama", "mistral"],
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

    from sublora.bounds.claims import make_claims
    from sublora.bounds.scores import read_scores
    from sublora.bounds.verify import terms_of
    from sublora.files import sha256

    certificate = read_certificate(run_copy)
    scores = read_scores(run_copy / LOSSES)
    lower = dataclasses.replace(scores, bits=scores.bits - 0.001 * scores.lengths)
    (run_copy / LOSSES).write_bytes(lower.to_bytes())
    certificate["losses_sha256"] = sha256(lower.to_bytes())
    for claim, new in zip(certificate["claims"], make_claims(lower, terms_of(certificate)), strict=True):
        claim["bound"] = new["bound"]
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
    one = draw_documents(b"message", sha, 1000, 50)
    assert np.array_equal(one, draw_documents(b"message", sha, 1000, 50))
    assert not np.array_equal(one, draw_documents(b"messagf", sha, 1000, 50))
    assert not np.array_equal(one, draw_documents(b"message", "cd" * 32, 1000, 50))
    assert np.array_equal(draw_documents(b"message", sha, 7, 0), np.arange(7))
