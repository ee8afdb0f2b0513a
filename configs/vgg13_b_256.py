"""Net B (13 layers), S = 256.

The paper: 28.7 top-1 and 9.9 top-5 error (%) at Q = 256 (Table 3),
28.2 and 9.6 at Q in {224, 256, 288} (Table 4).

    tools/dist_train.sh configs/vgg13_b_256.py 4

Trains from scratch as it stands. The paper began with net A's layers:

    tools/dist_train.sh configs/vgg13_b_256.py 4 --init-from-a work_dirs/vgg11_a_256/best.pth
"""

_base_ = "_base_/paper.py"

S, Q = 256, 256
model = dict(backbone=dict(arch="B"))
_base_.train_dataloader.dataset.dataset.pipeline[0].S = S
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.tta_pipeline[1].scales = [Q]
