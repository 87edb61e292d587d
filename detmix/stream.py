"""Streams of detection samples: mixing with partners from a bounded buffer.

A reader is one data-loader worker of one process that trains, or that process itself without workers.
"""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from operator import methodcaller
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from .arguments import check_alpha, check_count, check_integer, check_share
from .canvas import compiled_blend, image_size
from .draws import STREAMS, generator_at
from .memory import Held, part_of_memory
from .mixing import Sample, mix_pair, raise_named, require_sample, sample_lambda, transformed
from .pipelines import check_transform
from .readers import Reader, this_process, this_reader
from .shared import Shared
from .switch import Switched, depth_within, mixers_within, shares_itself_out, tell_epoch, tell_transform
from .target_checks import check_target
from .targets import Target


class MixupIterable(Switched, IterableDataset[Sample]):
    """Blends each sample of a stream with another one from a window of the stream.

    The window holds the sample and the ``buffer_size`` samples that the reader read before it; the first
    ``buffer_size + 1`` samples share one window, read ahead. Every sample comes out once, in the stream's
    order, as the first image of its pair. Its partner is drawn uniformly from the others in the window;
    a reader that finds a single sample gives it as it is.

    Whether a sample is mixed, and its ratio, are a function of (seed, epoch, position in the stream), where
    reader r of n reads the positions r, r + n, r + 2n, ... The partner is one of the reader's own window,
    and so also depends on the number of readers.

    Call ``set_epoch`` before each epoch, or every epoch draws the same. It takes effect, in running workers
    too, when the stream is next read from the start, and is then handed on to what is wrapped and has ``set_epoch``,
    transforms within included; a ``transform`` of its own that has it is told at once as well. ``enable`` takes effect
    with the next sample that is mixed.

    Streams of this class can be nested. Each level draws for itself, and ``set_epoch`` and ``enable`` reach all
    levels, through wrappers that keep what they wrap in an attribute, or in a list, tuple or dict of data sets, such as
    torch's ``ChainDataset``. Around a wrapper that keeps it under another name than ``dataset`` or ``datasets`` pass
    ``shard=False``; around one that hides it elsewhere, as in a closure, another ``seed`` too, and tell the inner
    stream the epoch and the switch itself.
    """

    shares_itself_out = True

    def __init__(
        self,
        dataset: Iterable[Sample],
        *,
        alpha: float = 1.5,
        p: float = 1.0,
        buffer_size: int = 64,
        min_weight: float = 0.0,
        transform: Callable[[Any, Target], Sample] | None = None,
        shard: bool = True,
        seed: int = 0,
    ) -> None:
        """Wrap a stream.

        Args:
            dataset: iterable of (image, target) that can be read again every epoch, such as an
                ``IterableDataset``; see ``detmix.mix_pair`` for both.
            alpha: the ratio is drawn from Beta(alpha, alpha); 0 switches mixing off. The defaults are those of
                ``MixupDataset``, for one rule in all; here they have not been measured.
            p: probability that a sample is mixed at all.
            buffer_size: how many samples before its own a sample may be mixed with. Each reader holds
                ``buffer_size + 1`` samples in memory, all of which it reads before it gives the first. As many
                must fit, however few the stream has.
            min_weight: objects fainter than this are left out of a blended sample.
            transform: ``image, target -> image, target``, applied to every sample after mixing; see ``MixupDataset``.
            shard: give each reader its own part: of n readers, every n-th sample. All of them read the whole
                stream, so a data set that shares itself out among workers and ranks does it at less cost:
                pass False for it, or only an n-th of its samples come out. What a ``MixupIterable`` within or a
                stream of :mod:`detmix.data.streams` has shared out is not shared out a second time. Parts differ in
                length by one if n does not divide the stream.
            seed: of the draws; an integer.

        Raises:
            TypeError: the data set is no iterable, or one that can be read once only; alpha, p or min_weight is no
                number; the seed or buffer_size is not an integer; the transform cannot be called with image and target.
            ValueError: alpha is negative or not finite, p or min_weight outside [0, 1], or buffer_size below 1.

        Reading raises ValueError at the third sample where the buffers of all workers of this loader, full of samples
        as large, would not fit in memory. Other loaders, ranks and nested mixers are not counted.
        """
        super().__init__()
        alpha = check_alpha(alpha)
        p = check_share("p", p)
        min_weight = check_share("min_weight", min_weight)
        _check_stream(dataset)
        buffer_size = check_count("buffer_size", buffer_size, least=1)
        self.dataset = dataset
        self.alpha = alpha
        self.p = p
        self.buffer_size = buffer_size
        self.min_weight = min_weight
        self.transform = check_transform(transform)
        self.shard = shard and not shares_itself_out(dataset)
        self.seed = check_integer("seed", seed)
        self._depth = depth_within(self)
        self._stream = STREAMS + self._depth
        self._process = this_process()
        self._read_by_workers = Shared(torch.tensor([False]))
        self._state = {"epoch": 0, "position": 0, "readers": 1}
        self._measured_by: int | None = None
        self._to_resume = Shared(torch.tensor([False]))  # which readers are still to go on from the state
        if alpha > 0 and p > 0:
            compiled_blend()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next reading, here and in running workers; wrapped streams hear of it then."""
        self._set(0, check_count("epoch", epoch))
        tell_transform(self, epoch)
        self._hand_on(mixers_within(self), methodcaller("set_epoch", epoch))

    def state_dict(self) -> dict[str, int]:
        """Where the reading that began last is: what ``load_state_dict`` goes on from.

        Returns:
            The epoch, the position (samples this reader has given since the epoch began), and the number
            of readers.

        Raises:
            RuntimeError: the stream is read by worker processes, which alone know their positions. Use a
                loader that asks its workers for their states, such as torchdata's ``StatefulDataLoader``.
        """
        if get_worker_info() is None and self._read_by_workers.values:
            raise RuntimeError("the stream is read by worker processes: the state must be asked for in each of them")
        return dict(self._state)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a state was taken: the next reading gives what would have come after it.

        The buffer is not part of the state. The stream is read from its start up to the position, and what
        comes before the window is dropped: this costs the reading of ``position`` samples, no mixing. Each
        reader goes on once, workers that are started later included; those that already run do not.

        Args:
            state: what ``state_dict`` returned; resume with the same number of readers, or any at position 0.

        Raises:
            ValueError: the state has other keys than ``state_dict`` gives, or a number is out of its range.
            TypeError: one is not an integer.

        Nothing is changed then.
        """
        if state.keys() != self._state.keys():
            raise ValueError(f"a state must have the keys {sorted(self._state)}, got {sorted(state)}")
        least = {"epoch": 0, "position": 0, "readers": 1}
        checked = {name: check_count(name, state[name], least=lowest) for name, lowest in least.items()}
        self.set_epoch(checked["epoch"])
        self._state = checked
        self._to_resume = Shared(torch.full((checked["readers"],), checked["position"] > 0))

    def __iter__(self) -> Iterator[Sample]:
        """The samples of this reader, from the start of the epoch or from where the loaded state was taken.

        What the wrapped stream raises comes as it is.

        Raises:
            RuntimeError: two samples could not be mixed, whatever was raised for it, which is the cause; both are
                named by their positions among those of this reader.
            MemoryError: there was no memory for that; it comes as it is, with the names in a note.
            TypeError: the stream gives something else than (image, target); a target that is mixed with no other has a
                value of the wrong type; or ``transform`` returns no sample.
            ValueError: such a target is malformed; ``transform`` left the keys out of step; the buffers do not fit in
                memory; or a loaded state was taken with another number of readers.
        """
        self._read_by_workers.values[0] = get_worker_info() is not None
        reader = this_reader(self._process)
        reading = self._begin(reader)
        start = reading["position"]
        reach = self.buffer_size if self.alpha > 0 and self.p > 0 else 0
        first = max(0, start - reach)  # the window's first sample
        samples = self._samples_from(first, reading["epoch"], reader)
        window = deque(islice(samples, min(3, reach + 1)), maxlen=reach + 1)
        self._require_memory(window)
        window.extend(islice(samples, reach + 1 - len(window)))
        for own in range(start - first, len(window)):
            yield self._give(window, own, first + own, reader, reading)
        for position, sample in enumerate(samples, start=first + reach + 1):
            window.append(sample)
            yield self._give(window, reach, position, reader, reading)

    def _require_memory(self, window: deque[Sample]) -> None:
        """Measure what is available once in a process: later on it lacks what the other workers hold."""
        if len(window) == 3 and self._measured_by != os.getpid():
            held = Held()
            *_, size = (held.add(place, sample) for place, sample in enumerate(window))
            part_of_memory("buffer_size", self.buffer_size, size)
            self._measured_by = os.getpid()

    def _begin(self, reader: Reader) -> dict[str, int]:
        """The state that a new reading counts in."""
        epoch = self.epoch
        self._state = {"epoch": epoch, "position": self._start(epoch, reader), "readers": reader.total}
        return self._state

    def _start(self, epoch: int, reader: Reader) -> int:
        """The position to start from; a loaded state counts once for each reader, and for its own epoch only."""
        if self._state["epoch"] != epoch:
            self._to_resume.values.zero_()
        if not self._to_resume.values.any():
            return 0
        if self._state["readers"] != reader.total:
            raise ValueError(
                f"the state was taken with {self._state['readers']} readers (workers times processes), "
                f"and now there are {reader.total}: resume with as many"
            )
        resumed = bool(self._to_resume.values[reader.number])
        self._to_resume.values[reader.number] = False
        return self._state["position"] if resumed else 0

    def _samples_from(self, first: int, epoch: int, reader: Reader) -> Iterator[Sample]:
        for position, given in enumerate(islice(self._part(epoch, reader), first, None), start=first):
            yield require_sample(given, partial("sample {} of this reader".format, position))

    def _part(self, epoch: int, reader: Reader) -> Iterator[Any]:
        tell_epoch(self, epoch)
        return islice(self.dataset, reader.number, None, reader.total) if self.shard else iter(self.dataset)

    def _give(self, window: deque[Sample], own: int, position: int, reader: Reader, reading: dict[str, int]) -> Sample:
        """The sample in place ``own`` of the window, mixed and transformed."""
        index = position * reader.total + reader.number
        generator = generator_at(self.seed, reading["epoch"], index, self._stream)
        if not self.enabled or len(window) == 1 or generator.random() >= self.p:
            image, target = self._plain(window, own)
        else:
            lam = sample_lambda(self.alpha, generator)
            partner = int(generator.integers(len(window) - 1))
            image, target = self._mix(window, own, partner + (partner >= own), lam, position)
        reading["position"] = position + 1
        return transformed(self.transform, image, target)

    def _plain(self, window: deque[Sample], own: int) -> Sample:
        image, target = window[own]
        check_target(target, size=image_size(image))
        # a transform that writes in place must not reach what is still to be someone's partner
        return (image, target) if len(window) == 1 else copy.deepcopy((image, target))

    def _mix(self, window: deque[Sample], own: int, partner: int, lam: float, position: int) -> Sample:
        try:
            return mix_pair(*window[own], *window[partner], lam=lam, min_weight=self.min_weight)
        except Exception as error:
            names = f"sample {position} of this reader with sample {position - own + partner}"
            raise_named(error, names)

    def __getstate__(self) -> dict[str, Any]:
        # a worker started by spawn has no process group of its own to ask
        return {**self.__dict__, "_process": this_process(self._process)}


def _check_stream(dataset: Any) -> None:
    name = type(dataset).__name__
    if not isinstance(dataset, Iterable):
        raise TypeError(f"a stream must be an iterable of (image, target), got {name}: for indices see MixupDataset")
    if isinstance(dataset, Iterator):
        raise TypeError(f"a stream must be readable again every epoch, got the iterator {name}")
