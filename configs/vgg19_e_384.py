"""Net E (19 layers: VGG-19), S = 384.

The paper: 26.9 top-1 and 8.7 top-5 error (%) at Q = 384 (Table 3),
26.7 and 8.6 at Q in {352, 384, 416} (Table 4).

    tools/dist_train.sh configs/vgg19_e_384.py 4

The paper started from the S = 256 model, at a tenth of its learning rate:

    tools/dist_train.sh configs/vgg19_e_384.py 4 --start-from work_dirs/vgg19_e_256/best.pth
"""

_base_ = "_base_/paper.py"

S, Q = 384, 384
model = dict(backbone=dict(arch="E"))
_base_.train_dataloader.dataset.dataset.pipeline[0].S = S
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.tta_pipeline[1].scales = [Q]
