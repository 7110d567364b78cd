"""Kronecker products of two matrices with orthonormal columns."""

import numpy as np

from sublora.nn.operators.rkron import KroneckerOperator


def orthonormalize(vectors: np.ndarray) -> np.ndarray:
    """Return the rows of a matrix, each freed of its components along the rows before it and normalized.

    Modified Gram-Schmidt in a fixed order of summation: the QR decomposition of a linear-algebra library may round
    differently for every number of threads, and this matrix is a part of the code that a message is decoded with.
    """
    q = vectors.copy()
    for i, row in enumerate(q):
        row /= np.sqrt(np.einsum("n,n->", row, row))
        q[i + 1 :] -= np.einsum("mn,n->m", q[i + 1 :], row)[:, None] * row
    return q


class RDKronQROperator(KroneckerOperator):
    """P = Pi (Q1 x Q2) with Q1 and Q2 the orthonormal factors of the QR decompositions of Gaussian matrices (Lotfi et
    al. 2022, arXiv 2211.13609, section 4.1).

    P^T P = I whenever D has a divisor D2 that fits `factor_shapes`, as the sizes of LoRA parameters mostly have.
    Otherwise less than one of D1 rows of blocks is cut off, P is scaled up by sqrt(D1 D2 / D), and its columns have
    unit norm in expectation only.
    """

    def _factor(self, name: str, rows: int, columns: int) -> np.ndarray:
        return orthonormalize(self._rng(name).standard_normal((columns, rows))).T
