"""Every claim on a classifier: on the likeliest labels, and on the improvement over the base."""

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from labelled_run import THREE, certify_labelled, prepare_labelled, reseal

from sublora.certificate.reading import write_certificate
from sublora.certificate.signing import summary
from sublora.certificate.watch import Watch
from sublora.classification.claims import Terms, claimed_gain, error_bound, errors_over_base, make_claims
from sublora.classification.evidence import LabelEvidence
from sublora.classification.model import GainClaim, TopClaim, read_classifier_certificate
from sublora.classification.predictions import Predictions, read_predictions
from sublora.classification.verify import verify_classifier
from sublora.classification.watching import watch_classifier
from sublora.classification.wording import among, beaten_by, improvement, points
from sublora.cli import main
from sublora.corpus.corpus import open_corpus
from sublora.corpus.split import in_order
from sublora.errors import CertificateError
from sublora.files import sha256
from sublora.inequalities import betting, betting_subsampled, nats
from sublora.run_folder import RunFolder
from sublora.scoring.decisions import RANK_MARGIN, clear_errors, label_errors

RESULTS = Path(__file__).parents[2] / "results"
COMMITTED = ("classification", "classification_smollm2", "classification_unicode")
NEAR = RANK_MARGIN / 2


def predictions(m, classes, seed=0):
    """Of a classifier that is right more often than its base."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, m)
    own, base = rng.normal(size=(2, m, classes)).astype(np.float32)
    own[np.arange(m), labels] += 1.5
    return Predictions(np.arange(m), labels, own, base)


def rank(row, label, margin):
    """How many other classes are likelier, one after the other."""
    return sum(row[i] >= row[label] - np.float32(margin) for i in range(len(row)) if i != label)


class TestLikeliestLabels:
    def test_is_the_rank_of_the_label(self):
        p = predictions(80, 6)
        ranks = [rank(row, label, 0) for row, label in zip(p.logits, p.classes, strict=True)]
        for k in range(1, 7):
            assert label_errors(p.logits, p.classes, 0.0, k).tolist() == [r >= k for r in ranks]
        assert not label_errors(p.logits, p.classes, 0.0, 6).any()

    def test_ties_count_against_the_model_and_near_ties_as_the_margin_says(self):
        logits = np.array([[1, 1, 1, 0], [1, 2, 1, 0], [1, 2, 1 - NEAR, 0], [1, 1 + NEAR, 0, 0]], np.float32)
        zeros = np.zeros(4, np.int64)
        assert label_errors(logits, zeros, 0.0, 2).tolist() == [True, True, False, False]
        assert label_errors(logits, zeros, RANK_MARGIN, 2).tolist() == [True, True, True, False]
        # For the model: what is likelier by less than the margin is not likelier, and a tie is no error at all.
        assert label_errors(logits, zeros, 0.0).tolist() == [True] * 4
        assert clear_errors(logits, zeros, RANK_MARGIN).tolist() == [False, True, True, False]
        assert clear_errors(logits, zeros, 0.0).tolist() == [False, True, True, True]

    @pytest.mark.parametrize(("classes", "claimed"), [(2, []), (3, [2]), (5, [2, 3, 4]), (9, [2, 3, 4, 5])])
    def test_a_claim_for_each_k_below_the_number_of_classes(self, classes, claimed):
        claims = make_claims(predictions(40, classes), Terms(40, 10, 0.05, drawn=False), RANK_MARGIN)
        assert [top.k for top in claims.top] == claimed


class TestAgainstAReference:
    @pytest.mark.parametrize("drawn", [False, True])
    def test_every_claim_follows_from_logits(self, drawn):
        """Errors counted in a loop; for the improvement, the bound on (1 + loss) / 2 in [0, 1], rescaled."""
        p, terms = predictions(400, 4), Terms(2000 if drawn else 400, 30, 0.05, drawn)
        claims = make_claims(p, terms, RANK_MARGIN)

        def bound(losses):
            if not drawn:
                return betting(losses, upper=1.0, nats=nats(terms.bits, terms.delta))
            message = terms.bits * math.log(2)
            return betting_subsampled(
                losses, upper=1.0, n=terms.n, message_nats=message, delta=terms.delta, claims=2**40
            ).value

        ranks = np.array([rank(row, label, RANK_MARGIN) for row, label in zip(p.logits, p.classes, strict=True)])
        base = np.array([rank(row, label, -RANK_MARGIN) for row, label in zip(p.base_logits, p.classes, strict=True)])
        for k, part in enumerate((claims.error, *claims.top), start=1):
            losses = (ranks >= k).astype(float)
            assert part.errors == losses.sum() > 0
            assert bound(losses) < part.bound == pytest.approx(bound(losses), abs=3e-6)
        own, other = ranks >= 1, base >= 1
        assert (claims.gain.mended, claims.gain.spoiled) == ((other & ~own).sum(), (own & ~other).sum())
        expected = 1 - 2 * bound((1 + own.astype(float) - other) / 2)
        assert claims.gain.bound == pytest.approx(expected, abs=1e-5)
        assert -1 < claims.gain.bound < (claims.gain.mended - claims.gain.spoiled) / 400

    @pytest.mark.parametrize("run", COMMITTED)
    def test_the_committed_counts_are_those_of_the_recorded_logits(self, run):
        certificate = read_classifier_certificate(RESULTS / run)
        claims = certificate.claims
        p = read_predictions(RESULTS / run / "predictions.safetensors", len(certificate.classes))
        right = p.logits[np.arange(len(p.classes)), p.classes]
        ranks = (p.logits > right[:, None]).sum(axis=1)
        base = p.base_logits.argmax(axis=1) != p.classes
        for top in claims.top:
            assert top.errors == pytest.approx((ranks >= top.k).sum(), abs=3)
        net = int(base.sum()) - int((ranks >= 1).sum())
        assert claims.gain.mended - claims.gain.spoiled == pytest.approx(net, abs=3)


def gain_failures(population, n, bits, delta, bound):
    """How often the gain that is claimed of all n is above that of the population, over all samples of n."""
    counts = [int((population == value).sum()) for value in (-1, 0, 1)]
    true, failed = -population.mean(), 0.0
    for mended, spoiled in itertools.product(range(counts[0] + 1), range(counts[2] + 1)):
        rest = n - mended - spoiled
        if not 0 <= rest <= counts[1]:
            continue
        ways = math.prod(math.comb(*pair) for pair in zip(counts, (mended, rest, spoiled), strict=True))
        sample = np.repeat(np.array([-1, 0, 1], np.int8), (mended, rest, spoiled))
        if bound(sample, Terms(n, bits, delta, drawn=False)) > true:
            failed += ways / math.comb(len(population), n)
    return failed


def claim(sample, terms):
    return claimed_gain(error_bound(sample, sample, terms))


class TestImprovement:
    @pytest.mark.parametrize(("mended", "spoiled"), [(8, 2), (2, 8), (12, 12), (0, 3), (20, 1)])
    def test_coverage_is_exact_over_all_samples(self, mended, spoiled):
        population = np.repeat(np.array([-1, 0, 1], np.int8), (mended, 40 - mended - spoiled, spoiled))
        assert gain_failures(population, 20, 0, 0.1, claim) <= 0.1

    def test_a_broken_claim_is_noticed(self):
        def broken(sample, terms):
            return -float(sample.mean()) - 0.2 * (-float(sample.mean()) - claim(sample, terms))

        population = np.repeat(np.array([-1, 0, 1], np.int8), (12, 16, 12))
        assert gain_failures(population, 20, 0, 0.02, broken) > 0.02

    def test_coverage_of_draws(self):
        """The draw alone: all documents of the population are certified."""
        population = np.repeat(np.array([-1, 0, 1], np.int8), (25, 15, 10))
        rng = np.random.default_rng(0)
        samples = rng.choice(population, (60, 400))
        found = np.array([claim(sample, Terms(50_000, 0, 0.05, drawn=True)) for sample in samples])
        assert np.mean(found > -population.mean()) <= 0.05
        # A claim that keeps little of its distance from what was measured is noticed.
        measured = -samples.mean(axis=1)
        assert np.mean(measured - 0.1 * (measured - found) > -population.mean()) > 0.05

    def test_near_ties_of_the_classifier_are_errors_and_those_of_the_base_are_not(self):
        sure, near, tie, wrong = [1, 0], [1, 1 - NEAR], [1, 1], [0, 1]
        cases = [(sure, wrong), (sure, near), (sure, tie), (sure, [1, 1 + NEAR])]
        cases += [(near, sure), (tie, wrong), (near, tie)]
        own, base = (np.array(rows, np.float32) for rows in zip(*cases, strict=True))
        p = Predictions(np.arange(7), np.zeros(7, np.int64), own, base)
        assert errors_over_base(p, RANK_MARGIN).tolist() == [-1, 0, 0, 0, 1, 0, 1]
        # A replay takes near ties as they are: it finds as many mended documents or more, as many spoiled or fewer.
        assert errors_over_base(p, 0.0).tolist() == [-1, 0, 0, -1, 0, 0, 0]

    @pytest.mark.parametrize("margin", [0.0, RANK_MARGIN, 2 * RANK_MARGIN])
    def test_over_a_base_that_says_nothing_there_is_no_improvement(self, margin):
        """All its classes tie: it gives no wrong label, and is worse than nobody."""
        p = predictions(400, 3)
        silent = Predictions(p.documents, p.classes, p.logits, np.zeros_like(p.base_logits))
        gain = make_claims(silent, Terms(400, 10, 0.05, drawn=False), margin).gain
        assert gain.mended == 0 < gain.spoiled and gain.bound < 0

    def test_near_ties_change_no_bets(self):
        rng = np.random.default_rng(0)
        careful = rng.choice(np.array([-1, 0, 1], np.int8), 1000, p=[0.3, 0.6, 0.1])
        found = careful.copy()
        found[np.flatnonzero(careful[:50] == 1)] = 0
        both = [error_bound(losses, careful, Terms(5000, 300, 0.05, drawn=True)) for losses in (careful, found)]
        assert both[0] == both[1]

    def test_a_claim_is_rounded_down(self):
        assert 0.12345 < claimed_gain(-0.1234567) <= 0.1234567 - 1e-6
        assert claimed_gain(1.0) == -1.0 and points(0.12399) == "12.3" and points(-0.0101) == "-1.1"

    def test_says_what_is_certified_over_the_base(self):
        certificate = read_classifier_certificate(RESULTS / "classification_unicode")
        gain, claims = certificate.claims.gain, certificate.claims
        base = certificate.baselines[-1].name
        assert gain.bound > 0 and improvement(gain) in certificate.statement
        assert f"at least {points(gain.bound)} percentage points below" in improvement(gain)
        assert base not in beaten_by(claims, certificate.baselines)
        none = gain.model_copy(update={"bound": 0.0})
        assert improvement(none).endswith("is not certified.")
        assert base in beaten_by(claims.model_copy(update={"gain": none}), certificate.baselines)

    def test_a_sentence_for_each_claim(self):
        for run in COMMITTED:
            certificate = read_classifier_certificate(RESULTS / run)
            sentences = [*map(among, certificate.claims.top), improvement(certificate.claims.gain)]
            assert len(sentences) >= 3 and " ".join(sentences) in certificate.statement


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_labelled(tmp_path_factory.mktemp("three"), words_of=THREE)


@pytest.fixture(scope="module")
def certified(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return certify_labelled(data, out, "--bounds.bound_samples=0", "--training.max_iters=60")


@pytest.fixture
def run(certified, tmp_path):
    shutil.copytree(certified, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def worse(claims, what):
    """Claims of which one says more than is true."""
    top, gain = claims.top[0], claims.gain
    # More than near ties change.
    lower = top.model_copy(update={"bound": round(top.bound - 0.02, 6)})
    return {
        "top": {"top": (lower, *claims.top[1:])},
        "top errors": {"top": (top.model_copy(update={"errors": top.errors - 9}), *claims.top[1:])},
        "no top": {"top": claims.top[1:]},
        "twice": {"top": (lower, *claims.top)},
        "another k": {"top": (*claims.top, TopClaim(k=claims.top[-1].k + 1, bound=0.0, errors=0))},
        "gain": {"gain": gain.model_copy(update={"bound": round(gain.bound + 0.02, 6)})},
        "mended": {"gain": gain.model_copy(update={"mended": gain.mended + 9})},
        "spoiled": {"gain": gain.model_copy(update={"spoiled": gain.spoiled - 9})},
    }[what]


SAID = {
    "top": "the claim on the 2 likeliest labels differs|the bound on shares of labels that are not among the 2",
    "top errors": "the claim on the 2 likeliest labels differs|the labels not among the 2 likeliest differ",
    "gain": "the improvement over the base differs",
    "mended": "the improvement over the base differs|the mended documents differ",
    "spoiled": "the improvement over the base differs|the spoiled documents differ",
}
LISTED = "the claims on the likeliest labels differs"


class TestVerified:
    def test_the_replay_finds_every_claim(self, data, certified):
        verified = verify_classifier(certified, data)
        claims = verified.certificate.claims
        assert min(claims.top[0].errors, claims.gain.mended, claims.gain.spoiled) >= 9
        bounds = {"error": claims.error.bound, "top_2_error": claims.top[0].bound, "gain": claims.gain.bound}
        # Without near ties as errors it is a little better.
        assert verified.found == pytest.approx(bounds, abs=0.01)
        assert all(verified.found[name] <= bounds[name] for name in ("error", "top_2_error"))
        assert verified.found["gain"] >= bounds["gain"]
        rows = [(c["metric"], c["sense"], c["bound"], c["found"]) for c in verified.to_dict()["claims"]]
        senses = ("at most", "at most", "at least")
        assert rows == [(m, s, b, verified.found[m]) for (m, b), s in zip(bounds.items(), senses, strict=True)]

    @pytest.mark.parametrize("recorded", [True, False])
    @pytest.mark.parametrize("what", ["top", "top errors", "no top", "twice", "another k", "gain", "mended", "spoiled"])
    def test_a_claim_that_was_changed(self, data, run, what, recorded):
        certificate = read_classifier_certificate(run.path)
        reseal(run, certificate, **worse(certificate.claims, what))
        if not recorded:
            run.predictions.unlink()
        with pytest.raises(CertificateError, match=SAID.get(what, LISTED)):
            verify_classifier(run.path, None if recorded else data)

    @pytest.mark.parametrize("of", ["logits", "base_logits"])
    def test_one_logit_that_was_changed(self, run, of):
        """With its hash put right: the counts are others."""
        certificate = read_classifier_certificate(run.path)
        p = read_predictions(run.predictions, 3)
        changed = getattr(p, of).copy()
        row = int(np.flatnonzero(label_errors(changed, p.classes, 0.0))[0])
        changed[row, p.classes[row]] += 50
        other = Predictions(**{**vars(p), of: changed})
        run.predictions.write_bytes(other.to_bytes())
        with pytest.raises(CertificateError, match="the hash of the predictions differs"):
            verify_classifier(run.path, None)
        write_certificate(run, certificate.model_copy(update={"predictions_sha256": sha256(other.to_bytes())}))
        with pytest.raises(CertificateError, match=r"classes differs|the improvement over the base differs"):
            verify_classifier(run.path, None)

    def test_ties_of_the_base_are_no_errors_of_it_where_predictions_are_measured_again(self, data, run, monkeypatch):
        """A base that gives all classes one logit: what was mended of it is claimed by hand, without predictions."""
        logits = LabelEvidence.logits

        def with_a_silent_base(self, rebuilt, rows, batch_size, description):
            out = logits(self, rebuilt, rows, batch_size, description)
            return np.zeros_like(out) if "base" in description else out

        monkeypatch.setattr(LabelEvidence, "logits", with_a_silent_base)
        certificate = read_classifier_certificate(run.path)
        p, n = read_predictions(run.predictions, 3), certificate.corpus.n
        own = label_errors(p.logits, p.classes, 0.0).astype(np.int8)
        terms = Terms(n, certificate.message.bits + 24, 0.05, drawn=False)
        true, more = claim(own, terms), claim(own - np.int8(1), terms)
        assert more > true + 0.1
        # That the base errs on all of them is a bound from above, in which ties are errors.
        base = certificate.baselines[-1].model_copy(update={"errors": n, "bound": 1.0})
        certificate = certificate.model_copy(update={"baselines": (*certificate.baselines[:-1], base)})
        reseal(run, certificate, gain=GainClaim(bound=more, mended=int((own == 0).sum()), spoiled=0))
        run.predictions.unlink()
        with pytest.raises(CertificateError, match="the mended documents differ"):
            verify_classifier(run.path, data)

    def test_a_sentence_that_was_changed(self, run):
        certificate = read_classifier_certificate(run.path)
        without = certificate.statement.replace(among(certificate.claims.top[0]) + " ", "")
        assert without != certificate.statement
        write_certificate(run, certificate.model_copy(update={"statement": without}))
        with pytest.raises(CertificateError, match="the statement differs"):
            verify_classifier(run.path, None)

    @pytest.mark.parametrize("delta", ["abc", "1/0", "nan", "2", "0", "0.050"])
    def test_a_delta_that_is_none_is_one_line(self, run, capsys, delta):
        certificate = read_classifier_certificate(run.path)
        setting = certificate.setting.model_copy(update={"delta": delta})
        write_certificate(run, certificate.model_copy(update={"setting": setting}))
        assert main(["show", str(run.path)]) == 2
        error = capsys.readouterr().err
        assert "is no certificate: setting.delta" in error and error.count("\n") == 1

    def test_an_earlier_format_is_to_be_issued_again(self, run, capsys):
        raw = json.loads(run.classifier_certificate.read_text())
        raw["format"] = "classifier 1"
        run.classifier_certificate.write_text(json.dumps(raw, indent=2) + "\n")
        said = "not a certificate of format classifier 2: issue it again"
        with pytest.raises(CertificateError, match=said):
            verify_classifier(run.path, None)
        assert main(["show", str(run.path)]) == 2
        assert said in capsys.readouterr().err


class TestPassedOn:
    def test_the_likeliest_labels_are_signed_and_shown(self, certified, capsys):
        certificate = read_classifier_certificate(certified)
        assert [(c.metric, c.bound) for c in summary(certificate).claims] == [
            ("error", certificate.claim.bound),
            ("top_2_error", certificate.claims.top[0].bound),
        ]
        assert main(["show", str(certified)]) == 0
        out = capsys.readouterr().out
        assert "| label not among the 2 likeliest |" in out and "| fewer wrong labels than the base: " in out

    def test_they_are_watched(self, data, certified, monkeypatch):
        seen = []
        monkeypatch.setattr(Watch, "add", lambda self, loss: seen.append(loss) and False)
        watch_classifier(certified, data, metric="top_2_error")
        parts, rows = in_order(open_corpus(data))
        own = np.array(seen)[parts == 0][np.argsort(rows[parts == 0])]
        p = read_predictions(RunFolder(certified).predictions, 3)
        expected = label_errors(p.logits, p.classes, 0.0, 2)
        assert (own[p.documents] == expected).all() and 0 < expected.sum() < len(expected)
