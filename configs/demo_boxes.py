r"""demo.py's net predicts where things are: the paper's localisation (Appendix A) in minutes.

    python tools/train.py configs/demo.py
    python tools/train.py configs/demo_boxes.py --start-from work_dirs/demo/best.pth

PCR, all layers fine-tuned, on the demo's scenes and their boxes; S, Q and the crop are the demo's.
"""

_base_ = "demo.py"

model = dict(
    head=dict(
        _delete_=True,
        type="vgg_mm.BoxHead",
        num_classes=64,
        in_channels=96,
        channels=256,
        crop_size=28,
        dropout=0,
        channels_last=True,
    )
)
train_dataloader = dict(dataset=dict(dataset=dict(type="vgg_mm.FolderBoxes")))
val_dataloader = dict(dataset=dict(type="vgg_mm.FolderBoxes"))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="vgg_mm.BoxAccuracy")
test_evaluator = val_evaluator
tta_model = dict(
    _delete_=True,
    type="vgg_mm.Localizer",
    classifier=dict(config="demo", checkpoint="work_dirs/demo/best.pth"),
)

optim_wrapper = dict(clip_grad=dict(max_norm=1))
start_from_lr = 0.1
