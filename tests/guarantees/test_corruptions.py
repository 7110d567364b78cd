"""A thousand random corruptions of certificate and message: none passes with another claim."""

import copy
import json
import math
import shutil

import pytest
from certified_run import flags, write_corpus

from sublora.certificate.claims import LOSS_MARGIN
from sublora.certificate.issue import certify
from sublora.certificate.model import Certificate
from sublora.certificate.verify import verify
from sublora.config import load_config
from sublora.errors import SubloraError
from sublora.files import canonical_json, sha256
from sublora.run_folder import RunFolder
from sublora.seeds import stream
from sublora.training.loop import train

CORRUPTIONS = 1000
# Fields that are no part of the claim: how losses were computed. A certificate with another value here says what the
# true one says.
FREE = {("how",)}
# What is measured beside a claim may differ a little between machines: numbers may be off by so much.
TOLERANT = {"held_out": 0.0201, "baselines": 0.0101, "comparison": 11 * LOSS_MARGIN, "decomposition": 11 * LOSS_MARGIN}
ERRORS = 0.0201


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A corpus, and the folder of a run that is certified on it: documents fit into one window."""
    folder = tmp_path_factory.mktemp("small")
    data_dir = write_corpus(folder / "a", n=120)
    options = flags(
        data_dir, folder / "run", "--bounds.bound_samples=40", "--training.max_iters=20", "--data.block_size=128"
    )
    train(load_config(options))
    certify(load_config(options))
    return data_dir, folder / "run"


def leaves(node, path=()):
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def other_value(rng, value, certificate):
    """Another value that could stand in the same place."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(rng.choice([value + 1, max(value - 1, 0) if value else 2, 2 * value + 1, 0 if value else 3]))
    if isinstance(value, float):
        return float(value * rng.choice([0.5, 0.9, 0.999, 1.001, 1.5]) if value else 0.25)
    if value is None:
        return 1.0
    words = [v for _, v in leaves(certificate) if isinstance(v, str) and v != value]
    digits = [i for i, c in enumerate(value) if c.isdigit()]
    if digits and rng.random() < 0.7:
        at = int(rng.choice(digits))
        return value[:at] + str((int(value[at]) + 1 + int(rng.integers(8))) % 10) + value[at + 1 :]
    return str(rng.choice(words))


def write(run, raw):
    """Seal what an attacker made of a certificate, in the form that certificates are written in."""
    raw["digest"] = sha256(canonical_json({key: value for key, value in raw.items() if key != "digest"}))
    run.certificate.write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")


def corrupt_certificate(rng, run):
    """Change one field and seal again; return its path, and by how much a number was changed."""
    certificate = json.loads(run.certificate.read_text())
    true = copy.deepcopy(certificate)
    paths = [(path, value) for path, value in leaves(certificate) if path not in {("digest",), ("format",)}]
    path, value = paths[int(rng.integers(len(paths)))]
    node = certificate
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = other = other_value(rng, value, certificate)
    assert certificate != true
    write(run, certificate)
    return path, abs(other - value) if isinstance(value, int | float) and isinstance(other, int | float) else math.inf


def corrupt_message(rng, run):
    """Flip one bit, put the new hash into the certificate, and seal again."""
    data = bytearray(run.message.read_bytes())
    bit = int(rng.integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8
    run.message.write_bytes(bytes(data))
    certificate = json.loads(run.certificate.read_text())
    certificate["message"]["sha256"] = sha256(bytes(data))
    write(run, certificate)
    return ("message bit", bit), math.inf


def harmless(path, change, certificate: Certificate):
    """Whether a change leaves every claim what it is."""
    if any(path[: len(field)] == field for field in FREE):
        return True
    if path[0] == "claims" and path[2] in ("empirical", "model_alone"):
        return change <= (ERRORS if certificate.claims[path[1]].metric.endswith("_error") else 11 * LOSS_MARGIN)
    bits = path[0] == "baselines" and path[2] == "bits"
    return bits or change <= TOLERANT.get(path[0], 0.0) * 9


def test_no_corruption_passes_with_another_claim(small, tmp_path):
    data_dir, folder = small
    run = RunFolder(shutil.copytree(folder, tmp_path / "run"))
    true = {path: path.read_bytes() for path in (run.certificate, run.message)}
    certificate = verify(run.path, data_dir).certificate
    passed, replays = [], 0
    for i in range(CORRUPTIONS):
        rng = stream(5, "corruption", i)
        corruption = corrupt_message(rng, run) if i % 3 == 0 else corrupt_certificate(rng, run)
        try:
            verify(run.path, None)
            # What the arithmetic cannot see, the replay must.
            replays += 1
            verify(run.path, data_dir)
            passed.append(corruption)
        except SubloraError:
            pass
        for path, data in true.items():
            path.write_bytes(data)
    assert replays > 20
    for path, change in passed:
        assert harmless(path, change, certificate), path


def test_a_bound_that_is_a_millionth_lower_is_refused(small, tmp_path):
    data_dir, folder = small
    run = RunFolder(shutil.copytree(folder, tmp_path / "run"))
    true = run.certificate.read_bytes()
    run.losses.unlink()
    certificate = json.loads(true)
    for i in (0, 1, 2, 5):
        changed = copy.deepcopy(certificate)
        changed["claims"][i]["bound"] = round(changed["claims"][i]["bound"] - 0.01, 6)
        write(run, changed)
        with pytest.raises(SubloraError, match="differs"):
            verify(run.path, data_dir)
