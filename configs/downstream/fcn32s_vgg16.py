"""FCN-32s with VGG-16 (Long, Shelhamer & Darrell, 2015) on VOC 2012 and its further labels.

    mim train mmsegmentation configs/downstream/fcn32s_vgg16.py

Pools round up, as Caffe's do, so images may be of any size. The classifier's fc6 and fc7, padded,
keep pool5's size; scores of stride 32 are upsampled to the image. The rate is the paper's for
VGG-16, and fixed, for mmsegmentation's schedule ends at this one; nothing is frozen.
"""

_base_ = "mmseg::fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py"
custom_imports = dict(imports="vgg_mm.registry")
checkpoint = "checkpoints/vgg16.pth"

model = dict(
    data_preprocessor=dict(mean=[123.68, 116.779, 103.939], std=[1, 1, 1]),
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type="vgg_mm.VGG",
        arch="D",
        ceil_mode=True,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone."),
    ),
    neck=dict(
        type="vgg_mm.VGGNeck",
        dilation=1,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="head."),
    ),
    decode_head=dict(
        in_channels=4096,
        in_index=0,
        channels=4096,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0,
    ),
    auxiliary_head=None,
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
default_hooks = dict(plain=dict(type="vgg_mm.PlainCheckpointHook"))
