r"""A narrow net A on scenes of the cut-outs that ship with the package: the paper in minutes.

    python tools/train.py configs/demo.py

The first run draws the scenes, 16,000 to train on and 3,200 for validation, of 64 classes, into
data/demo. Everything is the paper's but smaller: crops of 28 pixels from S = 32 for 224 from 256.
With pools after stages 1 and 2 alone the net's stride is 4, a seventh of the crop as the paper's 32
is of 224, so there is a map to average where whole images are tested. Not the paper's are: the
input is divided by 60 besides and the convs start from He's random weights, without which so narrow
a net starts late; and the rate falls once, when two passes in a row gain less than a point.

Jitter of S over [32, 64], the paper's [256, 512], and a test at three scales:

    python tools/train.py configs/demo.py --work-dir work_dirs/demo_jitter --cfg-options \
        train_dataloader.dataset.dataset.pipeline.0.S="(32,64)" \
        tta_pipeline.1.scales="[32,48,64]"

Other scenes: draw them with tools/data/make_scenes.py and name their folder in data_root.
"""

_base_ = "_base_/paper.py"

S, Q, crop = 32, 32, 28
scenes = dict(_delete_=True, type="vgg_mm.Scenes", data_root="data/demo")

model = dict(
    backbone=dict(
        arch="A",
        width=12,
        pool_strides=(2, 2, None, None, None),
        channels_last=True,
        init_cfg=dict(type="Kaiming", layer="Conv2d"),
    ),
    head=dict(num_classes=64, in_channels=96, channels=256, channels_last=True),
    data_preprocessor=dict(mean=[127, 127, 127], std=[60, 60, 60]),
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        dataset=dict(
            **scenes,
            split="train",
            pipeline=[
                dict(type="vgg_mm.LoadScaledCrop", S=S, size=crop, in_memory=True),
                *_base_.light,
            ],
        )
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **scenes,
        split="val",
        pipeline=[
            dict(type="vgg_mm.LoadImage", in_memory=True),
            dict(type="vgg_mm.Rescale", Q=Q),
            dict(type="vgg_mm.CenterCrop", size=crop),
            *_base_.pack,
        ],
    ),
)
test_dataloader = val_dataloader
tta_model = dict(crop_size=crop)
tta_pipeline = [*_base_.load, dict(type="vgg_mm.MultiScale", scales=[Q]), *_base_.pack]

optim_wrapper = dict(optimizer=dict(lr=5e-3))
param_scheduler = dict(patience=1, threshold=1, drops=1)
train_cfg = dict(max_epochs=18)
default_hooks = dict(checkpoint=dict(minutes=None))
