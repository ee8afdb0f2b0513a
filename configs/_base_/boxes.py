"""What the nets that predict boxes share (Appendix A): paper.py's recipe on images with boxes.

Validation is test 1: the true class's box, on the centre crop. So is the test after a training;
test 2 wants an image's classes, see docs/localisation.md.
"""

_base_ = "paper.py"

model = dict(head=dict(_delete_=True, type="vgg_mm.BoxHead", num_classes=1000))
train_dataloader = dict(dataset=dict(dataset=dict(type="vgg_mm.ImageNetBoxes")))
val_dataloader = dict(dataset=dict(type="vgg_mm.ImageNetBoxes"))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="vgg_mm.BoxAccuracy")
test_evaluator = val_evaluator
tta_model = dict(_delete_=True, type="vgg_mm.Localizer", flip=True)
