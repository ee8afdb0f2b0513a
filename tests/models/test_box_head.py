"""Appendix A: the head that predicts boxes."""

import copy

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from vgg_mm.errors import UserError
from vgg_mm.models import VGG, BoxHead, VGGHead
from vgg_mm.weights.pretrained import start_from
from vgg_mm.weights.source import open_source

CLASSES, SIDE = 5, 64
SIZES = dict(in_channels=32, channels=24, kernel_size=2)


def head(**kwargs):
    torch.manual_seed(0)
    made = BoxHead(**{**SIZES, "num_classes": CLASSES, "crop_size": SIDE, "dropout": 0, **kwargs})
    made.init_weights()
    return made


def predicting(boxes, **kwargs):
    """A head that predicts these corners for its classes, whatever it sees."""
    made = head(num_classes=len(boxes), per_class=len(boxes) > 1, **kwargs)
    with torch.no_grad():
        made.fc8.weight.zero_()
        made.fc8.bias.copy_(made.units(torch.tensor(boxes).float()).flatten())
    return made


def feats(n=1, h=2, w=2):
    return (torch.rand(n, 32, h, w, generator=torch.Generator().manual_seed(1)),)


def sample(*boxes, label=0):
    made = DataSample().set_gt_label(label)
    made.set_field(torch.tensor(np.array(boxes)).float().reshape(-1, 4), "gt_bboxes")
    return made


def by_hand(predicted, target):
    """Half the squared distance of centres, width and height, in units of the crop."""
    terms = 0
    for p, t in zip(predicted, target, strict=True):
        terms += ((p - t) / SIDE) ** 2
    return terms / 2


def middle(x1, y1, x2, y2):
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def test_the_classes_outputs_and_the_start():
    scr, pcr = head(per_class=False), head(num_classes=50)
    assert scr.fc8.weight.shape == (4, 24, 1, 1) and pcr.fc8.weight.shape == (200, 24, 1, 1)
    assert 0.009 < pcr.fc8.weight.std() < 0.011 and not pcr.fc8.bias.any()
    assert 0.1 < pcr.fc7.weight.std() < 0.3  # Glorot's, (2 / 48) ** 0.5
    assert pcr(feats(3)).shape == (3, 50, 4) and scr(feats(3)).shape == (3, 1, 4)


def test_units_are_the_crops_side_from_its_middle():
    made = head()
    corners = torch.tensor([[0, 0, 64, 64], [32, 0, 96, 32], [-32, 16, 0, 48]]).float()
    units = torch.tensor([[0, 0, 1, 1], [0.5, -0.25, 1, 0.5], [-0.75, 0, 0.5, 0.5]])
    assert made.units(corners).equal(units) and made.pixels(units).equal(corners)
    x1, y1, x2, y2 = made.pixels(torch.tensor([0, 0, -1.0, 0])).tolist()
    assert (x2 - x1, y2 - y1) == (1, 1)


@pytest.mark.parametrize("label", [0, 1])
def test_the_loss_is_of_the_true_classes_box(label):
    boxes = [[0, 0, 64, 64], [8, 16, 40, 32]]
    made, truth = predicting(boxes), (4, 8, 36, 60)
    loss = made.loss(feats(), [sample(truth, label=label)])["loss"]
    assert loss.item() == pytest.approx(by_hand(middle(*boxes[label]), middle(*truth)))
    loss.backward()
    moved = made.fc8.bias.grad.view(2, 4).abs().sum(1) > 0
    assert moved.tolist() == [label == 0, label == 1]


def test_one_box_for_all_classes():
    made, truth = predicting([[0, 0, 64, 64]]), (4, 8, 36, 60)
    losses = [made.loss(feats(), [sample(truth, label=i)])["loss"].item() for i in range(3)]
    assert losses == pytest.approx([by_hand((32, 32, 64, 64), middle(*truth))] * 3)


def test_of_several_things_the_nearest_is_the_target():
    near, far = (2, 2, 30, 30), (0, 0, 64, 64)
    made = predicting([[0, 0, 28, 28]])
    alone = made.loss(feats(), [sample(near)])["loss"]
    for boxes in ([near, far], [far, near], [far, far, near]):
        assert made.loss(feats(), [sample(*boxes)])["loss"] == alone
    assert made.loss(feats(), [sample(far)])["loss"] > alone


def test_boxes_that_leave_the_crop():
    predicted, truth = (32, 32, 64, 64), (-20, 8, 44, 40)  # 44 of 64 columns are inside
    made, clipped = (predicting([[0, 0, 64, 64]], clipped=c) for c in (False, True))
    whole = made.loss(feats(), [sample(truth)])["loss"].item()
    assert whole == pytest.approx(by_hand(predicted, middle(*truth)))
    part = clipped.loss(feats(), [sample(truth)])["loss"].item()
    assert part == pytest.approx(by_hand(predicted, middle(0, 8, 44, 40)))


@pytest.mark.parametrize(
    ("box", "counts"),
    [
        ((-31, 0, 33, 64), True),  # just more than half is in the crop
        ((-33, 0, 31, 64), False),
        ((-64, -64, 128, 128), True),  # a thing that fills the crop
        ((20, -64, 300, 300), True),  # and most of it
        ((40, -64, 300, 300), False),
        ((64, 0, 90, 20), False),  # beside the crop
        ((10, 10, 10, 20), False),  # nothing
    ],
)
def test_a_thing_must_be_seen(box, counts):
    made = predicting([[0, 0, 64, 64]])
    seen = sample((0, 0, 32, 32))
    alone = made.loss(feats(), [seen])["loss"].item()
    loss = made.loss(feats(2), [seen, sample(box)])["loss"]
    own = by_hand((32, 32, 64, 64), middle(*box)) if counts else 0
    assert loss.item() == pytest.approx((alone + own) / 2)
    loss.backward()
    assert made.fc8.bias.grad.isfinite().all()
    made.fc8.bias.grad = None
    loss = made.loss(feats(), [sample(box)])["loss"]
    loss.backward()
    assert (loss > 0).item() == counts and made.fc8.bias.grad.any().item() == counts


def test_a_batch_without_a_box_moves_nothing():
    made = head()
    loss = made.loss(feats(2), [sample(), sample()])["loss"]
    loss.backward()
    assert loss == 0 and not any(p.grad.any() for p in made.parameters())


def test_targets_keep_their_digits_in_mixed_precision():
    made, samples = head(), [sample([3, 5, 30, 41], label=2)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = made.loss(feats(), samples)["loss"]
        predicted = made(feats())[0, 2].float()
    samples[0].gt_bboxes = samples[0].gt_bboxes.int()
    with torch.autocast("cpu", torch.bfloat16):
        assert made.loss(feats(), samples)["loss"] == loss
    expected = (predicted - made.units(torch.tensor([3.0, 5, 30, 41]))).square().sum() / 2
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_halves_of_a_batch_average_to_the_whole():
    made, rng = head(), np.random.default_rng(0)
    samples = []
    for i in range(6):
        low = rng.uniform(-20, 40, (i % 4, 2))
        samples.append(sample(*np.c_[low, low + rng.uniform(4, 60, low.shape)], label=i % CLASSES))
    (x,) = feats(6)
    whole = made.loss((x,), samples)["loss"]
    halves = [made.loss((x[i : i + 3],), samples[i : i + 3])["loss"] for i in (0, 3)]
    assert 0 < whole.item() == pytest.approx(sum(halves).item() / 2)


@torch.no_grad()
def test_the_dense_map_of_a_crop_is_the_plain_head():
    made = head().eval()
    (x,) = feats(3, 4, 5)
    boxes = made.box_map((x,))
    assert boxes.shape == (3, CLASSES, 4, 3, 4)
    for i in range(3):
        for j in range(4):
            crop = x[:, :, i : i + 2, j : j + 2]
            plain = crop.flatten(1) @ made.fc6.weight.flatten(1).T + made.fc6.bias
            plain = plain.clamp(min=0) @ made.fc7.weight.flatten(1).T + made.fc7.bias
            plain = plain.clamp(min=0) @ made.fc8.weight.flatten(1).T + made.fc8.bias
            plain = plain.view(3, CLASSES, 4)
            assert torch.allclose(boxes[..., i, j], plain, atol=1e-6)
            assert torch.allclose(made((crop,)), plain, atol=1e-6)
    with pytest.raises(UserError, match="BoxHead: 3x4 positions .* cut the images to 64x64"):
        made((x,))


def test_bad_input():
    with pytest.raises(UserError, match="no gt_bboxes to learn from: use .*ImageNetBoxes"):
        head().loss(feats(), [DataSample().set_gt_label(0)])
    with pytest.raises(UserError, match="visible=2 is no part"):
        head(visible=2)


def classifier(**kwargs):
    """An ImageClassifier for boxes, its numbers drawn from one seed."""
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    backbone = dict(type="vgg_mm.VGG", arch="A", width=4, **kwargs)
    box_head = dict(type="vgg_mm.BoxHead", num_classes=CLASSES, crop_size=SIDE, dropout=0, **SIZES)
    net = MODELS.build(dict(type="ImageClassifier", backbone=backbone, head=box_head))
    net.init_weights()
    return net


def test_imageclassifier_trains_and_predicts():
    net, crops = classifier(frozen_stages=5), torch.randn(2, 3, SIDE, SIDE)
    samples = [sample((8, 8, 40, 56), label=1), sample((0, 16, 64, 64), label=3)]
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(30):
        loss = net(crops, samples, mode="loss")["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    same = {name for name, value in net.state_dict().items() if value.equal(before[name])}
    assert same == {name for name in before if name.startswith("backbone")}
    found = net.eval()(crops, samples, mode="predict")
    for each, label in zip(found, (1, 3), strict=True):
        assert each.pred_bboxes.shape == (CLASSES, 4)
        assert (each.pred_bboxes[label] - each.gt_bboxes[0]).abs().max() < 10
    assert torch.equal(net(crops, mode="predict")[1].pred_bboxes, found[1].pred_bboxes)


@pytest.mark.parametrize("classes", [CLASSES, 4 * CLASSES])
def test_a_training_starts_from_a_classifier(classes, tmp_path):
    torch.manual_seed(3)
    parts = dict(backbone=VGG("A", width=4), head=VGGHead(classes, **SIZES))
    theirs = torch.nn.ModuleDict(parts).state_dict()
    meta = dict(dataset_meta=dict(classes=[f"c{i}" for i in range(classes)]))
    torch.save(dict(state_dict=theirs, meta=meta), tmp_path / "net.pth")
    net = classifier()
    new = net.head.fc8.weight.clone()
    found = start_from(net, open_source(tmp_path / "net.pth"), meta["dataset_meta"])
    assert str(found).startswith("10 layers taken")
    assert str(found).endswith("head.fc8 starts new, for it predicts boxes, no classes")
    assert net.head.fc8.weight.equal(new)
    for name, value in net.state_dict().items():
        assert value.equal(theirs[name]) or name.startswith("head.fc8")
