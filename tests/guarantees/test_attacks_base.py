"""Attacks with a base: each passed a full replay once, and is refused now."""

import numpy as np
import pytest
import torch
from families import FAMILIES
from test_attacks_population import letters
from transformers import BertConfig, BertLMHeadModel

from sublora.certificate.issue import certify_message
from sublora.certificate.verify import verify
from sublora.coding.architecture import Architecture, tag
from sublora.coding.message import Header, ModelSpec, encode_message
from sublora.coding.setting import Setting
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.corpus.units import sample_units
from sublora.errors import ConfigError
from sublora.nn.pretrained import source_sha256
from sublora.run_folder import RunFolder
from sublora.scoring import risk

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


def certify(model, folder, tmp_path):
    """Certify a base as it is; return the certified bits per byte."""
    model.save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    setting = Setting(min_tokens=60, min_characters=60, split_seed=0)
    architecture = Architecture("pretrained", 0, 0, 0, LENGTH, VOCABULARY, base_tag=tag(source_sha256(base)))
    header = Header(setting, architecture, ModelSpec(seed=0, intrinsic_dim=0, adapter="none"), 1, 0, LENGTH)
    data = encode_message(header, None, np.zeros(0)).data
    certificate = certify_message(data, open_corpus(folder), RunFolder(tmp_path / "run"), base=base)
    return next(claim.bound for claim in certificate.claims if claim.metric == "bpb")


def test_a_model_that_reads_ahead_is_no_code(folder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="reads tokens before it predicts them"):
        certify(peeping(is_decoder=False), folder, tmp_path)
    monkeypatch.setattr(risk, "_require_causal", lambda *_: None)
    assert certify(peeping(is_decoder=False), folder, tmp_path) < np.log2(LETTERS) - 1
    assert verify(tmp_path / "run", folder, base=str(tmp_path / "base")).measured


def test_the_same_weights_read_in_order_are_one(folder, tmp_path):
    assert certify(peeping(is_decoder=True), folder, tmp_path) > np.log2(LETTERS)


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_models_are_not_refused(family, folder):
    corpus = open_corpus(folder)
    units = sample_units(corpus, corpus.train, "document_level", LENGTH)
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    scores = risk.score_units(model, units, np.arange(6), block_size=LENGTH, stride=LENGTH, batch_size=4)
    assert np.isfinite(scores.bits).all()
