"""From a model in Python to a certificate: by the path of the command line, or with clear words."""

import json

import pytest
import torch
from families import FAMILIES, make_base
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import sublora
from sublora.coding.message import decode_message
from sublora.corpus.corpus import open_corpus
from sublora.errors import CertificateError, ConfigError, CorpusError, MessageError
from sublora.nn.spectral import SpectralLinear
from sublora.run_folder import RunFolder
from sublora.scoring.measure import decoded_model

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def save_base(folder, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=64, **SIZES))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base") / "llama")


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def documents(data_dir, n):
    train = open_corpus(data_dir).train
    return torch.stack([torch.from_numpy(train.document(i)[:30].astype("int64")) for i in range(n)])


def train(model, data_dir, steps=30):
    """Any loop of torch."""
    texts = documents(data_dir, 8 * steps).view(steps, 8, 30)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.2)
    for text in texts:
        loss = model(input_ids=text, labels=text).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def trained(base, data_dir):
    return train(sublora.wrap(load(base), d=40, allocation="learned", seed=3), data_dir)


@pytest.fixture(scope="module")
def message(trained, data_dir):
    return sublora.compress(trained, data_dir, samples=50)


def loss_of(model, data_dir):
    texts = documents(data_dir, 300)[240:]
    with torch.no_grad():
        return float(model.eval()(input_ids=texts, labels=texts).loss)


def test_a_model_becomes_a_message_and_a_certificate(trained, message, base, data_dir, tmp_path):
    assert isinstance(message, bytes) and len(message) < 60
    decoded = decoded_model(decode_message(message, max_symbols=40), str(base))
    # Coarse, and still most of what was learned.
    losses = [loss_of(model, data_dir) for model in (trained, decoded, load(base))]
    assert losses[0] < losses[2] - 0.5 and losses[1] < losses[2] - 0.25
    certificate = sublora.certify(message, documents=data_dir, base=base, to=tmp_path / "run", published="2026-01-01")
    assert certificate.message.bits == 8 * len(message) and certificate.prior.D == trained.D
    assert certificate.prior.base.published == "2026-01-01"
    assert RunFolder(tmp_path / "run").message.read_bytes() == message
    verified = sublora.verify(tmp_path / "run", documents=data_dir, base=base)
    assert verified.measured is not None and verified.certificate == certificate
    assert sublora.verify(tmp_path / "run").measured is None
    with pytest.raises(CertificateError, match="give your own copy with"):
        sublora.verify(tmp_path / "run", documents=data_dir)


def test_the_same_model_is_the_same_message(trained, message, base, data_dir):
    again = train(sublora.wrap(load(base), d=40, allocation="learned", seed=3), data_dir)
    assert sublora.compress(again, data_dir, base=base, samples=50) == message
    assert sublora.compress(again, data_dir, base=base, samples=49) != message


def test_a_message_of_the_command_line_gets_the_same_certificate(certified, data_dir, tmp_path):
    run = RunFolder(certified)
    sublora.certify(run.message.read_bytes(), documents=data_dir, to=tmp_path / "run")
    assert RunFolder(tmp_path / "run").certificate.read_bytes() == run.certificate.read_bytes()
    assert RunFolder(tmp_path / "run").losses.read_bytes() == run.losses.read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "spectral", "targets": "linear", "rank": 2},
        {"allocation": "fixed", "ratio": 0.8},
        {"target_modules": ["k_proj", "mlp.up_proj"], "rank_pattern": {"up_proj": 2}},
    ],
)
def test_every_choice_of_wrap_can_be_written_down(options, base, data_dir):
    model = sublora.wrap(load(base), d=20, seed=4, operator="sparse", **options)
    data = sublora.compress(train(model, data_dir, 2), data_dir, quantizer="uniform", block_size=48, delta=0.01)
    decoded = decode_message(data, max_symbols=20)
    assert decoded.header.architecture.block_size == 48 and float(decoded.header.setting.delta) == 0.01
    again = decoded_model(decoded, str(base))
    assert torch.equal(again.fingerprint, model.fingerprint)
    spectral = [m for m in again.net.modules() if isinstance(m, SpectralLinear)]
    assert bool(spectral) == (options.get("adapter") == "spectral")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_certified_verified_and_rebuilt_from_its_message(family, data_dir, tmp_path):
    make_base(family).save_pretrained(tmp_path)
    model = train(sublora.wrap(load(tmp_path), d=20, allocation="learned", seed=4), data_dir, 2)
    data = sublora.compress(model, data_dir, quantizer="uniform", block_size=32, samples=20)
    certificate = sublora.certify(data, documents=data_dir, base=tmp_path)
    assert certificate.prior.D == model.D and certificate.message.bits == 8 * len(data)
    verified = sublora.verify(certificate, data, documents=data_dir, base=tmp_path)
    assert [claim.metric for claim in verified.measured] == [claim.metric for claim in certificate.claims]
    message = decode_message(data, max_symbols=20)
    decoded = decoded_model(message, str(tmp_path))
    assert torch.equal(decoded.fingerprint, model.fingerprint)
    trained = loss_of(model, data_dir)
    with torch.no_grad():
        model.subspace_params.copy_(torch.from_numpy(message.alpha))
        model.gating_params.copy_(torch.from_numpy(message.gates).logit())
    assert loss_of(decoded, data_dir) == pytest.approx(loss_of(model, data_dir), abs=1e-5) != trained


def test_a_message_is_of_one_corpus_and_one_base(message, base, data_dir, tmp_path):
    def refused(error, words, **options):
        with pytest.raises(error, match=words):
            usual = {"message": message, "documents": data_dir, "base": base, "to": tmp_path / "run"}
            sublora.certify(**usual | options)
        assert not RunFolder(tmp_path / "run").certificate.exists()

    other = sublora.prepare([f"document {i} of another corpus" for i in range(100)], tmp_path / "other", split_seed=9)
    refused(CertificateError, "split_seed differs", documents=other)
    refused(CertificateError, "give your own copy", base="")
    refused(ConfigError, "the message names", base=save_base(tmp_path / "another", seed=1))
    refused(MessageError, "", message=message[:-1])
    refused(MessageError, "followed by something else", message=message + b"\0")
    refused(ConfigError, "YYYY-MM-DD", published="yesterday")
    refused(CorpusError, "", documents=tmp_path / "nowhere")


def test_only_what_can_be_rebuilt_is_written_down(trained, base, data_dir, tmp_path):
    def refused(model, words, **options):
        with pytest.raises(ConfigError, match=words) as error:
            sublora.compress(model, data_dir, **options)
        assert "\n" not in str(error.value)

    unseeded = sublora.wrap(get_peft_model(load(base), LoraConfig(target_modules=["q_proj", "v_proj"])), d=20)
    refused(unseeded, "call sublora.wrap with the base itself")
    refused(trained, "are not those of the model that was wrapped", base=save_base(tmp_path / "another", seed=1))
    refused(sublora.wrap(make_base("llama"), d=20), "the base was loaded from nowhere")
    changed = sublora.wrap(load(base), d=20)
    changed.fingerprint[0] ^= 1
    refused(changed, "no longer that of the seed")


def test_texts_are_prepared_as_a_file_of_them_is(tmp_path):
    texts = [f'text {i} with é, "quotes" and\ntwo lines' for i in range(60)]
    folder = sublora.prepare(texts, tmp_path / "a", split_seed=5, prior_share=0.2)
    assert sublora.prepare(texts, folder, split_seed=5, prior_share=0.2) == folder
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    from sublora.corpus.prepare import prepare

    prepare("jsonl", tmp_path / "b", paths=[tmp_path / "documents.jsonl"], split_seed=5, prior_share=0.2)
    for name in ("meta.json", "train.bin", "prior.bin"):
        assert (folder / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(CorpusError, match="holds another corpus"):
        sublora.prepare(texts[1:], folder)
