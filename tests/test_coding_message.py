"""Messages: exact round trips, prefix-freeness, golden files, and what happens to damaged bytes."""

import itertools
import json
import time
import tracemalloc
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sublora.coding.bits import BitWriter
from sublora.coding.codebooks import Centroids, Codebook, TrellisGrid, UniformGrid
from sublora.coding.entropy import Parametric
from sublora.coding.gates import quantize_gates
from sublora.coding.message import Message, ModelSpec, decode_message, encode_message
from sublora.coding.quantizers import Quantized, quantize, quantize_uniform
from sublora.coding.range_coder import write_payload
from sublora.coding.rate_distortion import rate_distortion_quantize
from sublora.coding.spec import ALLOCATION_MODES, ALLOCATION_SCOPES, INTRINSIC_MODES
from sublora.errors import MessageError
from sublora.seeds import stream

GOLDEN = Path(__file__).parent / "golden"
UNIFORM = ModelSpec(seed=0, intrinsic_dim=8)
NO_GATES = np.zeros(0)


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return first.dtype == second.dtype == np.float32 and np.array_equal(first.view(np.uint32), second.view(np.uint32))


def round_trip(spec: ModelSpec, quantized: Quantized, gates: np.ndarray = NO_GATES, exponent: int = 1) -> bytes:
    encoded = encode_message(spec, exponent, quantized, gates)
    decoded = decode_message(encoded.data, max_symbols=len(quantized.symbols))
    assert decoded.spec == spec
    assert decoded.mixture_exponent == exponent
    assert same_bits(decoded.alpha, quantized.reconstruction)
    assert np.array_equal(decoded.gates, gates)
    assert sum(encoded.ledger.values()) == 8 * len(encoded.data)
    assert 0 <= encoded.ledger["padding"] < 8
    return encoded.data


def specs(intrinsic_dim: int) -> st.SearchStrategy[ModelSpec]:
    return st.builds(
        ModelSpec,
        seed=st.integers(0, 2**63 - 1),
        intrinsic_dim=st.sampled_from([0, intrinsic_dim]),
        intrinsic_mode=st.sampled_from(INTRINSIC_MODES),
        use_lora=st.booleans(),
        attention_r=st.integers(0, 64),
        head_r=st.integers(0, 64),
        lora_alpha=st.integers(0, 100),
        allocation_mode=st.sampled_from(ALLOCATION_MODES),
        allocation_scope=st.sampled_from(ALLOCATION_SCOPES),
        budget_b=st.just(0) if intrinsic_dim == 0 else st.integers(0, 1),
        gating_steepness=st.integers(0, 200),
        n_gates=st.integers(0, 14),
    )


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(
    st.data(),
    hnp.arrays(np.float32, st.integers(1, 40), elements=FLOATS),
    st.sampled_from(["uniform", "kmeans", "scalar", "trellis"]),
    st.integers(1, 20),
    st.sampled_from([1e-4, 1e-2, 1.0]),
    st.integers(1, 16),
    st.integers(1, 64),
)
def test_every_message_decodes_to_what_was_encoded(
    data: st.DataObject, alpha: np.ndarray, how: str, levels: int, lagrangian: float, gate_bits: int, exponent: int
) -> None:
    spec = data.draw(specs(alpha.size))
    if how in ("uniform", "kmeans"):
        quantized = quantize(alpha, levels=levels, method=how)
    else:
        scale = max(float(np.abs(alpha).max()), 1e-30)
        quantized = rate_distortion_quantize(alpha / np.float32(scale), np.ones(alpha.size), lagrangian, grid=how)
    gates = quantize_gates(stream(exponent, "gates").random(spec.n_gates), bits=gate_bits)
    round_trip(spec, quantized, gates, exponent)


@pytest.mark.parametrize("method", ["uniform", "kmeans"])
@pytest.mark.parametrize(
    "alpha",
    [[0.0], [-0.0, 0.0], [3.25], [1e-45, -1e-45, 3e-45], [3.4e38, -3.4e38, 1.0], [5.0] * 30, [1e30, 1e-30, 0.0, 1.0]],
)
def test_extreme_coordinates(alpha: list[float], method: str) -> None:
    values = np.array(alpha, dtype=np.float32)
    for levels in (1, 2, 3, 11):
        quantized = quantize(values, levels=levels, method=method)
        assert np.isfinite(quantized.reconstruction).all()
        round_trip(replace(UNIFORM, intrinsic_dim=len(values)), quantized)


def test_neutral_values_of_meaningless_fields_cost_nothing() -> None:
    spec = replace(UNIFORM, budget_b=3, gating_steepness=10, n_gates=12, allocation_scope="layer")
    assert spec == UNIFORM
    plain = replace(UNIFORM, use_lora=False)
    assert (plain.attention_r, plain.head_r, plain.lora_alpha) == (0, 0, 0)
    everything = replace(UNIFORM, intrinsic_dim=0, allocation_mode="learned")
    assert (everything.intrinsic_mode, everything.allocation_mode) == ("identity", "uniform")


def test_every_choice_is_in_the_message() -> None:
    """Two models that differ in anything have different bytes."""
    learned = replace(UNIFORM, allocation_mode="learned", gating_steepness=10, n_gates=2)
    fixed = replace(UNIFORM, allocation_mode="fixed", budget_b=4)
    some = [
        UNIFORM,
        learned,
        fixed,
        *(replace(UNIFORM, intrinsic_mode=mode) for mode in INTRINSIC_MODES[1:]),
        *(replace(UNIFORM, **{name: 5}) for name in ("seed", "attention_r", "head_r", "lora_alpha")),
        replace(UNIFORM, use_lora=False),
        replace(UNIFORM, intrinsic_dim=0),
        replace(fixed, budget_b=5),
        replace(learned, allocation_scope="layer"),
        replace(learned, gating_steepness=20),
    ]
    quantized = quantize(stream(0, "alpha").standard_normal(8), levels=5, method="uniform")
    data = {round_trip(spec, quantized, quantize_gates(np.full(spec.n_gates, 0.5))) for spec in some}
    data.add(round_trip(learned, quantized, quantize_gates(np.array([0.5, 0.8]))))
    data.add(round_trip(UNIFORM, quantized, exponent=2))
    assert len(data) == len(some) + 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite_are_refused(bad: float) -> None:
    alpha = np.array([0.0, bad, 1.0], dtype=np.float32)
    for call in (
        lambda: quantize(alpha, levels=3, method="uniform"),
        lambda: quantize(alpha, levels=3, method="kmeans"),
        lambda: quantize_uniform(alpha, 0.5),
        lambda: rate_distortion_quantize(alpha, np.ones(3), 0.1),
    ):
        with pytest.raises(ValueError, match="finite"):
            call()


def test_disagreeing_arguments_are_refused() -> None:
    quantized = quantize(np.ones(8), levels=3, method="uniform")
    with pytest.raises(ValueError, match="symbols"):
        encode_message(replace(UNIFORM, intrinsic_dim=9), 1, quantized, NO_GATES)
    with pytest.raises(ValueError, match="gates"):
        encode_message(UNIFORM, 1, quantized, np.array([0.5]))
    learned = replace(UNIFORM, allocation_mode="learned", n_gates=2)
    with pytest.raises(ValueError, match="quantize_gates"):
        encode_message(learned, 1, quantized, np.array([0.3, 0.4]))
    with pytest.raises(ValueError, match="mixture"):
        encode_message(UNIFORM, 0, quantized, NO_GATES)


def assert_prefix_free(messages: set[bytes]) -> None:
    for first, second in itertools.pairwise(sorted(messages)):
        assert not second.startswith(first)
    assert sum(Fraction(1, 256 ** len(data)) for data in messages) <= 1


def test_all_symbol_sequences_of_small_spaces_are_prefix_free() -> None:
    together: set[bytes] = set()
    count = 0
    books: list[Codebook] = [UniformGrid(0, 3), UniformGrid(3, 2), TrellisGrid(0, 3), Centroids(-2, (-5, 0, 3))]
    for size in (1, 2, 3):
        for codebook in books:
            for symbols in itertools.product(range(codebook.levels), repeat=size):
                quantized = Quantized(np.array(symbols, dtype=np.int32), codebook)
                for dim in (0, size):
                    together.add(round_trip(replace(UNIFORM, intrinsic_dim=dim), quantized))
                    count += 1
    assert len(together) == count
    assert_prefix_free(together)


def test_the_payload_alone_fills_its_space() -> None:
    """The payloads of all sequences under one header have a Kraft sum in (1/4, 1]: a prefix code that wastes little."""
    grid, model = UniformGrid(0, 3), Parametric("gaussian", 0)
    words = []
    for symbols in itertools.product(range(3), repeat=6):
        writer = BitWriter()
        write_payload(writer, model.encode(np.array(symbols, dtype=np.int32), grid))
        words.append(f"{writer.value():0{writer.length}b}")
    for first, second in itertools.pairwise(sorted(words)):
        assert not second.startswith(first)
    assert Fraction(1, 4) < sum(Fraction(1, 2 ** len(word)) for word in words) <= 1


def test_all_byte_strings_after_a_header_are_prefix_free() -> None:
    """Every one of 2**12 continuations of a real header is tried; those that decode are a prefix code."""
    start = round_trip(replace(UNIFORM, intrinsic_dim=1), quantize(np.zeros(1), levels=1, method="uniform"))[:1]
    valid = set()
    for value in range(1 << 12):
        data = start + (value << 4 | 1 << 16).to_bytes(3, "big")[1:]
        for length in (2, 3):
            try:
                decode_message(data[:length], max_symbols=4)
            except MessageError:
                continue
            valid.add(data[:length])
    assert len(valid) > 20
    assert_prefix_free(valid)


def an_example(spec: ModelSpec, how: str) -> bytes:
    alpha = stream(3, "alpha").standard_normal(spec.intrinsic_dim)
    gates = quantize_gates(np.linspace(0.3, 0.7, spec.n_gates))
    quantized = (
        rate_distortion_quantize(alpha, np.ones(alpha.size), 0.02)
        if how == "trellis"
        else quantize(alpha, levels=7, method=how)
    )
    return encode_message(spec, 1, quantized, gates).data


EXAMPLES = [
    an_example(replace(UNIFORM, intrinsic_dim=60), "uniform"),
    an_example(replace(UNIFORM, intrinsic_dim=60, allocation_mode="fixed", budget_b=48), "kmeans"),
    an_example(
        replace(UNIFORM, intrinsic_dim=60, allocation_mode="learned", gating_steepness=10, n_gates=12, seed=42),
        "trellis",
    ),
]


def check_foreign(data: bytes) -> None:
    try:
        message = decode_message(data, max_symbols=5000)
    except MessageError:
        return
    assert np.isfinite(message.alpha).all()
    assert 1 <= message.alpha.size <= 5000


@settings(max_examples=150, deadline=2000)
@given(st.binary(max_size=80))
def test_random_bytes_decode_or_are_refused(data: bytes) -> None:
    check_foreign(data)
    check_foreign(bytes([0b11110000 | data[0] & 15]) + data[1:] if data else data)


@settings(max_examples=150, deadline=2000)
@given(st.sampled_from(EXAMPLES), st.lists(st.integers(0, 10_000), min_size=1, max_size=3))
def test_flipped_bits_decode_or_are_refused(data: bytes, flips: list[int]) -> None:
    damaged = bytearray(data)
    for flip in flips:
        damaged[flip // 8 % len(data)] ^= 1 << flip % 8
    check_foreign(bytes(damaged))


@pytest.mark.parametrize("data", EXAMPLES)
def test_truncated_and_extended_messages_are_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(MessageError):
            decode_message(data[:length], max_symbols=60)
    for extra in (b"\0", b"\xff", data):
        with pytest.raises(MessageError):
            decode_message(data + extra, max_symbols=60)


def test_padding_must_be_zero() -> None:
    encoded = encode_message(UNIFORM, 1, quantize(np.zeros(8), levels=1, method="uniform"), NO_GATES)
    assert encoded.ledger["padding"] > 0
    with pytest.raises(MessageError, match="followed"):
        decode_message(encoded.data[:-1] + bytes([encoded.data[-1] | 1]), max_symbols=8)


def test_more_symbols_than_expected_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(MessageError, match="60 symbols"):
        decode_message(EXAMPLES[0], max_symbols=59)


@pytest.mark.parametrize("codebook", [UniformGrid(0, 3), TrellisGrid(0, 3)])
def test_large_claims_cost_little(codebook: Codebook) -> None:
    """The cheapest messages per symbol: everything in the likeliest symbol, up to the largest size of the format."""

    def claim(size: int) -> bytes:
        quantized = Quantized(np.ones(size, dtype=np.int32), codebook)
        return encode_message(replace(UNIFORM, intrinsic_dim=size), 1, quantized, NO_GATES).data

    largest = claim(1 << 22)
    assert len(largest) < 200
    start = time.process_time()
    decode_message(largest, max_symbols=10**9)
    assert time.process_time() - start < 10
    sixteenth = claim(1 << 18)  # measuring memory is slow, and memory is proportional to the number of symbols
    tracemalloc.start()
    decode_message(sixteenth, max_symbols=10**9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (64 << 20) / 16


def test_a_million_symbols() -> None:
    alpha = stream(5, "many").standard_normal(1_000_000)
    quantized = quantize_uniform(alpha, 0.5)
    spec = replace(UNIFORM, intrinsic_dim=1_000_000)
    start = time.process_time()
    data = encode_message(spec, 1, quantized, NO_GATES).data
    middle = time.process_time()
    decoded = decode_message(data, max_symbols=1_000_000)
    end = time.process_time()
    assert same_bits(decoded.alpha, quantized.reconstruction)
    assert middle - start < 1
    assert end - middle < 1


@pytest.mark.parametrize("how", ["uniform", "kmeans", "trellis"])
def test_coordinates_that_are_zero_cost_next_to_nothing(how: str) -> None:
    """Nine thousand nine hundred and ninety zeros more cost about what naming ten places among them does."""
    alpha = np.zeros(10_000)
    alpha[stream(0, "places").choice(10_000, 10, replace=False)] = stream(0, "values").standard_normal(10)
    if how == "trellis":
        quantized = rate_distortion_quantize(alpha, np.ones(10_000), 0.01)
    else:
        quantized = quantize(alpha, levels=5, method=how)
    data = round_trip(replace(UNIFORM, intrinsic_dim=10_000), quantized)
    places = 10 * np.log2(10_000 * np.e / 10)
    assert 8 * len(data) < places + 150


def as_json(message: Message) -> dict[str, object]:
    return {
        "spec": asdict(message.spec),
        "mixture_exponent": message.mixture_exponent,
        "alpha_float32_bits": message.alpha.view(np.uint32).tolist(),
        "gates": message.gates.tolist(),
    }


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("message_*.bin")), ids=lambda path: path.stem)
def test_golden_messages_decode_for_ever(path: Path) -> None:
    message = decode_message(path.read_bytes(), max_symbols=1000)
    assert as_json(message) == json.loads(path.with_suffix(".json").read_text())


def test_there_are_golden_messages() -> None:
    assert len(list(GOLDEN.glob("message_*.bin"))) == 7


@pytest.mark.parametrize("bits", [1, 5, 16])
def test_gates_move_by_at_most_half_a_cell(bits: int) -> None:
    gates = stream(2, "gates").random(100)
    coarse = quantize_gates(gates, bits=bits)
    assert np.abs(coarse - gates).max() <= 0.5**bits / 2
    assert np.array_equal(quantize_gates(coarse, bits=bits), coarse)
    assert ((quantize_gates(np.array([0.0, 1.0]), bits=bits) - 0.5) ** 2 < 0.25).all()
    with pytest.raises(ValueError, match="lie in"):
        quantize_gates(np.array([1.5]))
