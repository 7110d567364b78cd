"""Documentation of service models: wheels, their text, and versions."""

import gzip
import json
import zipfile

import pytest
from corpora import everything, texts_of

from sublora.cli import main
from sublora.corpus.corpus import open_corpus
from sublora.corpus.docstrings import docstrings, plain_text, wheel
from sublora.corpus.prepare import prepare
from sublora.corpus.split import check_split
from sublora.errors import CorpusError

LONG = "is described in more than forty characters here."


def write_wheel(folder, version, models, name="tinycore"):
    """Write a wheel that pip accepts; a model is a file's name and its JSON."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file, model in models.items():
            data = json.dumps(model).encode()
            archive.writestr(f"{name}/data/{file}", gzip.compress(data) if file.endswith(".gz") else data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def service(*texts):
    return {
        "documentation": f"<p>The service of {texts[0]} {LONG}</p>",
        "shapes": [{"documentation": t} for t in texts],
    }


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One &amp; two,\n <i>three</i>&nbsp;four</p>  ", "One & two, three four"),
        ("no markup,\n  two  lines", "no markup, two lines"),
        ("a &lt;tag&gt; that is text", "a <tag> that is text"),
        ("<ul><li>one</li><li>two</li></ul>", "one two"),
        ("<!-- left out --> and &unknown; kept", "and &unknown; kept"),
    ],
)
def test_plain_text(html, text):
    assert plain_text(html) == text


def test_the_order_is_that_of_names_and_of_the_json(tmp_path):
    nested = {
        "z": {"documentation": "1", "inner": [{"documentation": "2"}]},
        "a": {"documentation": {"documentation": "3"}},
    }
    path = write_wheel(
        tmp_path,
        "1.0",
        {
            "b/service-2.json": nested,
            "a/2020/service-2.json.gz": {"documentation": "0"},
            "a/paginators-1.json": {"documentation": "not this"},
            "a/other-service-2.json": {"documentation": "nor this"},
        },
    )
    assert list(docstrings([path])) == ["0", "1", "2", "3"]


def test_what_an_older_version_has_is_prior(tmp_path):
    shared, fresh = f"Shared <b>text</b> {LONG}", f"Fresh &amp; new {LONG}"
    old = write_wheel(tmp_path, "1.0", {"a/service-2.json": service(shared, f"Old only {LONG}")})
    models = {"a/service-2.json": service(shared, "short"), "b/service-2.json.gz": service(fresh, fresh)}
    new = write_wheel(tmp_path, "2.0", models)
    out = tmp_path / "out"
    arguments = ["prepare", "--source", "docstrings", "--new", str(new), "--absent-from", str(old), "--out", str(out)]
    assert main(arguments) == 0
    corpus = open_corpus(out)
    assert sorted(everything(corpus)) == [f"Fresh & new {LONG}", f"The service of Fresh & new {LONG} {LONG}"]
    assert texts_of(corpus.prior) == [
        f"The service of Shared text {LONG} {LONG}",
        f"Shared text {LONG}",
        f"Old only {LONG}",
    ]
    assert corpus.meta["min_characters"] == corpus.min_tokens == 40
    assert "tinycore-2.0-py3-none-any.whl" in corpus.meta["source"] and str(tmp_path) not in json.dumps(corpus.meta)
    check_split(corpus)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(arguments) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_pip_fetches_a_version_once(tmp_path, monkeypatch):
    original = write_wheel(tmp_path / "index", "1.0", {"a/service-2.json": service(f"A {LONG}")})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    path = wheel("pypi:tinycore==1.0")
    assert path.read_bytes() == original.read_bytes() and (tmp_path / "cache") in path.parents
    original.unlink()
    # Named as a file or as a version, it is the same source.
    assert wheel("pypi:TinyCore==1.0") == path
    out = prepare("docstrings", tmp_path / "out", paths=["pypi:tinycore==1.0"])
    assert prepare("docstrings", out, paths=[path]) == out
    with pytest.raises(CorpusError, match=r"pip cannot download tinycore==3.0: .*tinycore==3.0") as caught:
        wheel("pypi:tinycore==3.0")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("tinycore-3.0/*"))


def test_errors(tmp_path):
    (tmp_path / "text.whl").write_text("no archive")
    empty = write_wheel(tmp_path, "1.0", {"a/paginators-1.json": {}})
    damaged = write_wheel(tmp_path, "2.0", {"a/service-2.json": {}})
    with zipfile.ZipFile(damaged, "a") as archive:
        archive.writestr("b/service-2.json.gz", b"not gzip")
    for path, match in (
        ("pypi:tinycore", "one version of a package: give pypi:NAME==VERSION"),
        ("pypi:tinycore>=1", "one version"),
        (tmp_path / "none.whl", "cannot read .*none.whl"),
        (tmp_path / "text.whl", "not a wheel, or damaged"),
        (empty, "holds no service-2.json"),
        (damaged, "not a wheel, or damaged"),
    ):
        with pytest.raises(CorpusError, match=match):
            prepare("docstrings", tmp_path / "out", paths=[path])
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
