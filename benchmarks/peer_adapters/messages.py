"""From a trained adapter to its message, and back."""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from peer_adapters.bench import SEED, Bench, at
from peer_adapters.suites import Method
from sublora.coding.feedback import feedback_quantize
from sublora.coding.message import MAX_SYMBOLS, Message, decode_message, encode_message
from sublora.coding.spec import ModelSpec
from sublora.files import write_text
from sublora.foreign.adopt import adopt
from sublora.nn.create_model import get_model, spec_from_config
from sublora.nn.quiet import quiet_transformers
from sublora.nn.subspace import SubspaceModule
from sublora.quantizing.curvature import fisher_factor
from sublora.scoring.measure import decoded_model
from sublora.training.checkpoint import load_checkpoint

log = logging.getLogger(__name__)

NO_GATES = np.zeros(0)


@dataclass(frozen=True)
class Coded:
    """A trained adapter in its message, and what a row of the table says of it beside its bounds."""

    data: bytes
    row: dict[str, Any]

    @cached_property
    def message(self) -> Message:
        """What the bytes decode to."""
        return decode_message(self.data, max_symbols=MAX_SYMBOLS)


def code(bench: Bench, model: SubspaceModule, spec: ModelSpec, row: dict[str, Any]) -> Coded:
    """Quantize and code a trained model: of all steps, the message whose estimated bound is lowest."""
    certifier = bench.certifier(bench.suite.method(row["method"]).framed)
    certifier.header = dataclasses.replace(certifier.header, spec=spec)
    alpha = model.subspace_params.detach().double().numpy().copy()
    rms = float(np.sqrt(np.mean(alpha**2))) or 1.0
    row = row | {"coded": model.d, "held_out_trained": bench.held_out(model)}
    factor = fisher_factor(model, bench.train, seed=SEED, samples=bench.effort.gradients)
    best: tuple[float, Coded] | None = None
    for multiple in bench.suite.steps:
        quantized = feedback_quantize(alpha, factor, multiple * rms)
        draft = encode_message(certifier.header, quantized, NO_GATES)
        scores = dataclasses.replace(
            bench.score(at(model, quantized.reconstruction), certifier.units, certifier.calibration),
            base_bits=certifier._base_bits,
        )
        header = certifier._best_header(8 * len(draft.data), scores)
        data = encode_message(header, quantized, NO_GATES).data
        value = certifier.estimate(header, 8 * len(data), scores)
        log.info("step %g: %d bits, estimated bound %.4f", multiple, 8 * len(data), value)
        if best is None or value < best[0]:
            best = value, Coded(data, row | {"step": multiple, "bits": 8 * len(data)})
    assert best is not None
    return best[1]


def imported(bench: Bench, model: SubspaceModule) -> tuple[SubspaceModule, ModelSpec]:
    """Return a trained adapter of PEFT as `sublora import` takes it."""
    with tempfile.TemporaryDirectory() as scratch, quiet_transformers():
        adapter, run = Path(scratch) / "adapter", Path(scratch) / "run"
        net: Any = model.materialize()
        net.save_pretrained(adapter)
        suite = bench.suite
        adopt(adapter, run, base=suite.base, data=Path(suite.data), block_size=bench.config.data.block_size)
        checkpoint = load_checkpoint(run)
    config = bench.configured(checkpoint.config.sublora)
    again = get_model(config, bench.corpus.vocab_size)
    return at(again, checkpoint.tensors["subspace_params"]), spec_from_config(config)


def codings(bench: Bench, method: Method) -> Iterator[Coded]:
    """Train a method, and yield its messages."""
    trials = bench.trials(method)
    rate = min(bench.suite.rates, key=lambda rate: trials[str(rate)])
    model = bench.make(method)
    bench.fit(model, rate, bench.effort.steps, SEED)
    log.info("%s: validation %.4f", method.name, bench.validation(model))
    row = {"method": method.name, "trained": model.d, "trials": trials, "rate": rate}
    trained = model.subspace_params.detach().clone()
    if method.name in bench.suite.imported:
        yield code(bench, *imported(bench, model), row | {"message": "import"})
    yield code(bench, at(model, trained), bench.spec(method), row | {"message": method.coded})


def kept(bench: Bench, method: Method, work: Path) -> list[Coded]:
    """Return the messages of a method; what lies in the folder, made with the same effort, is not made again."""
    record = work / f"{bench.suite.methods.index(method)}.json"
    if record.exists():
        found = json.loads(record.read_text())
        if found["effort"] == dataclasses.asdict(bench.effort) and found["method"] == method.name:
            return [Coded(bytes.fromhex(each["data"]), each["row"]) for each in found["messages"]]
    made = list(codings(bench, method))
    messages = [{"data": coded.data.hex(), "row": coded.row} for coded in made]
    effort = dataclasses.asdict(bench.effort)
    write_text(record, json.dumps({"method": method.name, "effort": effort, "messages": messages}))
    return made


def decoded(bench: Bench, coded: Coded) -> SubspaceModule:
    """Return the model that a message decodes to: by the message alone, or where it is a stand-in, with PEFT's help."""
    method = bench.suite.method(coded.row["method"])
    if coded.row["message"] != "stand-in":
        return decoded_model(coded.message, bench.base(method.framed))
    return at(bench.make(method), coded.message.alpha)
