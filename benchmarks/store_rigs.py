"""Ways to keep rows on disk and read them back: our store, a raw file, and the Arrow table that SAELens caches activations in."""

import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch


class Store:
    def __init__(self, dtype):
        self.version, self.dtype = version("armillary"), dtype

    def write(self, folder, x):
        from armillary.core.site import Site
        from armillary.core.store.manifest import Cursor, Manifest, ModelEntry
        from armillary.core.store.shards import DTYPES, encode
        from armillary.core.store.writer import ShardData, StoreWriter, site_entries
        from armillary.core.tokens import Document, Tokens
        from armillary.lm.harvest import SHARD_BYTES

        site = Site("resid_post", 0)
        model = ModelEntry(name="none", revision="", n_layers=1, dtype="float32", tokenizer="")
        header = Manifest(model=model, sites=site_entries({site: x.shape[1]}), dtype=self.dtype, policy={}, versions={})
        writer = StoreWriter.begin(folder, header, resume=False)
        n_shard = SHARD_BYTES // (x.shape[1] * DTYPES[self.dtype].itemsize)
        for number, part in enumerate(x.split(n_shard)):
            place, flags = np.arange(len(part)), np.zeros(len(part), bool)
            span = np.stack([place, place + 1], axis=1)
            tokens = Tokens(place, np.array([0, len(part)]), np.full(len(part), number), place, span, flags, ~flags)
            document = Document("x" * len(part))
            writer.commit(ShardData({site: encode(part, self.dtype)}, tokens, [document], Cursor(document=number + 1), str(number)))
        writer.finish({})

    def batches(self, folder, size, seed):
        import armillary as arm

        for batch in arm.open(folder)["resid_post.0"].batches(size, seed=seed):
            yield batch.x


class RawFile:
    """float32 in a .npy, memory-mapped: no manifest, no checksum, no tokens."""

    version = np.__version__

    def write(self, folder, x):
        folder.mkdir()
        np.save(folder / "x.npy", x.numpy())

    def batches(self, folder, size, seed):
        x = np.load(folder / "x.npy", mmap_mode="r")
        order = None if seed is None else np.random.default_rng(seed).permutation(len(x))
        for start in range(0, len(x), size):
            part = x[start : start + size] if order is None else x[order[start : start + size]]
            yield torch.from_numpy(np.array(part))


class Arrow:
    """A `datasets` table of [context, width] float32 blocks, the layout of SAELens's cached activations.

    `datasets` leaves it to the system when bytes reach the disk; with `flush` they are there when writing ends, as ours are.
    """

    context = 128

    def __init__(self, flush):
        self.version, self.flush = version("datasets"), flush

    def write(self, folder, x):
        from datasets import Array2D, Dataset, Features

        blocks = x.view(-1, self.context, x.shape[1])
        features = Features({"x": Array2D(shape=tuple(blocks.shape[1:]), dtype="float32")})
        Dataset.from_dict({"x": blocks}, features=features).save_to_disk(folder)
        for path in folder.iterdir() if self.flush else ():
            with open(path, "rb") as file:
                os.fsync(file.fileno())

    def batches(self, folder, size, seed):
        from datasets import load_from_disk

        table = load_from_disk(folder).with_format("torch")
        table = table if seed is None else table.shuffle(seed=seed)  # whole blocks; rows inside stay together
        for start in range(0, len(table), size // self.context):
            yield table[start : start + size // self.context]["x"].flatten(0, 1)


RIGS = {
    "armillary bf16": lambda: Store("bf16"),
    "armillary fp32": lambda: Store("fp32"),
    "armillary int8": lambda: Store("int8"),
    "raw fp32 file": RawFile,
    "Arrow Array2D": lambda: Arrow(flush=False),
    "Arrow Array2D, flushed": lambda: Arrow(flush=True),
}


class Session:
    def __init__(self, name, n, d):
        self.rig = RIGS[name]()
        self.version = self.rig.version
        self.x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
        self.home = Path(tempfile.mkdtemp())
        self.folder = self.home / "rows"

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self):
        self.rig.write(self.folder, self.x)

    def read(self, seed):
        n = sum(len(batch.float()) for batch in self.rig.batches(self.folder, 4096, seed))
        assert n == len(self.x), n

    def size(self):
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def clear(self):
        shutil.rmtree(self.home)


def build(name, **settings):
    return Session(name, **settings)
