"""demo."""

_base_ = "_base_/paper.py"
S, crop = 73, 64

model = dict(
    backbone=dict(arch="A", width=16, channels_last=True),
    head=dict(num_classes=8, in_channels=128, channels=256, kernel_size=2, channels_last=True),
    data_preprocessor=dict(std=[60, 60, 60]),
)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type="vgg_mm.DemoPictures",
            data_prefix="train",
            pipeline=[
                *_base_.load,
                dict(type="vgg_mm.ScaleJitter", S=S),
                dict(type="vgg_mm.RandomCrop", size=crop),
                dict(type="vgg_mm.RandomFlip"),
                *_base_.pack,
            ],
        )
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type="vgg_mm.DemoPictures",
        data_prefix="val",
        pipeline=[
            *_base_.load,
            dict(type="vgg_mm.Rescale", Q=S),
            dict(type="vgg_mm.CenterCrop", size=crop),
            *_base_.pack,
        ],
    ),
)
test_dataloader = val_dataloader
tta_model = dict(crop_size=crop)
tta_pipeline = [*_base_.load, dict(type="vgg_mm.MultiScale", scales=[S]), *_base_.pack]
train_cfg = dict(max_epochs=3)
param_scheduler = [dict(type="MultiStepLR", milestones=[2])]
