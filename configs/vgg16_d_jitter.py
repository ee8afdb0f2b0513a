"""Net D (16 layers, all 3x3: VGG-16), S = [256; 512].

The paper: 25.6 top-1 and 8.1 top-5 error (%) at Q = 384 (Table 3),
24.8 and 7.5 at Q in {256, 384, 512} (Table 4).

    tools/dist_train.sh configs/vgg16_d_jitter.py 4

Trains from scratch as it stands. The paper fine-tuned the S = 384 model:

    tools/dist_train.sh configs/vgg16_d_jitter.py 4 --start-from work_dirs/vgg16_d_384/best.pth
"""

_base_ = "_base_/paper.py"

S, Q = (256, 512), 384
model = dict(backbone=dict(arch="D"))
_base_.train_dataloader.dataset.dataset.pipeline[0].S = S
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.tta_pipeline[1].scales = [Q]
