"""FCN-8s with VGG-16: FCN-16s, and the scores of pool3.

    mim train mmsegmentation configs/downstream/fcn8s_vgg16.py \
        --cfg-options load_from=work_dirs/fcn16s_vgg16/iter_20000.pth

The paper starts it from FCN-16s' weights, as this command does.
"""

_base_ = "fcn16s_vgg16.py"

model = dict(
    backbone=dict(out_indices=(2, 3, 4)),
    decode_head=dict(in_channels=[256, 512, 4096]),
)
