"""Net A-LRN (net A with local response normalisation), S = 256.

The paper: 29.7 top-1 and 10.5 top-5 error (%) at Q = 256 (Table 3).

    tools/dist_train.sh configs/vgg11_a_lrn_256.py 4
"""

_base_ = "_base_/paper.py"

S, Q = 256, 256
model = dict(backbone=dict(arch="A-LRN"))
_base_.train_dataloader.dataset.dataset.pipeline[0].S = S
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.tta_pipeline[1].scales = [Q]
