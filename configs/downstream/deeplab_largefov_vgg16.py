"""DeepLab-LargeFOV with VGG-16 (Chen et al., 2015) on VOC 2012 and its further labels.

    mim train mmsegmentation configs/downstream/deeplab_largefov_vgg16.py

pool4 and pool5 have stride 1, conv5 is dilated by 2, fc6 by 12: scores of stride 8. fc6 and fc7 are
every 4th of the classifier's channels, fc6 every 3rd row and column. The rates are the paper's, 10
times as high in the score layer; nothing is frozen. Its CRF is left out, pools 1 to 3 are VGG's.
"""

_base_ = "fcn32s_vgg16.py"

model = dict(
    backbone=dict(
        pool_strides=(2, 2, 2, 1, 1),
        dilations=(1, 1, 1, 1, 2),
    ),
    neck=dict(
        channels=1024,
        kernel_size=3,
        dilation=12,
        init_cfg=dict(_delete_=True, type="vgg_mm.SubsampledFC", checkpoint=_base_.checkpoint),
    ),
    decode_head=dict(in_channels=1024, channels=1024),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3), paramwise_cfg=dict(custom_keys={"conv_seg": dict(lr_mult=10)})
)
