"""Journal: where a fit in progress writes its numbers as it goes. A JSON Lines file, or a service that draws curves; none by default.

    with arm.journal("run.jsonl", arm.WandB(project="saes")):
        arm.TopKSAE(n_features=4096, k=32).fit(rows)

Every fit keeps its curve in its provenance, and `save` writes it as log.jsonl, whether or not there was a journal.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from armillary.core import distributed
from armillary.errors import missing_extra


class Sink(ABC):
    """Something that takes numbers down. Subclasses are opened by `journal` and closed at its end."""

    @abstractmethod
    def open(self) -> None:
        """Make ready; called once, before the first number."""

    @abstractmethod
    def write(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        """Take down the values of a step of a fit; several fits may share a run."""

    @abstractmethod
    def close(self) -> None:
        """Finish; called at the end, also after an error."""


_SINKS: ContextVar[tuple[Sink, ...]] = ContextVar("sinks", default=())


@contextmanager
def journal(*sinks: Sink | str | os.PathLike[str]) -> Iterator[None]:
    """Context in which fits write their numbers to sinks; a path is a JSON Lines file.

    Raises:
        MissingExtraError: a sink's package is not installed.
    """
    distributed.start()
    ready = [sink if isinstance(sink, Sink) else JsonLines(sink) for sink in sinks]
    with ExitStack() as opened:
        for sink in ready if distributed.rank() == 0 else ():
            sink.open()
            opened.callback(sink.close)
        token = _SINKS.set((*_SINKS.get(), *ready))
        try:
            yield
        finally:
            _SINKS.reset(token)


def record(fit: str, step: int, values: Mapping[str, float]) -> None:
    """Write the values of a step of a fit to every sink of the journal; the first of several ranks does."""
    if distributed.rank() == 0:
        for sink in _SINKS.get():
            sink.write(fit, step, values)


class JsonLines(Sink):
    """One JSON object per line, flushed as it is written; a file that is there is gone on with.

    After an interruption the points since the last checkpoint are made, and so written, once more: the last line of a step counts.

    Args:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)

    def write(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"fit": fit, "step": step, **values}) + "\n")

    def close(self) -> None:
        self._file.close()


class WandB(Sink):
    """A run of Weights & Biases.

    Args:
        settings: for `wandb.init`, such as project="saes", mode="offline".
    """

    module, extra = "wandb", "wandb"

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def open(self) -> None:
        try:
            package = __import__(self.module)
        except ImportError:
            raise missing_extra(self.module, self.extra, f"the journal {type(self).__name__}") from None
        self._run, self._package = package.init(**self.settings), package
        self._known: set[str] = set()

    def write(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        # Steps of one fit after another's would go backwards, which services refuse: each fit has an axis of its own.
        if fit not in self._known:
            self._known.add(fit)
            self._define(fit)
        self._package.log({f"{fit}/{name}": value for name, value in {**values, "step": step}.items()})

    def _define(self, fit: str) -> None:
        self._run.define_metric(f"{fit}/*", step_metric=f"{fit}/step")

    def close(self) -> None:
        self._package.finish()


class Trackio(WandB):
    """A run of trackio, which keeps it on this machine.

    Args:
        settings: for `trackio.init`, such as project="saes".
    """

    module, extra = "trackio", "trackio"

    def _define(self, fit: str) -> None:
        pass


class TensorBoard(Sink):
    """Event files of TensorBoard.

    Args:
        folder: where they are written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def open(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("tensorboard", "tensorboard", "the journal TensorBoard") from None
        self._writer = SummaryWriter(str(self.folder))

    def write(self, fit: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{fit}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()
