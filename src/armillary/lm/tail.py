"""What a model does after its last block - final norm, projection, head, caps and scales - run by itself on vectors of one's own.

No architecture's tail is written down here: the model's own forward runs, with blocks that do nothing but hand the vectors on.

Letters: N vectors, D width of the residual stream, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from armillary.lm.fast import in_place

#: Vectors that go through the head together.
_CHUNK = 512


class Tail:
    """The end of one model.

    Args:
        blocks: all of the model's blocks.
        forward: calls the model with token ids [B, T] and gives its output, which has `logits`.
    """

    def __init__(self, blocks: Sequence[nn.Module], forward: Callable[[Tensor], Any]) -> None:
        self._blocks, self._forward = blocks, forward
        self._rest = self._rest_of_output()

    def logits(self, vectors: Tensor) -> Tensor:
        """[N, V] of residual-stream vectors [N, D]."""
        return torch.cat([self._logits(part) for part in torch.split(vectors, _CHUNK)])

    def _logits(self, vectors: Tensor) -> Tensor:
        x = vectors[:, None]  # [N, 1, D], one token per sequence
        given = x if self._rest is None else type(self._rest)((x, *self._rest[1:]))
        with in_place([(block, lambda *_, **__: given) for block in self._blocks]):
            logits: Tensor = self._forward(torch.zeros(len(vectors), 1, dtype=torch.int64)).logits  # [N, 1, V]
        return logits[:, 0]

    def _rest_of_output(self) -> Any:
        """None where a block's output is the vectors, else a tuple or list of the same kind and length without its tensors."""
        seen: list[Any] = []
        handle = self._blocks[-1].register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            self._forward(torch.zeros(1, 1, dtype=torch.int64))
        finally:
            handle.remove()
        (output,) = seen
        return None if isinstance(output, Tensor) else type(output)([None] * max(2, len(output)))
