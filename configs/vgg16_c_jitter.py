"""Net C (16 layers, three of them 1x1), S = [256; 512].

The paper: 27.3 top-1 and 8.8 top-5 error (%) at Q = 384 (Table 3),
26.3 and 8.2 at Q in {256, 384, 512} (Table 4).

    tools/dist_train.sh configs/vgg16_c_jitter.py 4

Trains from scratch as it stands. The paper fine-tuned the S = 384 model:

    tools/dist_train.sh configs/vgg16_c_jitter.py 4 --start-from work_dirs/vgg16_c_384/best.pth
"""

_base_ = "_base_/paper.py"

S, Q = (256, 512), 384
model = dict(backbone=dict(arch="C"))
_base_.train_dataloader.dataset.dataset.pipeline[0].S = S
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.tta_pipeline[1].scales = [Q]
