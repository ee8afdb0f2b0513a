import errno
import io
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from tools.data import prepare_imagenet as tool
from vgg_mm.errors import UserError

# The devkit's numbers 1, 2, 3 are not in the order of the names.
CLASSES = ["n01484850", "n01440764", "n01443537"]
TRAIN_IMAGES = {"n01440764": 3, "n01443537": 1, "n01484850": 2}
VAL_NUMBERS = [3, 1, 2, 2, 3, 1]
COUNTS = tool.Counts(classes=3, train=6, val_per_class=2)


def element(kind, data):
    """A MAT v5 data element, in the short form where it fits."""
    if len(data) <= 4:
        return struct.pack("<HH4s", kind, len(data), data)
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(kind, shape, data, name=b""):
    flags, shape = struct.pack("<II", kind, 0), struct.pack("<2i", *shape)
    body = element(6, flags) + element(5, shape) + element(1, name) + data
    return struct.pack("<II", 14, len(body)) + body


def value(item):
    """Doubles stored as small integers and UTF-8 text, as MATLAB writes them."""
    if isinstance(item, str):
        return matrix(4, (1, len(item)), element(16, item.encode()))
    numbers = item if isinstance(item, list) else [item]
    return matrix(6, (1, len(numbers)), element(4, struct.pack(f"<{len(numbers)}H", *numbers)))


def meta_mat(classes):
    """The devkit's table: a column of structs, the classes and their common ancestor."""
    rows = [
        (i, wnid, f"word {i}", f"gloss {i}", 0, [], 0, TRAIN_IMAGES.get(wnid, 1))
        for i, wnid in enumerate(classes, 1)
    ]
    rows.append((len(rows) + 1, "n01317541", "animal", "one that breathes", 3, [1, 2, 3], 1, 0))
    fields = b"ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images"
    names = b"".join(field.ljust(32, b"\0") for field in fields.split())
    cells = b"".join(value(item) for row in rows for item in row)
    body = element(5, struct.pack("<i", 32)) + element(1, names) + cells
    packed = zlib.compress(matrix(2, (len(rows), 1), body, b"synsets"))
    return (
        b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed
    )


def add(tar, name, data=b"", **attributes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, item in attributes.items():
        setattr(member, key, item)
    tar.addfile(member, io.BytesIO(data))


def write_devkit(path, classes=CLASSES, numbers=VAL_NUMBERS):
    truth = "".join(f"{number}\n" for number in numbers).encode()
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "ILSVRC2012_devkit_t12", type=tarfile.DIRTYPE)
        add(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta_mat(classes))
        add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth)


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            add(tar, name, data)


def write_train(path, images, extra=None):
    """The tar of the classes' tars; `extra(tar)` adds to the first of these."""
    with tarfile.open(path, "w") as outer:
        for wnid in sorted(TRAIN_IMAGES):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for name, data in images.items():
                    if name.startswith(f"train/{wnid}/"):
                        add(inner, name.rsplit("/")[-1], data)
                if extra:
                    extra(inner)
                    extra = None
            add(outer, f"{wnid}.tar", buffer.getvalue())


def make_images():
    names = [f"train/{c}/{c}_{i * 77}.JPEG" for c, n in TRAIN_IMAGES.items() for i in range(n)]
    names += [
        f"val/{CLASSES[number - 1]}/ILSVRC2012_val_{i:08d}.JPEG"
        for i, number in enumerate(VAL_NUMBERS, 1)
    ]
    return {name: name.encode() * (40 * i + 1) for i, name in enumerate(names)}


IMAGES = make_images()


@pytest.fixture
def src(tmp_path):
    folder = tmp_path / "src"
    folder.mkdir()
    write_devkit(folder / tool.DEVKIT)
    write_train(folder / tool.TRAIN, IMAGES)
    val = {Path(name).name: data for name, data in IMAGES.items() if name.startswith("val/")}
    write_tar(folder / tool.VAL, val)
    return folder


@pytest.fixture
def dst(tmp_path):
    return tmp_path / "imagenet"


def files(folder, pattern="*/*/*"):
    found = (path for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def prepare(src, dst, counts=COUNTS, **kwargs):
    tool.prepare(src, dst, counts, **kwargs)


def test_layout(src, dst):
    prepare(src, dst)
    assert files(dst) == IMAGES
    assert not list(dst.rglob("*.part"))


def test_labels_are_the_ranks_of_the_class_names(src, dst):
    from mmpretrain.datasets import ImageNet

    prepare(src, dst)
    for split in ("train", "val"):
        data = ImageNet(data_root=str(dst), split=split, metainfo={"classes": ("a", "b", "c")})
        labels = {Path(data[i]["img_path"]).name: data[i]["gt_label"] for i in range(len(data))}
        assert labels == {
            Path(name).name: sorted(CLASSES).index(name.split("/")[1])
            for name in IMAGES
            if name.startswith(split)
        }


def killed_run(src, dst, moment, count):
    """Runs `prepare` in a process of its own, which dies at the `count`-th image."""
    left = [count]

    def then_die(function, arguments=None):
        def call(*args):
            left[0] -= 1
            if left[0]:
                return function(*args)
            if arguments:
                function(*arguments(*args))
                args[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)

        return call

    def target():
        if moment == "half an image":
            half = then_die(shutil.copyfileobj, lambda a, b: (io.BytesIO(a.read()[:20]), b))
            tool.shutil.copyfileobj = half
        else:
            tool.Path.replace = then_die(Path.replace)
        prepare(src, dst)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.parametrize("moment", ["half an image", "before the rename"])
def test_killed_and_run_again(src, dst, moment):
    for count in (1, 4, 3, 2, 1):  # each saves one image fewer than it counts
        before = {path: path.stat().st_mtime_ns for path in dst.glob("*/*/*")}
        killed_run(src, dst, moment, count)
        assert files(dst).items() <= IMAGES.items()
        assert before.items() <= {p: p.stat().st_mtime_ns for p in dst.glob("*/*/*")}.items()
        assert len(list(dst.glob(".*.part"))) == 1
    assert len(files(dst)) == 6
    prepare(src, dst)
    assert files(dst) == IMAGES
    assert not list(dst.rglob("*.part"))


def test_complete_classes_are_not_read_again(src, dst, monkeypatch):
    prepare(src, dst)
    victim = dst / "train/n01443537/n01443537_0.JPEG"
    victim.write_bytes(b"cut short")
    saved = []
    save = tool.Layout.save
    monkeypatch.setattr(tool.Layout, "save", lambda *args: (saved.append(args[3]), save(*args)))
    prepare(src, dst)
    assert [path for path in saved if "train" in path.parts] == [victim]
    assert files(dst) == IMAGES


def test_a_journal_line_cut_short_does_no_harm(src, dst):
    prepare(src, dst)
    journal = dst / ".prepare_imagenet.done"
    journal.write_text(journal.read_text()[:-9])
    (dst / "train/n01484850/n01484850_0.JPEG").unlink()
    prepare(src, dst)
    assert files(dst) == IMAGES


def test_files_of_others_are_used_but_never_replaced(src, dst):
    resized, same = sorted(name for name in IMAGES if "train/n01484850" in name)
    for name, data in ((resized, b"the user's smaller copy"), (same, IMAGES[same])):
        (dst / name).parent.mkdir(parents=True, exist_ok=True)
        (dst / name).write_bytes(data)
    for _ in range(2):
        with pytest.raises(UserError, match=f"{Path(resized).name} has 23 bytes.*not replaced"):
            prepare(src, dst)
    assert (dst / resized).read_bytes() == b"the user's smaller copy"
    (dst / resized).rename(dst / "mine.JPEG")
    prepare(src, dst)
    assert files(dst) == IMAGES
    assert (dst / "mine.JPEG").exists()


@pytest.mark.parametrize("name", [tool.TRAIN, tool.VAL])
def test_archive_cut_short(src, dst, name):
    archive = src / name
    data = archive.read_bytes()
    for length in [0, 100, *range(512, len(data), 1999), len(data) - 512]:
        archive.write_bytes(data[:length])
        try:
            prepare(src, dst)
        except UserError as error:
            kind = name.split("_")[-1][:-4]
            assert name in str(error) or f"{kind} holds" in str(error)
        else:
            assert length > len(data) - 10240, "only the padding may lack"
        assert files(dst).items() <= IMAGES.items()
    archive.write_bytes(data)
    prepare(src, dst)
    assert files(dst) == IMAGES


def test_damaged_header(src, dst):
    archive = src / tool.TRAIN
    data = archive.read_bytes()
    at = data.index(b"n01440764_77.JPEG")
    archive.write_bytes(data[:at] + b"X" + data[at + 1 :])
    with pytest.raises(UserError, match=r"n01440764.tar in .*img_train.tar is damaged"):
        prepare(src, dst)
    assert len(files(dst, "train/*/*")) == 1
    archive.write_bytes(data)
    prepare(src, dst)
    assert files(dst) == IMAGES


def test_damaged_devkit(src, dst):
    devkit = src / tool.DEVKIT
    data = devkit.read_bytes()
    for damaged in (b"", b"no archive", data[: len(data) // 2], data[:200] + bytes(9) + data[209:]):
        devkit.write_bytes(damaged)
        with pytest.raises(UserError, match="devkit_t12.tar.gz is damaged"):
            prepare(src, dst)
    with tarfile.open(devkit, "w:gz") as tar:
        add(tar, "data/meta.mat", meta_mat(CLASSES)[:300])
    with pytest.raises(UserError, match="class tables cannot be read"):
        prepare(src, dst)
    assert not dst.exists()


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("../../evil.JPEG", {}),
        ("/n01440764_5.txt", {}),
        ("n01440764_5.JPEG/..", {}),
        ("n01440764_5.JPEG", {"type": tarfile.SYMTYPE, "linkname": "../../../src"}),
        ("n01440764_5.JPEG", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}),
        ("n01440764_5.JPEG", {"type": tarfile.FIFOTYPE}),
    ],
)
def test_hostile_members(src, dst, name, attributes):
    write_train(src / tool.TRAIN, IMAGES, lambda tar: add(tar, name, **attributes))
    before = files(dst.parent, "**/*")
    with pytest.raises(UserError, match="n01440764.tar holds .* this is not ILSVRC-2012"):
        prepare(src, dst)
    after = files(dst.parent, "**/*")
    assert all(path.startswith("imagenet/") for path in after.keys() - before.keys())
    assert files(dst).items() <= IMAGES.items()


def test_a_members_folder_is_ignored(src, dst):
    name = "n01440764_5.JPEG"
    write_train(src / tool.TRAIN, IMAGES, lambda tar: add(tar, f"../../../{name}", b"inside"))
    prepare(src, dst, tool.Counts(3, 7, 2))
    assert files(dst) == IMAGES | {f"train/n01440764/{name}": b"inside"}


def test_hostile_devkit(src, dst):
    write_devkit(src / tool.DEVKIT, classes=[*CLASSES[:2], "../../../n01443537"])
    with pytest.raises(UserError, match="class tables cannot be read"):
        prepare(src, dst)
    assert not dst.exists()


# What people have.

VAL = {name: data for name, data in IMAGES.items() if name.startswith("val/")}
LABELS = {Path(name).stem: name.split("/")[1] for name in VAL}
SPLITS = {
    split: {name: data for name, data in IMAGES.items() if name.startswith(split)}
    for split in ("train", "val")
}


def write(folder, images):
    for name, data in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def flat(images):
    return {Path(name).name: data for name, data in images.items()}


def write_table(path, labels=LABELS):
    """Kaggle's: in no order, a class and a box for each object."""
    lines = [f"{name},{wnid} 1 2 30 40 {wnid} 5 6 70 80 \n" for name, wnid in labels.items()]
    path.write_text("ImageId,PredictionString\n" + "".join(reversed(lines)))


@pytest.fixture
def kaggle(tmp_path):
    """Kaggle's folder, and what systems leave in folders."""
    root = tmp_path / "kaggle"
    data = root / "ILSVRC/Data/CLS-LOC"
    write(data, SPLITS["train"])
    write(data / "val", flat(VAL))
    write(data, {"test/ILSVRC2012_test_00000001.JPEG": b"of no use"})
    write_table(root / "LOC_val_solution.csv")
    (root / "LOC_synset_mapping.txt").write_text("n01440764 tench, Tinca tinca\n")
    for junk in ("train/.ipynb_checkpoints/n01440764_1.JPEG", "train/n01440764/._n01440764_0.JPEG"):
        write(data, {junk: b"hidden"})
    return root


@pytest.mark.parametrize("named", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("link", [False, True])
def test_kaggles_layout(kaggle, dst, named, link, capsys):
    prepare(kaggle / named, dst, link=link)
    assert files(dst) == IMAGES
    assert {path.is_symlink() for path in dst.glob("*/*/*")} == {link}
    out = capsys.readouterr().out
    verb = "linked" if link else "copied"
    data = kaggle / "ILSVRC/Data/CLS-LOC"
    assert f"train: 6 images, 0.0 GB, in {data}/train: to be {verb} to {dst}/train\n" in out
    assert f"labels of val: {kaggle}/LOC_val_solution.csv\n" in out
    assert len(list(data.glob("val/*.JPEG"))) == 6 and "missing" not in out


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_of_kaggles_folders(kaggle, dst, split):
    assert tool.prepare(kaggle / "ILSVRC/Data/CLS-LOC" / split, dst, COUNTS) == {split: 6}
    assert files(dst) == SPLITS[split]


def test_links_that_lead_nowhere_are_made_anew(kaggle, dst, tmp_path):
    prepare(kaggle, dst, link=True)
    kaggle.rename(tmp_path / "moved")
    assert files(dst) == {}
    prepare(tmp_path / "moved", dst, link=True)
    assert files(dst) == IMAGES
    with pytest.raises(UserError, match="kaggle lacks .* and has no train and no val with images"):
        prepare(kaggle, dst)


def test_copies_take_the_place_of_links_and_leave_the_linked_as_it_is(kaggle, dst, src):
    prepare(kaggle, dst, link=True)
    linked = kaggle / "ILSVRC/Data/CLS-LOC/train/n01443537/n01443537_0.JPEG"
    linked.write_bytes(b"damaged there")
    prepare(src, dst)
    assert files(dst) == IMAGES
    assert linked.read_bytes() == b"damaged there"


@pytest.mark.parametrize("packed", ["folders", "tars", "the folder of tars", "named as the tar"])
def test_an_unpacked_train(src, dst, tmp_path, packed, capsys):
    train = {"named as the tar": tool.TRAIN[:-4], "the folder of tars": ""}.get(packed, "train")
    if "tars" in packed:
        with tarfile.open(src / tool.TRAIN) as tar:
            tar.extractall(src / train, filter="data")
    else:
        write(src / train, {name[6:]: data for name, data in SPLITS["train"].items()})
    (src / tool.TRAIN).unlink()
    prepare(src, dst)
    assert files(dst) == IMAGES
    holds = "3 class tars" if "tars" in packed else "6 images"
    assert f"train: {holds}, 0.0 GB, in {src / train}: to be" in capsys.readouterr().out
    prepare(src, dst)
    assert files(dst) == IMAGES


def test_an_archive_comes_before_a_folder_that_lacks_images(src, dst, capsys):
    some = dict(list(SPLITS["train"].items())[:4])
    write(src, some)
    prepare(src, dst)
    assert files(dst) == IMAGES
    assert f"train: 1 archive, 0.0 GB, in {src / tool.TRAIN}" in capsys.readouterr().out
    (src / tool.TRAIN).unlink()
    shutil.rmtree(dst)
    with pytest.raises(
        UserError, match="train holds 4 images in 2 classes.* See n01484850. Either w"
    ):
        prepare(src, dst)
    assert "train: 4 of 6 images" in capsys.readouterr().out


@pytest.mark.parametrize("labels", ["devkit", "unpacked devkit", "table", "folders"])
@pytest.mark.parametrize("packed", [True, False])
def test_validation_alone(src, dst, labels, packed, capsys):
    (src / tool.TRAIN).unlink()
    if labels == "unpacked devkit":
        with tarfile.open(src / tool.DEVKIT) as tar:
            tar.extractall(src, filter="data")
    if labels != "devkit":
        (src / tool.DEVKIT).unlink()
    if labels == "table":
        write_table(src / "LOC_val_solution.csv")
    if not packed:
        (src / tool.VAL).unlink()
        write(
            src / ("" if labels == "folders" else "val"), VAL if labels == "folders" else flat(VAL)
        )
    if labels == "folders" and packed:
        with pytest.raises(
            UserError, match=r"img_val.tar has no labels: put .*\(2.5 MB.*Kaggle's L"
        ):
            prepare(src, dst)
        return
    assert tool.prepare(src, dst, COUNTS) == {"val": 6}
    assert files(dst) == VAL
    out = capsys.readouterr().out
    assert f"train: missing; it would come from {tool.TRAIN}" in out
    with pytest.raises(UserError, match="train holds 0 images|lacks"):  # nor is it called complete
        tool.Layout(dst, {}).check(COUNTS, ["train"])


def test_training_alone_then_validation(src, dst, capsys):
    labels, val = (src / tool.DEVKIT).read_bytes(), (src / tool.VAL).read_bytes()
    for name in (tool.DEVKIT, tool.VAL):
        (src / name).unlink()
    assert tool.prepare(src, dst, COUNTS) == {"train": 6}
    assert files(dst) == SPLITS["train"]
    (src / tool.TRAIN).unlink()
    (src / tool.DEVKIT).write_bytes(labels)
    (src / tool.VAL).write_bytes(val)
    assert tool.prepare(src, dst, COUNTS) == {"train": 6, "val": 6}
    assert (
        f"train: nothing in {src}; 6 images are in {dst}/train already" in capsys.readouterr().out
    )
    assert files(dst) == IMAGES


def test_validation_alone_then_training_that_the_user_had_made(src, dst):
    train = (src / tool.TRAIN).read_bytes()
    (src / tool.TRAIN).unlink()
    assert tool.prepare(src, dst, COUNTS) == {"val": 6}
    theirs = dst / next(iter(SPLITS["train"]))
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"resized")
    (src / tool.TRAIN).write_bytes(train)
    with pytest.raises(UserError, match="something else made it, so it is not replaced"):
        tool.prepare(src, dst, COUNTS)
    assert theirs.read_bytes() == b"resized"


def test_small_letters_in_the_ending(src, dst):
    for name in (tool.TRAIN, tool.VAL):
        (src / name).unlink()
    write(src, {name.replace(".JPEG", ".jpeg"): data for name, data in IMAGES.items()})
    prepare(src, dst, link=True)
    assert files(dst) == IMAGES


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ILSVRC2012_val_00000001,n01440764 1 2 3 4 n01443537 1 2 3 4", "line 8: 'ILSVRC2012"),
        ("ILSVRC2012_val_00000001,", "line 8"),
        ("ILSVRC2012_val_1,n01440764 1 2 3 4", "line 8"),
        ("ILSVRC2012_val_00000001,n01440764 1 2 3 4", "line 8"),  # a second time
        ("ILSVRC2012_val_00000007,n01440764 1 2 3 4", "lists 7 validation images in 3 classes"),
    ],
)
def test_a_damaged_table(kaggle, dst, line, told):
    with open(kaggle / "LOC_val_solution.csv", "a") as table:
        table.write(line + "\n")
    with pytest.raises(UserError, match=rf"LOC_val_solution.csv.*{told}"):
        prepare(kaggle, dst)
    assert not dst.exists()


def test_images_of_no_class_or_without_label(kaggle, dst):
    data = kaggle / "ILSVRC/Data/CLS-LOC"
    for stray in ("train/n99999999/n99999999_1.JPEG", "val/ILSVRC2012_val_00000009.JPEG"):
        write(data, {stray: b"stray"})
        with pytest.raises(
            UserError, match=rf"{Path(stray).name} is in no class of ILSVRC-2012, or"
        ):
            prepare(kaggle, dst)
        (data / stray).unlink()
    (data / "train/n99999999").rmdir()
    prepare(kaggle, dst)


def test_what_there_is_not(src, dst, kaggle):
    with pytest.raises(UserError, match="nowhere lacks .*img_train.*Download .*registration"):
        prepare(src / "nowhere", dst)
    with pytest.raises(UserError, match="--link: .* has archives, which must be unpacked"):
        prepare(src, dst, link=True)
    with pytest.raises(UserError, match="--md5: .* has none of ILSVRC2012_img_train.tar"):
        prepare(kaggle, dst, md5=True)
    assert not dst.exists()


def test_wrong_counts(src, dst):
    with pytest.raises(UserError, match="train holds 6 images in 3 classes, not 8 in 3"):
        prepare(src, dst, tool.Counts(3, 8, 2))
    with pytest.raises(UserError, match="6 validation images in 3 classes, not 50 in each"):
        prepare(src, dst, tool.Counts())
    (dst / "train/strays").mkdir()
    with pytest.raises(UserError, match="6 images in 4 classes, not 6 in 3. See strays"):
        prepare(src, dst)
    (dst / "train/strays").rmdir()
    (dst / "val/n01440764/mine.JPEG").write_bytes(b"")
    with pytest.raises(UserError, match="val holds 7 images .*See n01440764"):
        prepare(src, dst)
    (dst / "val/n01440764/mine.JPEG").unlink()
    prepare(src, dst)


def test_validation_image_without_label(src, dst):
    write_tar(src / tool.VAL, {"ILSVRC2012_val_00000007.JPEG": b"one too many"})
    with pytest.raises(UserError, match="val.tar holds 'ILSVRC2012_val_00000007.JPEG'"):
        prepare(src, dst)


def test_disk_space(src, dst, monkeypatch):
    usage = type(shutil.disk_usage(src))
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda _: usage(9, 9, 0))
    with pytest.raises(UserError, match="needs 0.0 GB more and its disk has 0.0 GB free"):
        prepare(src, dst)
    assert not files(dst)


def test_md5(src, dst, monkeypatch):
    with pytest.raises(UserError, match="img_train.tar is not image-net.org's"):
        prepare(src, dst, md5=True)
    assert not files(dst)
    sums = {name: tool.hashlib.md5((src / name).read_bytes()).hexdigest() for name in tool.MD5}
    monkeypatch.setattr(tool, "MD5", sums)
    prepare(src, dst, md5=True)
    assert files(dst) == IMAGES


def test_command(src, dst, monkeypatch, capsys):
    monkeypatch.setattr(tool, "Counts", lambda: COUNTS)
    monkeypatch.setattr(sys, "argv", ["prepare_imagenet.py", str(src), str(dst)])
    copy = shutil.copyfileobj
    for error, message in (
        (OSError(errno.ENOSPC, "No space left on device"), "No space left .*Run this again"),
        (KeyboardInterrupt(), "^stopped. Run this again"),
    ):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(tool.shutil, "copyfileobj", fail)
        with pytest.raises(UserError, match=message):
            tool.main()
    monkeypatch.setattr(tool.shutil, "copyfileobj", copy)
    tool.main()
    out = capsys.readouterr().out
    assert "all 6 training and 6 validation images are there" in out.replace("\n", " ")
    assert out.endswith("Next: python tools/train.py configs/vgg16_d_jitter.py\n")
    assert files(dst) == IMAGES


def test_command_line(src, dst):
    command = [sys.executable, tool.__file__, src, dst]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "not 50 in each of 1,000" in result.stderr


def test_the_real_counts():
    counts = tool.Counts()
    assert (counts.classes, counts.train, counts.val_per_class) == (1000, 1281167, 50)
    assert Counter(map(len, tool.MD5.values())) == {32: 3}
