"""What ``tools/evaluate.py`` does: files in; tables, JSON and plots out. Needs ``detmix[train]``, but not Lightning."""

from .evaluate import evaluate_files as evaluate_files
from .measured import Options as Options
from .sources import CocoFile as CocoFile
from .sources import VocFolder as VocFolder
