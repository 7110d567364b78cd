"""Every law of a linear operator, over the whole table, on odd sizes, against the dense matrix."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sublora.errors import ConfigError
from sublora.nn.operators import OPERATORS, make_operator
from sublora.nn.operators.dense import Dense
from sublora.nn.operators.fastfood import hadamard, walsh_hadamard

KINDS = [kind for kind in OPERATORS if kind != "identity"]
SIZES = st.integers(1, 70).flatmap(lambda d: st.tuples(st.integers(d, 400), st.just(d)))
every_kind = pytest.mark.parametrize("kind", KINDS)
few = settings(max_examples=12, deadline=None)


def vectors(D, d, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal(d)).float(), torch.from_numpy(rng.standard_normal(D)).float()


@every_kind
@few
@given(size=SIZES, seed=st.integers(0, 3))
def test_products_agree_with_the_dense_matrix(kind, size, seed):
    D, d = size
    operator = make_operator(kind, D, d, (seed, "test"))
    P = operator.to_dense()
    assert P.shape == (D, d)
    x, y = vectors(D, d)
    torch.testing.assert_close(operator.matvec(x), P @ x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(operator.adjoint(y), P.T @ y, atol=1e-4, rtol=1e-4)


@every_kind
@few
@given(size=SIZES)
def test_the_gradient_is_the_adjoint(kind, size):
    D, d = size
    operator = make_operator(kind, D, d, (0, "test"))
    x, y = vectors(D, d)
    x.requires_grad_(True)
    (operator(x) @ y).backward()
    assert torch.equal(x.grad, operator.adjoint(y))


@every_kind
@pytest.mark.parametrize(("D", "d"), [(211, 37), (64, 64), (97, 1), (1000, 999)])
def test_columns_have_unit_expected_norm(kind, D, d):
    squares = [make_operator(kind, D, d, (seed, "test")).to_dense().square().sum(0).mean() for seed in range(40)]
    mean, error = np.mean(squares), np.std(squares) / math.sqrt(len(squares))
    assert abs(mean - 1) < 4 * error + 1e-5


@pytest.mark.parametrize("kind", ["partition", "partition_signed"])
@few
@given(size=SIZES)
def test_partition_is_a_balanced_isometry(kind, size):
    D, d = size
    P = make_operator(kind, D, d, (0, "test")).to_dense()
    torch.testing.assert_close(P.T @ P, torch.eye(d), atol=1e-5, rtol=0)
    assert ((P != 0).sum(1) == 1).all()
    counts = (P != 0).sum(0)
    assert counts.max() - counts.min() <= 1


def test_orthogonal_factors_give_an_isometry_where_nothing_is_dropped():
    P = make_operator("rdkronqr", 400, 36, (0, "test")).to_dense()
    torch.testing.assert_close(P.T @ P, torch.eye(36), atol=1e-5, rtol=0)


@every_kind
@pytest.mark.parametrize(("D", "d"), [(90, 13), (53, 30)])
def test_no_coordinate_is_lost(kind, D, d):
    assert torch.linalg.matrix_rank(make_operator(kind, D, d, (2, "test")).to_dense().double()) == d


@every_kind
def test_streams_are_independent_and_repeat(kind):
    one = make_operator(kind, 200, 30, (0, "operator", "A")).to_dense()
    torch.manual_seed(5)
    np.random.default_rng(5)
    assert torch.equal(one, make_operator(kind, 200, 30, (0, "operator", "A")).to_dense())
    for other in ((0, "operator", "B"), (1, "operator", "A")):
        P = make_operator(kind, 200, 30, other).to_dense()
        correlation = float((P * one).sum() / (P.norm() * one.norm()))
        # Partition without signs has only positive entries, of which each row has one in 30.
        assert correlation < 0.2


@every_kind
def test_the_same_on_any_number_of_threads(kind):
    operator = make_operator(kind, 20011, 301, (0, "test"))
    x, y = vectors(20011, 301)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append((operator.matvec(x), operator.adjoint(y)))
    torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def test_the_same_tables_in_another_process():
    code = """
import hashlib, sys
from sublora.nn.operators import OPERATORS, make_operator
digest = hashlib.sha256()
for kind in OPERATORS:
    if kind != 'identity':
        for name, table in sorted(make_operator(kind, 1003, 57, (9, 'p')).named_buffers()):
            digest.update(table.numpy().tobytes())
sys.stdout.write(digest.hexdigest())
"""
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1


def test_a_regenerated_matrix_is_the_kept_one(monkeypatch):
    monkeypatch.setattr("sublora.nn.operators.dense.BLOCK_ENTRIES", 1000)
    kept, drawn = Dense(501, 37, (0, "test")), Dense(501, 37, (0, "test"), memory_budget=0)
    assert kept.kept and not drawn.kept and drawn.matrix.numel() == 0
    x, y = vectors(501, 37)
    torch.testing.assert_close(kept.matvec(x), drawn.matvec(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(kept.adjoint(y), drawn.adjoint(y), atol=1e-6, rtol=1e-6)
    # A block does not depend on the blocks before it.
    assert torch.equal(drawn._draw(3), kept.matrix[3 * kept.rows : 4 * kept.rows])


@pytest.mark.parametrize("n", [1, 2, 64, 128, 8192])
def test_walsh_hadamard_is_the_matrix(n):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(walsh_hadamard(x), x @ hadamard(n), atol=1e-3 * math.sqrt(n), rtol=1e-4)


@every_kind
def test_autocast_does_not_lower_the_precision(kind):
    operator = make_operator(kind, 211, 37, (0, "test"))
    x, _ = vectors(211, 37)
    expected = operator.matvec(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(operator(x), expected)


@every_kind
def test_a_state_dict_holds_nothing(kind):
    assert not make_operator(kind, 50, 7, (0, "test")).state_dict()


def test_identity():
    operator = make_operator("identity", 9, 9, (0, "test"))
    assert torch.equal(operator.to_dense(), torch.eye(9))
    with pytest.raises(ConfigError, match="the identity operator needs intrinsic_dim = D = 9, not 8"):
        make_operator("identity", 9, 8, (0, "test"))


@pytest.mark.parametrize(
    ("kind", "D", "d", "message"),
    [
        ("gaussian", 9, 3, "intrinsic_mode 'gaussian' not recognized: dense, sparse"),
        ("dense", 3, 9, "an operator needs 1 <= d <= D, not d = 9 and D = 3"),
        ("dense", 3, 0, "an operator needs 1 <= d <= D"),
    ],
)
def test_what_does_not_fit_is_said(kind, D, d, message):
    with pytest.raises(ConfigError, match=message):
        make_operator(kind, D, d, (0, "test"))
