"""Train and evaluate a detector with mixup from a config.

python tools/train.py fit --config configs/quickstart.yaml
python tools/train.py fit --config configs/bccd.yaml --data.mixup null       # without mixing
python tools/train.py fit --config configs/bccd.yaml --resume                # go on where it was stopped or killed
python tools/train.py test --config configs/bccd.yaml

All settings of data, model and trainer can stand in a config, and be overridden here; fit --print_config shows what
they come to. The files in configs/ are examples. README.md says what a run leaves in its folder, docs/data.md how your
own images are read, docs/mixing.md what mixing can do, and docs/resume.md how a run is stopped and goes on.
"""

import os

# threads that wait for each other by spinning make a step several times slower as soon as a core is shared
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from detmix.training import cli_main  # noqa: E402  OpenMP reads its setting when torch is imported

if __name__ == "__main__":
    cli_main(description=__doc__)
