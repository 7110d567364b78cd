"""Known documents before every document: their code, their search, and a certificate of the base with them alone."""

import dataclasses
import shutil

import numpy as np
import pytest
from certified_run import flags, write_corpus

from sublora.certificate.issue import certify
from sublora.certificate.reading import read_certificate
from sublora.certificate.verify import verify
from sublora.coding.bits import BitReader, BitWriter, write_delta
from sublora.coding.prompt import MAX_DOCUMENTS, Prompt, read_prompt, write_prompt
from sublora.coding.setting import Setting
from sublora.coding.text import MAX_TOKENS
from sublora.config import load_config
from sublora.corpus.corpus import BYTES_TOKENIZER, open_corpus
from sublora.corpus.fallback import UNIT, fallback_code
from sublora.corpus.prepare import prepare
from sublora.errors import CertificateError, ConfigError, MessageError, SubloraError
from sublora.scoring.prompt import prompt_tokens
from sublora.training import prompt_search
from sublora.training.loop import train
from sublora.training.prompt_search import search_prompt


@pytest.fixture(scope="module")
def known_dir(tmp_path_factory):
    """A corpus whose first hundred sentences are known from an older copy."""
    folder = tmp_path_factory.mktemp("known")
    write_corpus(folder / "a", n=300)
    texts = (folder / "a" / "speech.txt").read_text().split("\n\n")
    (folder / "older.txt").write_text("\n\n".join(texts[:100]))
    paths = {"paths": [folder / "a" / "speech.txt"], "absent_from": [folder / "older.txt"]}
    return prepare("text", folder / "data", **paths)


@pytest.mark.parametrize("documents", [(), (0,), (5,), (3, 3, 0), (2**30, 1), tuple(range(MAX_DOCUMENTS))])
def test_what_is_written_is_read(documents):
    writer = BitWriter()
    write_prompt(writer, Prompt(documents), Setting())
    assert read_prompt(BitReader(writer.to_bytes()), Setting()) == Prompt(documents)


OTHER = Setting(tokenizer_tag=1, vocab_size=5000, eot_token=0)


@pytest.mark.parametrize(
    ("setting", "texts"),
    [
        (Setting(), ((116, 104, 101),)),
        (Setting(), ((0,), (255, 32, 0), tuple(range(256)))),
        (OTHER, ((4999,),)),
        (OTHER, ((1, 2, 3), (4999, 0, 17))),
        (OTHER, ((7,),) * 100),
    ],
)
def test_texts_are_written_out(setting, texts):
    writer = BitWriter()
    write_prompt(writer, Prompt(texts=texts), setting)
    reader = BitReader(writer.to_bytes())
    assert read_prompt(reader, setting) == Prompt(texts=texts)
    assert reader.position == writer.length - writer.ledger["padding"]


def test_a_text_costs_what_the_known_code_says():
    text = tuple(b"the union of the states and the peace of the people")
    writer = BitWriter()
    write_prompt(writer, Prompt(texts=(text,)), Setting())
    price = fallback_code(BYTES_TOKENIZER, 257).prices[list(text)].sum() * UNIT
    # How many texts, which kind, and the length of one; then at most two bits more than the price.
    head = 3 + 1 + 10
    assert price - 1 < writer.length - head < price + 2 < 5 * len(text)


def test_texts_that_no_message_holds_are_refused():
    with pytest.raises(MessageError, match="not both"):
        Prompt((1,), ((2,),))
    for texts in (((),), ((1,) * (MAX_TOKENS + 1),)):
        with pytest.raises(MessageError, match="writes out at most"):
            Prompt(texts=texts)
    writer = BitWriter()
    writer.write(0b0101, 4)
    write_delta(writer, 2**40)
    with pytest.raises(MessageError, match="writes out at most"):
        read_prompt(BitReader(writer.to_bytes()), Setting())


def test_a_prompt_costs_what_it_names():
    writer = BitWriter()
    write_prompt(writer, Prompt((137_923, 5, 70_000)), Setting())
    # gamma(4), which kind, the width among 40, and 18 bits for each of three positions.
    assert writer.length == 5 + 1 + 5 + 3 * 18


def test_a_longer_code_of_the_same_prompt_is_refused():
    writer = BitWriter()
    writer.write(0b0100, 4)
    writer.write(5, 5)
    writer.write(1, 5)
    with pytest.raises(MessageError, match="canonical"):
        read_prompt(BitReader(writer.to_bytes()), Setting())


def test_tokens_stand_behind_end_of_text(known_dir):
    corpus = open_corpus(known_dir)
    tokens = prompt_tokens(Prompt((3, 0)), corpus.prior, corpus.eot_token)
    third, first = corpus.prior.document(3), corpus.prior.document(0)
    assert tokens.tolist() == [256, *third.tolist(), 256, *first.tolist()]
    assert prompt_tokens(Prompt(texts=((5, 6), (7,))), None, 256).tolist() == [256, 5, 6, 256, 7]
    with pytest.raises(MessageError, match="does not have"):
        prompt_tokens(Prompt((len(corpus.prior),)), corpus.prior, corpus.eot_token)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A pretrained base: a tiny Llama of random weights in a folder, with a context for prompt and document."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=257, max_position_embeddings=1024, **sizes)).save_pretrained(folder)
    return folder


def prompt_flags(known_dir, base, out_dir, *extra):
    options = [word for word in flags(known_dir, out_dir) if not word.startswith(("--model.n_", "--bounds.bound_s"))]
    return [
        *options, "--data.batching=documents", "--data.block_size=160", f"--prior.base={base}",
        "--training.max_iters=2", "--prompt.candidates=4", "--prompt.search_documents=5",
        "--bounds.bound_samples=20", *extra,
    ]  # fmt: skip


def test_the_search_is_the_same_every_time_and_keeps_the_best(known_dir, base, tmp_path, monkeypatch):
    config = load_config(prompt_flags(known_dir, base, tmp_path, "--prompt.documents=1"))
    corpus = open_corpus(known_dir)
    monkeypatch.setattr(prompt_search, "TOKENS", (8, 20))
    with pytest.raises(ConfigError, match="known documents of 8 to 20 tokens"):
        search_prompt(config, corpus)
    monkeypatch.setattr(prompt_search, "TOKENS", (8, 100))
    found = search_prompt(config, corpus)
    assert found == search_prompt(config, corpus) and len(found.documents) == 1
    search = prompt_search._Search(config, corpus, corpus.prior)
    others = [search.loss([d], search.rows) for d in range(6)]
    assert search.loss(list(found.documents), search.rows) < np.mean(others)
    # Documents of the training text are written out.
    own = load_config(prompt_flags(known_dir, base, tmp_path, "--prompt.documents=2", "--prompt.source=training"))
    written = search_prompt(own, dataclasses.replace(corpus, prior=None))
    texts = {tuple(corpus.train.document(i).tolist()) for i in range(len(corpus.train))}
    assert len(written.texts) == 2 and not written.documents and set(written.texts) <= texts
    with pytest.raises(ConfigError, match="--absent-from or --prior-share"):
        search_prompt(config, dataclasses.replace(corpus, prior=None))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_prompt_that_is_written_out_is_certified_without_known_documents(data_dir, base, tmp_path, adapter):
    extra = ("--prompt.documents=1", "--prompt.source=training", f"--sublora.adapter={adapter}")
    options = prompt_flags(data_dir, base, tmp_path, *extra)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_search, "TOKENS", (8, 100))
        train(load_config(options))
    certify(load_config(options))
    certificate = verify(tmp_path, data_dir, base=str(base)).certificate
    assert certificate.prior.documents == 0 and certificate.prior.prompt_tokens > 8
    assert certificate.message.ledger["prompt"] > 3 * (certificate.prior.prompt_tokens - 1)


@pytest.mark.parametrize("adapter", ["none", "lora", "spectral"])
def test_a_prompt_is_certified_and_verified(known_dir, base, tmp_path, adapter):
    """With adapter none the message is the prompt alone: a few bytes."""
    extra = ("--prompt.indices=[7]", f"--sublora.adapter={adapter}", "--sublora.targets=linear")
    options = prompt_flags(known_dir, base, tmp_path, *extra)
    train(load_config(options))
    certify(load_config(options))
    certificate = verify(tmp_path, known_dir, base=str(base)).certificate
    assert certificate.prior.prompt_tokens > 0 and certificate.prior.documents == len(open_corpus(known_dir).prior)
    assert certificate.message.coordinates == (0 if adapter == "none" else 40)
    assert certificate.prior.known.code.startswith("n-gram of order 6")
    assert certificate.prior.base.evidence == "documents absent from an older copy"
    gains = [certificate.claim(name) for name in ("bpd_gain", "bpb_gain", "bpd_gain_alone", "bpb_gain_alone")]
    assert all(claim.sense == "at least" and claim.bound < claim.empirical for claim in gains)
    assert 0 < certificate.base_alone.bound_bpb <= certificate.prior.known.limit + 1
    # What is more than base and prompt is compared with these two.
    behind = certificate.base_prompted
    if adapter == "none":
        assert behind is None and certificate.claim("bpb_gain_prompted") is None
        assert "base_prompted" not in (tmp_path / "certificate.json").read_text()
    else:
        assert behind.bits == certificate.base_alone.bits + certificate.message.ledger["prompt"]
        gain = certificate.claim("bpb_gain_prompted")
        assert gain.sense == "at least" and gain.bound < gain.empirical
        assert behind.name in [b.name for b in certificate.beside]
    if adapter == "none":
        assert certificate.message.bits <= 8 * 32
    with pytest.raises(CertificateError, match="give your own copy with --base"):
        verify(tmp_path, known_dir)


@pytest.mark.parametrize("data", [False, True])
def test_a_certificate_cannot_keep_the_base_behind_its_prompt_to_itself(known_dir, base, tmp_path, data):
    """Neither as something to beat nor as something that a gain is claimed over."""
    options = prompt_flags(known_dir, base, tmp_path, "--prompt.indices=[7]", "--sublora.targets=linear")
    train(load_config(options))
    certificate = read_certificate(certify(load_config(options)))
    without = certificate.model_copy(update={"base_prompted": None})
    fewer = certificate.model_copy(
        update={"claims": tuple(c for c in certificate.claims if "prompted" not in c.metric)}
    )
    for changed in (without, fewer):
        (tmp_path / "certificate.json").write_text(changed.sealed().to_text())
        with pytest.raises(CertificateError, match=r"differs"):
            verify(tmp_path, known_dir if data else None, base=str(base) if data else "")


def test_another_base_is_refused(known_dir, base, tmp_path):
    from safetensors.torch import load_file, save_file

    options = prompt_flags(known_dir, base, tmp_path / "run", "--prompt.indices=[7]", "--sublora.adapter=none")
    train(load_config(options))
    certify(load_config(options))
    other = shutil.copytree(base, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(SubloraError, match=r"has hash .*, the message names"):
        verify(tmp_path / "run", known_dir, base=str(other))


def test_another_older_copy_is_another_corpus(known_dir, base, tmp_path):
    options = prompt_flags(known_dir, base, tmp_path / "run", "--prompt.indices=[7]", "--sublora.adapter=none")
    train(load_config(options))
    certify(load_config(options))
    texts = (known_dir.parent / "older.txt").read_text().split("\n\n")
    (tmp_path / "older.txt").write_text("\n\n".join(texts[:99]))
    paths = {"paths": [known_dir.parent / "a" / "speech.txt"], "absent_from": [tmp_path / "older.txt"]}
    other = prepare("text", tmp_path / "data", **paths)
    with pytest.raises(SubloraError, match="differs"):
        verify(tmp_path / "run", other, base=str(base))
