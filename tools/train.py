"""Train and evaluate a detector with mixup from a config.

python tools/train.py fit --config configs/quickstart.yaml
python tools/train.py fit --config configs/bccd.yaml --data.mixup null       # without mixing
python tools/train.py fit --config configs/bccd.yaml --ckpt_path runs/bccd/checkpoints/last.ckpt   # go on
python tools/train.py test --config configs/bccd.yaml
"""

from detmix.training import cli_main

if __name__ == "__main__":
    cli_main()
