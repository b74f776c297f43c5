"""The order in which rows reach the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpuprop.backend.random import SHUFFLE_STREAM
from gpuprop.errors import DataError


def philox(seed: int, stream: int, step: int = 0) -> np.random.Generator:
    """The generator with key (seed, stream) and a counter that starts at `step` times 2^192.

    No two steps overlap. Raises `DataError` for a seed outside 0 to 2^64 - 1.
    """
    if not 0 <= seed < 2**64:
        raise DataError(f"a seed is a whole number from 0 to 2^64 - 1, got {seed}")
    counter = np.array([0, 0, 0, step], dtype=np.uint64)
    return np.random.Generator(
        np.random.Philox(counter=counter, key=np.array([seed, stream], dtype=np.uint64))
    )


class BatchSampler:
    """Which rows form which batch: iterating gives one epoch of index arrays (b,) int64.

    `lengths` is (N,) or, for pairs, (N, 2). A batch has `batch_size` rows, or at most `batch_tokens` tokens
    counted with padding (a longer row stands alone). With `shuffle` the rows are shuffled anew every epoch,
    sorted by length within pools of `pool` batches, cut, and the batches shuffled; so batches hold rows of
    like length and still differ from epoch to epoch. Without, all rows come sorted by length (`bucket=False`:
    as they stand). The order depends on (seed, epoch) alone. `state_dict()` between two batches says which
    come next.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        bucket: bool = True,
        pool: int = 50,
    ) -> None:
        if (batch_size is None) == (batch_tokens is None):
            raise DataError("give either batch_size (rows) or batch_tokens")
        limit = batch_size if batch_size is not None else batch_tokens
        if limit is None or limit < 1 or pool < 1:
            raise DataError(f"batch_size, batch_tokens and pool must be at least 1, got {limit} and {pool}")
        sizes = np.asarray(lengths, dtype=np.int64)
        if not len(sizes):
            raise DataError("there are no rows to make batches of")
        self.lengths = sizes.reshape(len(sizes), -1)
        self.batch_size, self.batch_tokens = batch_size, batch_tokens
        self.seed, self.shuffle, self.bucket, self.pool = seed, shuffle, bucket, pool
        self.epoch = 0
        self.step = 0
        self._planned: tuple[int, list[np.ndarray]] | None = None
        self._plan(0)

    def __len__(self) -> int:
        """Batches in the present epoch, those already given included."""
        return len(self._plan(self.epoch))

    def __iter__(self) -> Iterator[np.ndarray]:
        """The batches of this epoch that are still to come; at its end `epoch` counts up."""
        plan = self._plan(self.epoch)
        while self.step < len(plan):
            self.step += 1
            yield plan[self.step - 1]
        self.epoch += 1
        self.step = 0

    def state_dict(self) -> dict[str, int]:
        """The position: `step` batches of `epoch` have been given."""
        return {"seed": self.seed, "epoch": self.epoch, "step": self.step, "rows": len(self.lengths)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to a position of `state_dict`.

        Raises `DataError`, and stays where it is, if the state belongs to other data or is damaged.
        """
        names = ("seed", "epoch", "step", "rows")
        if set(state) != set(names) or not all(
            type(state[n]) is int and 0 <= state[n] < 2**64 for n in names
        ):
            raise DataError(f"a sampler's state holds whole numbers {', '.join(names)}, got {dict(state)}")
        if state["rows"] != len(self.lengths):
            raise DataError(
                f"the state was saved with {state['rows']} rows, the data has {len(self.lengths)}"
            )
        plan = self._make_plan(state["seed"], state["epoch"])
        if state["step"] > len(plan):
            here = f"batch {state['step']} of an epoch of {len(plan)}"
            raise DataError(f"the state is at {here}; it was saved with another batch size")
        self.seed, self.epoch, self.step = state["seed"], state["epoch"], state["step"]
        self._planned = (self.epoch, plan)

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, kept until another is asked for (or for good, where all are alike)."""
        if self._planned is None or (self.shuffle and self._planned[0] != epoch):
            self._planned = (epoch, self._make_plan(self.seed, epoch))
        return self._planned[1]

    def _make_plan(self, seed: int, epoch: int) -> list[np.ndarray]:
        rows = np.arange(len(self.lengths))
        if not self.shuffle:
            return self._cut(self._sorted(rows) if self.bucket else rows)
        generator = philox(seed, SHUFFLE_STREAM, epoch)
        rows = generator.permutation(rows)
        if not self.bucket:
            return self._cut(rows)
        size = self._pool_rows()
        pools = [rows[start : start + size] for start in range(0, len(rows), size)]
        batches = [batch for pool in pools for batch in self._cut(self._sorted(pool))]
        return [batches[i] for i in generator.permutation(len(batches))]

    def _pool_rows(self) -> int:
        """Rows in a pool: a whole number of batches where batches are counted in rows."""
        if self.batch_size is not None:
            return self.pool * self.batch_size
        mean = max(float(self.lengths.sum()) / len(self.lengths), 1.0)
        return max(1, int(self.pool * (self.batch_tokens or 1) / mean))

    def _sorted(self, rows: np.ndarray) -> np.ndarray:
        """`rows` by length (the first column decides); equal rows keep their order."""
        return rows[np.lexsort(self.lengths[rows].T[::-1])]

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        if self.batch_size is not None:
            return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        batches, start, longest = [], 0, [0] * self.lengths.shape[1]
        for i, sizes in enumerate(self.lengths[rows].tolist()):
            wider = [max(pair) for pair in zip(longest, sizes, strict=True)]
            if i > start and (i - start + 1) * sum(wider) > (self.batch_tokens or 1):
                batches.append(rows[start:i])
                start, wider = i, sizes
            longest = wider
        return [*batches, rows[start:]]
