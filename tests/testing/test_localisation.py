"""Appendix A: the error, boxes of a dense map, their merging, and what a test leaves behind."""

import itertools
import time

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from tools.analysis.stored_boxes import blacklisted
from tools.keeping import SaveGuesses
from vgg_mm.data import rescale
from vgg_mm.errors import UserError
from vgg_mm.models import BoxHead
from vgg_mm.testing import BoxAccuracy, Guesses, Localizer, Scores
from vgg_mm.testing import boxes as testing_boxes
from vgg_mm.testing.boxes import (
    MOST,
    fits,
    map_corners,
    match_scores,
    merge,
    mirrored,
    overlaps,
)


def random_boxes(rng, n, side=40):
    """Corners (n, 4) of whole pixels, each box of a pixel or more."""
    ends = np.sort(rng.integers(0, side, (n, 2, 2)), 1)
    return np.concatenate([ends[:, 0], ends[:, 1] + 1], 1)


# The error.


def devkits_overlap(guess, truth):
    """The devkit's loop, of boxes that count their last pixel."""
    left, top = max(guess[0], truth[0]), max(guess[1], truth[1])
    right, bottom = min(guess[2], truth[2]), min(guess[3], truth[3])
    width, height = right - left + 1, bottom - top + 1
    if width <= 0 or height <= 0:
        return 0
    union = (guess[2] - guess[0] + 1) * (guess[3] - guess[1] + 1)
    union += (truth[2] - truth[0] + 1) * (truth[3] - truth[1] + 1)
    union -= width * height
    return width * height / union


def devkits_error(label, truth, classes, guesses):
    """1 unless one of the guesses has the image's class and half of one of its boxes."""
    for number, guess in zip(classes, guesses, strict=True):
        if number == label:
            for box in truth:
                if devkits_overlap(guess, box) >= 0.5:
                    return 0
    return 1


def test_the_error_is_the_devkits():
    rng = np.random.default_rng(0)
    wrong = []
    for i in range(3000):
        truth, boxes = random_boxes(rng, i % 4, 5), random_boxes(rng, 5, 5)
        classes, label = rng.integers(0, 5, 5), 3
        inclusive = np.array([0, 0, 1, 1])
        error = devkits_error(label, truth - inclusive, classes, boxes - inclusive)
        overlap = fits(label, truth, classes, boxes)
        assert error == (not (overlap >= 0.5).any())
        for number, box, value in zip(classes, boxes, overlap, strict=True):
            each = [devkits_overlap(box - inclusive, t - inclusive) for t in truth]
            assert value == pytest.approx(max(each, default=0) if number == label else 0)
        wrong.append(error)
    assert 0.1 < np.mean(wrong) < 0.95


def test_half_is_right_and_less_is_wrong():
    truth = np.array([[0, 0, 10, 10]])
    assert fits(1, truth, [1], [[0, 0, 10, 5]]) == 0.5
    assert fits(
        1, truth, [1, 1, 2], [[0, 0, 10, 4.99], [0, 0, 10, 10], [0, 0, 10, 10]]
    ).tolist() == ([pytest.approx(0.499), 1, 0])
    assert fits(1, truth, [1], [[np.nan] * 4]) == 0
    assert overlaps(truth[0], np.array([10, 0, 20, 10])) == 0


def test_the_blacklist_counts_from_the_names(tmp_path):
    (tmp_path / "list.txt").write_text("36\n50\n")
    names = [f"n0144/ILSVRC2012_val_{i:08}.JPEG" for i in (35, 36, 50)]
    assert blacklisted(names, tmp_path / "list.txt").tolist() == [False, True, True]
    for path, name, message in (
        ("no.txt", names[0], "No such file"),
        ("list.txt", "mine.jpg", "'mine'"),
        ("words.txt", names[0], "'many'"),
    ):
        (tmp_path / "words.txt").write_text("many words")
        with pytest.raises(UserError, match=f"the blacklist .*{path}.*{message}.*one a line"):
            blacklisted([name], tmp_path / path)


# From a map to boxes.


def test_a_maps_boxes_lie_in_their_windows():
    head = BoxHead(2, crop_size=64, in_channels=4, channels=4, kernel_size=2)
    units = torch.zeros(2, 4, 3, 5)
    units[0, 2:], units[1] = 1, torch.tensor([0.25, -0.5, 0.5, 0.25])[:, None, None]
    whole, part = map_corners(head, units, 32).unflatten(1, (3, 5))
    for i, j in itertools.product(range(3), range(5)):
        x, y = 32 * j, 32 * i
        assert whole[i, j].tolist() == [x, y, x + 64, y + 64]
        assert part[i, j].tolist() == [x + 32, y - 8, x + 64, y + 8]


def test_mirrored_twice_is_as_before():
    boxes = torch.tensor([[0, 1, 10, 4], [90, 2, 100, 3]]).float()
    assert mirrored(boxes, 100).tolist() == [[90, 1, 100, 4], [0, 2, 10, 3]]
    assert mirrored(mirrored(boxes, 100), 100).equal(boxes)


# Merging.


def plain_match(a, b):
    """The match score of two boxes, in the words of its definition."""
    centre = [((a[i] + a[i + 2]) - (b[i] + b[i + 2])) / 2 for i in (0, 1)]
    around = [max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in (0, 1)]
    distance = (centre[0] ** 2 + centre[1] ** 2) / (around[0] ** 2 + around[1] ** 2)
    return distance - float(overlaps(np.array(a), np.array(b)))


def plain_merge(boxes, scores, threshold):
    """One pair at a time, the best first; boxes are averages weighted by scores."""
    left = [(list(map(float, box)), float(score)) for box, score in zip(boxes, scores, strict=True)]
    while len(left) > 1:
        pairs = itertools.combinations(range(len(left)), 2)
        i, j = min(pairs, key=lambda pair: plain_match(left[pair[0]][0], left[pair[1]][0]))
        (a, p), (b, q) = left[i], left[j]
        if plain_match(a, b) > threshold:
            break
        mean = [(p * x + q * y) / (p + q) for x, y in zip(a, b, strict=True)]
        left = [each for k, each in enumerate(left) if k not in (i, j)] + [(mean, p + q)]
    left.sort(key=lambda each: -each[1])
    return np.array([box for box, _ in left]), np.array([score for _, score in left])


def things(rng, n, spread):
    """Boxes of windows that see one of three things, each in its own place, more or less."""
    centres = np.array([[100, 100, 200, 300], [250, 80, 400, 300], [20, 200, 90, 260]])
    return centres[rng.integers(0, 3, n)] + rng.normal(0, spread, (n, 4)), rng.random(n) + 0.01


def test_match_scores_by_hand():
    boxes = random_boxes(np.random.default_rng(0), 30).astype(float)
    expected = [[plain_match(a, b) for b in boxes] for a in boxes]
    assert np.allclose(match_scores(boxes), expected)
    assert np.allclose(np.diag(expected), -1)


@pytest.mark.parametrize("threshold", [-0.5, -0.3, 0.1])
def test_merging_is_one_pair_after_another(threshold):
    rng = np.random.default_rng(1)
    same = 0
    for _ in range(20):
        boxes, scores = things(rng, 25, 8)
        merged, ratings = merge(boxes, scores, threshold)
        expected, sums = plain_merge(boxes, scores, threshold)
        assert ratings.sum() == pytest.approx(scores.sum()) and (np.diff(ratings) <= 0).all()
        if merged.shape == expected.shape and np.allclose(merged, expected, atol=1e-3):
            assert np.allclose(ratings, sums)
            same += 1
    assert same >= 18  # where a mean comes closer to a third box, several at a time may differ


def test_what_merges_is_the_mean_by_scores():
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [100, 100, 130, 130]])
    merged, ratings = merge(boxes, np.array([3.0, 1, 2]))
    assert merged.tolist() == [[0.5, 0, 10.5, 10], [100, 100, 130, 130]]
    assert ratings.tolist() == [4, 2]


@pytest.mark.parametrize("n", [1, 40, MOST, 3000])
def test_the_order_of_the_boxes_changes_nothing(n):
    rng = np.random.default_rng(2)
    boxes, scores = things(rng, n, 25)
    boxes[: n // 3] = boxes[n // 3 : 2 * (n // 3)]  # the same ones twice, and equal scores
    scores[: n // 2] = 0.5
    merged, ratings = merge(boxes, scores)
    for _ in range(3):
        order = rng.permutation(n)
        again = merge(boxes[order], scores[order])
        assert np.array_equal(again[0], merged) and np.array_equal(again[1], ratings)


def test_many_boxes_give_what_few_do(monkeypatch):
    rng = np.random.default_rng(3)
    boxes, scores = things(rng, 1200, 6)
    merged, ratings = merge(boxes, scores)
    monkeypatch.setattr(testing_boxes, "MOST", 10**6)
    exact, sums = merge(boxes, scores)
    assert len(merged) == len(exact) == 3
    # Cells of few and low scores are left out.
    assert np.allclose(merged, exact, atol=0.2) and np.allclose(ratings, sums, rtol=0.05)


def test_merging_is_quick():
    rng = np.random.default_rng(5)
    image = [things(rng, 3000, 25) for _ in range(5)]  # 1,000 positions, 3 scales, 5 classes
    times = []
    for _ in range(5):
        start = time.process_time()
        for boxes, scores in image:
            merge(boxes, scores)
        times.append(time.process_time() - start)
    assert min(times) < 0.06  # 12 ms where it was measured


def test_merging_of_nothing_and_of_no_numbers():
    assert [each.shape for each in merge(np.empty((0, 4)), np.empty(0))] == [(0, 4), (0,)]
    boxes = np.array([[0, 0, 5, 5], [np.nan, 0, 5, 5], [0, 0, np.inf, 5]])
    merged, ratings = merge(boxes, np.array([0.0, 1, 1]))
    assert merged.tolist() == [[0, 0, 5, 5]] and 0 <= ratings[0] < 1e-30
    with pytest.raises(UserError, match="match score of -0.6 or more, not -0.9"):
        merge(boxes, np.ones(3), -0.9)


def test_a_pixels_width_and_a_far_place_merge_too():
    rng = np.random.default_rng(4)
    low = rng.integers(0, 10**5, (500, 2))
    boxes = np.concatenate([low, low + rng.choice([1, 10**6], (500, 2))], 1)
    merged, ratings = merge(boxes, np.ones(500))
    assert 0 < len(merged) <= MOST and np.isfinite(merged).all()


# The tests.


CLASSES, SIDE = 6, 64
HEAD = dict(num_classes=CLASSES, in_channels=32, channels=24, kernel_size=2)


def net(kind, seed=0, **kwargs):
    init_default_scope("mmpretrain")
    torch.manual_seed(seed)
    head = dict(type=f"vgg_mm.{kind}", **HEAD, **kwargs)
    if kind == "BoxHead":
        head.setdefault("crop_size", SIDE)
    made = MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="vgg_mm.VGG", arch="A", width=4),
            head=head,
            data_preprocessor=dict(type="vgg_mm.VGGPreprocessor", mean=[120, 110, 100]),
        )
    )
    made.init_weights()
    with torch.no_grad():
        made.head.fc8.weight.normal_(0, 0.05)
        if kind == "BoxHead":
            made.head.fc8.bias.view(-1, 4)[:, 2:] = 0.6
    return made.eval()


def scene(height=110, width=150, scales=(70, 96), label=2, seed=0):
    """A file's image at its scales, its sample, and the images themselves."""
    rng = np.random.default_rng(seed)
    image = np.kron(rng.integers(0, 256, (11, 15, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    image = image[:height, :width]
    images = [torch.from_numpy(rescale(image, Q)).permute(2, 0, 1) for Q in scales]
    sample = DataSample(metainfo=dict(img_path=f"/d/c/{seed}.jpg", ori_shape=(height, width)))
    sample.set_gt_label(label)
    sample.set_field(torch.tensor([[10.0, 10, 90, 80]]), "gt_bboxes")
    return images, sample


def batch(*pairs):
    images, samples = zip(*pairs, strict=True)
    return dict(inputs=[list(each) for each in zip(*images, strict=True)], data_samples=samples)


@torch.no_grad()
def by_hand(nets, classifier, images, sample, flip):
    """Every window cut out as a crop and its box looked up, then the merge, for all classes."""
    (height, width), boxes, scores = sample.ori_shape, [], []
    for image in images:
        _, h, w = image.shape
        top, left = h % 32 // 2, w % 32 // 2
        for mirror, each in itertools.product((False, True) if flip else (False,), nets):
            for y, x in itertools.product(range(h // 32 - 1), range(w // 32 - 1)):
                # Convs see beyond the window, so that the map is run, and one place of it read.
                part = image[:, top : top + h // 32 * 32, left : left + w // 32 * 32]
                part = part.flip(-1) if mirror else part
                places = []
                for one in (each, classifier):
                    data = one.data_preprocessor(dict(inputs=part[None]))["inputs"]
                    (feats,) = one.extract_feat(data)
                    places.append(feats[:, :, y : y + 2, x : x + 2])
                units = each.head((places[0],))[0].tolist()
                p = classifier.head((places[1],)).softmax(1)[0]
                found = []
                for cx, cy, bw, bh in units:
                    cx, cy = 32 * x + 32 + SIDE * cx, 32 * y + 32 + SIDE * cy
                    cx = part.shape[2] - cx if mirror else cx
                    bw, bh = max(SIDE * bw, 1), max(SIDE * bh, 1)
                    corners = [cx - bw / 2 + left, cy - bh / 2 + top]
                    corners += [corners[0] + bw, corners[1] + bh]
                    found.append(
                        [v * s for v, s in zip(corners, [width / w, height / h] * 2, strict=True)]
                    )
                boxes.append(found * (CLASSES if len(found) == 1 else 1))
                scores.append(p.tolist())
    boxes, scores = np.array(boxes), np.array(scores)
    best = [merge(boxes[:, c], scores[:, c]) for c in range(CLASSES)]
    clipped = [b[0].clip(0, [width, height] * 2) for b, _ in best]
    return scores.mean(0), np.array(clipped), np.array([r[0] for _, r in best])


@pytest.mark.parametrize(
    ("flip", "nets", "per_class"), [(True, 1, True), (False, 2, True), (True, 1, False)]
)
def test_test_2_by_hand(flip, nets, per_class):
    found = [net("BoxHead", seed, per_class=per_class) for seed in range(nets)]
    classifier = net("VGGHead", 9)
    model = Localizer(found[0], found[1:], classifier, flip=flip)
    images, sample = scene()
    _, boxes, ratings = by_hand(found, classifier, images, sample, flip)
    (result,) = model.test_step(batch((images, sample)))
    guesses = result.guesses.numpy()
    assert guesses.shape == (5, 7)
    numbers = guesses[:, 0].astype(int)
    assert len({*numbers}) == 5
    assert np.allclose(guesses[:, 1:5], boxes[numbers], atol=0.01)
    assert np.allclose(guesses[:, 5], ratings[numbers], rtol=1e-4)
    expected = fits(2, np.array([[10, 10, 90, 80]]), numbers, boxes[numbers])
    assert np.allclose(guesses[:, 6], expected, atol=1e-3)


def test_a_mirror_image_has_mirrored_boxes():
    model = Localizer(net("BoxHead"), classifier=net("VGGHead", 9))
    (images, sample), (_, other) = scene(width=128, scales=(96,)), scene(width=128)
    (one,) = model.test_step(batch(([images[0][:, :, :96]], sample)))
    sample.set_metainfo(dict(ori_shape=(110, 128)))
    (two,) = model.test_step(batch(([images[0][:, :, :96].flip(-1)], other)))
    boxes = mirrored(one.guesses[:, 1:5].double(), 128)
    assert torch.equal(one.guesses[:, 0], two.guesses[:, 0])
    assert torch.allclose(two.guesses[:, 1:5].double(), boxes, atol=0.01)
    assert torch.allclose(two.guesses[:, 5], one.guesses[:, 5], rtol=1e-4)


def stored_scores(file, names, rows):
    scores = Scores(
        np.array(rows, np.float32)[:, None],
        labels=np.zeros(len(names), int),
        names=np.array(names),
        classes=np.array([f"c{i}" for i in range(CLASSES)]),
        root="/elsewhere",
    )
    scores.save(file)
    return str(file)


def test_classes_come_from_stored_posteriors(tmp_path):
    row = np.array([0.3, 0.1, 0.25, 0.05, 0.2, 0.1])
    file = stored_scores(tmp_path / "s.npz", ["c/0.jpg", "c/1.jpg"], [row, row[::-1]])
    model = Localizer(net("BoxHead"), scores=file)
    model.prepare(Images(0, 1))
    both = model.test_step(batch(scene(seed=0), scene(seed=1)))
    assert [s.guesses[:, 0].tolist() for s in both] == [[0, 2, 4, 1, 5], [5, 3, 1, 0, 4]]
    # Without a classifier, a rating is how many windows have merged.
    assert all((s.guesses[:, 5] % 1 == 0).all() for s in both)
    with pytest.raises(UserError, match=r"s\.npz has no posteriors of /d/c/2\.jpg: test the class"):
        model.prepare(Images(0, 2))
    other = [*Images.metainfo["classes"][1:], "c0"]
    with pytest.raises(UserError, match=r"s\.npz and the test have the same classes in another or"):
        model.prepare(Images(0, classes=other))


class Images(list):
    """A data set of :func:`scene`'s."""

    metainfo = dict(classes=[f"c{i}" for i in range(CLASSES)])

    def __init__(self, *numbers, classes=None):
        super().__init__(numbers)
        self.metainfo = dict(classes=classes) if classes else self.metainfo

    def get_data_info(self, i):
        return dict(img_path=f"/d/c/{self[i]}.jpg")


def test_nets_that_do_not_go_together():
    boxes, classifier = net("BoxHead"), net("VGGHead")
    with pytest.raises(UserError, match="scores or a classifier must tell"):
        Localizer(boxes).prepare(Images(0))
    with pytest.raises(UserError, match="VGG with VGGHead where a .* vgg_mm.BoxHead is expected"):
        Localizer(classifier, classifier=classifier)
    with pytest.raises(UserError, match="looks at 64 pixels, 2 times the stride of 32.*is 224"):
        Localizer(net("BoxHead", crop_size=224), classifier=classifier)
    classifier.head.fc6.kernel_size = (3, 3)
    with pytest.raises(UserError, match="windows of 96 pixels, 32 apart, another at 64, 32 apart"):
        Localizer(boxes, classifier=classifier)


def guess(number, box=(0, 0, 10, 10), overlap=0.0):
    return [number, *box, 1.0, overlap]


def test_what_a_test_leaves_behind(tmp_path):
    values = {
        "b/2.jpg": [guess(1, overlap=0.6), guess(0)],
        "a/1.jpg": [guess(1), guess(0, (1, 2, 3, 4), 0.5)],
        "a/0.jpg": [guess(1), guess(0, overlap=0.49)],
    }
    samples = [
        dict(
            img_path=f"/d/{name}",
            gt_label=torch.tensor([0]),
            gt_bboxes=torch.zeros(1, 4),
            guesses=torch.tensor(rows),
        )
        for name, rows in values.items()
    ]
    file, parts = tmp_path / "boxes.npz", tmp_path / "parts"
    for cut in (1, 3):  # an interrupted test, and the one that goes on
        saver = SaveGuesses(str(file), dict(config="c"), str(parts), every=0)
        saver.process({}, samples[:1] if cut == 1 else samples[1:])
    with pytest.raises(UserError, match="/d/b/2.jpg comes without gt_bboxes: test on a data set"):
        saver.process({}, [{k: v for k, v in samples[0].items() if k != "gt_bboxes"}])
    metrics = saver.evaluate(3)
    assert metrics == {
        "localisation/top1": pytest.approx(200 / 3),
        "localisation/top5": pytest.approx(100 / 3),
    }
    saved = Guesses.load(file)
    assert saved.names.tolist() == ["a/0.jpg", "a/1.jpg", "b/2.jpg"] and not parts.exists()
    assert saved.numbers.tolist() == [[1, 0]] * 3 and saved.boxes[1, 1].tolist() == [1, 2, 3, 4]
    assert saved.boxes.dtype == np.float32 and saved.ratings.tolist() == [[1, 1]] * 3
    assert saved.error(5, skipped=np.array([True, False, False])) == 0
    assert saved.wrong(5).tolist() == [True, False, False]


def test_test_1_takes_the_true_classes_box():
    metric = BoxAccuracy()
    per_class, truth = [[0, 0, 10, 10], [0, 0, 20, 20]], [[50, 50, 60, 60], [0, 0, 20, 19]]
    for label, boxes in ((0, per_class), (1, per_class), (1, per_class[1:]), (1, per_class[:1])):
        sample = dict(gt_label=torch.tensor([label]), gt_bboxes=torch.tensor(truth))
        metric.process({}, [dict(sample, pred_bboxes=torch.tensor(boxes).float())])
    assert metric.evaluate(4) == {"accuracy/top1": 50}
