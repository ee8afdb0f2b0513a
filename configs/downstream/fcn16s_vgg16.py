"""FCN-16s with VGG-16: FCN-32s, and the scores of pool4.

    mim train mmsegmentation configs/downstream/fcn16s_vgg16.py \
        --cfg-options load_from=work_dirs/fcn32s_vgg16/iter_20000.pth

The paper starts it from FCN-32s' weights, as this command does, at a hundredth of the rate, which
here stays.
"""

_base_ = "fcn32s_vgg16.py"
custom_imports = dict(imports="vgg_mm.models.skip_head")

model = dict(
    backbone=dict(out_indices=(3, 4)),
    decode_head=dict(
        _delete_=True,
        type="vgg_mm.FCNSkipHead",
        in_channels=[512, 4096],
        num_classes=21,
        dropout_ratio=0,
    ),
)
