import subprocess
import sys

import detmix

PUBLIC = {
    "ManifoldMixup",
    "MixupBatch",
    "MixupDataset",
    "MixupIterable",
    "SeededDataset",
    "check_target",
    "collate",
    "cutmix_pair",
    "cutout",
    "losses_and_detections",
    "mix_pair",
    "object_keys",
    "sample_lambda",
    "sample_region",
    "unweight_losses",
    "weight_losses",
}


def test_public_names():
    import types

    names = {n for n, v in vars(detmix).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert names == PUBLIC


def test_import_is_light():
    heavy = ("lightning", "matplotlib.pyplot", "albumentations", "webdataset", "datasets", "numba")
    code = f"import sys, detmix, detmix.data, detmix.evaluation; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
