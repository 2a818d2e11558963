"""A one-layer language model whose every number can be computed by hand, and small fits, for tests of studies and of inspect.

    model = ToyLM(seed=0); tokens = model.tokenize(["abba", "cab"]); rows = toy_rows(model, tokens, "resid_post.0")

One token per letter of `LETTERS`, after a special token 0. With E the embedding of a token, all of them tensors of float64:

    mlp_in.0 = E    mlp_act.0 = tanh(E)    mlp_out.0 = tanh(E) @ down    resid_post.0 = E + mlp_out.0    logits = resid_post.0 @ unembedding
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from armillary.core.codes import Codes, dense_codes, sparse_codes
from armillary.core.decomposition import Decomposition
from armillary.core.dictionary import Dictionary
from armillary.core.encoders import Encoder, LinearEncoder, NullEncoder
from armillary.core.model import At, Edit
from armillary.core.rows import Batch, Layout, TensorRows, batch_indices
from armillary.core.site import Site, Source
from armillary.core.tokens import Document, Tokens
from armillary.errors import CapabilityError

LETTERS = "abcdefghijk"
VOCAB = len(LETTERS) + 1
WIDTHS = {"mlp_in": 6, "mlp_act": 6, "mlp_out": 6, "resid_post": 6}
RESID = Site("resid_post", 0)


class ToyLM:
    """See the module.

    Args:
        seed: of its weights; part of the revision.
        has_logits: an encoder-only model if False.
    """

    name, n_layers = "toy", 1

    def __init__(self, seed: int = 0, *, has_logits: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.revision, self.has_logits = f"seed{seed}", has_logits
        self.embedding, self.down, self.unembedding = (
            torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((VOCAB, 6), (6, 6), (6, VOCAB))
        )
        self.seen: list[Tensor] = []

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        ids = [np.array([0, *(1 + LETTERS.index(letter) for letter in text)]) for text in texts]
        lengths = [len(one) for one in ids]
        flat, position = np.concatenate(ids), np.concatenate([np.arange(n) for n in lengths])
        is_special = flat == 0
        return Tokens(
            ids=flat,
            starts=np.cumsum([0, *lengths]),
            document=np.where(is_special, -1, np.repeat(np.arange(len(ids)), lengths)),
            position=position,
            span=np.where(is_special[:, None], 0, np.stack([position - 1, position], axis=1)),
            is_special=is_special,
            is_row=~is_special,
            documents=[Document(text, f"text {i}") for i, text in enumerate(texts)],
        )

    def _run(self, tokens: Tokens, edits: Sequence[Edit]) -> dict[Site, Tensor]:
        ids, mask = tokens.padded()
        values: dict[Site, Tensor] = {}
        row = torch.from_numpy(tokens.spread(np.arange(len(tokens)), fill=-1))
        where = torch.from_numpy(mask)
        at = At(where, torch.from_numpy(tokens.spread(tokens.position)), row, torch.zeros_like(where), values.__getitem__)

        def put(kind: str, value: Tensor) -> Tensor:
            site = Site(kind, 0)
            for edit in edits:
                if edit.writes == site:
                    value = edit(value, at)
            values[site] = value
            return value

        embedded = put("mlp_in", self.embedding[torch.from_numpy(ids)])
        out = put("mlp_out", put("mlp_act", embedded.tanh()) @ self.down)
        self.seen.append(put("resid_post", embedded + out))
        return values

    def capture(self, tokens: Tokens, sites: Sequence[Site], *, edits: Sequence[Edit] = ()) -> dict[Site, Tensor]:
        values = self._run(tokens, edits)
        return {site: values[site] for site in sites}

    def logits(self, tokens: Tokens, *, edits: Sequence[Edit] = (), grad: bool = False) -> Tensor:
        return self._run(tokens, edits)[RESID] @ self.unembedding

    def read(self, tokens: Tokens, sites: Sequence[Site]) -> tuple[dict[Site, Tensor], Tensor]:
        values = self._run(tokens, ())
        return {site: values[site] for site in sites}, values[RESID] @ self.unembedding

    def unembed(self, direction: Tensor) -> Tensor:
        return direction.double() @ self.unembedding

    def readout(self, site: Site) -> Tensor:
        if site.kind != "mlp_act":
            raise CapabilityError(f"no readout at {site}")
        return self.down

    def vocabulary(self) -> list[str]:
        return ["<s>", *LETTERS]

    def source(self, site: Site) -> Source:
        return Source(self.name, self.revision, site)

    def rows(self, texts: Sequence[str], site: Site | str) -> TensorRows:
        return toy_rows(self, self.tokenize(texts), site)


def toy_texts(n: int, length: int = 12, seed: int = 0) -> list[str]:
    """Random words of `LETTERS`, between half of `length` and `length` letters."""
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(LETTERS), size=rng.integers(length // 2, length + 1))) for _ in range(n)]


def own_texts(model: ToyLM, n: int, length: int = 12, seed: int = 0) -> list[str]:
    """Words the model itself would write, so that it predicts them better than chance."""
    generator = torch.Generator().manual_seed(seed)
    clean = model.embedding + model.embedding.tanh() @ model.down
    chance = torch.softmax((clean @ model.unembedding)[:, 1:], dim=1)  # of each letter after each token
    texts = []
    for _ in range(n):
        ids = [0]
        for _ in range(int(torch.randint(length // 2, length + 1, (), generator=generator))):
            ids.append(1 + int(torch.multinomial(chance[ids[-1]], 1, generator=generator)))
        texts.append("".join(LETTERS[i - 1] for i in ids[1:]))
    return texts


def toy_rows(model: ToyLM, tokens: Tokens, site: Site | str, dtype: torch.dtype = torch.float64) -> TensorRows:
    """The rows of a site, with their source and tokens."""
    address = Site.parse(site)
    value = model.capture(tokens, [address])[address]
    _, mask = tokens.padded()
    x = value[torch.from_numpy(mask)][torch.from_numpy(tokens.is_row)]
    return TensorRows(x.to(dtype), source=model.source(address), tokens=tokens)


class SideBySide:
    """Rows of several sites side by side, which cannot be fetched one by one.

    Args:
        parts: rows of the same tokens.
    """

    def __init__(self, *parts: TensorRows) -> None:
        self.x, self.parts = torch.cat([part.x for part in parts], dim=1), parts
        self.n_rows, self.tokens, self.record = parts[0].n_rows, parts[0].tokens, {"dtype": "several"}
        self.n_reads = 0

    @property
    def layout(self) -> Layout:
        return tuple(part.layout[0] for part in self.parts)

    def batches(
        self, size: int, *, seed: int | None = None, epoch: int = 0, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        self.n_reads += 1
        for index in batch_indices(self.n_rows, size, seed=seed, epoch=epoch, skip=skip, rank=rank, world=world):
            yield Batch(self.x[torch.from_numpy(index)], index)


# ---------------------------------------------------------------- fits


@dataclass(frozen=True)
class ReluEncoder(Encoder):
    """relu(x @ weight.T + bias), [M, D] and [M]; only the `k` largest as sparse codes if k > 0."""

    weight: Tensor
    bias: Tensor
    k: int = 0
    fires: float | None = 0.0

    def encode(self, x: Tensor, *, target: Tensor | None = None) -> Codes:
        value = (x @ self.weight.T + self.bias).relu()
        if self.k == 0:
            return dense_codes(value)
        top = value.topk(self.k, dim=1)
        return sparse_codes(top.values, top.indices, len(self.weight))


def fit_of(dictionary: Dictionary, encoder: Encoder, rows: Any, **fields: Any) -> Decomposition:
    """A fit at the rows' site."""
    return Decomposition(dictionary, encoder, **{"inputs": rows.layout, "targets": rows.layout, **fields})


def identity_fit(rows: Any) -> Decomposition:
    """Reconstructs everything."""
    eye = torch.eye(rows.layout[0][1], dtype=torch.float64)
    return fit_of(Dictionary.of_directions(eye), LinearEncoder(eye, torch.zeros(len(eye), dtype=torch.float64)), rows)


def constant_fit(rows: Any, value: Tensor, n_atoms: int = 3) -> Decomposition:
    """Predicts one vector [D], with a dictionary that is never used."""
    atoms = torch.ones(n_atoms, len(value), dtype=torch.float64)
    return fit_of(Dictionary.of_directions(atoms, value.double()), NullEncoder(n_atoms), rows)


def random_sae(rows: Any, n_atoms: int = 16, k: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Decomposition:
    """An untrained sparse autoencoder (dense ReLU codes for k = 0); its last atom never fires."""
    generator = torch.Generator().manual_seed(seed)
    d = rows.layout[0][1]
    weight = torch.randn(n_atoms, d, generator=generator, dtype=torch.float64).to(dtype)
    bias = torch.zeros(n_atoms, dtype=dtype)
    bias[-1] = -1e6
    atoms = torch.nn.functional.normalize(weight, dim=1) / 2
    return fit_of(Dictionary.of_directions(atoms, torch.full((d,), 0.1, dtype=dtype)), ReluEncoder(weight, bias, k), rows)
