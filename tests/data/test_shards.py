"""Data sets in tars: the same samples as from the folder, here and from a server with faults."""

import io
import json
import pickle
import shutil
import tarfile
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import numpy as np
import pytest
from torch import nn
from torch.utils.data import DataLoader

import vgg_mm
from tools.data import sharding
from vgg_mm.data import CorruptImageError, EpochSampler, SeededDataset, parts
from vgg_mm.data.shards import INDEX, Index
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS

CROP = [dict(type="vgg_mm.LoadScaledCrop", S=(40, 60), size=32), dict(type="vgg_mm.DrawLighting")]
KEYS = [(0, 0, i) for i in range(8)]  # every image


@pytest.fixture(scope="module")
def packed(jpeg_tree, tmp_path_factory):
    """The images of ``jpeg_tree/train`` in tars of three or so."""
    out = tmp_path_factory.mktemp("packed") / "train"
    sharding.pack(dict(type="vgg_mm.Folders", data_root=str(jpeg_tree / "train")), out, 9000)
    assert len([*out.glob("*.tar")]) > 2
    return out


class Server(SimpleHTTPRequestHandler):
    """Files and ranges of them; of ``faults``, each request of a tar takes the next."""

    protocol_version = "HTTP/1.1"
    faults: list[str] = []
    requests: list[str] = []
    lock = threading.Lock()
    at_once = most_at_once = 0

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        try:
            with open(self.translate_path(self.path), "rb") as file:
                data = file.read()
        except OSError:
            return self.answer(404, b"")
        wanted = self.headers.get("Range")
        with self.lock:
            fault = self.faults.pop(0) if self.faults and self.path.endswith(".tar") else ""
            self.requests.append(self.path)
        if fault == "dropped":
            self.close_connection = True
            return
        if fault == "503":
            return self.answer(503, b"busy")
        if fault == "404":
            return self.answer(404, b"")
        if fault == "slow":
            time.sleep(1.5)
        if not wanted or fault == "no ranges":
            return self.answer(200, data)
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        if fault == "wrong":
            first, last = first + 512, last + 512
        if fault == "truncated":
            data = data[: first + 700]
        part = data[first : last + 1]
        if not part:
            return self.answer(416, b"")
        fields = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}
        with self.lock:
            type(self).at_once += 1
            type(self).most_at_once = max(self.at_once, self.most_at_once)
        time.sleep(0.01)
        with self.lock:
            type(self).at_once -= 1
        self.answer(206, part, fields, half=fault == "half")

    def answer(self, status, data, fields=(), half=False):
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **dict(fields)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if half else data)
        self.close_connection |= half


@pytest.fixture
def server(packed, monkeypatch):
    """The tars' address."""

    class Handler(Server):
        faults, requests = [], []

        def __init__(self, *args):
            super().__init__(*args, directory=str(packed.parent))

    monkeypatch.setattr(parts, "WAITS", (0.01, 0.02, 0.02, 0.02))
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    Handler.url = f"http://127.0.0.1:{httpd.server_port}"
    yield Handler
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def dataset(root, **kwargs):
    return DATASETS.build(dict(type="vgg_mm.Shards", data_root=str(root), **kwargs))


def seeded(type, root, pipeline=CROP, **kwargs):
    return SeededDataset(
        dict(type=f"vgg_mm.{type}", data_root=str(root), pipeline=pipeline, **kwargs)
    )


def _told(sample):
    image, label, name = sample["img"], sample["gt_label"], sample["img_path"]
    lighting, corrupt = sample["lighting"].tolist(), len(sample["corrupt"])
    return image.tobytes(), label, name.partition("/train/")[2], lighting, corrupt


def batches(data, epochs=2, skip=0, **kwargs):
    """What a training gets, sample by sample."""
    sampler, found = EpochSampler(data, seed=3), []
    loader = DataLoader(data, 3, sampler=sampler, collate_fn=list, **kwargs)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        if epoch == epochs - 1:
            sampler.skip(skip)
        found += [_told(sample) for batch in loader for sample in batch]
    return found


def test_samples_are_the_folders_bit_by_bit(packed, jpeg_tree):
    folder, shards = seeded("Folders", jpeg_tree, split="train"), seeded("Shards", packed)
    assert shards.metainfo == folder.metainfo
    expected = batches(folder)
    assert len({image for image, *_ in expected}) == len(expected)
    assert batches(shards) == expected
    assert batches(shards, skip=3) == expected[: len(folder)] + expected[len(folder) + 3 :]


def test_they_are_evaluated_as_the_folders_are(packed, jpeg_tree):
    net, how = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), dict(views="crops")
    how |= dict(scales=48, input="torchvision", crop_size=32)
    data = dataset(packed)
    expected = vgg_mm.evaluate(net, jpeg_tree / "train", **how)
    found = vgg_mm.evaluate(net, data, **how)
    assert np.array_equal(found.posteriors, expected.posteriors)
    assert np.array_equal(found.labels, expected.labels) and len(found.labels) == 8


def test_workers_read_the_same(packed, jpeg_tree, server):
    remote = seeded("Shards", server.url, split="train")
    expected = batches(seeded("Folders", jpeg_tree, split="train"), 1)
    assert batches(remote, 1) == expected  # so that a fork's parent has connections and threads
    workers = dict(num_workers=2, multiprocessing_context="fork")
    assert batches(remote, 1, **workers) == expected
    assert batches(seeded("Shards", packed), 1, **workers) == expected
    assert batches(pickle.loads(pickle.dumps(remote)), 1) == expected  # what a spawned one gets


def test_images_kept_in_memory_are_read_once(server, jpeg_tree):
    load = [dict(type="vgg_mm.LoadImage", in_memory=True)]
    folder, shards = (
        seeded(*of, pipeline=load, split="train")
        for of in (("Folders", jpeg_tree), ("Shards", server.url))
    )
    server.requests.clear()
    for key in [(0, 0, i) for i in range(len(folder))] * 2:
        assert np.array_equal(shards[key]["img"], folder[key]["img"])
    assert len(server.requests) == len(folder)
    crops = [dict(CROP[0], in_memory=True), CROP[1]]
    assert batches(seeded("Shards", server.url, crops, split="train"), 1) == batches(
        seeded("Folders", jpeg_tree, split="train"), 1
    )


def test_a_groups_images_are_asked_for_side_by_side(server):
    data = seeded("Shards", server.url, split="train")
    data.__getitems__(KEYS)
    assert server.most_at_once > 2


@pytest.mark.parametrize("fault", ["dropped", "half", "503", "slow", "wrong", "truncated"])
def test_what_a_server_fails_at_is_asked_for_again(server, jpeg_tree, fault, monkeypatch):
    if fault == "slow":
        monkeypatch.setattr(parts, "TIMEOUT", dict(total=0.5))
    data = seeded("Shards", server.url, split="train")
    server.faults += [fault] * (1 if fault in ("wrong", "truncated") else 3)
    found = batches(data, 1)
    assert found == batches(seeded("Folders", jpeg_tree, split="train"), 1)
    assert not any(corrupt for *_, corrupt in found) and not server.faults


def test_a_server_that_stays_away_ends_in_one_line(server, monkeypatch):
    data, drawn = dataset(server.url, split="train"), seeded("Shards", server.url, split="train")
    for fault, says in (("503", "503"), ("dropped", "Disconnected"), ("slow", "Timeout")):
        server.faults[:] = [fault] * 99
        if fault == "slow":
            monkeypatch.setattr(parts, "TIMEOUT", dict(total=0.2))
        with pytest.raises(UserError, match=rf"\.tar: no answer in 5 tries, .*{says}.*--resume"):
            data.get_data_info(1)["file"].read()
    server.faults[:] = ["503"] * 99
    with pytest.raises(UserError, match="no answer") as ended:  # and no other image takes its place
        drawn[0, 0, 1]
    assert not isinstance(ended.value, CorruptImageError)


def test_a_server_without_ranges_ends_in_one_line(server):
    data = dataset(server.url, split="train")
    server.faults[:] = ["no ranges"] * 99
    with pytest.raises(UserError, match=r"\.tar: its server sends whole files alone"):
        data.get_data_info(1)["file"].read()


@pytest.mark.parametrize("fault", ["404", "truncated", "wrong"])
def test_a_damaged_shard_is_a_corrupt_image(server, fault):
    data = seeded("Shards", server.url, split="train")
    server.faults[:] = [fault] * (1 if fault == "404" else 2)
    sample = data[0, 0, 5]
    (told,) = sample["corrupt"]
    says = {"404": "HTTP 404", "truncated": "is truncated: it ends", "wrong": "holds another file"}
    assert f"{server.url}/train/" in told and says[fault] in told and sample["img_path"] not in told


def test_fsspecs_other_stores_are_read(packed, jpeg_tree):
    store = fsspec.filesystem("memory")
    store.put(str(packed), "/store/train", recursive=True)
    data = seeded("Shards", "memory://store", split="train")
    assert batches(data, 1) == batches(seeded("Folders", jpeg_tree, split="train"), 1)
    store.rm("/store/train/00001.tar")
    (told, *_) = (sample["corrupt"][0] for sample in data.__getitems__(KEYS) if sample["corrupt"])
    assert told.endswith(".jpg: memory://store/train/00001.tar: missing.")


def test_a_local_shard_that_is_cut_gone_or_another(packed, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(packed, out)
    data = seeded("Shards", out)
    first = data.dataset.get_data_info(0)["img_path"]
    tar = out / "00000.tar"
    whole = tar.read_bytes()
    for content, says in (
        (whole[:800], "00000.tar is truncated: it ends at byte 800."),
        (whole[512:] + bytes(512), "00000.tar holds another file than the index says at byte 0."),
        (None, "No such file or directory: '"),
    ):
        tar.write_bytes(content) if content else tar.unlink()
        corrupt = data[0, 0, 0]["corrupt"]
        assert any(each.startswith(f"{first}: ") and says in each for each in corrupt)


def test_an_index_that_is_missing_or_none_ends_in_one_line(tmp_path, server):
    with pytest.raises(UserError, match=r"no index of shards .*index\.npz: No such file"):
        dataset(tmp_path)
    (tmp_path / INDEX).write_bytes(b"no index")
    with pytest.raises(UserError, match=r"no index of shards .*not a zip file"):
        dataset(tmp_path)
    with pytest.raises(UserError, match=r"no index of shards .*nowhere/index\.npz"):
        dataset(server.url, split="nowhere")
    with pytest.raises(UserError, match=r"foo://bar/index\.npz cannot be read: Protocol not known"):
        dataset("foo://bar")


def test_classes_go_by_their_names(packed):
    turned = dataset(packed, classes=["green", "blue", "red"])
    names = {info["img_path"].split("/")[-2]: info["gt_label"] for info in turned.data_list}
    assert names == {"green": 0, "red": 2} and turned.empty == {1}
    with pytest.raises(UserError, match="train has classes that the config lacks: red"):
        dataset(packed, classes=["green", "blue"])
    assert "gt_label" not in dataset(packed, with_label=False)[0]
    assert len(dataset(packed, indices=3)) == 3
    some = dataset(packed).get_subset([5, 1])
    assert [some.get_data_info(i)["img_path"] for i in (0, 1)] == [
        dataset(packed).get_data_info(i)["img_path"] for i in (5, 1)
    ]


def test_a_million_samples_take_no_memory(tmp_path):
    samples = np.zeros(10**6, sharding.SAMPLE)
    names = np.array([b"x/%06d.jpg" % i for i in range(1000)] * 1000)
    meta = np.array(json.dumps(dict(classes=["x"])))
    sharding._write(Index(names, samples, np.array(["0.tar"]), meta), tmp_path)
    start = time.perf_counter()
    data = dataset(tmp_path)
    assert time.perf_counter() - start < 5 and len(data) == 10**6
    assert data.get_data_info(999_999)["img_path"] == f"{tmp_path}/x/000999.jpg"
    assert isinstance(data.data_list.rows.samples.base.base, np.memmap)


# Packing.


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_packing_is_deterministic_and_goes_on_where_it_was(
    packed, jpeg_tree, tmp_path, monkeypatch
):
    cfg, out = dict(type="vgg_mm.Folders", data_root=str(jpeg_tree / "train")), tmp_path / "out"
    write = sharding._pack

    def killed(task):
        if task[0].name == "00002.tar":
            (out / ".00002.tar.1.tmp").write_bytes(b"half")
            raise KeyboardInterrupt
        write(task)

    here = lambda work, items, *_, **__: map(work, items)  # noqa: E731
    monkeypatch.setattr(sharding, "in_processes", here)
    monkeypatch.setattr(sharding, "_pack", killed)
    with pytest.raises(KeyboardInterrupt):
        sharding.pack(cfg, out, 9000)
    assert not (out / INDEX).exists()
    kept = (out / "00000.tar").stat().st_ino
    (out / "00001.tar").write_bytes((out / "00001.tar").read_bytes()[:-512])
    monkeypatch.setattr(sharding, "_pack", write)
    sharding.pack(cfg, out, 9000)
    assert contents(out) == contents(packed) and (out / "00000.tar").stat().st_ino == kept
    sharding.pack(cfg, out, 9000)  # again: nothing to do
    assert (out / "00000.tar").stat().st_ino == kept
    with pytest.raises(UserError, match="index.npz is of something else: name another folder"):
        sharding.pack(cfg, out, 10**6)
    assert contents(out) == contents(packed)


def test_a_file_that_cannot_be_packed_is_named(jpeg_tree, tmp_path, mistake):
    tree = tmp_path / "tree"
    shutil.copytree(jpeg_tree / "train", tree)
    (tree / "red/gone.jpg").symlink_to("nowhere")
    said = mistake("make_shards", tree, tmp_path / "out")
    assert "red/gone.jpg: No such file or directory. Mend that, and run this again" in said
    assert "out is in" in mistake("make_shards", tree, tree / "out")
    assert "DATA is a folder, or tars" in mistake("make_shards", tree, tree, tmp_path / "out")


def test_the_command_packs_any_data_set_with_any_names(jpeg_tree, tmp_path, tool):
    tree = tmp_path / "tree"
    names = ["a b.jpg", "ä.jpg", "x" * 120 + ".jpg"]
    for name in names:
        (tree / "deep/folder").mkdir(parents=True, exist_ok=True)
        shutil.copy(jpeg_tree / "val/red/0.jpg", tree / "deep/folder" / name)
    (tree / "empty.jpg").touch()
    (tmp_path / "list.txt").write_text(
        "".join(f"deep/folder/{name} 1\n" for name in names) + "empty.jpg 0\n"
    )
    options = [f"ann_file={tmp_path}/list.txt", "classes=['a','b']"]
    printed = tool("make_shards", tree, tmp_path / "out", "--dataset", *options)
    assert "out: 4 images in 1 tars, 0.00 GB" in printed
    data = dataset(tmp_path / "out", pipeline=[dict(type="vgg_mm.LoadImage")])
    infos = [data.get_data_info(i) for i in range(4)]
    assert [info["gt_label"] for info in infos] == [1, 1, 1, 0]
    assert [info["img_path"] for info in infos[:3]] == [
        f"{tmp_path}/out/deep/folder/{name}" for name in names
    ]
    original = (jpeg_tree / "val/red/0.jpg").read_bytes()
    assert [info["file"].read() for info in infos] == [original] * 3 + [b""]
    with tarfile.open(tmp_path / "out/00000.tar") as tar:
        assert [member.name for member in tar] == [f"deep/folder/{n}" for n in names] + [
            "empty.jpg"
        ]
    with pytest.raises(CorruptImageError, match="empty.jpg: the file is empty"):
        data[3]


def write_tar(path, files, format=tarfile.GNU_FORMAT):
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("where", ["here", "http"])
@pytest.mark.parametrize("kind", ["cls", "names", "json", "folders"])
def test_webdatasets_tars_are_indexed(jpeg_tree, packed, server, tmp_path, kind, where, tool):
    images = {
        f"{color}/{i}": (jpeg_tree / f"val/{color}/{i}.jpg").read_bytes()
        for color in ("red", "green")
        for i in (0, 1)
    }
    folder = packed.parent / f"{kind}-{where}"  # what the server serves
    folder.mkdir()
    for number, color in enumerate(("red", "green")):
        files = {}
        for i, (name, data) in enumerate(images.items()):
            if not name.startswith(color):
                continue
            key = name if kind == "folders" else ("k" * 130 if i % 2 else "k") + str(i)
            label = {
                "cls": {f"{key}.cls": str(number).encode()},
                "names": {f"{key}.cls": color.encode()},
                "json": {f"{key}.json": json.dumps(dict(label=number)).encode()},
                "folders": {},
            }[kind]
            files |= {f"{key}.jpg": data, **label, f"{key}.txt": b"a caption"}
            files |= {f"{key}.mask.png": b"a mask"} if label else {}
        format = tarfile.PAX_FORMAT if number else tarfile.GNU_FORMAT
        write_tar(folder / f"{number}.tar", files, format)
    root = folder if where == "here" else f"{server.url}/{folder.name}"
    server.faults[:] = ["503", "dropped"]
    tool("make_shards", f"{root}/0.tar", f"{root}/1.tar", tmp_path / "out")
    data = dataset(tmp_path / "out")
    infos = [data.get_data_info(i) for i in range(4)]
    assert [info["file"].read() for info in infos] == [*images.values()]
    named = kind in ("names", "folders")
    assert [info["gt_label"] for info in infos] == ([1, 1, 0, 0] if named else [0, 0, 1, 1])
    assert data.metainfo.get("classes") == (("green", "red") if named else None)
    if not named:
        assert data.largest[0] == 1
        assert dataset(tmp_path / "out", classes=["r", "g"]).metainfo["classes"] == ("r", "g")


def test_tars_that_are_none_are_named(jpeg_tree, tmp_path, mistake):
    image = (jpeg_tree / "val/red/0.jpg").read_bytes()
    tar, out = tmp_path / "x.tar", tmp_path / "out"
    write_tar(tar, {"a.jpg": image})
    assert "x.tar: a.jpg has neither a.cls, nor a.json, nor a folder." in mistake(
        "make_shards", tar, out
    )
    write_tar(tar, {"a.txt": image})
    assert "x.tar: no image" in mistake("make_shards", tar, out)
    write_tar(tar, {"c/a.jpg": image})
    tar.write_bytes(tar.read_bytes()[:900])
    assert "x.tar is no whole tar of images and labels: unexpected end" in mistake(
        "make_shards", tar, out
    )
    assert "y.tar is no whole tar" in mistake("make_shards", tmp_path / "y.tar", out)
    assert "--dataset split: each is KEY=VALUE" in mistake(
        "make_shards", tmp_path, out, "--dataset", "split"
    )
    write_tar(tar, {"c/a.jpg": image, "c/b.jpg": image})
    whole = bytearray(tar.read_bytes())
    at = whole.index(b"c/b.jpg")  # its header
    tar.write_bytes(whole[:at])
    assert f"neither a header nor the end at byte {at}" in mistake("make_shards", tar, out)
    whole[at] ^= 1
    tar.write_bytes(whole)
    assert f"neither a header nor the end at byte {at}" in mistake("make_shards", tar, out)
    assert not out.exists()
