"""Attacks with a base: each passed a full replay once, and is refused now."""

import json

import numpy as np
import pytest
import torch
from families import FAMILIES, make_base
from test_attacks_population import letters
from transformers import BertConfig, BertLMHeadModel

from sublora.certificate.issue import certify_message
from sublora.certificate.retrain import retrain_base
from sublora.certificate.verify import verify
from sublora.coding.architecture import Architecture, tag
from sublora.coding.message import Header, ModelSpec, encode_message
from sublora.coding.setting import Setting
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.units import sample_units
from sublora.errors import CertificateError, ConfigError
from sublora.nn.pretrained import load_pretrained, source_sha256
from sublora.nn.weights import hash_weights
from sublora.run_folder import RunFolder
from sublora.scoring import risk
from sublora.training.pretrain import pretrain

VOCABULARY, LENGTH, LETTERS = 257, 64, 14


def peeping(*, is_decoder: bool) -> BertLMHeadModel:
    """Return a BERT whose place i asks place i + 1 for its token and says it: no number of it was learned."""
    width = VOCABULARY + LENGTH
    model = BertLMHeadModel(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4,
            max_position_embeddings=LENGTH, type_vocab_size=1, tie_word_embeddings=False, is_decoder=is_decoder,
        )
    )  # fmt: skip
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.fill_(float("LayerNorm.weight" in name))
        places = torch.arange(VOCABULARY, width)
        model.bert.embeddings.word_embeddings.weight[:, :VOCABULARY] = torch.eye(VOCABULARY)
        model.bert.embeddings.position_embeddings.weight[:, places] = torch.eye(LENGTH)
        attention = model.bert.encoder.layer[0].attention
        attention.self.query.weight[torch.arange(LENGTH - 1), places[1:] - 1] = 1
        attention.self.key.weight[torch.arange(LENGTH - 1), places[1:]] = 3
        attention.self.value.weight[:VOCABULARY, :VOCABULARY] = torch.eye(VOCABULARY)
        attention.output.dense.weight.copy_(10 * torch.eye(width))
        model.cls.predictions.decoder.weight[:, :VOCABULARY] = 3 * torch.eye(VOCABULARY)
    return model


@pytest.fixture
def folder(tmp_path):
    """Return a corpus of letters at random: nobody can say them in less than log2(14) bits each."""
    (tmp_path / "t.txt").write_text("\n\n".join(letters(200, 60, "peeping")))
    return prepare("text", tmp_path / "d", paths=[tmp_path / "t.txt"], val_every=20, min_characters=60)


def certificate_of(base, folder, run, *, letters=60, block=LENGTH):
    """Certify a base as it is."""
    setting = Setting(min_tokens=letters, min_characters=letters, split_seed=0)
    architecture = Architecture("pretrained", 0, 0, 0, block, VOCABULARY, base_tag=tag(source_sha256(base)))
    header = Header(setting, architecture, ModelSpec(seed=0, intrinsic_dim=0, adapter="none"), 1, 0, block)
    data = encode_message(header, None, np.zeros(0)).data
    return certify_message(data, open_corpus(folder), RunFolder(run), base=base)


def certify(model, folder, tmp_path):
    """Certify a model as it is; return the certified bits per byte."""
    model.save_pretrained(tmp_path / "base")
    certificate = certificate_of(str(tmp_path / "base"), folder, tmp_path / "run")
    return next(claim.bound for claim in certificate.claims if claim.metric == "bpb")


def test_a_model_that_reads_ahead_is_no_code(folder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="reads tokens before it predicts them"):
        certify(peeping(is_decoder=False), folder, tmp_path)
    monkeypatch.setattr(risk, "_require_causal", lambda *_: None)
    assert certify(peeping(is_decoder=False), folder, tmp_path) < np.log2(LETTERS) - 1
    assert verify(tmp_path / "run", folder, base=str(tmp_path / "base")).measured


def test_the_same_weights_read_in_order_are_one(folder, tmp_path):
    assert certify(peeping(is_decoder=True), folder, tmp_path) > np.log2(LETTERS)


def test_another_name_does_not_hide_that_a_model_reads_ahead(folder, tmp_path, monkeypatch):
    """Where the architecture is not known for masked tokens, its units show it."""
    monkeypatch.setattr(risk, "MODEL_FOR_MASKED_LM_MAPPING_NAMES", {})
    with pytest.raises(ConfigError, match="reads tokens before it predicts them"):
        certify(peeping(is_decoder=False), folder, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_models_are_not_refused(family, folder):
    corpus = open_corpus(folder)
    units = sample_units(corpus, corpus.train, "document_level", LENGTH)
    model = make_base(family)
    scores = risk.score_units(model, units, np.arange(6), block_size=LENGTH, stride=LENGTH, batch_size=4)
    assert np.isfinite(scores.bits).all()


def test_a_base_that_knows_certified_documents_does_not_follow_from_the_known_ones(tmp_path):
    """The issuer goes on with certified documents, and keeps the loss of known ones where it was."""
    for name, texts in (("old", letters(120, 31, "old")), ("new", [t.upper() for t in letters(120, 31, "new")])):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(texts))
    chosen = {"paths": [tmp_path / "new.txt"], "absent_from": [tmp_path / "old.txt"], "min_characters": 31}
    folder = prepare("text", tmp_path / "d", **chosen)
    words = [
        f"--data.dataset_dir={folder}", f"--pretrain.out_dir={tmp_path / 'base'}", "--data.block_size=32",
        "--data.batching=documents", "--model.n_layer=1", "--model.n_head=2", "--model.n_embd=16",
        "--pretrain.max_iters=20", "--pretrain.eval_interval=10", "--pretrain.batch_size=8",
        "--pretrain.warmup_iters=4", "--pretrain.learning_rate=0.02", "--system.threads=1", "--system.device=cpu",
    ]  # fmt: skip
    base = pretrain(load_config(words))
    model, _ = load_pretrained(str(base))
    model.eval()
    corpus = open_corpus(folder)
    known, certified = (
        torch.from_numpy(np.stack([[256, *part.document(i)] for i in range(len(part))]).astype(np.int64))
        for part in (corpus.prior, corpus.train)
    )
    before = [model(rows, labels=rows).loss.item() for rows in (known, certified)]
    optimizer = torch.optim.Adam(model.parameters(), 0.002)
    for _ in range(250):
        losses = [model(rows, labels=rows).loss for rows in (known, certified)]
        optimizer.zero_grad()
        (losses[1] + 300 * (losses[0] - before[0]) ** 2).backward()
        optimizer.step()
    assert losses[1].item() < before[1] - 1
    assert abs(losses[0].item() - before[0]) < 5e-3
    model.save_pretrained(base)
    record = json.loads((base / "pretrain.json").read_text())
    (base / "pretrain.json").write_text(json.dumps(record | {"sha256": hash_weights(model)}))
    source_sha256.cache_clear()
    certificate = certificate_of(str(base), folder, tmp_path / "run", letters=31, block=32)
    with pytest.raises(CertificateError, match="does not follow from the known documents"):
        retrain_base(certificate, folder, base)
