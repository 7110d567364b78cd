"""The trellis of trellis-coded quantization: a 256-state shift register driven by the parities of the symbols.

The register is Ungerboeck's systematic feedback encoder of rate 1/2 for one-dimensional signals, with parity-check
polynomials 515 and 362 (octal) (Ungerboeck 1982, "Channel coding with multilevel/phase signals"). Marcellin & Fischer
(1990, "Trellis coded quantization of memoryless and Gauss-Markov sources") use such registers for quantization.
"""

import numpy as np
from jaxtyping import Float64, Int64, UInt8

STATES = 256
_FEEDBACK, _INPUT = 0o515 >> 1, 0o362 >> 1


def next_state(state: int, parity: int) -> int:
    """Return the state after a symbol of the given parity; the lowest bit of a state is the grid of the next symbol."""
    return state >> 1 ^ (_FEEDBACK if state & 1 else 0) ^ (_INPUT if parity else 0)


NEXT_STATE = [[next_state(state, parity) for parity in (0, 1)] for state in range(STATES)]


def trellis_states(parities: UInt8[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
    """Return the state in which each symbol is read, from state 0 on."""
    states = bytearray(len(parities))
    state = 0
    for index, parity in enumerate(parities.tobytes()):
        states[index] = state
        state = NEXT_STATE[state][parity]
    return np.frombuffer(states, dtype=np.uint8)


def _predecessors() -> tuple[Int64[np.ndarray, "256 2"], Int64[np.ndarray, "256 2"]]:
    """Return, for every state, its two predecessors and the branches (2 * grid + parity) that lead from them."""
    incoming: list[list[tuple[int, int]]] = [[] for _ in range(STATES)]
    for state in range(STATES):
        for parity in (0, 1):
            incoming[NEXT_STATE[state][parity]].append((state, 2 * (state & 1) + parity))
    table = np.array(incoming)
    return table[..., 0], table[..., 1]


_SOURCE, _BRANCH = _predecessors()


def cheapest_branches(costs: Float64[np.ndarray, "n 4"]) -> Int64[np.ndarray, " n"]:
    """Return the branches (2 * grid + parity) of the cheapest path from state 0 (Viterbi 1967).

    `costs[i, b]` is the cost of branch b at symbol i. Takes 256 bytes of memory a symbol.
    """
    count = len(costs)
    total = np.full(STATES, np.inf)
    total[0] = 0.0
    second = np.empty((count, STATES), dtype=bool)
    for index in range(count):
        candidates = total[_SOURCE] + costs[index][_BRANCH]
        np.less(candidates[:, 1], candidates[:, 0], out=second[index])
        total = candidates.min(axis=1)
    state = int(total.argmin())
    branches = np.empty(count, dtype=np.int64)
    for index in range(count - 1, -1, -1):
        choice = int(second[index, state])
        branches[index] = _BRANCH[state, choice]
        state = int(_SOURCE[state, choice])
    return branches
