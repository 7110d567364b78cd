"""A frame learned from known documents: what it spans, what names it, and that anyone can learn it again."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from certified_run import flags, write_corpus
from corpora import rewrite
from safetensors.numpy import load_file, save_file

from sublora.certificate.evidence import why_known
from sublora.certificate.issue import certify
from sublora.certificate.practised_again import overlap, practise_again
from sublora.certificate.reading import read_certificate
from sublora.certificate.verify import verify
from sublora.cli import main
from sublora.config import load_config
from sublora.corpus.corpus import open_corpus
from sublora.corpus.prepare import prepare
from sublora.errors import CertificateError, ConfigError, CorpusError
from sublora.export.export import export
from sublora.nn.create_model import get_model
from sublora.nn.practised import read_practised
from sublora.nn.pretrained import load_pretrained, source_sha256
from sublora.training.known import known_rows
from sublora.training.loop import train
from sublora.training.practice_record import read_practice
from sublora.training.practise import Shift, frames_from_shifts, learn_frames, practise
from sublora.training.pretrain import pretrain

COMMON = ["--data.block_size=32", "--data.batching=documents", "--system.threads=1", "--system.device=cpu"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A corpus with known documents, a base fitted to them, and the same base with a frame."""
    folder = tmp_path_factory.mktemp("practised")
    write_corpus(folder / "source")
    data = prepare("text", folder / "data", paths=[folder / "source" / "speech.txt"], prior_share=0.5)
    pretrain(
        load_config(
            [f"--data.dataset_dir={data}", f"--pretrain.out_dir={folder / 'base'}", "--model.n_layer=2",
             "--model.n_head=2", "--model.n_embd=16", "--pretrain.max_iters=20", "--pretrain.eval_interval=10",
             "--pretrain.batch_size=8", "--pretrain.warmup_iters=4", "--pretrain.learning_rate=0.02", *COMMON]
        )
    )  # fmt: skip
    practise(load_config(words(data, folder / "base", folder / "framed")))
    source_sha256.cache_clear()
    return data, folder / "base", folder / "framed"


def words(data, base, out, *extra):
    return [
        f"--data.dataset_dir={data}", f"--prior.base={base}", f"--practise.out_dir={out}", "--practise.parts=4",
        "--practise.max_iters=6", "--practise.batch_size=4", "--practise.rank=4", "--practise.lora_r=4",
        "--practise.learning_rate=0.02", *COMMON, *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(folders, tmp_path_factory):
    data, _, framed = folders
    out = tmp_path_factory.mktemp("run") / "r"
    chosen = flags(data, out, f"--prior.base={framed}", "--sublora.adapter=spectral", "--sublora.targets=linear",
                   "--sublora.spectral_r=4", "--data.batching=documents", "--training.max_iters=20",
                   "--optimizer.learning_rate=0.05")  # fmt: skip
    train(load_config([word for word in chosen if not word.startswith("--model.n_")]))
    certify(load_config([word for word in chosen if not word.startswith("--model.n_")]))
    return out


def random_shifts(rng, o=12, i=9, k=2, parts=3):
    return [Shift(rng.standard_normal((o, k)), rng.standard_normal((k, i))) for _ in range(parts)]


def test_a_frame_is_that_of_the_stacked_shifts():
    """Against singular vectors of the shifts written out, and their cores one by one."""
    shifts = random_shifts(np.random.default_rng(0))
    frame = frames_from_shifts({"l": shifts}, 4)["l"]
    whole = np.stack([s.up @ s.down for s in shifts])
    left = np.linalg.svd(np.hstack(whole))[0][:, :4]
    right = np.linalg.svd(np.vstack(whole))[2][:4]
    np.testing.assert_allclose(frame.left_or @ frame.left_or.T, left @ left.T, atol=1e-5)
    np.testing.assert_allclose(frame.right_ri.T @ frame.right_ri, right.T @ right, atol=1e-5)
    cores = np.stack([frame.left_or.T @ w @ frame.right_ri.T for w in whole])
    sizes = np.sqrt((cores**2).mean(0))
    np.testing.assert_allclose(frame.scale_rr, sizes / np.sqrt((sizes**2).mean()), rtol=1e-4)


def test_a_frame_that_is_wide_enough_holds_every_shift():
    shifts = random_shifts(np.random.default_rng(1))
    frame = frames_from_shifts({"l": shifts}, 6)["l"]
    for shift in shifts:
        change = shift.up @ shift.down
        again = frame.left_or @ (frame.left_or.T @ change @ frame.right_ri.T) @ frame.right_ri
        np.testing.assert_allclose(again, change, atol=1e-4)
    with pytest.raises(ConfigError, match=r"lower practise\.rank"):
        frames_from_shifts({"l": shifts}, 7)


def test_scales_tell_layers_apart():
    """A layer that is moved ten times as far gets ten times the scale, whatever the unit."""
    rng = np.random.default_rng(2)
    shifts = random_shifts(rng)
    far = [Shift(10 * s.up, s.down) for s in shifts]
    frames = frames_from_shifts({"a": shifts, "b": far}, 4)
    np.testing.assert_allclose(frames["b"].scale_rr, 10 * frames["a"].scale_rr, rtol=1e-4)
    mean = np.mean([np.mean(f.scale_rr.astype(float) ** 2) for f in frames.values()])
    assert mean == pytest.approx(1, rel=1e-5)
    still = [Shift(0 * s.up, s.down) for s in shifts]
    with pytest.raises(ConfigError, match="moved nothing"):
        frames_from_shifts({"l": still}, 4)


def test_the_folder_is_the_base_and_says_how_its_frame_came_about(folders):
    data, base, framed = folders
    record, prior = read_practice(framed), open_corpus(data).prior
    assert record.weights_sha256 == load_pretrained(str(base))[1] == load_pretrained(str(framed))[1]
    assert record.frame_sha256 == read_practised(str(framed)).sha256
    assert (record.documents, record.documents_sha256) == (len(prior), prior.content_sha256())
    assert len(record.losses) == 4 and record.unit == "bits per byte"
    assert str(base.parent) not in (framed / "practice.json").read_text()
    assert source_sha256(str(framed)) != source_sha256(str(base)) == record.weights_sha256
    assert read_practised(str(base)) is None


def test_practice_repeats_bit_for_bit_and_reads_nothing_but_known_documents(folders, tmp_path):
    data, base, framed = folders
    config, corpus = load_config(words(data, base, tmp_path / "x")), open_corpus(data)
    without = dataclasses.replace(corpus, train=corpus.val, val=None, test=None)
    _, record = learn_frames(config, without)
    assert record.frame_sha256 == read_practice(framed).frame_sha256
    _, other = learn_frames(load_config(words(data, base, tmp_path / "x", "--practise.parts=3")), corpus)
    assert other.frame_sha256 != record.frame_sha256


def test_a_base_of_the_earlier_half_practises_on_the_later_half(folders, tmp_path):
    """What one half says changes the frame, what the other says does not; and the other way round for the base."""
    data, base, _ = folders
    corpus, config = open_corpus(data), load_config(words(data, base, tmp_path / "x", "--practise.documents=later"))
    known = [corpus.prior.document(i) for i in range(len(corpus.prior))]
    half = len(known) // 2
    assert known_rows(corpus, "earlier").tolist() + known_rows(corpus, "later").tolist() == list(range(len(known)))

    def practised(documents):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(data, folder)
        rewrite(folder, "prior", documents)
        return learn_frames(config, open_corpus(folder))[1]

    record = practised(known)
    assert record.documents == len(known) - half
    assert practised(known[half - 1 :: -1] + known[half:]).frame_sha256 == record.frame_sha256
    assert practised(known[:half] + known[:half:-1] + [known[half]]).frame_sha256 != record.frame_sha256
    rewrite(shutil.copytree(data, tmp_path / "two"), "prior", known[:2])
    with pytest.raises(CorpusError, match="too few are later"):
        known_rows(open_corpus(tmp_path / "two"), "later")


def test_finished_is_not_repeated_and_nothing_is_overwritten(folders, tmp_path):
    data, base, framed = folders
    before = (framed / "frame.safetensors").stat().st_mtime_ns
    assert practise(load_config(words(data, base, framed))) == framed
    assert (framed / "frame.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="something else"):
        practise(load_config(words(data, base, framed, "--practise.parts=3")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="something else"):
        practise(load_config(words(data, base, tmp_path / "mine")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


def test_bad_input(folders, tmp_path, capsys):
    data, base, _ = folders
    with pytest.raises(CorpusError, match=r"lower practise\.parts"):
        practise(load_config(words(data, base, tmp_path / "x", "--practise.parts=150")))
    with pytest.raises(ConfigError, match="no such folder"):
        practise(load_config(words(data, tmp_path / "none", tmp_path / "x")))
    with pytest.raises(ConfigError, match="name the base"):
        practise(load_config([f"--data.dataset_dir={data}", f"--practise.out_dir={tmp_path / 'x'}"]))
    without = prepare("text", tmp_path / "data", paths=[data.parent / "source" / "speech.txt"])
    assert main(["practise", *words(without, base, tmp_path / "x")]) == 2
    assert "no documents known beforehand" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_cores_stand_in_the_frame_and_random_ones_fill_it(folders):
    data, _, framed = folders
    config = load_config(
        [f"--data.dataset_dir={data}", f"--prior.base={framed}", "--sublora.adapter=spectral",
         "--sublora.targets=linear", "--sublora.spectral_r=3", "--sublora.intrinsic_dim=20", *COMMON]
    )  # fmt: skip
    model = get_model(config, 257)
    frames = read_practised(str(framed)).frames
    with torch.no_grad():
        model.subspace_params.copy_(torch.linspace(-1, 1, 20))
    before = load_pretrained(str(framed))[0]
    after = model.materialize()
    for name, frame in frames.items():
        layer = after.get_submodule(name)
        assert layer.core.abs().max() > 0
        change = frame.left_or[:, :3] @ (layer.core.detach().numpy() * frame.scale_rr[:3, :3]) @ frame.right_ri[:3]
        merged = layer.merged().weight.detach().numpy() - before.get_submodule(name).weight.detach().numpy()
        np.testing.assert_allclose(merged.T, change, atol=1e-6)
    with pytest.raises(ConfigError, match="has rank 4"):
        get_model(load_config([*config_words(config), "--sublora.spectral_r=5"]), 257)


def config_words(config):
    return [
        f"--data.dataset_dir={config.data.dataset_dir}", f"--prior.base={config.prior.base}",
        "--sublora.adapter=spectral", "--sublora.targets=linear", "--sublora.intrinsic_dim=20", *COMMON,
    ]  # fmt: skip


def test_a_certificate_names_the_base_with_its_frame(folders, run):
    data, base, framed = folders
    certificate = read_certificate(run)
    assert certificate.prior.base.sha256 == source_sha256(str(framed))
    assert certificate.prior.base.evidence == "known documents"
    verify(run, data, base=str(framed))
    # The same weights without the frame are another base.
    with pytest.raises((CertificateError, ConfigError), match="hash"):
        verify(run, data, base=str(base))


def test_another_frame_is_another_base(folders, run, tmp_path):
    data, _, framed = folders
    shutil.copytree(framed, tmp_path / "b")
    tensors = load_file(tmp_path / "b" / "frame.safetensors")
    name = next(key for key in tensors if key.endswith(".scale"))
    tensors[name][0, 0] *= 2
    save_file(tensors, tmp_path / "b" / "frame.safetensors")
    with pytest.raises((CertificateError, ConfigError), match="hash"):
        verify(run, data, base=str(tmp_path / "b"))


def test_evidence_needs_a_record_of_the_known_documents(folders, tmp_path):
    data, _, framed = folders
    corpus = open_corpus(data)
    shutil.copytree(framed, tmp_path / "b")
    sha256 = source_sha256(str(tmp_path / "b"))
    assert why_known(str(tmp_path / "b"), sha256, corpus, corpus.prior) == "known documents"
    path = tmp_path / "b" / "practice.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"documents_sha256": "0" * 64}))
    assert why_known(str(tmp_path / "b"), sha256, corpus, corpus.prior) == "assumed"
    path.write_text(json.dumps(record | {"weights_sha256": "0" * 64}))
    assert why_known(str(tmp_path / "b"), sha256, corpus, corpus.prior) == "assumed"
    path.unlink()
    assert why_known(str(tmp_path / "b"), sha256, corpus, corpus.prior) == "assumed"


def test_anyone_can_practise_again(folders, run, tmp_path):
    data, _, framed = folders
    certificate = read_certificate(run)
    assert practise_again(certificate, data, framed).identical
    # A frame of other documents, said to be of these: found by practising again.
    rng = np.random.default_rng(0)
    shutil.copytree(framed, tmp_path / "b")
    tensors = load_file(tmp_path / "b" / "frame.safetensors")
    for name in tensors:
        if name.endswith(".left"):
            tensors[name] = np.linalg.qr(rng.standard_normal(tensors[name].shape))[0].astype(np.float32)
    save_file(tensors, tmp_path / "b" / "frame.safetensors")
    forged = certificate.model_copy(
        update={
            "prior": certificate.prior.model_copy(
                update={
                    "base": certificate.prior.base.model_copy(update={"sha256": source_sha256(str(tmp_path / "b"))})
                }
            )
        }
    )
    with pytest.raises(CertificateError, match="does not follow from the known documents"):
        practise_again(forged, data, tmp_path / "b")
    (tmp_path / "b" / "practice.json").unlink()
    with pytest.raises(CertificateError, match=r"no practice\.json"):
        practise_again(forged, data, tmp_path / "b")


def test_overlap_is_one_for_turned_vectors_and_small_for_others(folders):
    frames = read_practised(str(folders[2])).frames
    assert overlap(frames, frames) == pytest.approx(1, abs=1e-5)
    rng = np.random.default_rng(0)
    turned, others = {}, {}
    for name, frame in frames.items():
        turn = np.linalg.qr(rng.standard_normal((4, 4)))[0].astype(np.float32)
        turned[name] = type(frame)(frame.left_or @ turn, turn @ frame.right_ri, frame.scale_rr)
        fresh = np.linalg.qr(rng.standard_normal(frame.left_or.shape))[0].astype(np.float32)
        others[name] = type(frame)(fresh, frame.right_ri, frame.scale_rr)
    assert overlap(frames, turned) == pytest.approx(1, abs=1e-4)
    assert overlap(frames, others) < 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, name: tensors.pop(name),
        lambda tensors, name: tensors.update({name: tensors[name] * np.float32(np.nan)}),
        lambda tensors, name: tensors.update({name: tensors[name][:, :2].copy()}),
        lambda tensors, name: tensors.update({name: tensors[name].astype(np.float64)}),
        lambda tensors, name: tensors.clear(),
    ],
)
def test_damaged_frames_are_refused(folders, tmp_path, change):
    shutil.copytree(folders[2], tmp_path / "b")
    path = tmp_path / "b" / "frame.safetensors"
    tensors = load_file(path)
    change(tensors, min(tensors))
    save_file(tensors, path)
    with pytest.raises(ConfigError, match="damaged"):
        read_practised(str(tmp_path / "b"))
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(ConfigError, match="damaged"):
        read_practised(str(tmp_path / "b"))


def test_a_frame_of_another_model_is_refused(folders, tmp_path):
    data, _, framed = folders
    shutil.copytree(framed, tmp_path / "b")
    path = tmp_path / "b" / "frame.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if key.endswith(".left"))
    save_file(tensors | {name: tensors[name][:-1].copy()}, path)
    source_sha256.cache_clear()
    config = load_config(
        [f"--data.dataset_dir={data}", f"--prior.base={tmp_path / 'b'}", "--sublora.adapter=spectral",
         "--sublora.targets=linear", "--sublora.spectral_r=4", "--sublora.intrinsic_dim=20", *COMMON]
    )  # fmt: skip
    with pytest.raises(ConfigError, match="practise again"):
        get_model(config, 257)


def test_export_is_an_adapter_of_peft(folders, run, tmp_path):
    from peft import PeftModel

    framed = folders[2]
    export(run, tmp_path / "adapter", base=str(framed))
    export(run, tmp_path / "merged", base=str(framed), merged=True)
    base = load_pretrained(str(framed))[0]
    tokens = torch.arange(20)[None]
    plain = base(tokens).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(tokens).logits
    merged = load_pretrained(str(tmp_path / "merged"))[0].eval()(tokens).logits
    assert (adapted - merged).abs().max() < 1e-5
    assert (adapted - plain).abs().max() > 1e-3
