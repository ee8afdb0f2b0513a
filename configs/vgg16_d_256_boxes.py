"""Net D that predicts a box for each class (PCR, all layers fine-tuned; Appendix A), S = 256.

The paper's top-5 localisation error (%) on validation:
29.5 at Q = 256, and with the model of S = 384 26.9 (Table 9).

    tools/dist_train.sh configs/vgg16_d_256_boxes.py 4 --start-from work_dirs/vgg16_d_256/best.pth
"""

_base_ = "_base_/boxes.py"

S, Q = 256, 256
model = dict(backbone=dict(arch="D"))
_base_.train_dataloader.dataset.dataset.pipeline[0].S = S
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.tta_pipeline[1].scales = [Q]
