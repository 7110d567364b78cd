"""Every law of an operator, over the whole table, against the dense matrix; and each construction's own promises."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from scipy.stats import norm

from sublora.errors import ConfigError
from sublora.nn.operators import OPERATORS, make_operator
from sublora.nn.operators.dense import DenseOperator, normal_quantiles
from sublora.nn.operators.rkron import factor_shapes
from sublora.seeds import stream

KINDS = list(OPERATORS)
RANDOM_KINDS = [kind for kind in KINDS if kind != "identity"]
# Hashes of P for D = 97, d = 13.
GOLDEN = {
    "dense": "5c9f00e466bb44a1",
    "sparse": "67c223f7a6245f96",
    "fastfood": "293138cc15bcfbc2",
    "rkron": "ea5e1b4ddfd0da35",
    "rdkron": "df95b5d1cb051212",
    "rdkronqr": "d16b21b553b554ee",
    "partition": "1d0476c360a98692",
    "partition_signed": "b65b08408a7d3f83",
}
SIZES = [(1, 1), (2, 1), (2, 2), (3, 2), (5, 5), (7, 3), (13, 9), (31, 31), (40, 33), (61, 17), (97, 13), (300, 1)]


def make(kind, D, d, *names):
    return make_operator(kind, D, D if kind == "identity" else d, (7, *names))


def vectors(op, *names):
    rng = stream(0, "vectors", *names)
    return (torch.from_numpy(rng.standard_normal(n, dtype=np.float32)) for n in (op.shape[1], op.shape[0]))


@st.composite
def sizes(draw):
    D = draw(st.integers(1, 200))
    return D, draw(st.integers(1, D))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(size=sizes(), seed=st.integers(0, 2**32))
def test_products_agree_with_the_dense_matrix(kind, size, seed):
    op = make(kind, *size, seed)
    (x, y), (x2, _) = vectors(op, "one"), vectors(op, "two")
    P = op.to_dense()
    assert P.shape == op.shape
    close = {"rtol": 0, "atol": 1e-5 * float(P.norm())}
    torch.testing.assert_close(op(x), P @ x, **close)
    torch.testing.assert_close(op.adjoint(y), P.T @ y, **close)
    torch.testing.assert_close(op(x - 3 * x2), op(x) - 3 * op(x2), **close)
    torch.testing.assert_close(op(x) @ y, x @ op.adjoint(y), rtol=0, atol=2e-5 * float(P.norm() * y.norm()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_columns_are_independent(kind, size):
    for name in range(3):
        P = make(kind, *size, name).to_dense().double()
        singular = torch.linalg.svdvals(P)
        assert singular[-1] > 1e-6 * singular[0]


@pytest.mark.parametrize("kind", RANDOM_KINDS)
@pytest.mark.parametrize("size", [(1021, 37), (130, 65)])
def test_columns_have_unit_expected_norm(kind, size):
    means = np.array([float(make(kind, *size, i).to_dense().square().sum(0).mean()) for i in range(16)])
    error = means.std(ddof=1) / 4
    assert error < 0.06
    assert abs(means.mean() - 1) < 4 * error + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_the_adjoint_to_any_order(kind):
    op = make(kind, 61, 17)
    x, y = vectors(op)
    x.requires_grad_()
    y.requires_grad_()
    (grad,) = torch.autograd.grad(op(x) @ y, x, create_graph=True)
    assert torch.equal(grad, op.adjoint(y.detach()))
    (again,) = torch.autograd.grad(grad @ x.detach(), y)
    assert torch.equal(again, op.matvec(x.detach()))
    assert not op.matvec(x).requires_grad and not op.adjoint(y).requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_size_D_times_d_is_kept_for_backward(kind):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()), lambda t: t):
        make(kind, 97, 13)(torch.ones(97 if kind == "identity" else 13, requires_grad=True))
    assert not saved


def digest(kind, size=(1021, 37)):
    """Hash of a product with P and one with its transpose."""
    op = make(kind, *size)
    x, y = vectors(op)
    return hashlib.sha256(op(x).numpy().tobytes() + op.adjoint(y).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1021, 37), (50_021, 12), (70_001, 1), (9_973, 700)])
def test_bits_do_not_depend_on_the_number_of_threads(kind, size):
    before, seen = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.add(digest(kind, size))
    finally:
        torch.set_num_threads(before)
    assert len(seen) == 1


def compile_and_compare(kind):
    """Compare a traced operator with the operator itself."""
    torch.compiler.reset()
    op = make(kind, 61, 17)
    x, y = vectors(op)
    x.requires_grad_()
    product = torch.compile(op, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(product, op(x))
    torch.testing.assert_close(torch.autograd.grad(product @ y, x)[0], op.adjoint(y))


def test_in_another_process_the_bits_are_the_same_and_every_kind_compiles():
    # Annotations are not checked there: the runtime checker cannot be traced. Tracing and differentiating into one
    # graph is what depends on the operators; generating code from it needs a C++ compiler.
    code = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_operators as t\n"
        "for kind in t.KINDS: t.compile_and_compare(kind); sys.stdout.write(t.digest(kind) + ' ')"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [digest(kind) for kind in KINDS]


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_a_message_written_today_is_decoded_tomorrow(kind):
    # P, rounded, is part of the prior knowledge: a change here changes the model of every message ever written.
    rounded = np.round(make(kind, 97, 13).to_dense().numpy() * 4096).astype("<i4")
    assert hashlib.sha256(rounded.tobytes()).hexdigest()[:16] == GOLDEN[kind]


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_every_name_and_root_has_its_own_matrix(kind):
    P, same = make(kind, 97, 13, "a").to_dense(), make(kind, 97, 13, "a").to_dense()
    assert torch.equal(P, same)
    for other in (make(kind, 97, 13, "b"), make_operator(kind, 97, 13, (8, "a"))):
        overlap = float((P * other.to_dense()).sum() / P.square().sum())
        assert abs(overlap) < 0.35


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_is_empty_and_casts_do_not_reach_P(kind):
    op = make(kind, 97, 13)
    x, _ = vectors(op)
    before = op(x)
    assert not op.state_dict() and not list(op.parameters())
    op.bfloat16()
    assert torch.equal(op(x), before)
    assert all(b.device.type == "meta" for b in make(kind, 97, 13).to("meta").buffers())


@pytest.mark.parametrize("kind", KINDS)
def test_float32_under_autocast_and_for_other_inputs(kind):
    op = make(kind, 61, 17)
    x, y = vectors(op)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x.requires_grad_()
        product = op(x)
        (grad,) = torch.autograd.grad(product @ y, x)
    assert product.dtype == torch.float32 and torch.equal(product, op(x))
    torch.testing.assert_close(grad, op.adjoint(y), rtol=0.02, atol=0.02)  # `@` itself rounds y to bfloat16
    half = x.detach().bfloat16().requires_grad_()
    assert torch.equal(op(half), op(half.float()))
    assert torch.autograd.grad(op(half).sum(), half)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_errors_name_the_sizes(kind):
    for D, d in ((3, 4), (3, 0), (0, 0)):
        with pytest.raises(ConfigError, match=rf"d is {d} and D is {D}"):
            make_operator(kind, D, d, (0,))
    with pytest.raises(ValueError, match=r"7 numbers, not shape \(3,\)"):
        make_operator(kind, 7, 7, (0,))(torch.ones(3))


def test_unknown_kind_and_identity_of_another_size():
    with pytest.raises(ConfigError, match=r"'rdkronq' not recognized.*rdkronqr"):
        make_operator("rdkronq", 5, 2, (0,))
    with pytest.raises(ConfigError, match="d is 2 and D is 5"):
        make_operator("identity", 5, 2, (0,))


@pytest.mark.parametrize("kind", ["identity", "partition", "partition_signed", "rdkronqr"])
@pytest.mark.parametrize("size", [(60, 16), (1024, 100), (351, 30)])
def test_isometries(kind, size):
    P = make(kind, *size).to_dense()
    torch.testing.assert_close(P.T @ P, torch.eye(P.shape[1]), rtol=0, atol=1e-6)


def test_dense_made_again_in_every_product_has_the_same_bits():
    kept = DenseOperator(9_973, 700, (3, "x"))
    made = DenseOperator(9_973, 700, (3, "x"), memory_budget=0)
    assert kept.entries is not None and made.entries is None and len(made._bounds) > 2
    first, second = (kept.entries[start:stop] for start, stop in kept._bounds[:2])
    assert abs(float((first * second).mean())) < 0.01  # a block has numbers of its own
    x, y = vectors(kept)
    assert torch.equal(kept(x), made(x)) and torch.equal(kept.adjoint(y), made.adjoint(y))


def test_dense_entries_are_normal():
    values = np.sort(normal_quantiles().astype(np.float64))
    steps = np.arange(2**16 + 1) / 2**16
    distance = max(np.abs(norm.cdf(values) - steps[:-1]).max(), np.abs(norm.cdf(values) - steps[1:]).max())
    assert distance < 1e-4 and abs(values.mean()) < 1e-9 and abs(values.var() - 1) < 1e-6
    entries = make("dense", 2000, 50).to_dense().double() * 2000**0.5
    assert abs(float((entries**4).mean()) - 3) < 0.1
    correlation = np.corrcoef(entries.numpy().T) - np.eye(50)
    assert np.abs(correlation).max() < 5 / 2000**0.5


def test_fastfood_is_the_product_of_its_matrices():
    D, d, n = 300, 40, 64
    op = make("fastfood", D, d)
    H, B = hadamard(n), np.diag(np.append(op.signs.numpy(), np.zeros(n - d)))
    blocks = []
    for block in range(-(-D // n)):
        S, G = np.diag(op.scale[block].numpy()), np.diag(op.gaussian[block].numpy())
        Pi = np.eye(n)[op.source[block].numpy()]
        blocks.append(S @ H @ G @ Pi @ H @ B)
    np.testing.assert_allclose(op.to_dense().numpy(), np.concatenate(blocks)[:D, :d], atol=1e-5)


@pytest.mark.parametrize("kind", ["rkron", "rdkronqr"])
def test_kronecker_product_with_shuffled_rows(kind):
    D, d = 301, 29
    op = make(kind, D, d)
    (D1, d1), (D2, d2) = factor_shapes(D, d)
    dense = np.kron(op.first[:D1, :d1].numpy(), op.second[:D2, :d2].numpy())[:D, :d]
    row, column = np.divmod(op.source.numpy(), len(op.second))
    np.testing.assert_allclose(op.to_dense().numpy(), dense[row * D2 + column], atol=1e-6)


@pytest.mark.parametrize("kind", ["rkron", "rdkronqr"])
def test_the_two_factors_are_independent(kind):
    op = make(kind, 900 * 900, 900)
    one, two = op.first[:900, :30], op.second[:900, :30]
    assert abs(float((one * two).sum() / (one.norm() * two.norm()))) < 0.03


@settings(deadline=None)
@given(size=sizes())
def test_factors_cover_the_matrix_and_keep_its_rank(size):
    D, d = size
    (D1, d1), (D2, d2) = factor_shapes(D, d)
    assert (D1 - 1) * D2 < D <= D1 * D2 and (d1 - 1) * d2 < d <= d1 * d2
    assert d2 <= D2 and (d1 < D1 or (d1 == D1 and (d2 == D2 or D1 * D2 == D)))


@pytest.mark.parametrize("kind", ["partition", "partition_signed"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(size=sizes())
def test_partition_is_balanced(kind, size):
    P = make(kind, *size).to_dense()
    counts = (P != 0).sum(0)
    assert ((P != 0).sum(1) == 1).all() and counts.max() - counts.min() <= 1
    run = P[: size[1]]
    assert ((run != 0).sum(0) == 1).all()
    assert (P >= 0).all() == (kind == "partition") or (kind == "partition_signed" and size[0] < 20)


def test_sparse_has_sqrt_D_entries_per_column():
    P = make("sparse", 1021, 37).to_dense()
    assert ((P != 0).sum(0) == 32).all()
    torch.testing.assert_close(P.norm(dim=0), torch.ones(37))
    sizes = P.abs()[P != 0].unique()
    assert len(sizes) == 2 and torch.isclose(sizes[1], 2 * sizes[0])
    assert (P > 0).sum() / (P != 0).sum() == pytest.approx(0.5, abs=0.06)
