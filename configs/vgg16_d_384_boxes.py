r"""Net D that predicts a box for each class (PCR, all layers fine-tuned; Appendix A), S = 384.

The paper's top-5 localisation error (%) on validation:
28.2 at Q = 384, 27.5 at Q in {352, 384} (Table 9);
33.1 top-1 of the true class's box on the centre crop (Table 8).

    tools/dist_train.sh configs/vgg16_d_384_boxes.py 4 --start-from work_dirs/vgg16_d_384/best.pth

One box for all classes (SCR; Table 8: 36.4, and PCR 34.3, the convs left as they are):

    tools/dist_train.sh configs/vgg16_d_384_boxes.py 4 --start-from work_dirs/vgg16_d_384/best.pth \
        --work-dir work_dirs/vgg16_d_384_boxes_scr_fc --cfg-options \
        model.head.per_class=False model.backbone.frozen_stages=5
"""

_base_ = "_base_/boxes.py"

S, Q = 384, 384
model = dict(backbone=dict(arch="D"))
_base_.train_dataloader.dataset.dataset.pipeline[0].S = S
_base_.val_dataloader.dataset.pipeline[1].Q = Q
_base_.test_dataloader.dataset.pipeline[1].Q = Q
_base_.tta_pipeline[1].scales = [Q]
