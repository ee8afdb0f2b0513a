"""Faster R-CNN with VGG-16 (Ren et al., 2015) on VOC 2007 and 2012.

    mim train mmdet configs/downstream/faster_rcnn_vgg16_c4.py

Proposals and 7x7 RoI features come from conv5_3, of stride 16; the classifier's fc6 and fc7 are the
box head's layers; conv1_1 to conv2_2 are frozen. RoIAlign stands for RoI pooling. The rate is the
paper's 1e-3 an image, for mmdet's 16 images a step; other numbers: --auto-scale-lr.
"""

_base_ = "mmdet::pascal_voc/faster-rcnn_r50-caffe-c4_ms-18k_voc0712.py"
custom_imports = dict(imports="vgg_mm.registry")
checkpoint = "checkpoints/vgg16.pth"

model = dict(
    data_preprocessor=dict(mean=[123.68, 116.779, 103.939], bgr_to_rgb=True),
    backbone=dict(
        _delete_=True,
        type="vgg_mm.VGG",
        arch="D",
        out_indices=("conv5_3",),
        frozen_stages=2,
        init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="backbone."),
    ),
    rpn_head=dict(in_channels=512, feat_channels=512),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(output_size=7), out_channels=512),
        shared_head=dict(
            _delete_=True,
            type="vgg_mm.VGGFC",
            init_cfg=dict(type="Pretrained", checkpoint=checkpoint, prefix="head."),
        ),
        bbox_head=dict(roi_feat_size=1, in_channels=4096),
    ),
)
# Their names differ, at which mmdet's own config stops (mmdetection#9195).
train_dataloader = dict(dataset=dict(ignore_keys=["dataset_type"]))
optim_wrapper = dict(optimizer=dict(lr=0.016, weight_decay=5e-4))
default_hooks = dict(plain=dict(type="vgg_mm.PlainCheckpointHook"))
