"""Several trained checkpoints compete for one certificate: the best estimate wins, and the message says its d."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from certified_run import flags, write_corpus

from sublora.certificate.issue import Certifier, best_candidate, certify
from sublora.certificate.verify import verify
from sublora.coding.message import MAX_SYMBOLS, decode_message
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.errors import ConfigError, CorpusError, TrainingError
from sublora.quantizing import candidates
from sublora.quantizing.trained import Trained
from sublora.run_folder import RunFolder
from sublora.training.checkpoint import load_checkpoint
from sublora.training.loop import train

BUDGETS = (8, 40, 400)
SHORT = "--training.max_iters=20", "--bounds.bound_samples=20", "--bounds.quantizer=trellis"


def short_run(data_dir, out, *extra):
    train(load_config(flags(data_dir, out, *SHORT, *extra)))
    return out


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """A run per budget, in the order of BUDGETS."""
    folder = tmp_path_factory.mktemp("budgets")
    return [short_run(data_dir, folder / f"d{d}", f"--sublora.intrinsic_dim={d}") for d in BUDGETS]


def competing(data_dir, first, others, *extra):
    return load_config(flags(data_dir, first, *SHORT, f"--bounds.candidates=[{', '.join(map(str, others))}]", *extra))


def decoded(run):
    return decode_message(RunFolder(run).message.read_bytes(), max_symbols=MAX_SYMBOLS)


@pytest.mark.parametrize("winner", [0, 2])
def test_the_least_estimate_is_certified(runs, data_dir, tmp_path, monkeypatch, caplog, winner):
    """Estimates are shifted so that a known candidate is best: a choice by order, or of the largest d, fails."""
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    own = Certifier.choose

    def shifted(self):
        value, encoded = own(self)
        return value - 100 * (len(self.trained.alpha) == BUDGETS[winner]), encoded

    monkeypatch.setattr(Certifier, "choose", shifted)
    with caplog.at_level(logging.INFO):
        path = certify(competing(data_dir, copies[1], [copies[0], copies[2]]))
    assert path == RunFolder(copies[winner]).certificate
    assert not any(RunFolder(copy).message.exists() for copy in copies if copy != copies[winner])
    assert len(decoded(copies[winner]).alpha) == BUDGETS[winner]
    assert f"certified: {copies[winner]}, d = {BUDGETS[winner]}," in caplog.text and "of 3 candidates" in caplog.text
    certificate = verify(copies[winner], data_dir).certificate
    assert certificate.message.coordinates == BUDGETS[winner]


def test_the_choice_is_by_the_estimates_that_candidates_get_alone(runs, data_dir):
    """One seed draws the same training units for all, so what a candidate is estimated at depends on no other."""
    corpus, config = open_corpus(data_dir), load_config(flags(data_dir, runs[0], *SHORT))
    alone = [Certifier(config, load_checkpoint(run), corpus).choose() for run in runs]
    path, certifier, data = best_candidate(config, {run: load_checkpoint(run) for run in runs}, corpus)
    value, expected = min(alone, key=lambda pair: pair[0])
    assert data == expected and path == runs[alone.index((value, expected))]
    assert certifier.choose()[0] == value
    assert len({round(pair[0], 6) for pair in alone}) == len(runs)


def test_candidates_are_measured_on_the_units_of_the_first(runs, data_dir):
    corpus, config = open_corpus(data_dir), load_config(flags(data_dir, runs[0], *SHORT))
    first = Certifier(config, load_checkpoint(runs[0]), corpus)
    first.calibration = first.calibration[:3]
    joined = Certifier(config, load_checkpoint(runs[1]), corpus, first)
    assert len(joined.choose()[1]) and len(joined.score_unquantized("three units").bits) == 3


def test_candidates_stand_in_for_the_path(runs, data_dir, tmp_path):
    """Without model.best_checkpoint_path the candidates alone compete."""
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs[:2]]
    config = competing(data_dir, copies[0], copies, "--model.best_checkpoint_path=")
    assert certify(config) in [RunFolder(copy).certificate for copy in copies]


def test_another_corpus_is_refused(runs, data_dir, tmp_path):
    other = short_run(write_corpus(tmp_path / "b", seed=1), tmp_path / "other")
    with pytest.raises(CorpusError, match="other was trained on another corpus than"):
        certify(competing(data_dir, runs[0], [other]))
    assert not RunFolder(runs[0]).message.exists()


@pytest.mark.parametrize("extra", ["--data.block_size=16", "--model.n_layer=1", "--system.seed=7"])
def test_another_base_is_refused(runs, data_dir, tmp_path, extra):
    """A random base follows from its sizes and its seed."""
    other = short_run(data_dir, tmp_path / "other", extra)
    with pytest.raises(ConfigError, match="candidates must have one base"):
        certify(competing(data_dir, runs[0], [other]))


def test_a_missing_candidate_is_named(runs, data_dir):
    with pytest.raises(TrainingError, match="nowhere"):
        certify(competing(data_dir, runs[0], [Path("nowhere")]))


@pytest.mark.parametrize(
    ("written", "chosen"),
    [
        ([(1.0, b"long"), (1.0, b"no"), (1.0, b"of")], b"no"),
        ([(1.0, b""), (0.9, b"longest"), (0.9, b"better")], b"better"),
    ],
)
def test_of_equal_estimates_the_shortest_message_is_kept(monkeypatch, written, chosen):
    gates = [np.array([float(i)]) for i in range(len(written))]
    monkeypatch.setattr(candidates, "candidates", lambda trained, price: [(None, of) for of in gates])
    trained = Trained.__new__(Trained)
    assert candidates.best_message(trained, lambda: 0.0, lambda _, of: written[int(of[0])])[1] == chosen
