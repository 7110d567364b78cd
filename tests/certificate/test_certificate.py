"""From a checkpoint to a verified certificate, and no way around it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from certified_run import flags

from sublora.certificate.draw import draw_units
from sublora.certificate.issue import certify
from sublora.certificate.reading import read_certificate
from sublora.certificate.verify import verify
from sublora.certificate.wording import beaten_by
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.errors import CertificateError, ConfigError
from sublora.run_folder import RunFolder
from sublora.scoring import chunks, measure
from sublora.scoring.risk import score_units
from sublora.training.loop import train

FILES = ("message.bin", "losses.safetensors", "certificate.json")


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
    assert "verified (full replay): With probability at least 95 % over the random choice" in done.stdout


def test_arithmetic_needs_no_torch(certified):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from sublora.cli import main; sys.exit(main(['verify', {str(certified)!r}, '--arithmetic']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_it_says(certified):
    certificate = read_certificate(certified)
    claims = {c.metric: c for c in certificate.claims}
    assert certificate.message.bits == 8 * len(RunFolder(certified).message.read_bytes())
    assert sum(certificate.message.ledger.values()) == certificate.message.bits
    for claim in claims.values():
        assert claim.sense == "at most"
        assert claim.empirical < claim.bound <= claim.limit + 1e-6
    assert claims["bpd"].bound < 8
    assert claims["bpb"].bound == claims["bpd"].bound
    assert claims["bpd"].bound < certificate.comparison.bound
    errors = [claims[f"top_{k}_error"].empirical for k in (1, 2, 10, 100)]
    assert errors == sorted(errors, reverse=True)
    parts = certificate.decomposition
    total = parts.empirical + parts.smoothing + parts.complexity + parts.sampling
    assert total == pytest.approx(claims["bpd"].bound)
    assert claims["bpd"].model_alone == pytest.approx(parts.empirical)
    assert certificate.setting.about == "population"
    assert certificate.corpus.n < certificate.corpus.population
    assert certificate.held_out.part == "test"


def test_a_certificate_that_beats_nothing_is_called_uninteresting(certified):
    """A model of 60 steps is worse than a table of letters, and the statement says so itself."""
    certificate = read_certificate(certified)
    better = beaten_by(certificate.headline, certificate.beside)
    assert better and certificate.statement.endswith(f"Uninteresting: certified no better than {', '.join(better)}.")
    lower = min(b.bound_bpb for b in certificate.beside) - 1e-6
    assert not beaten_by(certificate.headline.model_copy(update={"bound": lower}), certificate.beside)


def test_the_same_checkpoint_gives_the_same_certificate(certified, run_copy, data_dir):
    certify(load_config(flags(data_dir, run_copy)))
    for name in FILES:
        assert (run_copy / name).read_bytes() == (certified / name).read_bytes()


def test_all_documents_can_be_scored(run_copy, data_dir):
    certify(load_config(flags(data_dir, run_copy, "--bounds.bound_samples=0", "--bounds.joint=true")))
    certificate = verify(run_copy, data_dir).certificate
    assert certificate.setting.samples == 0 and certificate.setting.joint


@pytest.mark.parametrize(
    ("bound_type", "samples", "unit"),
    [("sequence_level", 150, "block of 32 tokens"), ("sequence_level", 0, "block of 32"), ("token_level", 0, "token")],
)
def test_other_units(run_copy, data_dir, bound_type, samples, unit):
    """All three types are issued and verified, and say what they are about."""
    certify(
        load_config(flags(data_dir, run_copy, f"--bounds.bound_type={bound_type}", f"--bounds.bound_samples={samples}"))
    )
    certificate = verify(run_copy, data_dir).certificate
    assert verify(run_copy, None).certificate == certificate
    tokens = len(open_corpus(data_dir).train.tokens)
    assert certificate.corpus.n == (tokens // 32 * 32 if bound_type == "token_level" else tokens // 32)
    assert unit in certificate.statement
    claims = {c.metric: c for c in certificate.claims}
    assert "bpb" not in claims
    assert claims["bpd"].empirical < claims["bpd"].bound < claims["bpd"].limit
    assert claims["bpd"].bound < certificate.comparison.bound
    about_new_text = "nothing is claimed about new text" not in certificate.statement
    assert about_new_text == (bound_type != "token_level")


def test_tokens_are_not_drawn(data_dir, tmp_path):
    with pytest.raises(ConfigError, match=r"set bounds\.bound_samples=0"):
        load_config(flags(data_dir, tmp_path, "--bounds.bound_type=token_level"))


@pytest.fixture
def in_chunks(run_copy, data_dir, monkeypatch):
    """The run, certified in several chunks; and those files as they should be again."""
    monkeypatch.setattr(chunks, "CHUNK_TOKENS", 2000)
    certify(load_config(flags(data_dir, run_copy)))
    expected = {name: (run_copy / name).read_bytes() for name in FILES}
    RunFolder(run_copy).certificate.unlink()
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
    assert finished() == 2 and not RunFolder(run_copy).certificate.exists()
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
    RunFolder(run_copy).losses.unlink()
    verify(run_copy, data_dir)
    with pytest.raises(CertificateError, match="cannot read the losses"):
        verify(run_copy, None)


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


def test_the_command_line_says_it_in_one_line(run_copy, data_dir):
    RunFolder(run_copy).message.unlink()
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
