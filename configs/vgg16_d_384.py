"""Net D (16 layers, all 3x3: VGG-16), S = 384.

The paper: 26.8 top-1 and 8.7 top-5 error (%) at Q = 384 (Table 3),
26.5 and 8.6 at Q in {352, 384, 416} (Table 4).

    tools/dist_train.sh configs/vgg16_d_384.py 4

The paper started from the S = 256 model, at a tenth of its learning rate:

    tools/dist_train.sh configs/vgg16_d_384.py 4 --start-from work_dirs/vgg16_d_256/best.pth
"""

_base_ = "_base_/paper.py"

S, Q = 384, 384
model = dict(backbone=dict(arch="D"))
_base_.train_dataloader.dataset.dataset.pipeline[0].S = S
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.tta_pipeline[1].scales = [Q]
