"""``hf://`` against a server that speaks the part of the Hub's HTTP API that is asked for."""

import json
import os
import re
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from mmpretrain.registry import MODELS
from small_nets import lively, timm_net
from timm.models import save_for_hf

import vgg_mm
from vgg_mm.errors import UserError
from vgg_mm.weights.source import open_source

HTTP_STATUS = {"RepoNotFound": 401, "RevisionNotFound": 404, "EntryNotFound": 404}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path, self.headers.get("Range")))
        if hub.busy:
            return self.answer(503, b"busy")
        if found := re.fullmatch(r"/blobs/(\w+)", path):
            return self.blob(hub.blobs[found[1]])
        api = re.fullmatch(r"/api/models/(\w+/\w+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/(\w+/\w+)/resolve/([^/]+)/(.+)", path)
        if not (api or file):
            return self.error("EntryNotFound")
        repo, revision = (api[1], api[3]) if api else (file[1], file[2])
        if repo not in hub.repos:
            return self.error("RepoNotFound")
        commit = hub.refs[repo].get(revision or "main", revision)
        if commit not in hub.repos[repo]:
            return self.error("RevisionNotFound")
        files = hub.repos[repo][commit]
        if file:
            return self.file(files.get(file[3]), commit)
        listed = [
            dict(type="file", path=name, rfilename=name, size=len(data), oid=sha1(data).hexdigest())
            for name, data in files.items()
        ]
        told = listed if api[2] == "tree" else dict(id=repo, sha=commit, siblings=listed)
        self.answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def error(self, code):
        self.answer(HTTP_STATUS[code], b"", {"X-Error-Code": code})

    def file(self, data, commit):
        """What lies beside the weights is sent, and of the weights the place of their blob."""
        if data is None:
            return self.error("EntryNotFound")
        name, headers = sha256(data).hexdigest(), {"X-Repo-Commit": commit}
        if len(data) < 10_000:
            return self.answer(200, data, {**headers, "ETag": f'"{name}"'})
        self.server.blobs[name] = data
        headers |= {"X-Linked-Etag": f'"{name}"', "X-Linked-Size": len(data)}
        self.answer(
            302,
            b"",
            {**headers, "Location": f"http://localhost:{self.server.server_port}/blobs/{name}"},
        )

    def blob(self, data):
        start = int(re.search(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])
        headers, status = {"Content-Length": len(data) - start}, 206 if start else 200
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        sent = data[start:]
        if self.command == "GET" and self.server.drops:
            sent = sent[: self.server.drops.pop(0)]
            self.close_connection = True
        self.answer(status, sent, headers)

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class Hub(ThreadingHTTPServer):
    """Repositories in the memory.

    Attributes:
        asked: Of each request the method, the path and the range.
        busy: Whether all is answered by 503.
        drops: After how many bytes to drop the next connections that fetch weights.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos, self.refs, self.blobs, self.asked = {}, {}, {}, []
        self.busy, self.drops = False, []

    def push(self, repo, folder, **refs):
        """Commits a folder's files as main, and as whatever else ``refs`` names."""
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        commit = sha1(repr(files).encode()).hexdigest()
        self.repos.setdefault(repo, {})[commit] = files
        self.refs.setdefault(repo, {}).update(dict.fromkeys(["main", *refs], commit))
        return commit

    def fetched(self):
        """The ranges in which weights have been asked for."""
        return [range for method, path, range in self.asked if (method, path[:7]) == ("GET", BLOBS)]


BLOBS = "/blobs/"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub on this machine, as HF_ENDPOINT would say, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    constants = huggingface_hub.constants
    with Hub() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)  # what a retry goes on from
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two attempts
        yield server
        server.shutdown()


def ours(folder, seed=0):
    """Saves a small net in a folder, and returns it."""
    parts = dict(
        backbone=dict(type="vgg_mm.VGG", arch="A", width=4),
        head=dict(type="vgg_mm.VGGHead", num_classes=3, in_channels=32, channels=8, kernel_size=1),
    )
    config = dict(type="ImageClassifier", **parts)
    config["data_preprocessor"] = dict(type="vgg_mm.VGGPreprocessor", std=[60, 60, 60])
    model = lively(MODELS.build(config))
    model.head.fc8.bias.data.fill_(seed)
    net = vgg_mm.Net(model, config, ["ant", "bee", "cat"])
    net.save(folder)
    return net


PIXELS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def same(a, b):
    return a.posteriors(PIXELS, scales=[64]).equal(b.posteriors(PIXELS, scales=[64]))


def test_a_net_comes_from_the_hub_once(hub):
    net = ours("mine")
    Path("mine/pytorch_model.bin").write_bytes(b"never asked for")
    hub.push("org/mine", "mine")
    back = vgg_mm.load("hf://org/mine")
    assert same(back, net) and back.classes == net.classes and back.input == net.input
    vgg_mm.load("hf://org/mine")
    assert hub.fetched() == [None]
    files = {path.rpartition("/")[2] for _, path, _ in hub.asked if "/resolve/" in path}
    assert files == {"config.json", "model.safetensors"}


def test_revisions(hub):
    old, new = ours("old"), ours("new", seed=1)
    commit = hub.push("org/mine", "old", v1=True)
    hub.push("org/mine", "new")
    assert same(vgg_mm.load("hf://org/mine"), new)
    for name in ("v1", commit):
        assert same(vgg_mm.load(f"hf://org/mine@{name}"), old)
    with pytest.raises(UserError, match="hf://org/mine@v2 could not be had: RevisionNotFound"):
        vgg_mm.load("hf://org/mine@v2")
    with pytest.raises(UserError, match="hf://org/none could not be had: RepositoryNotFound"):
        vgg_mm.load("hf://org/none")


def test_a_download_goes_on_where_it_broke_off(hub):
    net = ours("mine")
    hub.push("org/mine", "mine")
    hub.drops += [20_000, 0, 5_000]
    assert same(vgg_mm.load("hf://org/mine"), net)
    assert hub.fetched() == [None, "bytes=20000-", "bytes=20000-", "bytes=25000-"]


def test_a_download_that_fails_leaves_nothing_that_looks_whole(hub):
    net = ours("mine")
    hub.push("org/mine", "mine")
    hub.drops += [9_000] + [0] * 20
    with pytest.raises(UserError, match="hf://org/mine could not be had: ") as error:
        vgg_mm.load("hf://org/mine")
    assert "\n" not in str(error.value)
    hub.drops.clear()
    assert same(vgg_mm.load("hf://org/mine"), net)


def test_a_hub_that_is_busy_or_gone(hub, monkeypatch):
    net = ours("mine")
    hub.push("org/mine", "mine")
    hub.busy = True
    with pytest.raises(UserError, match="hf://org/mine could not be had: .*503") as error:
        vgg_mm.load("hf://org/mine")
    assert "\n" not in str(error.value)
    hub.busy = False
    assert same(vgg_mm.load("hf://org/mine"), net)
    hub.busy = True
    assert same(vgg_mm.load("hf://org/mine"), net)
    hub.shutdown()
    hub.server_close()
    assert same(vgg_mm.load("hf://org/mine"), net)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert same(vgg_mm.load("hf://org/mine@main"), net)
    with pytest.raises(UserError, match="hf://org/other could not be had: LocalEntryNotFound"):
        vgg_mm.load("hf://org/other")


def test_only_safetensors_are_read(hub):
    os.mkdir("pickled")
    torch.save({}, "pickled/pytorch_model.bin")
    Path("pickled/config.json").write_text("{}")
    hub.push("org/pickled", "pickled")
    for what in (["hf://org/pickled"], ["D", "hf://org/pickled"]):
        with pytest.raises(UserError, match="hf://org/pickled has no model.safetensors; no other"):
            vgg_mm.load(*what)
    assert not any("pytorch_model" in path for _, path, _ in hub.asked)
    os.mkdir("forged")
    Path("forged/model.safetensors").write_bytes(b"\xff" * 20_000)
    Path("forged/config.json").write_text('{"architecture": "vgg16"}')
    hub.push("org/forged", "forged")
    with pytest.raises(UserError, match="model.safetensors"):
        vgg_mm.load("D", "hf://org/forged")


def expected(theirs, mean, std):
    x = torch.tensor(PIXELS).permute(2, 0, 1)[None] / 255
    x = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        return (theirs(x).softmax(1) + theirs(x.flip(3)).softmax(1))[0] / 2


def test_timms_folder_as_timm_writes_it(hub):
    """Its vgg16 and config.json are those of https://huggingface.co/timm/vgg16.tv_in1k."""
    theirs = timm_net("A", norm=True)
    theirs.pretrained_cfg = timm.get_pretrained_cfg("vgg11_bn").to_dict()
    theirs.num_classes = 5
    names = {i: name for i, name in enumerate(["ant", "bee", "cat", "dog", "elk"])}
    save_for_hf(theirs, "timms", dict(label_names=names), safe_serialization=True)
    said = json.loads(Path("timms/config.json").read_text())
    assert said["architecture"] == "vgg11_bn" and said["pretrained_cfg"]["tag"] == "tv_in1k"
    hub.push("timm/vgg", "timms")
    net = vgg_mm.load("hf://timm/vgg")
    wanted = expected(theirs, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.allclose(net.posteriors(PIXELS, scales=[64])[0, 0], wanted, atol=1e-5)
    assert net.classes == tuple(names.values()) and net.arch == "A"


@pytest.mark.parametrize("labels", ["label_names", "id2label"])
def test_transformers_folder(labels, hub):
    """As its TimmWrapper's save_pretrained writes it: transformers 4.48 named ``id2label``."""
    theirs = timm_net("D")
    state = {f"timm_model.{name}": value for name, value in theirs.state_dict().items()}
    os.mkdir("wrapped")
    safetensors.torch.save_file(state, "wrapped/model.safetensors", {"format": "pt"})
    names = [f"class {i}" for i in range(5)]
    half = dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], input_size=[3, 224, 224])
    said = dict(
        architecture="vgg16",
        architectures=["TimmWrapperForImageClassification"],
        do_pooling=True,
        initializer_range=0.02,
        model_type="timm_wrapper",
        num_classes=5,
        num_features=24,
        pretrained_cfg=dict(tag="tv_in1k", **half),
    )
    said[labels] = (
        names if labels == "label_names" else {str(i): names[i] for i in range(4, -1, -1)}
    )
    Path("wrapped/config.json").write_text(json.dumps(said))
    hub.push("org/wrapped", "wrapped")
    net = vgg_mm.load("hf://org/wrapped")
    wanted = expected(theirs, half["mean"], half["std"])
    assert torch.allclose(net.posteriors(PIXELS, scales=[64])[0, 0], wanted, atol=1e-5)
    assert net.classes == tuple(names)


def test_init_cfg(hub, monkeypatch):
    """A config's net starts from the Hub, and hears what the folder's config.json says."""
    net, told = ours("mine"), []
    hub.push("org/mine", "mine", v1=True)
    config = {**net.config, "init_cfg": dict(type="Pretrained", checkpoint="hf://org/mine@v1")}
    config["data_preprocessor"] = dict(type="vgg_mm.VGGPreprocessor")
    model = MODELS.build(config)
    monkeypatch.setattr("vgg_mm.weights.pretrained.print_log", lambda line, *_: told.append(line))
    model.init_weights()
    for name, value in net.model.state_dict().items():
        assert model.state_dict()[name].equal(value), name
    assert re.search(r"was trained with .*std=.60.0, 60.0, 60.0.*_preprocessor has", told[-1])


def test_the_folder_tells_input_and_classes(hub):
    net = ours("mine")
    hub.push("org/mine", "mine")
    again = vgg_mm.load("A", "hf://org/mine")
    assert same(again, net) and again.classes == net.classes
    meta = open_source("hf://org/mine").meta
    assert meta == dict(classes=["ant", "bee", "cat"])
