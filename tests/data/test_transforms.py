"""Sec. 3.1: reading pictures, the transforms, and random numbers that depend on nothing else."""

import io
import shutil
import zlib

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image
from torch.utils.data import ConcatDataset as TorchConcat
from torch.utils.data import DataLoader, Subset, TensorDataset

from vgg_mm import paper
from vgg_mm.data import (
    CenterCrop,
    CorruptImageError,
    EpochSampler,
    Folders,
    ImageNet,
    LoadImage,
    MultiScale,
    PCALighting,
    RandomCrop,
    RandomFlip,
    Rescale,
    ScaleJitter,
    SeededDataset,
    decode,
    read_image,
    rescale,
    seeding,
)
from vgg_mm.errors import UserError
from vgg_mm.registry import DATASETS


def smooth(height, width, seed=0):
    """An RGB picture without symmetry, (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(pixels, format, mode=None, **options):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
    buffer = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(buffer, format, **options)
    return buffer.getvalue()


JPEG = encode(smooth(60, 80), "JPEG", quality=95)
PNG = encode(smooth(60, 80), "PNG")


def psnr(a, b):
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


# Reading.


def test_reads_bgr(tmp_path):
    for name, data in (("a.png", PNG), ("b.JPEG", PNG)):  # ImageNet has a PNG named .JPEG
        (tmp_path / name).write_bytes(data)
        image = read_image(str(tmp_path / name))
        assert image.dtype == np.uint8
        assert np.array_equal(image, smooth(60, 80)[..., ::-1])
    assert psnr(decode(JPEG, "x"), smooth(60, 80)[..., ::-1]) > 35


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colour_spaces(mode):
    image = decode(encode(smooth(60, 80), "JPEG", mode, quality=95), "x")
    expected = Image.fromarray(smooth(60, 80)).convert(mode).convert("RGB")
    assert image.shape == (60, 80, 3)
    assert psnr(image, np.array(expected)[..., ::-1]) > 30
    assert (image.std(2).max() == 0) == (mode == "L")


def test_transparency_is_laid_on_white():
    pixels = np.array([[(200, 100, 0, 255), (200, 100, 0, 128), (200, 100, 0, 0)]], np.uint8)
    on_white = [[[0, 100, 200], [127, 177, 227], [255, 255, 255]]]  # BGR
    assert decode(encode(pixels, "PNG"), "x").tolist() == on_white
    grey = np.array([[(40, 255), (40, 51), (40, 0)]], np.uint8)
    assert decode(encode(grey, "PNG"), "x")[0, :, 0].tolist() == [40, 212, 255]
    assert decode(encode(grey, "PNG"), "x").shape == (1, 3, 3)

    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image = decode(encode(palette, "PNG", transparency=bytes([51, 255, 0])), "x")
    assert image.tolist() == [[[204, 204, 255], [0, 255, 0], [255, 255, 255]]]
    assert decode(encode(palette, "PNG"), "x").tolist() == [[[0, 0, 255], [0, 255, 0], [255, 0, 0]]]

    deep = np.array([[(65535, 0, 0, 65535), (0, 0, 65535, 32768), (0, 0, 0, 0)]], np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    assert decode(data, "x").tolist() == [[[255, 0, 0], [127, 127, 255], [255, 255, 255]]]


def test_16_bits_become_8():
    grey = np.array([[0, 256, 32768, 65535]], np.uint16)
    assert decode(encode(grey, "PNG"), "x")[0].tolist() == [[v] * 3 for v in (0, 1, 128, 255)]
    color = np.array([[(65535, 32768, 0)]], np.uint16)
    assert decode(cv2.imencode(".png", color)[1].tobytes(), "x").tolist() == [[[255, 128, 0]]]


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: x[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda x: np.rot90(x)),
    ],
)
def test_exif_orientation(orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned_jpeg = encode(smooth(60, 80), "JPEG", quality=95, exif=exif)
    assert np.array_equal(decode(turned_jpeg, "x"), turned(decode(JPEG, "x")))


def with_thumbnail(jpeg):
    """A JPEG whose EXIF segment holds another whole JPEG."""
    thumbnail = encode(smooth(12, 16), "JPEG")
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\0\0" + b"\0\0\0\0" + thumbnail
    assert b"\xff\xd9" in exif
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


@pytest.mark.parametrize(
    "jpeg",
    [
        JPEG,
        with_thumbnail(JPEG),
        encode(smooth(60, 80), "JPEG", progressive=True),
        JPEG[:2] + b"\xff\xff" + JPEG[2:],  # bytes that the standard lets fill
        JPEG + b"trailing bytes",
    ],
    ids=["plain", "thumbnail", "progressive", "fill", "trailing"],
)
def test_whole_jpegs_are_not_corrupt(jpeg):
    assert psnr(decode(jpeg, "x"), decode(JPEG, "x")) > 35


HUGE = bytearray(PNG)
HUGE[16:24] = 2 * (1 << 17).to_bytes(4, "big")  # width and height
HUGE[29:33] = zlib.crc32(HUGE[12:29]).to_bytes(4, "big")
PROGRESSIVE = encode(noise(60, 80), "JPEG", progressive=True)


CORRUPT = {
    "empty": (b"", "the file is empty"),
    "start only": (JPEG[:2], "truncated"),
    "start and end only": (JPEG[:2] + JPEG[-2:], "truncated"),
    "no end": (JPEG[:-2], "truncated"),
    "half": (JPEG[: len(JPEG) // 2], "truncated"),
    "thumbnail, no end": (with_thumbnail(JPEG)[:-2], "truncated"),
    "thumbnail, half": (with_thumbnail(JPEG)[: -len(JPEG) // 2], "truncated"),
    "progressive, half": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated"),
    "PNG, no end": (PNG[:-12], "truncated"),
    "PNG, half": (PNG[: len(PNG) // 2], "truncated"),
    "PNG, more pixels than may be": (bytes(HUGE), "131072x131072 pixels, more than 178,956,970"),
    "BMP, head": (encode(smooth(60, 80), "BMP")[:200], "not an image"),
    "text": (b"These are no pixels.", "not an image"),
}


@pytest.mark.parametrize(("data", "says"), CORRUPT.values(), ids=CORRUPT)
def test_corrupt_files_are_named(data, says, tmp_path):
    path = tmp_path / "class_x" / "bad.jpg"
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(CorruptImageError, match=rf"class_x.bad\.jpg: .*{says}"):
        LoadImage()(dict(img_path=str(path)))


def test_load_image_sets_the_shapes_and_keeps_an_image(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    results = LoadImage()(dict(img_path=str(tmp_path / "a.png")))
    assert results["img"].shape == (60, 80, 3)
    assert results["img_shape"] == results["ori_shape"] == (60, 80)
    given = noise(4, 5)
    assert LoadImage()(dict(img_path="nowhere.jpg", img=given))["img"] is given


# Scale.


@pytest.mark.parametrize(
    ("size", "short"),
    [((375, 500), 256), ((500, 333), 224), ((60, 80), 257), ((101, 100), 64), ((64, 1000), 37)],
)
def test_rescale(size, short):
    for picture in (smooth(*size), noise(*size)):
        image = rescale(picture, short)
        assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
        assert min(image.shape[:2]) == short
        for side, before in zip(image.shape, size, strict=False):
            assert abs(side - before * short / min(size)) <= 0.5
        height, width = image.shape[:2]
        # Pillow's bilinear filter averages where it shrinks.
        pillow = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        assert psnr(image, np.array(pillow)) >= 45


def test_rescale_to_the_same_size_changes_nothing():
    image = noise(40, 30)
    assert np.array_equal(rescale(image, 30), image)
    flipped = image[:, ::-1]
    assert np.array_equal(rescale(flipped, 60), rescale(flipped.copy(), 60))


def test_rescale_to_q():
    results = Rescale(Q=32)(dict(img=noise(40, 60)))
    assert results["img"].shape == (32, 48, 3)
    assert results["img_shape"] == (32, 48)
    images = MultiScale([20, 40, 80])(dict(img=noise(40, 60)))["img"]
    assert [image.shape for image in images] == [(20, 30, 3), (40, 60, 3), (80, 120, 3)]
    assert np.array_equal(images[2], rescale(noise(40, 60), 80))


def draw(transform, image, n, **results):
    rng = np.random.default_rng(0)
    return [transform(dict(img=image, rng=rng, **results)) for _ in range(n)]


def test_scale_jitter_is_uniform_with_both_ends():
    shapes = [r["img_shape"] for r in draw(ScaleJitter((4, 8)), noise(6, 12), 2000)]
    sides, counts = np.unique([min(shape) for shape in shapes], return_counts=True)
    assert sides.tolist() == [4, 5, 6, 7, 8]
    assert ((counts - 400) ** 2 / 400).sum() < 18.5  # chi-squared, 4 degrees, p = 0.001
    assert all(width == 2 * height for height, width in shapes)


@pytest.mark.parametrize("S", [5, (5, 5), [5, 5]])
def test_scale_jitter_of_a_fixed_scale(S):
    assert {r["img"].shape for r in draw(ScaleJitter(S), noise(10, 14), 9)} == {(5, 7, 3)}


# Crops and flips.


def numbered(height, width):
    """An image whose pixels tell their place: (y, x, 7)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.full_like(x, 7)], -1).astype(np.uint8)


def test_random_crop_reaches_every_place_alike():
    crops = [r["img"] for r in draw(RandomCrop(5), numbered(7, 8), 3000)]
    corners, counts = np.unique([crop[0, 0, :2] for crop in crops], axis=0, return_counts=True)
    assert corners.tolist() == [[y, x] for y in range(3) for x in range(4)]
    assert ((counts - 250) ** 2 / 250).sum() < 31.3  # chi-squared, 11 degrees, p = 0.001
    for crop in crops[:50]:
        y, x = crop[0, 0, :2]
        assert np.array_equal(crop, numbered(7, 8)[y : y + 5, x : x + 5])
    (whole,) = draw(RandomCrop(5), numbered(5, 5), 1)
    assert np.array_equal(whole["img"], numbered(5, 5))
    assert whole["img_shape"] == (5, 5)


@pytest.mark.parametrize(("size", "corner"), [((7, 9), (1, 2)), ((8, 6), (1, 0)), ((5, 5), (0, 0))])
def test_center_crop(size, corner):
    image = CenterCrop(5)(dict(img=numbered(*size)))["img"]
    y, x = corner
    assert np.array_equal(image, numbered(*size)[y : y + 5, x : x + 5])


@pytest.mark.parametrize("crop", [RandomCrop, CenterCrop])
@pytest.mark.parametrize(("height", "width"), [(6, 4), (4, 6)])
def test_crops_never_return_less(crop, height, width):
    message = f"{crop.__name__}: a/b.jpg is {width}x{height} .* smaller than the crop of 5"
    with pytest.raises(UserError, match=message):
        draw(crop(5), noise(height, width), 1, img_path="a/b.jpg")


def test_random_flip():
    image = numbered(3, 4)
    flipped = [np.array_equal(r["img"], image[:, ::-1]) for r in draw(RandomFlip(), image, 1000)]
    same = [np.array_equal(r["img"], image) for r in draw(RandomFlip(), image, 1000)]
    assert [not f for f in flipped] == same
    assert abs(np.mean(flipped) - 0.5) < 0.05


# Colour.


def lighting(eigval=paper.IMAGENET_EIGVAL, eigvec=paper.IMAGENET_EIGVEC, **kwargs):
    return PCALighting(eigval, eigvec, **kwargs)


def shifts_rgb(transform, n=4000):
    grey = np.full((1, 1, 3), 100, np.uint8)
    return np.array([r["img"][0, 0, ::-1] - 100 for r in draw(transform, grey, n)])


def test_pca_lighting_has_alexnets_units_and_order():
    along = shifts_rgb(lighting()) @ np.array(paper.IMAGENET_EIGVEC)  # components along p_1, 2, 3
    assert np.allclose(along.std(0), 25.5 * np.array(paper.IMAGENET_EIGVAL), rtol=0.05)
    assert np.allclose(along.mean(0), 0, atol=0.3)
    assert np.allclose(np.corrcoef(along.T), np.eye(3), atol=0.06)


def test_pca_lighting_takes_columns_in_rgb_order():
    eigvec = np.array([[0.9, 0, 0], [0.4, 1, 0], [0.1, 0, 1]])
    shifts = shifts_rgb(lighting((0.5, 0, 0), eigvec), 20)
    assert np.allclose(shifts / shifts[:, :1], [1, 4 / 9, 1 / 9], atol=1e-3)
    assert not shifts_rgb(lighting(std=0), 20).any()


def test_pca_lighting_adds_one_shift_to_all_pixels_and_never_wraps():
    image = np.array([[[0, 0, 0], [254, 254, 254]], [[255, 255, 255], [128, 0, 7]]], np.uint8)
    outside = 0
    for results in draw(lighting(), image, 50):
        out = results["img"]
        assert out.dtype == np.float32
        shift = out - image.astype(np.float32)
        assert np.allclose(shift, shift[0, 0], atol=1e-4)
        outside += out.min() < 0
        outside += out.max() > 255
    assert outside >= 50


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lighting(eigval=(14142, 1222, 292)), "divide the eigenvalues.*by 255"),
        (lambda: lighting(eigval=(0.2, 0.1)), "eigval must hold 3 numbers"),
        (lambda: lighting(eigvec=np.eye(2)), "eigvec 3 rows of 3"),
        (lambda: ScaleJitter((512, 256)), r"range \(Smin, Smax\); got \(512, 256\)"),
        (lambda: ScaleJitter((1, 2, 3)), r"got \(1, 2, 3\)"),
        (lambda: ScaleJitter(0), "ScaleJitter: S .* 1 or more; got 0"),
        (lambda: ScaleJitter((0.5, 2)), "got 0.5"),
        (lambda: Rescale(-1), "Rescale: Q .* got -1"),
        (lambda: MultiScale([256, 0]), "MultiScale: each scale .* got 0"),
        (lambda: RandomCrop(0), "RandomCrop: size .* got 0"),
        (lambda: CenterCrop("224"), "CenterCrop: size .* got '224'"),
    ],
)
def test_impossible_options(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize(
    "transform",
    [ScaleJitter(5), RandomCrop(5), RandomFlip(), lighting()],
    ids=lambda t: type(t).__name__,
)
def test_random_transforms_need_the_samples_generator(transform):
    name = type(transform).__name__
    with pytest.raises(UserError, match=f"{name} draws from .*vgg_mm.SeededDataset"):
        transform(dict(img=noise(6, 6)))


# Random numbers are a function of (seed, epoch, index).

TRAINING = [
    dict(type="vgg_mm.LoadImage"),
    dict(type="vgg_mm.ScaleJitter", S=(40, 60)),
    dict(type="vgg_mm.RandomCrop", size=32),
    dict(type="vgg_mm.RandomFlip"),
    dict(
        type="vgg_mm.PCALighting", eigval=paper.IMAGENET_EIGVAL, eigvec=paper.IMAGENET_EIGVEC
    ),
    dict(type="mmpretrain.PackInputs", meta_keys=["img_path", "corrupt"]),
]  # fmt: skip


def training_set(root):
    folders = dict(type="vgg_mm.Folders", data_root=str(root), split="train", pipeline=TRAINING)
    return SeededDataset(folders)


def run(root, epochs=(0, 1), batch_size=3, seed=5, **options):
    """The batches of some epochs: each a list of (path, corrupt, pixels)."""
    dataset = training_set(root)
    sampler = EpochSampler(dataset, seed=seed)
    loader = DataLoader(dataset, batch_size, sampler=sampler, collate_fn=default_collate, **options)
    batches = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        batches.append(
            [
                [(s.img_path, s.corrupt, x.clone()) for x, s in zip(*batch.values(), strict=True)]
                for batch in loader
            ]
        )
    return batches


def same(runs_a, runs_b):
    flat_a, flat_b = (
        [s for epoch in r for batch in epoch for s in batch] for r in (runs_a, runs_b)
    )
    return len(flat_a) == len(flat_b) and all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(flat_a, flat_b, strict=True)
    )


WORKERS = [
    dict(num_workers=1),
    dict(num_workers=3),
    dict(num_workers=3, persistent_workers=True),
]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", WORKERS, ids=str)
def test_workers_change_nothing(workers, jpeg_tree):
    batches = run(jpeg_tree)
    assert same(run(jpeg_tree, multiprocessing_context="fork", **workers), batches)


def test_epochs_and_seeds_differ_and_repeat(jpeg_tree):
    first, second = run(jpeg_tree)
    assert not same([first], [second])
    assert same(run(jpeg_tree, epochs=(1,)), [second])  # as a resumed run starts
    assert same(run(jpeg_tree, epochs=(1, 0, 1)), [second, first, second])
    assert not same(run(jpeg_tree, epochs=(0,), seed=6), [first])
    for epoch in (first, second):
        paths = [path for batch in epoch for path, *_ in batch]
        assert sorted(paths) == sorted(map(str, jpeg_tree.glob("train/*/*.jpg")))
    # The same picture has other random numbers in another epoch, and the order differs.
    pixels = [{path: x for batch in epoch for path, _, x in batch} for epoch in (first, second)]
    assert not any(torch.equal(pixels[0][path], pixels[1][path]) for path in pixels[0])
    assert [list(p) for p in pixels] != [sorted(pixels[0])] * 2


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_make_one_process_batches(world_size, jpeg_tree, monkeypatch):
    ranks = []
    for rank in range(world_size):
        monkeypatch.setattr(seeding, "get_dist_info", lambda rank=rank: (rank, world_size))
        ranks.append(run(jpeg_tree, batch_size=4 // world_size))
    monkeypatch.setattr(seeding, "get_dist_info", lambda: (0, 1))
    for epoch, batches in enumerate(run(jpeg_tree, batch_size=4)):
        assert len(batches) == 2
        for t, batch in enumerate(batches):
            parts = [sample for rank in ranks for sample in rank[epoch][t]]
            order = dict(key=lambda sample: sample[0])
            assert same([[sorted(parts, **order)]], [[sorted(batch, **order)]])


@pytest.mark.parametrize(("length", "world_size", "each"), [(8, 3, 2), (9, 4, 2), (5, 1, 5)])
def test_ranks_share_without_overlap(length, world_size, each, monkeypatch):
    indices = []
    for rank in range(world_size):
        monkeypatch.setattr(seeding, "get_dist_info", lambda rank=rank: (rank, world_size))
        sampler = EpochSampler(range(length), seed=0)
        keys = list(sampler)
        assert len(keys) == len(sampler) == each
        indices += [index for *_, index in keys]
    assert len(set(indices)) == len(indices) == each * world_size


def test_the_order_is_seeded_by_seed_and_epoch():
    orders = set()
    for seed, epoch in [(7, 0), (7, 3), (8, 0), (0, 7)]:
        sampler = EpochSampler(range(50), seed=seed)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert keys == list(sampler)
        assert {key[:2] for key in keys} == {(seed, epoch)}
        assert sorted(key[2] for key in keys) == list(range(50))
        orders.add(tuple(key[2] for key in keys))
    assert len(orders) == 4


def test_the_generator_is_seeded_by_seed_epoch_and_index(jpeg_tree):
    dataset = training_set(jpeg_tree)
    dataset.dataset.pipeline.transforms = [lambda sample: sample["rng"].random()]
    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    numbers = [dataset[key] for key in keys]
    assert len(set(numbers)) == 8
    assert [dataset[key] for key in keys] == numbers


@pytest.fixture
def damaged_tree(jpeg_tree, tmp_path):
    tree = tmp_path / "pictures"
    shutil.copytree(jpeg_tree, tree)
    bad = tree / "train" / "red" / "2.jpg"
    bad.write_bytes(bad.read_bytes()[:-100])
    return tree, bad


def test_a_corrupt_picture_is_replaced_and_named(damaged_tree):
    tree, bad = damaged_tree
    batches = run(tree)
    assert same(run(tree, num_workers=2, multiprocessing_context="fork"), batches)
    for epoch in batches:
        samples = [sample for batch in epoch for sample in batch]
        assert len(samples) == 8
        assert all(path != str(bad) for path, *_ in samples)
        (names,) = [corrupt for _, corrupt, _ in samples if corrupt]
        assert all(name.startswith(f"{bad}: ") and "truncated" in name for name in names)
    # Another epoch draws another substitute.
    dataset = training_set(tree)
    index = next(i for i in range(8) if dataset.dataset.get_data_info(i)["img_path"] == str(bad))
    paths = {dataset[0, epoch, index]["data_samples"].img_path for epoch in range(30)}
    assert len(paths) == 7


@pytest.mark.parametrize("group", [1, 3, 32])
def test_samples_side_by_side_are_those_alone(group, damaged_tree, monkeypatch):
    monkeypatch.setattr(seeding, "GROUP", group)
    dataset = training_set(damaged_tree[0])
    load = TRANSFORMS.build(dict(type="vgg_mm.LoadScaledCrop", S=(40, 60), size=32))
    dataset.dataset.pipeline.transforms[:4] = [load]
    keys, replaced = [(0, epoch, index) for epoch in (0, 1, 2) for index in range(8)], 0
    for key, sample in zip(keys, dataset.__getitems__(keys), strict=True):
        rng, index, corrupt = np.random.default_rng(key), key[2], []
        while True:  # as SeededDataset should, one sample alone and from start to end
            alone = {**dataset.dataset.get_data_info(index), "rng": rng, "corrupt": corrupt}
            try:
                alone = dataset.dataset.pipeline(alone)
                break
            except CorruptImageError as error:
                corrupt.append(str(error))
                index = int(rng.integers(8))
        assert torch.equal(sample["inputs"], alone["inputs"])
        for name in ("img_path", "corrupt"):
            assert getattr(sample["data_samples"], name) == getattr(alone["data_samples"], name)
        replaced += len(corrupt)
    assert replaced >= 3  # once an epoch at least


def test_all_corrupt(damaged_tree):
    tree, _ = damaged_tree
    for path in tree.glob("train/*/*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="^10 of 10 images drawn from .* are corrupt") as error:
        training_set(tree)[0, 0, 0]
    assert str(error.value).count("the file is empty") == 10


def test_other_errors_are_not_taken_for_corrupt_pictures(jpeg_tree):
    dataset = training_set(jpeg_tree)
    dataset.dataset.pipeline.transforms[1] = Rescale(16)
    with pytest.raises(UserError, match="^RandomCrop: .* smaller than the crop of 32"):
        dataset[0, 0, 0]


def test_seeded_dataset_needs_the_sampler(jpeg_tree):
    dataset = training_set(jpeg_tree)
    assert len(dataset) == 8
    assert list(dataset.metainfo["classes"]) == ["green", "red"]
    with pytest.raises(UserError, match="sampler=dict.type='vgg_mm.EpochSampler'."):
        dataset[0]


# Data sets in data sets.


def folders(tree, split="train"):
    return dict(type="vgg_mm.Folders", data_root=str(tree), split=split, pipeline=TRAINING)


def wrapped(tree):
    """Wrappers, and the samples that each should hold, as indices of all pictures."""
    train, val = folders(tree), folders(tree, "val")
    concat = dict(type="ConcatDataset", datasets=[train, val])  # 8 and 4 pictures
    balanced = dict(type="ClassBalancedDataset", oversample_thr=2)  # sqrt(2 / 0.5) = 2 times each
    return {
        "concat": (concat, [*range(12)]),
        "repeat": (dict(type="RepeatDataset", times=2, dataset=train), [*range(8)] * 2),
        "balanced": ({**balanced, "dataset": train}, [i // 2 for i in range(16)]),
        "kfold": (
            dict(type="KFoldDataset", num_splits=4, fold=1, dataset=train),
            [0, 1, *range(4, 8)],
        ),
        "lazy": ({**concat, "lazy_init": True}, [*range(12)]),
        "repeat of concat": (dict(type="RepeatDataset", times=2, dataset=concat), [*range(12)] * 2),
        "balanced concat": ({**balanced, "dataset": concat}, [i // 2 for i in range(24)]),
        "concat of balanced": (
            dict(type="ConcatDataset", datasets=[{**balanced, "dataset": train}, val]),
            [*(i // 2 for i in range(16)), *range(8, 12)],
        ),
    }


@pytest.mark.parametrize("kind", wrapped("."))
def test_data_sets_in_data_sets(kind, damaged_tree):
    tree, bad = damaged_tree
    init_default_scope("mmpretrain")
    alone = [training_set(tree).dataset, DATASETS.build(folders(tree, "val"))]
    infos = [part.get_data_info(i) for part in alone for i in range(len(part))]
    config, held = wrapped(tree)[kind]
    dataset = SeededDataset(config)
    assert len(dataset) == len(held) and list(dataset.metainfo["classes"]) == ["green", "red"]
    keys, replaced = [(3, epoch, index) for epoch in (0, 1) for index in range(len(held))], 0
    for key, sample in zip(keys, dataset.__getitems__(keys), strict=True):
        rng, index, corrupt = np.random.default_rng(key), key[2], []
        while True:
            results = {**infos[held[index]], "rng": rng, "corrupt": corrupt}
            try:
                results = alone[0].pipeline(results)
                break
            except CorruptImageError as error:
                corrupt.append(str(error))
                index = int(rng.integers(len(held)))
        assert torch.equal(sample["inputs"], results["inputs"])
        found, expected = sample["data_samples"], results["data_samples"]
        assert (found.img_path, found.corrupt) == (expected.img_path, expected.corrupt)
        assert found.gt_label == expected.gt_label
        replaced += len(corrupt)
    assert replaced or str(bad) not in [infos[i]["img_path"] for i in held]


def test_data_sets_in_data_sets_have_their_own_pipelines(jpeg_tree):
    train, val = folders(jpeg_tree), folders(jpeg_tree, "val")
    val["pipeline"] = [TRANSFORMS.build(dict(type="vgg_mm.LoadScaledCrop", S=(40, 60), size=32))]
    dataset = SeededDataset(dict(type="ConcatDataset", datasets=[train, val]))
    samples = dataset.__getitems__([(0, 0, index) for index in (11, 0, 8, 7)])
    assert ["data_samples" in sample for sample in samples] == [False, True, False, True]
    assert torch.equal(samples[1]["inputs"], training_set(jpeg_tree)[0, 0, 0]["inputs"])
    load = val["pipeline"][0]
    alone = load({**dataset.dataset.get_data_info(8), "rng": np.random.default_rng((0, 0, 8))})
    np.testing.assert_array_equal(samples[2]["img"], alone["img"])


def test_torchs_own_wrappers_and_data_sets(jpeg_tree):
    whole = training_set(jpeg_tree)
    part = SeededDataset(Subset(whole.dataset, [5, 2]))
    assert len(part) == 2 and part[0, 0, 1]["data_samples"].img_path.endswith("green/2.jpg")
    both = SeededDataset(TorchConcat([whole.dataset, whole.dataset]))
    assert both[0, 0, 10]["data_samples"].img_path.endswith("green/2.jpg")
    plain = TensorDataset(torch.zeros(3))
    for dataset in (plain, TorchConcat([whole.dataset, plain]), Subset(plain, [0])):
        with pytest.raises(UserError, match="^TensorDataset has no get_data_info and no pipeline"):
            SeededDataset(dataset)
    concat = dict(type="ConcatDataset", datasets=[folders(jpeg_tree)] * 2)
    with pytest.raises(UserError, match="^SeededDataset: `ConcatDataset`.* not support"):
        SeededDataset(dict(type="KFoldDataset", dataset=concat))


# Folders.


def test_folders(jpeg_tree):
    dataset = Folders(data_root=str(jpeg_tree), split="val")
    samples = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [(s["img_path"], s["gt_label"]) for s in samples] == [
        (str(jpeg_tree / "val" / name / f"{i}.jpg"), label)
        for label, name in enumerate(("green", "red"))
        for i in range(2)
    ]


@pytest.mark.parametrize(
    ("build", "layout"),
    [
        (Folders, "expected one folder a class.*Set data_root"),
        (ImageNet, "expected 1000 folders such as n01440764.*prepare_imagenet.py"),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_missing_folder(build, layout, exists, tmp_path):
    root = tmp_path / "data"
    if exists:
        (root / "train").mkdir(parents=True)
        (root / "train" / "a.jpg").write_bytes(JPEG)
    split = dict(split="train")
    with pytest.raises(UserError, match=f"no images in {root}/train: {layout}"):
        build(data_root=str(root), **split)


def test_empty_class_folders(jpeg_tree, tmp_path):
    shutil.copytree(jpeg_tree / "val", tmp_path / "val")
    (tmp_path / "val" / "blue").mkdir()
    (tmp_path / "val" / "blue" / "notes.txt").write_text("no picture")
    dataset = Folders(data_root=str(tmp_path), split="val")
    assert (len(dataset), dataset.empty) == (4, {0})
    for path in tmp_path.glob("val/*/*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match=r"no image \(.*\.jpg.*3 folder.*: blue, green, red"):
        Folders(data_root=str(tmp_path), split="val")
