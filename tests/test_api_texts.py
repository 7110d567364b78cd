"""From a list of texts and a loaded base to a certificate, without a folder: exactly what a prepared folder gives."""

import tempfile

import pytest
import torch
from families import GPT2, LAYERS, LENGTH, NO_SPECIAL, WIDE, write_tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

import sublora
from sublora.coding.message import decode_message
from sublora.corpus.corpus import open_corpus
from sublora.corpus.tokenizers import make_tokenizer
from sublora.errors import CertificateError, ConfigError, CorpusError, MessageError, SubloraError
from sublora.run_folder import RunFolder
from sublora.scoring.measure import decoded_model

TEXTS = [f"Line {i} says hello: {i} and {i} are {2 * i}." for i in range(60)]
MADE = {
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(**LAYERS | size, **LENGTH, **WIDE, **NO_SPECIAL)),
    "gpt2": lambda size: GPT2LMHeadModel(GPT2Config(**GPT2 | size, **NO_SPECIAL)),
}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def write_base(folder, family="llama", seed=0):
    """A base of random weights with its tokenizer."""
    write_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        MADE[family]({"vocab_size": make_tokenizer(str(folder)).vocab_size}).save_pretrained(folder)
    return folder


def trained(folder):
    model = sublora.wrap(load(folder), d=20, seed=3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.2)
    for text in TEXTS[:10]:
        tokens = tokenizer(text, return_tensors="pt").input_ids
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def message(base):
    return sublora.compress(trained(base), TEXTS, quantizer="uniform", samples=10)


@pytest.fixture(scope="module")
def certificate(message, base):
    return sublora.certify(message, base=base, documents=TEXTS)


def change_bit(data, i):
    return bytes([*data[: i // 8], data[i // 8] ^ (1 << i % 8), *data[i // 8 + 1 :]])


@pytest.mark.parametrize("family", MADE)
def test_texts_and_their_prepared_folder_give_one_certificate(family, tmp_path):
    base = write_base(tmp_path / "base", family)
    folder = sublora.prepare(TEXTS, tmp_path / "data", tokenizer=str(base))
    model = trained(base)
    message = sublora.compress(model, TEXTS, quantizer="uniform", samples=10)
    assert sublora.compress(model, folder, base=load(base), quantizer="uniform", samples=10) == message
    certificate = sublora.certify(message, base=load(base), documents=TEXTS)
    written = sublora.certify(message, base=base, documents=folder, to=tmp_path / "run")
    assert certificate.digest == written.digest and certificate == written
    assert certificate.to_text() == RunFolder(tmp_path / "run").certificate.read_text()
    # Crosswise: each is verified with what the other was made from.
    of_objects = sublora.verify(certificate, message, base=base, documents=folder)
    of_files = sublora.verify(tmp_path / "run", base=load(base), documents=iter(TEXTS))
    assert of_objects.measured == of_files.measured is not None
    assert of_objects.certificate == of_files.certificate == certificate
    # A file of the certificate alone, and the message from elsewhere.
    assert sublora.verify(RunFolder(tmp_path / "run").certificate, message, base=base, documents=folder) == of_objects


def test_nothing_stays_behind(message, base, certificate, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert sublora.certify(message, base=base, documents=TEXTS) == certificate
    sublora.verify(certificate, message, base=base, documents=TEXTS)
    assert not list(tmp_path.iterdir())


def test_texts_of_another_division_are_divided_as_the_message_says(base, tmp_path):
    folder = sublora.prepare(TEXTS, tmp_path / "data", tokenizer=str(base), split_seed=7)
    message = sublora.compress(trained(base), folder, quantizer="uniform", samples=10)
    certificate = sublora.certify(message, base=base, documents=TEXTS)
    assert certificate.corpus.split_seed == 7
    assert sublora.verify(certificate, message, base=base, documents=TEXTS).measured is not None


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["Line 0 says something else.", *TEXTS[1:]], "differs"),
        ([*TEXTS[:-1], TEXTS[-1] + "!"], "differs"),
        ([TEXTS[1], TEXTS[0], *TEXTS[2:]], "differs"),
        (TEXTS[:-1], "differs"),
        (TEXTS[:1], "one document"),
        ([*TEXTS, 7], "document 60 is no text but of type int"),
        ([], "no document"),
    ],
)
def test_other_texts_are_refused(texts, words, certificate, message, base):
    with pytest.raises((CertificateError, CorpusError), match=words) as error:
        sublora.verify(certificate, message, base=base, documents=texts)
    assert "\n" not in str(error.value)


def test_another_base_is_refused(certificate, message, base, tmp_path):
    other = write_base(tmp_path / "other", seed=1)
    for call in (
        lambda given: sublora.verify(certificate, message, base=given, documents=TEXTS),
        lambda given: sublora.certify(message, base=given, documents=TEXTS),
    ):
        for given in (other, load(other)):
            with pytest.raises(ConfigError, match="the message names"):
                call(given)
    changed = load(base)
    with torch.no_grad():
        next(changed.parameters())[0, 0] += 1
    in_place = load(base)
    sublora.wrap(in_place, d=20)
    for model in (changed, in_place):
        with pytest.raises(ConfigError, match=f"other weights than {base}"):
            sublora.verify(certificate, message, base=model, documents=TEXTS)
    with pytest.raises(ConfigError, match="loaded from nowhere"):
        sublora.verify(certificate, message, base=MADE["llama"]({"vocab_size": 261}), documents=TEXTS)


def test_what_compress_returned_is_loaded_as_a_model(message, base, tmp_path):
    file, tokens = tmp_path / "message.bin", torch.arange(40).reshape(2, 20)
    file.write_bytes(message)
    with torch.no_grad():
        loaded, plain = sublora.load(file, base=base)(tokens).logits, load(base)(tokens).logits
        expected = decoded_model(decode_message(message, max_symbols=20), str(base)).eval()(input_ids=tokens).logits
    torch.testing.assert_close(loaded, expected, atol=1e-5, rtol=0)
    assert (loaded - plain).abs().max() > 0.1
    with pytest.raises(ConfigError, match="the message names"):
        sublora.load(file, base=write_base(tmp_path / "other", seed=1))


def test_a_flipped_bit_of_the_message_is_refused(certificate, message, base):
    """Some bits leave a message that can be read; it is another one all the same."""
    seen = set()
    for i in range(0, 8 * len(message), 13):
        with pytest.raises(SubloraError) as error:
            sublora.verify(certificate, change_bit(message, i), base=base, documents=TEXTS)
        seen.add(type(error.value))
    assert {MessageError, CertificateError} <= seen


def test_a_certificate_that_was_changed_in_memory_is_refused(certificate, message, base):
    claims = (certificate.claims[0].model_copy(update={"bound": 0.5}), *certificate.claims[1:])
    better = certificate.model_copy(update={"claims": claims})
    with pytest.raises(CertificateError, match="digest"):
        sublora.verify(better, message, base=base, documents=TEXTS)
    with pytest.raises(CertificateError, match="differs"):
        sublora.verify(better.sealed(), message, base=base, documents=TEXTS)


def batches_of(base, texts, size=8):
    """What a training loop has: padded rows with masks and labels."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = "<|endoftext|>"
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    rows = [tokenizer(text, add_special_tokens=False) for text in texts]
    return [collate(rows[i : i + size]) for i in range(0, len(rows), size)]


@pytest.mark.parametrize("quantizer", ["trellis", "uniform"])
def test_batches_stand_for_the_documents_that_are_in_them(quantizer, base):
    """Of as many documents, they choose what the documents themselves choose."""
    model, n = trained(base), open_corpus_size(base)
    of_batches, of_texts = (
        sublora.compress(model, **{name: value}, quantizer=quantizer, samples=n)
        for name, value in (("calibration", batches_of(base, TEXTS)), ("documents", TEXTS))
    )
    assert of_batches == of_texts


def open_corpus_size(base):
    with tempfile.TemporaryDirectory() as folder:
        return len(open_corpus(sublora.prepare(TEXTS, folder, tokenizer=str(base))).train)


def test_a_message_from_batches_is_certified_on_other_documents(base):
    model = trained(base)
    batches = batches_of(base, [f"Another {i} says hello: {i} and {i}." for i in range(30)])
    tensors = [batch["input_ids"] for batch in batches]
    message = sublora.compress(model, calibration=iter(batches), samples=40)
    assert message == sublora.compress(model, calibration=tensors, samples=40)
    certificate = sublora.certify(message, base=base, documents=TEXTS)
    verified = sublora.verify(certificate, message, base=base, documents=TEXTS)
    assert verified.measured is not None and certificate.setting.samples == 40
    with pytest.raises(CertificateError, match="differs"):
        sublora.verify(certificate, message, base=base, documents=TEXTS[1:])


def test_a_bit_costs_what_it_costs_with_the_documents_that_will_be_drawn(base, monkeypatch):
    """And not with as few as the rows that stand for them."""
    prices = []

    def written(_, price, __):
        prices.append(price())
        return 0.0, b""

    monkeypatch.setattr("sublora.certificate.issue.best_message", written)
    model, batches = trained(base), batches_of(base, TEXTS)
    for samples in (10**4, 10**6, 0):
        sublora.compress(model, calibration=batches, samples=samples)
    sublora.compress(model, TEXTS, samples=0)
    many, more, rows, documents = prices
    assert many > 3 * more > 0 and rows == documents != many


def test_documents_or_batches(base):
    model = sublora.wrap(load(base), d=20)
    for options, words in (
        ({}, "one of them"),
        ({"documents": TEXTS, "calibration": batches_of(base, TEXTS)}, "one of them"),
        ({"calibration": []}, "calibration batches are empty"),
        ({"calibration": batches_of(base, TEXTS[:1])}, "one document"),
    ):
        with pytest.raises((ConfigError, CorpusError), match=words) as error:
            sublora.compress(model, **options)
        assert "\n" not in str(error.value)


def test_what_is_missing_is_said(certificate, message, base, tmp_path):
    with pytest.raises(ConfigError, match="give both"):
        sublora.verify(certificate, base=base, documents=TEXTS)
    with pytest.raises(ConfigError, match="give the folder that holds them"):
        sublora.verify(certificate, message)
    MADE["llama"]({"vocab_size": 261}).save_pretrained(tmp_path / "bare")
    with pytest.raises(CorpusError, match="`prepare` has other tokenizers"):
        sublora.certify(message, base=tmp_path / "bare", documents=TEXTS)
