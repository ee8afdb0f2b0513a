"""Faster R-CNN with VGG-16 and a feature pyramid (Lin et al., 2017) on COCO.

    mim train mmdet configs/downstream/faster_rcnn_vgg16_fpn.py

The pyramid stands on conv3_3, conv4_3, conv5_3 and pool5, of strides 4 to 32; the box head is
mmdet's own; conv1_1 to conv2_2 are frozen. Gradients are clipped, for no layer is normalised.
"""

_base_ = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports="vgg_mm.registry")
checkpoint = "checkpoints/vgg16.pth"

model = dict(
    data_preprocessor=dict(mean=[123.68, 116.779, 103.939], std=[1, 1, 1]),
    backbone=dict(
        _delete_=True,
        type="vgg_mm.VGG",
        arch="D",
        out_indices=("conv3_3", "conv4_3", "conv5_3", 4),
        frozen_stages=2,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone."),
    ),
    neck=dict(in_channels=[256, 512, 512, 512]),
)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
default_hooks = dict(plain=dict(type="vgg_mm.PlainCheckpointHook"))
