"""Train and evaluate a detector with mixup from a config.

python tools/train.py fit --config configs/quickstart.yaml
python tools/train.py fit --config configs/bccd.yaml --data.mixup null       # without mixing
python tools/train.py fit --config configs/bccd.yaml --resume           # go on where it was stopped or killed
python tools/train.py test --config configs/bccd.yaml
"""

import os

# threads that wait for each other by spinning make a step several times slower as soon as a core is shared
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from detmix.training import cli_main  # noqa: E402  OpenMP reads its setting when torch is imported

if __name__ == "__main__":
    cli_main()
