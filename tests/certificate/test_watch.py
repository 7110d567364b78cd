"""A certificate that watches: false alarms are as rare as promised, drifts are noticed, states are what they were."""

import itertools
import json
from functools import partial

import numpy as np
import pytest
from certified_run import flags, write_corpus
from corpora import texts_of
from runs import make_certificate, with_base
from scipy.stats import binom

import sublora
from sublora.certificate import watching
from sublora.certificate.issue import certify
from sublora.certificate.reading import read_certificate, write_certificate
from sublora.certificate.watch import Watch
from sublora.cli import main
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.split import in_order
from sublora.errors import CertificateError, CorpusError
from sublora.inequalities import watch as inequality
from sublora.inequalities.watch import Wager
from sublora.run_folder import RunFolder
from sublora.seeds import stream
from sublora.training.loop import train

ALPHA = 0.05


class Cheat(Wager):
    """Bets on the next loss when it is known already."""

    def after(self, excess):
        honest = super().after(excess)
        wealth = self.wealth * (1 + honest.bets() * np.asarray(excess)[..., None])
        return Cheat(honest.read, wealth, honest.sums, honest.squares)


def begin(kind, shape):
    wager = Wager.begin(shape)
    return kind(wager.read, wager.wealth, wager.sums, wager.squares)


@pytest.mark.parametrize("points", [((-0.5, 2 / 3), (1.0, 1 / 3)), ((-1.0, 0.2), (0.0, 0.4), (0.5, 0.4))])
def test_the_capital_is_a_martingale_when_the_mean_is_the_bound(points):
    """Exactly: its expectation over all sequences stays 1. Bets that know the loss gain, and lower losses lose."""
    values, weights = np.array(points).T
    paths = np.array(list(itertools.product(range(len(points)), repeat=8)))
    probability = weights[paths].prod(1)
    capital = {}
    for name, kind, shift in (("honest", Wager, 0.0), ("cheat", Cheat, 0.0), ("below", Wager, -0.1)):
        wager = begin(kind, (len(paths),))
        for column in np.maximum(values[paths] + shift, -1).T:
            wager = wager.after(column)
        assert (wager.wealth >= 0).all()
        capital[name] = float(probability @ wager.capital)
    assert capital["honest"] == pytest.approx(1, abs=1e-12)
    assert capital["cheat"] > 1.1 and capital["below"] < 1


def alarms(kind, losses):
    """The share of wagers (rows) that ever alarm."""
    wager, ever = begin(kind, losses.shape[:1]), np.zeros(len(losses), bool)
    for column in losses.T:
        wager = wager.after(np.where(ever, 0.0, column))
        ever |= wager.capital >= 1 / ALPHA
    return ever


def of_mean_zero(name, shape):
    rng = stream(0, "watch", name)
    if name == "normal":
        return rng.normal(0, 0.25, shape).clip(-1, 1)
    if name == "beta":
        return rng.beta(2, 6, shape) / 0.25 - 1
    # Rarely a document that the model fails on.
    return np.where(rng.random(shape) < 0.01, 9.9, -0.1)


@pytest.mark.parametrize("name", ["normal", "beta", "failures"])
def test_false_alarms_are_as_rare_as_promised_and_broken_watches_are_found(name):
    wagers, documents = 2000, 600
    losses = of_mean_zero(name, (wagers, documents))
    # A watch with false alarms of probability alpha exceeds this once in a million times.
    most = binom.isf(1e-6, wagers, ALPHA) / wagers
    assert alarms(Wager, losses).mean() <= most
    assert alarms(Cheat, losses).mean() > most
    # A bound that is too low by a seventh.
    assert alarms(Wager, losses + 0.15).mean() > most


def delays(losses, good):
    wager, at = Wager.begin(losses.shape[:1]), np.full(len(losses), np.inf)
    for i, column in enumerate(losses.T):
        # Nothing is read behind an alarm.
        wager = wager.after(np.where(np.isfinite(at), 0.0, column))
        at[np.isinf(at) & (wager.capital >= 1 / ALPHA)] = i + 1 - good
    return at


def test_a_drift_is_noticed_soon_even_after_a_long_good_time(monkeypatch):
    good, wagers = 1500, 200
    losses = stream(0, "drift").normal(-0.1, 0.25, (wagers, good + 500))
    losses[:, good:] += 0.25
    at = delays(losses.clip(-1, None), good)
    assert (at > 0).all() and np.median(at) < 130 and at.max() < 500
    # Estimates that forget nothing, as in the paper, are slow to notice.
    for name, value in (("MEMORIES", (1e9, 1e9)), ("_KEPT", np.ones(2) - 1e-9)):
        monkeypatch.setattr(inequality, name, value)
    assert np.median(delays(losses.clip(-1, None), good)) > 300


def test_a_loss_outside_its_limits_is_no_bet():
    for excess in (-1.001, np.nan, np.inf):
        with pytest.raises(ValueError, match="outside its limits"):
            Wager.begin().after(np.array(excess))


def watched(**options):
    certificate = make_certificate()
    return Watch(certificate, **options), certificate.headline.bound


def test_a_watch_alarms_above_the_bound_and_not_below():
    watch, bound = watched()
    rng = stream(0, "losses")
    assert not any(watch.add(loss) for loss in rng.normal(bound - 0.1, 0.3, 500))
    assert "no alarm after 500 documents" in watch.in_words()
    later = [watch.add(loss) for loss in rng.normal(bound + 0.3, 0.3, 500)]
    first = later.index(True)
    # It stands, and says after how many documents it was raised.
    assert all(later[first:]) and watch.documents == 501 + first and first < 150
    assert f"ALARM after {501 + first:,} documents" in watch.in_words()
    assert watch.evidence >= 20
    assert sublora.Watch is Watch


def test_resuming_equals_going_through(tmp_path):
    losses = stream(0, "losses").normal(3.4, 0.5, 120)
    through, _ = watched()
    for loss in losses:
        through.add(loss)
        stopped, _ = watched()
        if stopped_before := (tmp_path / "state.json").exists():
            stopped.resume(tmp_path / "state.json")
        assert stopped_before == (through.documents > 1)
        stopped.add(loss)
        stopped.save(tmp_path / "state.json")
    through.save(tmp_path / "through.json")
    assert (tmp_path / "state.json").read_bytes() == (tmp_path / "through.json").read_bytes()
    assert through.documents == 120 and through.evidence != 1


def test_a_damaged_state_is_refused(tmp_path):
    path, again = tmp_path / "state.json", tmp_path / "again.json"
    watch, bound = watched()
    for loss in (bound, bound + 1, bound - 1):
        watch.add(loss)
    watch.save(path)
    text = path.read_text()
    watch.resume(path)
    watch.save(again)
    assert again.read_text() == text

    def refused(content, words="is damaged"):
        path.write_bytes(content)
        fresh, _ = watched()
        with pytest.raises(CertificateError, match=words):
            fresh.resume(path)
        assert fresh.documents == 0 and fresh.evidence == 1

    for i in range(0, len(text), 7):
        changed = bytearray(text.encode())
        changed[i] ^= 1
        refused(bytes(changed))
    refused(b"")
    refused(text[:-1].encode())
    refused(text.replace("{", '{"documents": 0,', 1).encode())
    refused(b"[" * 10_000)
    refused(b" " * 100_000, "none has more than")
    # Sealed again by somebody who knows how, but no wager can be like this.
    for field, value in (("wealth", [-1.0, 1.0]), ("squares", [-1.0, 0.0]), ("read", 9), ("documents", 0)):
        raw = json.loads(text) | {field: value, "digest": ""}
        raw["digest"] = sublora.files.sha256(
            sublora.files.canonical_json({k: v for k, v in raw.items() if k != "digest"})
        )
        refused((json.dumps(raw, indent=2) + "\n").encode())


def test_a_state_of_another_watch_is_refused(tmp_path):
    path = tmp_path / "state.json"
    watched()[0].save(path)
    for other in (
        Watch(make_certificate(bits=4096)),
        Watch(make_certificate(), metric="bpd"),
        Watch(make_certificate(), alpha=0.01),
    ):
        with pytest.raises(CertificateError, match="is of a watch with"):
            other.resume(path)
    with pytest.raises(CertificateError, match="cannot read the state"):
        watched()[0].resume(tmp_path / "nothing.json")


def test_what_cannot_be_watched_is_refused():
    certificate = with_base(make_certificate())
    with pytest.raises(CertificateError, match="no upper bound on 'bpb_gain': watch one of bpd, bpb"):
        Watch(certificate, metric="bpb_gain")
    with pytest.raises(CertificateError, match="alpha is 1"):
        Watch(certificate, alpha=1)
    vacuous = certificate.claims[1].model_copy(update={"bound": 9.25})
    with pytest.raises(CertificateError, match="no loss can refute"):
        Watch(certificate.model_copy(update={"claims": (certificate.claims[0], vacuous)}))
    tokens = certificate.setting.model_copy(update={"bound_type": "token_level"})
    with pytest.raises(CertificateError, match="nothing about new text"):
        Watch(certificate.model_copy(update={"setting": tokens}))
    for loss in (-0.1, 9.3, float("nan")):
        with pytest.raises(CertificateError, match=r"which lie between 0 and 9\.25"):
            Watch(certificate).add(loss)


@pytest.mark.parametrize("share", [None, 0.2])
def test_documents_are_read_in_the_order_of_their_source(tmp_path, share):
    texts = [f"document number {i} is this" for i in range(120)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    corpus = open_corpus(prepare("text", tmp_path / "data", paths=[tmp_path / "a.txt"], prior_share=share))
    parts, rows = in_order(corpus)
    each = [texts_of(part) for part in corpus.parts]
    known = set() if corpus.prior is None else set(texts_of(corpus.prior))
    assert [each[p][r] for p, r in zip(parts, rows, strict=True)] == [t for t in texts if t not in known]
    assert bool(known) == bool(share)
    corpus.meta["shuffled"] = 10
    with pytest.raises(CorpusError, match="damaged"):
        in_order(corpus)


@pytest.fixture(scope="module")
def alike(tmp_path_factory):
    """New documents of the same source as those of `data_dir`."""
    return write_corpus(tmp_path_factory.mktemp("alike") / "new", seed=1, n=120)


@pytest.fixture(scope="module")
def drifted(tmp_path_factory):
    """Documents like them at first, and then in capitals that the model has never seen."""
    folder = tmp_path_factory.mktemp("drifted")
    write_corpus(folder / "a", seed=2, n=60)
    good = (folder / "a" / "speech.txt").read_text()
    rng = stream(0, "drifted")
    bad = ["".join(chr(65 + c) for c in rng.integers(0, 26, 60)) for _ in range(120)]
    (folder / "b.txt").write_text("\n\n".join([good, *bad]))
    return prepare("text", folder / "b", paths=[folder / "b.txt"])


def test_losses_are_those_that_the_claim_is_about(certified, data_dir, tmp_path, monkeypatch):
    """Read again, the test documents have the mean loss that stands beside the claim."""
    seen = []
    monkeypatch.setattr(Watch, "add", lambda self, loss: seen.append(loss) and False)
    watching.watch_corpus(certified, data_dir)
    parts, _ = in_order(open_corpus(data_dir))
    held_out = read_certificate(certified).held_out
    assert held_out.documents == (parts == 2).sum()
    assert np.array(seen)[parts == 2].mean() == pytest.approx(held_out.bpb, abs=1e-5)
    assert np.array(seen)[parts == 0].mean() != pytest.approx(held_out.bpb, abs=1e-3)


def test_the_command_stays_quiet_on_the_source_and_exits_with_3_after_a_drift(
    certified, alike, drifted, tmp_path, capsys
):
    state = tmp_path / "state.json"
    quiet = ["watch", str(certified), "--data", str(alike), "--state", str(state)]
    assert main(quiet) == 0
    out = capsys.readouterr().out
    assert "no alarm after 120 documents" in out
    # The same documents are not read twice.
    assert main(quiet) == 0 and capsys.readouterr().out == out
    loud = ["watch", str(certified), "--data", str(drifted), "--state", str(state)]
    assert main(loud) == 3
    assert (alarm := capsys.readouterr().out).startswith("ALARM after ")
    raised = json.loads(state.read_text())["documents"]
    assert 180 < raised < 300
    # It stands.
    assert main(quiet) == 3 and capsys.readouterr().out == alarm
    assert main(["watch", str(certified), "--data", str(alike), "--metric", "bpd_gain"]) == 2
    assert "watch one of bpd, bpb, top_1_error" in capsys.readouterr().err


def test_a_killed_watch_goes_on(certified, alike, tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "BATCH", 16)
    once, state = tmp_path / "once.json", tmp_path / "state.json"
    watch = partial(watching.watch_corpus, certified, alike)
    watch(state=once)
    save = Watch.save

    def killed(self, path):
        save(self, path)
        if self.documents == 48:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Watch, "save", killed)
        watch(state=state)
    assert json.loads(state.read_text())["read"] == 48
    assert watch(state=state).documents == 120
    assert state.read_bytes() == once.read_bytes()


def test_documents_of_another_kind_are_refused(certified, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n\n".join(f"document number {i}, long enough" for i in range(50)))
    prepare("text", tmp_path / "data", paths=[tmp_path / "a.txt"], min_characters=20)
    assert main(["watch", str(certified), "--data", str(tmp_path / "data")]) == 2
    assert "min_tokens is 20, and in the certificate 1" in capsys.readouterr().err
    assert main(["watch", str(certified), "--data", str(tmp_path / "data"), "--base", "b"]) == 2
    assert "leave out --base" in capsys.readouterr().err


def test_known_documents_and_base_are_brought_along(tmp_path, alike, capsys):
    """The fallback is an n-gram of the certified corpus's known documents, over a pretrained base."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=257, n_positions=64))
    base.save_pretrained(tmp_path / "base")
    base.lm_head.weight.data.mul_(1.01)
    base.save_pretrained(tmp_path / "other")
    rng = np.random.default_rng(0)
    words = ["union", "state", "of", "the", "congress", "treaty", "peace", "revenue"]
    (tmp_path / "a.txt").write_text("\n\n".join(" ".join(rng.choice(words, 10)) for _ in range(300)))
    data = prepare("text", tmp_path / "data", paths=[tmp_path / "a.txt"], prior_share=0.2)
    sizes = ["--model.n_layer=12", "--model.n_head=12", "--model.n_embd=768", f"--prior.base={tmp_path / 'base'}"]
    options = [*sizes, "--prior.ngram_order=2", "--training.max_iters=2", "--bounds.bound_samples=20"]
    words = flags(data, tmp_path / "run", *options)
    train(load_config(words))
    certify(load_config(words))
    command = ["watch", str(tmp_path / "run"), "--data", str(alike)]
    assert main(command) == 2 and "give your own copy with --base" in capsys.readouterr().err
    based = [*command, "--base", str(tmp_path / "base")]
    assert main(based) == 2 and "give the certified corpus with --known" in capsys.readouterr().err
    assert main([*based, "--known", str(data)]) == 0
    assert "no alarm after 120 documents" in capsys.readouterr().out
    assert main([*command, "--base", str(tmp_path / "other"), "--known", str(data)]) == 2
    # A certificate of another base, sealed again.
    run = RunFolder(tmp_path / "run")
    certificate = read_certificate(run.certificate)
    changed = certificate.prior.base.model_copy(update={"sha256": "ab" * 32})
    prior = certificate.prior.model_copy(update={"base": changed})
    write_certificate(run, certificate.model_copy(update={"prior": prior}))
    capsys.readouterr()
    assert main([*based, "--known", str(data)]) == 2 and "its hash differs" in capsys.readouterr().err
