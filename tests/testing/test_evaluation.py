"""Dense evaluation (Sec. 3.2)."""

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from PIL import Image

import vgg_mm.models  # noqa: F401
from tools.analysis import report
from tools.keeping import RemainingSampler, SaveScores, parts_folder
from vgg_mm.data import MultiScale
from vgg_mm.errors import UserError
from vgg_mm.testing import Evaluation, Guesses, Scores, grid_crops

CLASSIFIER = dict(
    type="ImageClassifier",
    backbone=dict(type="vgg_mm.VGG", arch="A", width=4),
    head=dict(type="vgg_mm.VGGHead", in_channels=32, channels=16, kernel_size=2, num_classes=5),
    data_preprocessor=dict(mean=[120, 110, 100], std=[1, 1, 1], to_rgb=True),
)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = MODELS.build(CLASSIFIER)
    model.init_weights()
    # Posteriors neither alike nor saturated, so that a wrong average shows.
    model.head.fc8.weight.data *= 0.2
    return model.eval()


def images(*sizes):
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.integers(0, 255, (3, *size), np.uint8)) for size in sizes]


def scores(model, *scales):
    samples = [DataSample() for _ in scales[0]]
    done = model.test_step(dict(inputs=list(scales), data_samples=samples))
    return torch.stack([sample.pred_score for sample in done])


def by_hand(classifier, image):
    """The posterior of one image (3, H, W), from the net's own parts."""
    x = image.flip(0)[None].float() - torch.tensor([120.0, 110, 100])[:, None, None]
    score_map = classifier.head.score_map(classifier.backbone(x))
    return score_map.mean((2, 3)).softmax(1)[0]


@torch.no_grad()
def test_averages_the_score_map_then_the_flips_posteriors_then_the_scales(classifier):
    small, large = images((64, 96), (128, 192))
    expected = [
        (by_hand(classifier, image) + by_hand(classifier, image.flip(-1))) / 2
        for image in (small, large)
    ]
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    got = scores(Evaluation(classifier), [small], [large])[0]
    assert torch.allclose(got, (expected[0] + expected[1]) / 2, atol=1e-6)
    unflipped = scores(Evaluation(classifier, flip=False), [small])[0]
    assert torch.allclose(unflipped, by_hand(classifier, small), atol=1e-6)
    assert not torch.allclose(unflipped, expected[0], atol=1e-6)


def test_batch_size_and_order_change_no_score(classifier):
    model = Evaluation(classifier)
    batch = images((64, 96), (96, 64), (64, 96), (80, 80), (64, 96))
    one_by_one = torch.cat([scores(model, [image]) for image in batch])
    assert torch.allclose(scores(model, batch), one_by_one, atol=1e-6)
    assert torch.allclose(scores(model, batch[::-1]), one_by_one.flip(0), atol=1e-6)


def test_on_a_training_crop_it_is_the_plain_net(classifier):
    (image,) = images((64, 64))
    plain = classifier.predict(
        classifier.data_preprocessor(dict(inputs=image[None]))["inputs"], [DataSample()]
    )[0]
    assert torch.allclose(
        scores(Evaluation(classifier, flip=False), [image])[0], plain.pred_score, atol=1e-6
    )


@torch.no_grad()
def test_a_side_that_is_no_multiple_of_32_loses_its_rest_at_both_ends(classifier):
    (image,) = images((64 + 23, 96 + 5))
    got = scores(Evaluation(classifier, flip=False), [image])[0]
    assert torch.allclose(got, by_hand(classifier, image[:, 11:75, 2:98]), atol=1e-6)
    ceil = MODELS.build(CLASSIFIER | dict(backbone=CLASSIFIER["backbone"] | dict(ceil_mode=True)))
    ceil.load_state_dict(classifier.state_dict())  # pools that drop nothing
    got = scores(Evaluation(ceil.eval(), flip=False), [image])[0]
    assert torch.allclose(got, by_hand(ceil, image), atol=1e-6)
    pools = dict(pool_strides=(2, 2, None, None, None))  # a stride of 4
    two = MODELS.build(CLASSIFIER | dict(backbone=CLASSIFIER["backbone"] | pools))
    two.load_state_dict(classifier.state_dict())
    got = scores(Evaluation(two.eval(), flip=False), [image[:, :31, :42]])[0]
    assert torch.allclose(got, by_hand(two, image[:, 1:29, 1:41]), atol=1e-6)


def test_multi_scale_makes_an_unpadded_image_for_each_q():
    image = np.zeros((100, 200, 3), np.uint8)
    out = MultiScale([50, 100, 150]).transform(dict(img=image))["img"]
    assert [i.shape for i in out] == [(50, 100, 3), (100, 200, 3), (150, 300, 3)]


def crops_by_hand(image, grid=5, size=64):
    """Crops (size, size, 3) of an image (3, H, W), cut by PIL, and their mirror images."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    for i in range(grid):
        for j in range(grid):
            x, y = (
                round((side - size) * k / (grid - 1))
                for side, k in ((picture.width, j), (picture.height, i))
            )
            crop = picture.crop((x, y, x + size, y + size))
            yield crop
            yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@torch.no_grad()
def test_multi_crop_averages_the_posteriors_of_50_crops(classifier):
    (image,) = images((80, 104))  # whole steps of 4 and 10 pixels
    posteriors = [
        by_hand(classifier, torch.from_numpy(np.array(crop)).permute(2, 0, 1))
        for crop in crops_by_hand(image)
    ]
    assert len(posteriors) == 50
    model = Evaluation(classifier, views="crops", crop_size=64, max_batch=7)
    got = scores(model, [image])[0]
    assert torch.allclose(got, torch.stack(posteriors).mean(0), atol=1e-6)
    assert not torch.allclose(got, scores(Evaluation(classifier), [image])[0], atol=1e-4)


def test_the_grid_reaches_all_four_corners():
    image = torch.arange(3 * 90 * 131).reshape(3, 90, 131)
    crops = torch.stack(grid_crops(image, 5, 64)).unflatten(0, (5, 5))
    assert (crops[0, 0] == image[:, :64, :64]).all()
    assert (crops[0, 4] == image[:, :64, -64:]).all()
    assert (crops[4, 0] == image[:, -64:, :64]).all()
    assert (crops[4, 4] == image[:, -64:, -64:]).all()


def test_both_is_the_mean_of_dense_and_crops_at_every_scale(classifier):
    small, large = images((64, 96), (80, 120))
    one, other, both = (
        scores(Evaluation(classifier, views=views, crop_size=64), [small], [large])
        for views in ("dense", "crops", "both")
    )
    assert torch.allclose(both, (one + other) / 2, atol=1e-6)


def test_posteriors_of_every_view_and_scale_are_kept(classifier):
    pair = images((64, 96), (80, 120))
    model = Evaluation(classifier, views="both", crop_size=64)
    data = dict(inputs=[[image] for image in pair], data_samples=[DataSample()])
    kept = model.test_step(data)[0].posteriors
    for v, (views, image) in enumerate((v, i) for v in ("dense", "crops") for i in pair):
        alone = scores(Evaluation(classifier, views=views, crop_size=64), [image])[0]
        assert torch.allclose(kept[v], alone, atol=1e-6)


def test_a_scale_smaller_than_the_crop_is_an_error(classifier):
    with pytest.raises(UserError, match="96x60 is smaller than the crop of 64"):
        scores(Evaluation(classifier, views="crops", crop_size=64), images((60, 96)))


RESNET = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet", depth=18, base_channels=4, stem_channels=4),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=5, in_channels=32),
    data_preprocessor=CLASSIFIER["data_preprocessor"],
)


@torch.no_grad()
def test_other_classifiers_too():
    torch.manual_seed(0)
    resnet = MODELS.build(RESNET).eval()
    (image,) = images((96, 128))
    x = resnet.data_preprocessor(dict(inputs=image[None]))["inputs"]
    dense = resnet.head(resnet.neck(resnet.backbone(x))).softmax(1)[0]
    assert torch.allclose(scores(Evaluation(resnet, flip=False), [image])[0], dense, atol=1e-6)
    crops = scores(Evaluation(resnet, views="crops", crop_size=64), [image])[0]
    assert torch.isclose(crops.sum(), torch.tensor(1.0), atol=1e-5)


def test_a_head_for_one_size_alone_is_told_to_use_crops():
    alexnet = MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type="AlexNet", num_classes=5),
            head=dict(type="ClsHead"),
        )
    )
    with pytest.raises(UserError, match="AlexNet with ClsHead cannot run densely.*views='crops'"):
        Evaluation(alexnet)
    assert Evaluation(alexnet, views="crops").views == ("crops",)


def test_unknown_views(classifier):
    with pytest.raises(UserError, match="views='windows'; use one of dense, crops, both"):
        Evaluation(classifier, views="windows")


class Names:
    """A data set of which only the files' names are asked for."""

    def __len__(self):
        return 5

    def get_data_info(self, index):
        return dict(img_path=f"/pictures/{index}.jpg")


def test_an_interrupted_test_goes_on_with_what_is_not_scored(tmp_path):
    rng = np.random.default_rng(0)
    posteriors = torch.from_numpy(rng.dirichlet([1, 1, 1], (5, 2)))  # (N, V, classes)

    def metric():
        saved = SaveScores(
            tmp_path / "scores.npz", dict(config="x"), parts=tmp_path / "parts", every=0
        )
        saved.dataset_meta = dict(classes=("a", "b", "c"))
        return saved

    def score(saved, *indices):
        for i in indices:
            path = Names().get_data_info(i)["img_path"]
            saved.process({}, [dict(img_path=path, gt_label=i % 3, posteriors=posteriors[i])])

    interrupted = metric()
    score(interrupted, 3, 1)
    interrupted.every = 1000  # seconds
    score(interrupted, 4)  # is not kept
    resumed = metric()
    sampler = RemainingSampler(Names(), str(resumed.parts))
    assert list(sampler) == [0, 2, 4] and sampler.scored == 2
    score(resumed, *sampler)
    errors = resumed.evaluate(5)
    scores = Scores.load(tmp_path / "scores.npz")
    assert scores.names.tolist() == [f"{i}.jpg" for i in range(5)]
    assert scores.labels.tolist() == [0, 1, 2, 0, 1]
    assert np.allclose(scores.posteriors, posteriors)
    assert errors == {"error/top1": scores.error(1), "error/top5": scores.error(5)}
    assert not resumed.parts.exists()


@pytest.mark.parametrize("nothing", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_an_error_and_said(nothing, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("tools.keeping.print_log", lambda line, *_: said.append(line))
    posteriors = np.full((5, 2, 3), 1 / 3)
    posteriors[[0, 3]] = [0.5, 0.3, 0.2]  # right; the third is a tie
    posteriors[1, 1, 2] = posteriors[4] = nothing
    saved = SaveScores(tmp_path / "scores.npz", dict(config="x"), parts=tmp_path / "parts")
    saved.dataset_meta = dict(classes=("a", "b", "c"))
    samples = [
        dict(img_path=f"/pictures/{i}.jpg", gt_label=0, posteriors=torch.from_numpy(p))
        for i, p in enumerate(posteriors)
    ]
    saved.process({}, samples)
    assert saved.evaluate(5) == {"error/top1": 60.0, "error/top5": 40.0}
    assert said[0].startswith(
        "2 of 5 images have posteriors that are no numbers (NaN or infinite), 1"
    )
    assert Scores.load(tmp_path / "scores.npz").wrong(3).tolist() == [
        False,
        True,
        False,
        False,
        True,
    ]


def test_the_report_calls_nothing_right_that_is_no_number():
    of_data = dict(labels=np.zeros(3, int), names=np.array(["a", "b", "c"]), root="")
    of_data["classes"] = names = np.array(["ant", "bee"])
    saved = Scores(np.array([[[0.7, 0.3]], [[0.3, 0.7]], [[np.nan] * 2]]), **of_data)
    said = [report.found(saved, i, names)[1:] for i in range(3)]
    assert said == [("ant 70%", True), ("bee 70%", False), ("no number", False)]
    guesses = np.zeros((3, 5, 7))
    guesses[:, 0] = [[0, *[9] * 5, 0.5], [1, *[9] * 5, 0], [0, *[9] * 5, 0.49]]
    saved = Guesses(guesses, **of_data)
    said = [report.found(saved, i, names)[1:] for i in range(3)]
    assert said == [
        ("ant\nIoU 50%", True),
        ("bee\nIoU 0%", False),
        ("ant\nIoU 49%", False),
    ]


def test_what_is_scored_is_kept_apart_for_all_else_that_is_tested():
    protocol = dict(config="x")
    one = parts_folder("scores.npz", protocol, dict(mean=[1, 2, 3]))
    assert one == parts_folder("scores.npz", dict(protocol), dict(mean=[1, 2, 3]))
    assert one != parts_folder("scores.npz", protocol, dict(mean=[1, 2, 4]))
    assert one.name.startswith("scores.npz.") and one.suffix == ".parts"


def test_the_old_name_still_builds_it():
    assert MODELS.get("vgg_mm.TestTime") is MODELS.get("vgg_mm.Evaluation") is Evaluation


def test_says_its_protocol(classifier):
    what = dict(config="mine", arch="A", S=73, checkpoint="best.pth", sha256="0")
    both = Evaluation(classifier, views="both", flip=False, grid=3, crop_size=64)
    assert both.protocol([73, 80], **what) == dict(
        what,
        views=["dense", "dense", "crops", "crops"],
        scales=[73, 80, 73, 80],
        flip=False,
        grid=3,
        crop_size=64,
    )
    assert Evaluation(classifier).protocol([256], **what)["grid"] == 5
