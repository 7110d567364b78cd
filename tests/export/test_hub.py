"""Exports on the hub, which is a function here: what arrives there is what PEFT loads, and nothing else."""

import base64
import json
import re

import httpx2
import huggingface_hub
import pytest
import torch
from peft import PeftModel

from sublora.cli import main
from sublora.coding.message import decode_message
from sublora.nn.create_model import build_base
from sublora.run_folder import RunFolder
from sublora.scoring.measure import decoded_model

TOKENS = torch.arange(60).reshape(2, 30)


class Hub:
    """Answers as the hub does, and keeps what it is sent."""

    def __init__(self, status=200):
        self.status, self.created, self.files, self.seen = status, None, {}, []

    def __call__(self, request):
        path = request.url.path
        self.seen.append((request.method, path, request.headers.get("authorization")))
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": "You are not\nallowed"}, request=request)
        if path == "/api/repos/create":
            self.created = json.loads(request.content)
            return httpx2.Response(200, json={"url": "https://huggingface.co/me/tiny"})
        if path == "/api/validate-yaml":
            return httpx2.Response(200, json={"errors": [], "warnings": []})
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(request.content)["files"]]
            kept = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return httpx2.Response(200, json={"files": kept})
        if path.endswith("/commit/main"):
            for line in map(json.loads, request.content.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = "https://huggingface.co/me/tiny/commit/1"
            return httpx2.Response(200, json={"commitUrl": url, "commitOid": "1", "success": True})
        return httpx2.Response(404, json={"error": "nothing here"})


@pytest.fixture
def use(monkeypatch):
    """Take a function for the hub; nothing else can be reached."""
    monkeypatch.setenv("HF_TOKEN", "hf_for_a_test")
    # The library reads the variable when it is imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def take(hub):
        client = httpx2.Client(transport=httpx2.MockTransport(hub))
        huggingface_hub.set_client_factory(lambda: client)
        return hub

    yield take
    huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=httpx2.MockTransport(Hub(503))))


@pytest.mark.parametrize("public", [False, True])
def test_peft_loads_what_arrived(public, certified, tmp_path, use, capsys):
    hub = use(Hub())
    words = ["export", str(certified), "--to", str(tmp_path / "adapter"), "--push-to-hub", "me/tiny"]
    assert main([*words, *(["--public"] if public else [])]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "https://huggingface.co/me/tiny"
    assert hub.created["name"] == "tiny"
    assert hub.created["visibility"] == ("public" if public else "private")
    assert {token for _, path, token in hub.seen if "tiny" in path} == {"Bearer hf_for_a_test"}
    for name, content in hub.files.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(content)
    message = decode_message(RunFolder(certified).message.read_bytes(), max_symbols=1 << 20)
    base = build_base(message.header.architecture, message.spec.seed)
    arrived = PeftModel.from_pretrained(base, tmp_path / "there")
    with torch.no_grad():
        expected = decoded_model(message, "").materialize().eval()(TOKENS).logits
        torch.testing.assert_close(arrived.eval()(TOKENS).logits, expected, atol=1e-5, rtol=0)
    assert sorted(hub.files) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "certificate/certificate.json",
        "certificate/message.bin",
    ]  # fmt: skip


def test_other_files_stay_here(certified, tmp_path, use):
    from sublora.export.export import export
    from sublora.export.hub import push_to_hub

    folder = export(certified, tmp_path / "adapter")
    (folder / "notes.txt").write_text("mine")
    (folder / "optimizer.pt").write_bytes(b"mine")
    hub = use(Hub())
    push_to_hub(folder, "me/tiny")
    assert "README.md" in hub.files and not [name for name in hub.files if "notes" in name or "optimizer" in name]


def refused(call, words):
    from sublora.errors import ConfigError

    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        call()
    assert "\n" not in str(error.value)


def test_what_cannot_be_uploaded_is_said_in_one_line(certified, tmp_path, use):
    from sublora.export.export import export
    from sublora.export.hub import push_to_hub

    folder = export(certified, tmp_path / "adapter")
    hub = use(Hub(403))
    refused(lambda: push_to_hub(folder, "me/tiny"), "the hub did not take me/tiny")
    assert hub.seen and not hub.files
    refused(lambda: push_to_hub(folder, "no name at all"), "the hub did not take no name at all")
    hub = use(Hub())
    refused(lambda: push_to_hub(tmp_path, "me/tiny"), "is no export")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path)}))
    refused(lambda: push_to_hub(folder, "me/tiny"), "which means nothing elsewhere")
    assert not hub.seen


def test_public_is_about_the_hub(certified, tmp_path, capsys):
    assert main(["export", str(certified), "--to", str(tmp_path / "a"), "--public"]) == 2
    assert "--public needs --push-to-hub" in capsys.readouterr().err and not (tmp_path / "a").exists()
