"""The latest batches of a training, for those who have to look at more samples than one batch has."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

PLACE = "[recent]"
"""Where they are saved; no node is called so."""

Batch = tuple[Tensor, ...]


class Recent:
    """The inputs of the latest steps, as many as it takes to have `samples` of them.

    They are copies: loops may reuse their tensors. Batches of other shapes than the last one (sequences of other
    lengths) are kept, but do not stand beside it.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._batches: deque[Batch] = deque()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def add(self, inputs: Batch) -> None:
        """Keep the inputs of a step, batch first, and let go what is not needed any more."""
        if self.samples == 0:
            self._batches.clear()
        if self.samples == 0 or not inputs:
            return
        self._batches.append(tuple(x.detach().clone() for x in inputs))
        while sum(map(_size, self._batches)) - _size(self._batches[0]) >= self.samples:
            self._batches.popleft()

    def reaching(self, samples: int) -> int:
        """Return how many of the latest batches have so many samples together; all if they have fewer."""
        found = total = 0
        for batch in reversed(self._alike()):
            if total >= samples:
                break
            found, total = found + 1, total + _size(batch)
        return found

    def last(self, count: int) -> list[Batch]:
        """Return the latest batches that can stand beside one another, the last one last."""
        return self._alike()[-count:] if count else []

    def _alike(self) -> list[Batch]:
        kinds = [[(x.shape[1:], x.dtype, x.device) for x in batch] for batch in self._batches]
        return [batch for batch, kind in zip(self._batches, kinds, strict=True) if kind == kinds[-1]]

    def state(self) -> dict[str, Tensor]:
        """Return them by the names they are saved under."""
        return {f"{PLACE}/{i}/{j}": x for i, batch in enumerate(self) for j, x in enumerate(batch)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned; other names are left alone."""
        places = sorted(tuple(map(int, name.split("/")[1:])) for name in tensors if name.startswith(f"{PLACE}/"))
        self._batches.clear()
        for i in sorted({i for i, _ in places}):
            self._batches.append(tuple(tensors[f"{PLACE}/{n}/{j}"] for n, j in places if n == i))


def joined(batches: Sequence[Batch]) -> Batch:
    """Return batches as one; nothing if there are none."""
    return tuple(map(torch.cat, zip(*batches, strict=True)))


def _size(batch: Batch) -> int:
    return len(batch[0])
