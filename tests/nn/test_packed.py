"""Packed rows behind a prefix are what plain rows with the prefix before them are: to score and to train."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from corpora import make_split
from families import make_base
from torch.nn import functional as F

from sublora.corpus.batches import Batches
from sublora.corpus.fallback import fallback_code
from sublora.corpus.units import Units
from sublora.errors import ConfigError
from sublora.nn.lora import add_lora
from sublora.nn.loss import SubspaceLogits, SubspaceLoss
from sublora.nn.packed import Layout, PrefixReader, packed_attention, packs, read, read_plainly
from sublora.nn.projectors import create_intrinsic_model
from sublora.scoring.risk import score_units

V = 53
LENGTHS = [3, 0, 9, 10, 1, 6]


# Initialised so widely that what a token sees can be told from its state; a window that is shorter than the rows.
CHANGES = {
    "gpt2": {"initializer_range": 0.3},
    "llama": {"initializer_range": 0.3},
    "mistral": {"initializer_range": 0.3, "sliding_window": 5},
    "gpt_neox": {},
}
FAMILIES = list(CHANGES)


def tiny(family):
    return make_base(family, vocab_size=V, **CHANGES[family])


@pytest.mark.parametrize("prefix", [0, 1, 7])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_rows_are_plain_rows(family, prefix):
    model = tiny(family)
    tokens = torch.randint(V, (prefix + sum(LENGTHS),), generator=torch.Generator().manual_seed(prefix))
    expected = read_plainly(model, tokens, prefix, LENGTHS)
    # The plain reading is that of one row alone.
    start = prefix + sum(LENGTHS[:3])
    alone = torch.cat([tokens[:prefix], tokens[start : start + LENGTHS[3]]])
    torch.testing.assert_close(
        expected[start : start + LENGTHS[3]], model.base_model(input_ids=alone[None])[0][0, prefix:]
    )
    before = model.config._attn_implementation
    with packed_attention(model):
        reader = PrefixReader(model, tokens[:prefix])
        torch.testing.assert_close(reader.read(tokens[prefix:], LENGTHS), expected[prefix:], atol=1e-4, rtol=1e-4)
        if prefix:
            torch.testing.assert_close(reader.last, expected[prefix - 1], atol=1e-4, rtol=1e-4)
        if packs(model):
            found = read(model, tokens, Layout(prefix, LENGTHS, tokens.device))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert model.config._attn_implementation == before
    if prefix:
        other = torch.cat([tokens[:prefix].roll(1) + 1, tokens[prefix:]]) % V
        assert not torch.allclose(read_plainly(model, other, prefix, LENGTHS)[prefix:], expected[prefix:], atol=1e-2)


def a_split(known_bytes=False):
    split = make_split([3, 1, 12, 10, 25, 7])
    tokens = np.where(split.tokens == split.eot_token, 0, split.tokens % (V - 1) + 1).astype("<u2")
    byte_lengths = 4 * split.lengths + 1 if known_bytes else None
    return dataclasses.replace(split, tokens=tokens, eot_token=0, byte_lengths=byte_lengths)


def bits_by_definition(model, split, i, prompt, block, stride):
    """Each token from the window that scores it, read alone with the prompt before it."""
    document, out = split.document(i).tolist(), []
    with_eot = [0, *document]
    while len(out) < len(document):
        start = 0 if not out else len(out) + stride - block
        end = min(start + block, len(document))
        context = [*prompt, *with_eot[start:end]]
        logits = model(input_ids=torch.tensor([context])).logits[0, len(prompt) :].double()
        logits[:, 0] = -math.inf
        log_p = logits.log_softmax(-1)
        out += [-float(log_p[t - start, document[t]]) / math.log(2) for t in range(len(out), end)]
    return out


@pytest.mark.parametrize("prompt", [[], [0, 5, 6], [0, 4, 0, 9, 9, 9, 9, 9]])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_behind_a_prompt_are_those_with_the_prompt_before(family, prompt):
    model, split = tiny(family), a_split()
    units = Units(split, V, 1, 0, fallback_code("none", V))
    rows = np.array([0, 5, 2, 4, 4, 1, 3])
    for stride in (10, 4):
        expected = [bits_by_definition(model, split, int(i), prompt, 10, stride) for i in rows]
        for batch_size in (1, 3, 64):
            sizes = {"block_size": 10, "stride": stride, "batch_size": batch_size}
            scores = score_units(model, units, rows, prompt=np.array(prompt, np.int64), **sizes)
            np.testing.assert_allclose(scores.bits, [sum(bits) for bits in expected], atol=1e-4)
    with pytest.raises(ConfigError, match=r"a prompt of 60 tokens and a block of 10 .* context of 64"):
        score_units(model, units, rows, prompt=np.zeros(60, np.int64), **sizes)


@torch.no_grad()
def test_scores_do_not_depend_on_threads():
    model, split = tiny("llama"), a_split()
    threads = torch.get_num_threads()
    found = []
    for n in (1, 3):
        torch.set_num_threads(n)
        units, rows = Units(split, V, 1, 0, fallback_code("none", V)), np.arange(6)
        kwargs = {"block_size": 10, "stride": 10, "batch_size": 2, "prompt": np.array([0, 7])}
        found.append(score_units(model, units, rows, **kwargs).bits)
    torch.set_num_threads(threads)
    assert np.array_equal(*found)


def subspace(family, use_lora):
    model = tiny(family)
    if use_lora:
        model = add_lora(model, seed=0, rank=2, head_rank=0 if family == "gpt_neox" else 2, lora_alpha=8)
    out = create_intrinsic_model(model, intrinsic_dim=20, seed=0)
    with torch.no_grad():
        out.subspace_params.normal_(generator=torch.Generator().manual_seed(1))
    return out.eval()


@pytest.mark.parametrize("known_bytes", [False, True])
@pytest.mark.parametrize("use_lora", [True, False])
@pytest.mark.parametrize("prompt", [[], [0, 4, 0, 9, 9]])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_of_documents_and_its_gradient(family, prompt, use_lora, known_bytes):
    model, split = subspace(family, use_lora), a_split(known_bytes)
    batches = Batches(split, 10, "documents", np.array(prompt, np.int64))
    loss = SubspaceLoss(model).of(batches.sample(np.random.default_rng(3), 8))
    numbers = np.random.default_rng(3).integers(0, len(split), 8)
    losses = []
    for i in numbers:
        row = torch.from_numpy(split.document(int(i))[:10].astype(np.int64))
        tokens = torch.cat([torch.tensor([*prompt, 0]), row])
        logits = model(input_ids=tokens[None, :-1]).logits[0, len(prompt) :]
        rate = split.lengths[i] / split.byte_lengths[i] if known_bytes else 1
        losses.append(F.cross_entropy(logits, row) * rate)
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(value, model.subspace_params)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
    assert float(gradients[0].norm()) > 1e-3
    batch = batches.sample(np.random.default_rng(3), 8)
    parts = [batches.sample(np.random.default_rng(3), 8, (k, 2)) for k in range(2)]
    halves = [SubspaceLoss(model).of(part) for part in parts]
    torch.testing.assert_close(torch.stack(halves).mean(), loss)
    logits = SubspaceLogits(model)(batch)
    nats = F.cross_entropy(logits, torch.from_numpy(batch.targets), reduction="none")
    torch.testing.assert_close(nats @ torch.from_numpy(batch.weights), loss)


def test_a_prompt_before_crops_is_refused():
    with pytest.raises(ConfigError, match="batching=documents"):
        Batches(a_split(), 10, "crops", np.array([1]))
    with pytest.raises(ConfigError, match="crops, documents, labels"):
        Batches(a_split(), 10, "sentences")
