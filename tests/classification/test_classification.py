"""Classifiers: labelled text, the message, the bound on errors, and a verification that nothing changed gets past."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from labelled_run import certify_labelled, classifier_flags, prepare_labelled, reseal, write_labelled

from sublora.certificate.reading import write_certificate
from sublora.classification import issue
from sublora.classification.bayes import NaiveBayes
from sublora.classification.claims import Terms, claimed, error_bound
from sublora.classification.issue import certify_classifier
from sublora.classification.model import read_classifier_certificate
from sublora.classification.predictions import Predictions, read_predictions
from sublora.classification.verify import verify_classifier
from sublora.classification.wording import percent
from sublora.cli import main
from sublora.coding.message import decode_message
from sublora.coding.verbalizer import Verbalizer, decode_classifier, encode_classifier
from sublora.config import load_config
from sublora.corpus.batches import Batches
from sublora.corpus.corpus import open_corpus
from sublora.corpus.labelled import CUE, LabelTokenizer, labels_of
from sublora.corpus.prepare import prepare
from sublora.corpus.tokenizers import ByteTokenizer
from sublora.errors import CertificateError, ConfigError, CorpusError, MessageError, SubloraError
from sublora.files import sha256
from sublora.nn.create_model import get_model
from sublora.nn.loss import SubspaceLogits, SubspaceLoss
from sublora.run_folder import RunFolder
from sublora.scoring.decisions import label_errors


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="module")
def certified(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("classifier")
    return certify_labelled(data, out)


@pytest.fixture
def run(certified, tmp_path):
    shutil.copytree(certified, tmp_path / "run")
    return RunFolder(tmp_path / "run")


class TestLabelledText:
    def test_a_document_is_a_text_a_cue_and_one_token(self, data):
        corpus = open_corpus(data)
        labels, tokenizer = labels_of(corpus), ByteTokenizer()
        rows = [json.loads(line) for line in (data.parent / "texts.jsonl").read_text().splitlines()]
        expected = {(row["text"][:48].strip(), row["label"]) for row in rows}
        found = set()
        for part in (*corpus.parts, corpus.prior):
            for i, label in enumerate(labels.classes(part)):
                text = tokenizer.decode(labels.text(part, i).tolist())
                found.add((text, labels.names[label]))
                assert tokenizer.decode(part.document(i)[len(text) : -1].tolist()) == f"{CUE} "
        assert found == expected

    def test_long_texts_are_cut_before_they_are_compared_and_keep_their_label(self, tmp_path):
        rows = [(f"{'a' * 9} {i}", "no") for i in range(9)] + [(f"{i} text with{CUE} no cue", "yes") for i in range(9)]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in rows))
        corpus = open_corpus(prepare("labelled", tmp_path / "out", paths=[tmp_path / "in.jsonl"], max_characters=10))
        found = {bytes(part.document(i).tolist()).decode() for part in corpus.parts for i in range(len(part))}
        assert found == {f"{'a' * 9}{CUE} n", *(f"{i} text wit{CUE} y" for i in range(9))}
        assert corpus.population == 10

    def test_labels_that_begin_alike_differ_in_the_first_token_that_differs(self):
        labels = LabelTokenizer(ByteTokenizer(), ("class 1", "class 2"), 5).labels
        assert bytes(labels.cue) == f"{CUE} class ".encode()
        assert bytes(labels.tokens) == b"12"

    @pytest.mark.parametrize("names", [("same", "some", "other"), ("a", "ab")])
    def test_labels_of_one_token_are_refused(self, names):
        with pytest.raises(CorpusError, match="begin with the same token"):
            LabelTokenizer(ByteTokenizer(), names, 5)

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            ('{"text": "a"}', 'line 1: not a JSON object with a text in its field "text" and a label in its'),
            ('{"text": " ", "label": "a"}', "line 1: the text is empty"),
            ('{"text": "a", "label": ""}', "line 1: a label is a word or a number in one line"),
            ('{"text": "a", "label": "b\\nc"}', "line 1: a label is a word or a number in one line"),
            ('{"text": "a", "label": 0.5}', "line 1: a label is a word or a number in one line"),
            ('{"text": "a", "label": "b"}\n{"text": "c", "label": "b"}', "all documents are labelled 'b'"),
            ("nothing", "line 1: not a JSON object"),
        ],
    )
    def test_bad_lines_are_one_clear_line(self, tmp_path, capsys, lines, message):
        (tmp_path / "in.jsonl").write_text(lines)
        arguments = ["prepare", "--source", "labelled", "--input", str(tmp_path / "in.jsonl")]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err.strip()
        assert message in said and said.count("\n") == 0
        assert not (tmp_path / "out").exists()

    def test_an_older_copy_has_no_label_of_its_own(self, tmp_path):
        new, old = write_labelled(tmp_path / "new.jsonl", 20), tmp_path / "old.jsonl"
        old.write_text('{"text": "older", "label": "truce"}\n{"text": "old", "label": "war"}\n')
        with pytest.raises(CorpusError, match="the older copy has the label 'truce'"):
            prepare("labelled", tmp_path / "out", paths=[new], absent_from=[old])

    def test_other_texts_are_read_whole(self, tmp_path):
        with pytest.raises(CorpusError, match="--max-characters is for labelled"):
            prepare("sotu", tmp_path / "out", max_characters=3)


class TestLossOfLabels:
    def test_only_labels_have_weight(self, data):
        corpus = open_corpus(data)
        batch = Batches(corpus.train, 64, "labels").sample(np.random.default_rng(0), 8)
        assert len(batch.targets) == 8 and set(batch.targets) == set(labels_of(corpus).tokens)
        assert batch.weights.sum() == pytest.approx(1)
        # Behind the label's cue each: the place is that of the last input of a row.
        cue = labels_of(corpus).cue[-1]
        assert (batch.inputs[batch.counted - 8] == cue).all()

    def test_is_the_cross_entropy_of_the_labels(self, data):
        """Against the logits of all tokens, of which those of the labels are picked out."""
        import torch

        corpus, config = open_corpus(data), load_config(classifier_flags(data, "out"))
        model = get_model(config, corpus.vocab_size)
        labels = Batches(corpus.train, 64, "labels").sample(np.random.default_rng(0), 8)
        whole = Batches(corpus.train, 64, "documents").sample(np.random.default_rng(0), 8)
        logits = SubspaceLogits(model)(whole)[labels.counted]
        assert (whole.targets[labels.counted] == labels.targets).all()
        expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels.targets))
        assert float(SubspaceLoss(model).of(labels).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)

    def test_a_label_is_never_cut_off(self, data):
        with pytest.raises(ConfigError, match=r"would lose its label: set data.block_size"):
            Batches(open_corpus(data).train, 16, "labels")


class TestMessage:
    def test_comes_back(self, certified):
        data = RunFolder(certified).classifier.read_bytes()
        found = decode_classifier(data, max_symbols=1000)
        assert sum(found.ledger.values()) == pytest.approx(8 * len(data))
        own = int(found.ledger["classes"]) // 8
        assert encode_classifier(found.verbalizer, data[own:]) == data
        assert decode_message(data[own:], max_symbols=1000).header == found.model.header

    def test_is_no_language_models_and_none_is_a_classifiers(self, certified):
        data = RunFolder(certified).classifier.read_bytes()
        own = int(decode_classifier(data, max_symbols=1000).ledger["classes"]) // 8
        with pytest.raises(MessageError):
            decode_message(data, max_symbols=1000)
        with pytest.raises(MessageError, match="is it the message of a language model"):
            decode_classifier(data[own:], max_symbols=1000)

    @pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:2]])
    def test_other_bytes_are_refused(self, certified, change):
        with pytest.raises(MessageError):
            decode_classifier(change(RunFolder(certified).classifier.read_bytes()), max_symbols=1000)

    @pytest.mark.parametrize("labels", [(1,), (1, 1), (1, 1 << 40)])
    def test_impossible_classes_are_refused(self, labels):
        with pytest.raises(MessageError):
            Verbalizer(labels, (5,), 10)


def exact_failures(errors, n, m, bits, delta, bound):
    """How often a bound is below the share of errors: over all samples of n, and all counts of m draws from them."""
    population, failed = len(errors), 0.0
    total = int(errors.sum())
    for k in range(max(0, n - population + total), min(n, total) + 1):
        chance = math.comb(total, k) * math.comb(population - total, n - k) / math.comb(population, n)
        for j in range((m or 1) + 1 if m else 1):
            binomial = math.comb(m, j) * (k / n) ** j * (1 - k / n) ** (m - j) if m else 1.0
            sample = np.arange(m if m else n) < (j if m else k)
            if chance * binomial > 1e-12 and bound(sample, n, bits, delta, bool(m)) < total / population:
                failed += chance * binomial
    return failed


def the_bound(sample, n, bits, delta, drawn):
    # Errors that come last are missed by the pilot: the order in which a gambler bets worst.
    return error_bound(sample[::-1], sample[::-1], Terms(n, bits, delta, drawn))


class TestBound:
    @pytest.mark.parametrize(("wrong", "n"), [(4, 20), (20, 25), (36, 20)])
    def test_coverage_is_exact_over_all_samples(self, wrong, n):
        errors = np.arange(40) < wrong
        for delta in (0.02, 0.2):
            assert exact_failures(errors, n, 0, 0, delta, the_bound) <= delta

    def test_a_broken_bound_is_noticed(self):
        def broken(sample, n, bits, delta, drawn):
            return float(sample.mean()) + 0.2 * (the_bound(sample, n, bits, delta, drawn) - float(sample.mean()))

        errors = np.arange(40) < 20
        assert exact_failures(errors, 25, 0, 0, 0.02, broken) > 0.02

    def test_coverage_of_draws(self):
        errors = np.arange(30) < 9
        assert exact_failures(errors, 20, 24, 0, 0.2, the_bound) <= 0.2

    def test_more_errors_and_more_bits_cost_more(self):
        def at(wrong, bits, drawn=True):
            sample = np.random.default_rng(0).permutation(np.arange(1000) < wrong)
            return error_bound(sample, sample, Terms(5000, bits, 0.05, drawn))

        assert 0.1 < at(100, 0) < at(100, 300) < at(150, 300) < 1
        assert at(100, 300, drawn=False) > 0.1

    def test_near_ties_change_no_bets(self):
        """A machine that decides near ties of the pilot for the model has the same bound, not another."""
        careful = np.random.default_rng(0).permutation(np.arange(1000) < 100)
        errors = careful.copy()
        errors[np.flatnonzero(careful[:100])] = False
        both = [error_bound(e, careful, Terms(5000, 300, 0.05, drawn=True)) for e in (careful, errors)]
        assert both[0] == both[1]

    def test_a_claim_is_rounded_up(self):
        assert 0.1234567 + 1e-6 <= claimed(0.1234567) < 0.12346
        assert claimed(1.0) == 1.0


class TestErrors:
    def test_ties_count_against_the_model(self):
        logits = np.array([[1.0, 1.0], [1.0, 0.99995], [2.0, 1.0], [0.0, 1.0]], np.float32)
        zeros = np.zeros(4, np.int64)
        assert label_errors(logits, zeros, 0.0).tolist() == [True, False, False, True]
        assert label_errors(logits, zeros, 1e-4).tolist() == [True, True, False, True]


class TestNaiveBayes:
    def test_is_the_formula_on_a_tiny_corpus(self, tmp_path):
        rows = [("ax", "no"), ("ay", "no"), ("bx", "yes"), ("by", "yes"), ("bz", "yes"), ("az", "no")]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in rows))
        corpus = open_corpus(prepare("labelled", tmp_path / "out", paths=[tmp_path / "in.jsonl"]))
        labels = labels_of(corpus)
        classifier = NaiveBayes(corpus.train, np.arange(len(corpus.train)), labels)
        for part in (corpus.val, corpus.test):
            assert (classifier.classes(part, np.arange(len(part))) == labels.classes(part)).all()
        assert len(set(labels.classes(corpus.train))) == 2

    def test_learns_what_words_give_away_and_not_what_they_do_not(self, data):
        corpus = open_corpus(data)
        labels, n = labels_of(corpus), len(corpus.train)
        half, others = np.arange(n // 2), np.arange(n // 2, n)
        right = labels.classes(corpus.train)[others]
        assert (NaiveBayes(corpus.train, half, labels).classes(corpus.train, others) == right).mean() > 0.95
        # Of the same length and label in every document: nothing to learn.
        first = NaiveBayes(corpus.train, half[:0], labels).classes(corpus.train, others)
        assert (first == right).mean() < 0.65


class TestCertificate:
    def test_is_verified_in_another_process(self, data, certified):
        code = "import sys; from sublora.cli import main; sys.exit(main(sys.argv[1:]))"
        words = ["verify", str(certified), "--data", str(data)]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("verified (full replay): With probability at least 95 %")

    def test_where_nothing_can_be_said_the_shortest_message_is_kept(self, data, certified, monkeypatch, caplog):
        monkeypatch.setattr(issue, "projected_error_bound", lambda *_, **__: 1.0)
        with caplog.at_level("INFO"):
            value, message = issue.ClassifierCertifier(load_config(classifier_flags(data, certified))).choose()
        sizes = [record.args[0] for record in caplog.records if record.msg.startswith("message of")]
        assert value == 1 and 8 * len(message) == min(sizes) < sizes[0]

    def test_says_what_was_measured(self, data, certified):
        certificate = read_classifier_certificate(certified)
        predictions = read_predictions(RunFolder(certified).predictions, 2)
        wrong = predictions.logits.argmax(axis=1) != predictions.classes
        # The tiny model has learned something, or its errors would show nothing.
        assert 0 < certificate.claim.errors == int(wrong.sum()) < 60
        assert certificate.claim.measured == 200 == sum(c.measured for c in certificate.classes)
        assert certificate.claim.errors == sum(c.errors for c in certificate.classes)
        names = [baseline.name for baseline in certificate.baselines]
        assert len(names) == 4 and names[0] == "always 'war'"
        assert "Uninteresting" in certificate.statement
        assert certificate.message.bits == 8 * len(RunFolder(certified).classifier.read_bytes())

    def test_the_population_is_counted(self, data, certified):
        corpus, certificate = open_corpus(data), read_classifier_certificate(certified)
        counts = np.bincount(np.concatenate([labels_of(corpus).classes(part) for part in corpus.parts]))
        assert [c.documents for c in certificate.classes] == counts.tolist()
        assert certificate.baselines[0].errors == counts.min()

    def test_without_predictions_the_replay_is_enough(self, data, run):
        run.predictions.unlink()
        assert verify_classifier(run.path, data).found is not None
        with pytest.raises(CertificateError, match="cannot read the predictions"):
            verify_classifier(run.path, None)

    def test_a_bit_of_the_message(self, run):
        changed = bytearray(run.classifier.read_bytes())
        changed[-2] ^= 1
        run.classifier.write_bytes(bytes(changed))
        with pytest.raises(SubloraError, match="the hash of the message differs"):
            verify_classifier(run.path, None)

    def test_another_message_with_its_own_hash(self, data, run):
        """The hash is put right too: the draw, and then the predictions, are others."""
        changed = bytearray(run.classifier.read_bytes())
        changed[-2] ^= 1
        run.classifier.write_bytes(bytes(changed))
        certificate = read_classifier_certificate(run.path)
        message = certificate.message.model_copy(update={"sha256": sha256(bytes(changed))})
        write_certificate(run, certificate.model_copy(update={"message": message}))
        with pytest.raises(SubloraError):
            verify_classifier(run.path, None)
        run.predictions.unlink()
        with pytest.raises(SubloraError):
            verify_classifier(run.path, data)

    def test_a_digest(self, run):
        text = run.classifier_certificate.read_text()
        run.classifier_certificate.write_text(text.replace('"measured": 200', '"measured": 201', 1))
        with pytest.raises(CertificateError, match="its digest does not match"):
            verify_classifier(run.path, None)

    @pytest.mark.parametrize("recorded", [True, False])
    def test_fewer_errors_than_there_were(self, data, run, recorded):
        certificate = read_classifier_certificate(run.path)
        claim = certificate.claim.model_copy(update={"errors": certificate.claim.errors - 1})
        reseal(run, certificate, error=claim)
        if not recorded:
            run.predictions.unlink()
        with pytest.raises(CertificateError, match=r"errors differ|the claim differs"):
            verify_classifier(run.path, None if recorded else data)

    @pytest.mark.parametrize("recorded", [True, False])
    def test_a_lower_bound(self, data, run, recorded):
        certificate = read_classifier_certificate(run.path)
        claim = certificate.claim.model_copy(update={"bound": certificate.claim.bound - 1e-4})
        reseal(run, certificate, error=claim)
        if not recorded:
            run.predictions.unlink()
        with pytest.raises(CertificateError, match=r"the bound on shares of wrong labels differs|the claim differs"):
            verify_classifier(run.path, None if recorded else data)

    def test_a_simple_classifier_that_is_made_worse(self, data, run):
        certificate = read_classifier_certificate(run.path)
        worse = certificate.baselines[1].model_copy(update={"errors": 480, "bound": 1.0})
        reseal(
            run,
            certificate.model_copy(update={"baselines": (certificate.baselines[0], worse, *certificate.baselines[2:])}),
        )
        with pytest.raises(CertificateError, match="naive Bayes fitted to the known documents differs"):
            verify_classifier(run.path, data)

    def test_predictions_that_suit_the_claim(self, data, run):
        """Every number is made to follow from better predictions: the arithmetic passes, the replay does not."""
        from sublora.classification.assemble import Measured, assemble

        old, message = read_classifier_certificate(run.path), run.classifier.read_bytes()
        p = read_predictions(run.predictions, 2)
        logits = np.eye(2, dtype=np.float32)[p.classes]
        better = Predictions(p.documents, p.classes, logits, p.base_logits)
        simple = [b for b in old.baselines if b.exact]
        classes = [(c.name, c.documents) for c in old.classes]
        measured = Measured(better, classes, simple, old.corpus, old.prior, old.how, old.setting.prompt_tokens)
        run.predictions.write_bytes(better.to_bytes())
        write_certificate(run, assemble(message, decode_classifier(message, max_symbols=1000), measured))
        assert verify_classifier(run.path, None).certificate.claim.errors == 0
        with pytest.raises(CertificateError, match=r"errors of the class|the errors differ"):
            verify_classifier(run.path, data)

    def test_a_label_of_the_data(self, run, tmp_path):
        swapped = prepare_labelled(tmp_path / "other", swap=(7,))
        with pytest.raises(SubloraError, match="differs"):
            verify_classifier(run.path, swapped)

    def test_a_label_in_the_token_file(self, data, run, tmp_path):
        shutil.copytree(data, tmp_path / "data")
        corpus = open_corpus(tmp_path / "data")
        split, labels = corpus.train, labels_of(corpus)
        place = int(split.starts[3] + split.lengths[3] - 1)
        tokens = np.fromfile(split.path, split.tokens.dtype)
        tokens[place] = labels.tokens[0] + labels.tokens[1] - int(tokens[place])
        tokens.tofile(split.path)
        with pytest.raises(SubloraError):
            verify_classifier(run.path, tmp_path / "data")

    def test_a_label_that_nobody_knows(self, data, run, tmp_path):
        shutil.copytree(data, tmp_path / "data")
        meta = json.loads((tmp_path / "data" / "meta.json").read_text())
        meta["labels"]["tokens"][0] += 1
        (tmp_path / "data" / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(CorpusError, match="does not end with one of the labels peace, war"):
            verify_classifier(run.path, tmp_path / "data")

    def test_data_without_labels(self, run, tmp_path):
        (tmp_path / "in.txt").write_text("\n\n".join(f"a paragraph {i}" for i in range(30)))
        plain = prepare("text", tmp_path / "plain", paths=[tmp_path / "in.txt"])
        with pytest.raises(CorpusError, match="have no labels: prepare it with --source labelled"):
            verify_classifier(run.path, plain)

    def test_settings_of_language_models_are_refused(self, data, certified):
        flags = [*classifier_flags(data, certified), "--bounds.claim=source"]
        with pytest.raises(ConfigError, match=r"leave out bounds.bound_type, bounds.claim"):
            certify_classifier(load_config(flags))


def test_shares_are_rounded_up():
    assert percent(0.12301) == "12.4 %"
