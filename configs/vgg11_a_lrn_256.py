"""Net A-LRN (net A with local response normalisation), S = 256.

The paper: 29.7 top-1 and 10.5 top-5 error (%) at Q = 256 (Table 3).

    tools/dist_train.sh configs/vgg11_a_lrn_256.py 4
"""

_base_ = "_base_/S_256.py"

model = dict(backbone=dict(arch="A-LRN"))
