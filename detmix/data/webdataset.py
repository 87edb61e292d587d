"""Streams of samples from WebDataset's shards: tar files in which the files of a sample stand side by side.

Format: https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import os
import random
import re
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from ..arguments import check_choice, check_count, check_integer
from ..draws import SHARDS, generator_at
from ..mixing import Sample
from ..readers import Reader, this_process, this_reader
from ..targets import Target
from .cleaning import OnInvalid, require_list, require_unique
from .json_rows import decode_object
from .paths import SUFFIXES
from .samples import BoxFormat, Layout
from .streams import SampleStream, load_library

Share = Literal["shards", "samples"]

_TAR_END = bytes(512)
_META = re.compile(r"__[^/]*__($|/)")  # files about the shard


class WebDatasetStream(SampleStream):
    """Samples from WebDataset's shards: tar files in which ``<key>.jpg`` stands beside ``<key>.json``.

    The JSON of a sample is an object; ``write_shards`` writes such shards. The image may have the suffix of any format
    that Pillow reads, but for EPS. Images come as (3, H, W) uint8 tensors; targets as from ``DetectionDataset``, with
    ``image_id`` if the JSON has one. Shards named ``.tar`` are read as they are. Others may be compressed, as
    ``.tar.gz``; those should be your own, for a few of their bytes may become many.

    Of n readers and S shards each gets every n-th shard. If there are fewer shards than readers, n / S readers read the
    same shard and give every (n / S)-th sample of it. So readers, and ranks, differ in the number of their samples as
    shards do, and by one with ``share="samples"``. Either may be a batch more for one rank than for another, for which
    it waits under DDP: docs/data.md has a loop of as many steps for all.

    With ``shuffle`` the order is a function of (seed, epoch) and the reader.
    """

    def __init__(
        self,
        shards: str | Path | Sequence[str | Path],
        *,
        classes: Sequence[int | str],
        box_format: BoxFormat = "xywh",
        objects: str = "objects",
        boxes: str = "bbox",
        labels: str = "category",
        share: Share = "shards",
        shuffle: int = 0,
        on_invalid: OnInvalid = "drop",
        reduce_to: int | None = None,
        transform: Callable[[Any, Target], Sample] | None = None,
        seed: int = 0,
    ) -> None:
        """Name the shards; they are read when the stream is.

        Args:
            shards: paths or URLs that WebDataset opens, or one with braces: ``train-{000000..000099}.tar``.
            classes: what the JSON writes for label 1, 2 ... K-1: names or ids.
            box_format: ``"xywh"`` or ``"xyxy"``, in pixels counted from 0.
            objects: key of the objects, a dict of columns or a list of dicts.
            boxes: key of their boxes.
            labels: key of their classes.
            share: ``"shards"`` gives each reader shards of its own; with ``"samples"`` all read all shards, and of n
                readers each gives every n-th sample, so that the parts of readers, and of ranks, differ by one.
            shuffle: how many samples, not yet decoded, each reader holds to give one of them at random; the order of
                shards is then random too. 0 leaves the order of the files.
            on_invalid: ``"drop"`` drops a box without width or height and clips one past the edge, with a warning in
                the log; ``"raise"`` makes either an error.
            reduce_to: as for ``DetectionDataset``: JPEG files are decoded at a part of their size, and boxes and
                areas scaled with them.
            transform: called with image and target, returns both.
            seed: of the order; an integer.

        Raises:
            ImportError: WebDataset is not installed.
            FileNotFoundError: there is no such local shard.
            ValueError: there is no shard, or one twice; a local tar file is cut short; an argument is not one of those
                named here.
            TypeError: shuffle or seed is not an integer, or classes a text.
        """
        require_list(classes, "classes")
        layout = Layout(tuple(classes), box_format, objects, boxes, labels, on_invalid=on_invalid)
        super().__init__(layout, transform, reduce_to)
        check_choice("share", share, Share)
        self.shards = _expand(shards)
        self.share: Share = share
        self.shuffle = check_count("shuffle", shuffle)
        self.seed = check_integer("seed", seed)

    def __iter__(self) -> Iterator[Sample]:
        """The samples of this reader.

        Raises:
            FileNotFoundError: a local shard is gone.
            ValueError: a shard is no tar file, or cut short, or has a sparse file; a sample lacks its image or its
                JSON, or they are malformed. Shard and key are named.
        """
        reader = this_reader(self._process)
        shards, part = self._part(reader)
        with closing(_read_shards(shards)) as read:  # an error leaves no file open, whoever keeps the error
            members = islice(read, part.number, None, part.total)
            if self.shuffle:
                mix = load_library("webdataset.filters").shuffle(self.shuffle, rng=self._random(1 + reader.number))
                members = mix(members)
            for sample in members:
                yield self._sample(*_open_member(sample))

    def _part(self, reader: Reader) -> tuple[list[str], Reader]:
        """The shards that a reader reads, and which of their samples it gives."""
        shards = list(self.shards)
        if self.shuffle:
            self._random(0).shuffle(shards)
        if self.share == "samples":
            return shards, reader
        if len(shards) >= reader.total:
            return shards[reader.number :: reader.total], Reader(0, 1)
        # rank by rank, so that the workers of each get to all shards, or to as many as there are workers
        processes = this_process(self._process).total
        worker, rank = divmod(reader.number, processes)
        place = rank * (reader.total // processes) + worker
        number = place % len(shards)
        return [shards[number]], Reader(place // len(shards), len(range(number, reader.total, len(shards))))

    def _random(self, index: int) -> random.Random:
        return random.Random(int(generator_at(self.seed, self.epoch, index, SHARDS).integers(1 << 62)))


def _expand(shards: str | Path | Sequence[str | Path]) -> list[str]:
    """The shards one by one, the local ones looked at."""
    expand = load_library("webdataset.shardlists").expand_urls
    if isinstance(shards, str):
        shards = expand(_escaped(shards))
    found = [shards] if isinstance(shards, Path) else list(shards)
    names = [str(shard) for shard in found]
    if not names:
        raise ValueError("there must be a shard at least, got none")
    require_unique(names, "shards")
    for name in names:
        _check_whole(name)
    return names


def _escaped(shards: str) -> str:
    """A pattern of shards, in which a backslash of a path on Windows stands for itself."""
    return shards.replace("\\", "\\\\") if os.sep == "\\" and _is_local(shards) else shards


def _check_whole(shard: str) -> None:
    """A tar file that ends between two of its members reads as if it were whole, so see whether its end is there."""
    if not _is_local(shard):
        return
    path = Path(shard)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such shard")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_TAR_END)))
        if path.suffix == ".tar" and file.read() != _TAR_END:
            raise ValueError(f"{path}: cut short or not a tar file: the zeros at its end are missing")


def _is_local(shard: str) -> bool:
    return "://" not in shard and not shard.startswith("pipe:")


def _open(shard: str) -> Any:
    """A local file by itself, since WebDataset takes the letter of a drive for that of a protocol."""
    return Path(shard).open("rb") if _is_local(shard) else load_library("webdataset.gopen").gopen(shard)


def _read_shards(shards: Iterable[str]) -> Generator[dict[str, Any], None, None]:
    """The files of each sample by their suffix, with ``__key__`` and ``__url__``."""
    library = load_library("webdataset.tariterators")
    for shard in shards:
        _check_whole(shard)  # again, for a file may have changed
        with _open(shard) as stream:
            try:
                yield from library.group_by_keys(_read_members(shard, stream))
            except (tarfile.TarError, EOFError, zlib.error, RecursionError) as error:
                raise ValueError(f"{shard}: not a tar file, or not whole: {error.args[0]}") from error
            except ValueError as error:  # a file is there twice
                raise ValueError(f"{shard}: {error.args[0]}") from error


def _read_members(shard: str, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Name and content of each file, as WebDataset reads them, but for those of few bytes that claim many.

    Such are files with holes, and what is compressed in a ``.tar``; who names a ``.tar.gz`` knows that it is.
    """
    with tarfile.open(fileobj=stream, mode="r|" if shard.endswith(".tar") else "r|*") as members:
        for member in members:
            if member.issparse():
                raise ValueError(f"{member.name}: sparse files are not read")
            content = members.extractfile(member) if member.isreg() and not _META.match(member.name) else None
            if content:
                yield {"fname": member.name, "data": content.read(), "__url__": shard}
            members.members = []  # type: ignore[attr-defined]  # where all would be kept


def _open_member(member: dict[str, Any]) -> tuple[dict[str, Any], bytes, str]:
    """The JSON, the image file, and a name for errors."""
    name = f"{member['__url__']}: sample {member['__key__']}"
    found = [kind for kind in member if not kind.startswith("__")]
    kinds = [kind for kind in found if f".{kind}" in SUFFIXES]
    if len(kinds) != 1 or "json" not in member:
        raise ValueError(
            f"{name}: wanted json and one image, got {found}: the files of a sample stand side by side in a shard, and "
            "their names are the same up to the first dot"
        )
    try:
        return decode_object(member["json"]), member[kinds[0]], name
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: json: {error}") from None
