r"""A narrow net A on the pictures that ship with the package: the paper in minutes, on a CPU.

    python tools/train.py configs/demo.py

The paper's recipe scaled down: crops of 64 pixels for 224, S = 73 for 256, 8 classes. The mean is
these pictures' own (tools/data/dataset_stats.py). The input is divided by 60 besides, for with the
mean alone so narrow a net wants a lower rate; weight decay is four times as strong, for so few
pictures; the rate falls at fixed epochs, for so short a run has no plateaus. To jitter S over
[73, 146], the paper's [256, 512], with the time that this takes:

    python tools/train.py configs/demo.py --work-dir work_dirs/demo_jitter --cfg-options \
        train_dataloader.dataset.dataset.pipeline.1.S="(73,146)" train_cfg.max_epochs=300
"""

_base_ = "_base_/paper.py"
S, crop = 73, 64
load = [dict(type="vgg_mm.LoadImage", in_memory=True)]

model = dict(
    backbone=dict(arch="A", width=16, channels_last=True),
    head=dict(num_classes=8, in_channels=128, channels=1024, kernel_size=2, channels_last=True),
    data_preprocessor=dict(mean=[217, 208, 200], std=[60, 60, 60]),
)
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type="vgg_mm.DemoPictures",
            split="train",
            pipeline=[
                *load,
                dict(type="vgg_mm.ScaleJitter", S=S),
                dict(type="vgg_mm.RandomCrop", size=crop),
                dict(type="vgg_mm.RandomFlip"),
                *_base_.light,
            ],
        )
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type="vgg_mm.DemoPictures",
        split="val",
        pipeline=[
            *load,
            dict(type="vgg_mm.Rescale", Q=S),
            dict(type="vgg_mm.CenterCrop", size=crop),
            *_base_.pack,
        ],
    ),
)
test_dataloader = val_dataloader
tta_model = dict(crop_size=crop)
tta_pipeline = [*load, dict(type="vgg_mm.MultiScale", scales=[S]), *_base_.pack]

optim_wrapper = dict(optimizer=dict(weight_decay=2e-3, fused=True))
train_cfg = dict(max_epochs=75, val_interval=5)
param_scheduler = [dict(type="MultiStepLR", milestones=[56, 70])]
default_hooks = dict(logger=dict(interval=71), checkpoint=dict(interval=5, minutes=None))
