"""SSD300 with VGG-16 (Liu et al., 2016) on VOC 2007 and 2012.

    mim train mmdet configs/downstream/ssd300_vgg16.py

As the paper has it: pools round up, pool5 is 3x3 at stride 1, fc6 and fc7 are convs of 1024
channels, every 4th of the classifier's, fc6 of every 3rd row and column, dilated by 6; no dropout.
mmdet's neck normalises conv4_3 (L2Norm, scale 20) and adds the further layers. Nothing is frozen.
"""

_base_ = "mmdet::pascal_voc/ssd300_voc0712.py"
custom_imports = dict(imports=["vgg_mm.registry", "vgg_mm.upstream_mmdet"])
checkpoint = "checkpoints/vgg16.pth"

model = dict(
    data_preprocessor=dict(mean=[123.68, 116.779, 103.939]),
    backbone=dict(
        _delete_=True,
        type="vgg_mm.VGG",
        arch="D",
        out_indices=("conv4_3", 4),
        pool_strides=(2, 2, 2, 2, 1),
        ceil_mode=True,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone."),
    ),
    neck=[
        dict(
            type="vgg_mm.VGGNeck",
            channels=1024,
            kernel_size=3,
            dilation=6,
            dropout=0.0,
            init_cfg=dict(type="vgg_mm.SubsampledFC", checkpoint=checkpoint),
        ),
        _base_.model.neck,
    ],
)
default_hooks = dict(plain=dict(type="vgg_mm.PlainCheckpointHook"))
