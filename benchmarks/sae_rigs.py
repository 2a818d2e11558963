"""How each implementation is asked for one TopK or BatchTopK training step, and for codes and reconstructions.

Every rig goes through the package's own training objects wherever those accept plain tensors. All train with Adam at one learning rate
after a linear warm-up, in float32, with no logging, and with windows so long that no latent counts as dead.
"""

from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import torch

FOREVER = 10**9


class Armillary:
    """The consumer that `TopKSAE.fit` drives, given batches by hand."""

    def __init__(self, c, defaults):
        from armillary.core.rows import TensorRows
        from armillary.methods.sae.batch_topk import BatchTopKSAE
        from armillary.methods.sae.topk import TopKSAE

        kind = {"topk": TopKSAE, "batch_topk": BatchTopKSAE}[c.variant]
        same = {"lr": c.lr, "warmup": c.n_warmup / c.n_steps, "decay": 0.0, "dead_after_tokens": FOREVER}
        self.version = version("armillary")
        method = kind(n_features=c.d_sae, k=c.k, n_steps=c.n_steps, batch_size=c.batch, **({} if defaults else same))
        self.fitting = method.consumer(TensorRows(torch.zeros(c.batch * c.n_steps, c.d_in)), seed=0, start=None)

    def start(self, x):
        pass  # takes the mean of the first batch by itself

    def step(self, x):
        from armillary.core.rows import Batch

        self.fitting.update(Batch(x, np.zeros(0, np.int64)))

    def codes(self, x):
        fit = self.fitting.finish()
        codes = fit.encode(x)
        return codes.dense() > 0, fit.decode(codes)

    def infer(self, x):
        self.codes_only = self.fitting.finish().reconstruct(x)

    def decoder(self):
        return self.fitting.finish().dictionary.atoms


class SAELens:
    def __init__(self, c):
        import sae_lens
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        self.version = version("sae-lens")
        size = {"d_in": c.d_in, "d_sae": c.d_sae, "k": c.k}
        name = {"topk": "TopKTrainingSAE", "batch_topk": "BatchTopKTrainingSAE"}[c.variant]
        settings = getattr(sae_lens, f"{name}Config")(**size, dtype="float32", device="cpu", apply_b_dec_to_input=True)
        self.sae = getattr(sae_lens, name)(settings)
        config = SAETrainerConfig(
            total_training_samples=FOREVER,
            train_batch_size_samples=c.batch,
            lr=c.lr,
            lr_end=c.lr,
            lr_warm_up_steps=c.n_warmup,
            device="cpu",
            dead_feature_window=FOREVER,
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer = SAETrainer(cfg=config, sae=self.sae, data_provider=iter(()))

    def start(self, x):
        self.sae.b_dec.data.copy_(x.mean(0))

    def step(self, x):
        self.trainer.maybe_reset_sparsity()
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def codes(self, x):
        z = self.sae.encode(x)
        return z > 0, self.sae.decode(z)

    def infer(self, x):
        self.sae.eval()
        self.sae.decode(self.sae.encode(x))

    def decoder(self):
        return self.sae.W_dec.data


class DictionaryLearning:
    def __init__(self, c):
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
        from dictionary_learning.trainers.top_k import TopKTrainer

        self.version = version("dictionary-learning")
        size = {"activation_dim": c.d_in, "dict_size": c.d_sae, "k": c.k}
        kind = {"topk": TopKTrainer, "batch_topk": BatchTopKTrainer}[c.variant]
        size["threshold_start_step"] = max(0, c.n_steps - 100)
        self.trainer = kind(steps=FOREVER, layer=0, lm_name="", lr=c.lr, warmup_steps=c.n_warmup, device="cpu", seed=0, **size)
        self.n_steps = 0

    def start(self, x):
        pass  # the trainer takes the geometric median of its first batch

    def step(self, x):
        self.trainer.update(self.n_steps, x)
        self.n_steps += 1

    def codes(self, x):
        x_hat, z = self.trainer.ae(x, output_features=True)
        return z > 0, x_hat

    def infer(self, x):
        self.trainer.ae(x)

    def decoder(self):
        return self.trainer.ae.decoder.weight.data.T


class Sparsify:
    """SparseCoder with the steps of its Trainer.fit, which itself takes a language model only."""

    def __init__(self, c):
        from sparsify import SparseCoder, SparseCoderConfig
        from transformers import get_linear_schedule_with_warmup

        self.version = version("eai-sparsify")
        torch.set_float32_matmul_precision("high")  # as its Trainer does
        self.sae = SparseCoder(c.d_in, SparseCoderConfig(num_latents=c.d_sae, k=c.k), "cpu", torch.float32)
        self.adam = torch.optim.Adam(self.sae.parameters(), lr=c.lr)
        self.schedule = get_linear_schedule_with_warmup(self.adam, c.n_warmup, FOREVER)
        self.fired = torch.zeros(c.d_sae, dtype=torch.bool)
        self.silent = torch.zeros(c.d_sae, dtype=torch.int64)

    def start(self, x):
        self.sae.b_dec.data = x.mean(0)

    def step(self, x):
        self.sae.set_decoder_norm_to_unit_norm()
        out = self.sae(x=x, y=x, dead_mask=None)
        self.fired[out.latent_indices.flatten()] = True
        (out.fvu + out.multi_topk_fvu / 8).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.adam.step()
        self.adam.zero_grad()
        self.schedule.step()
        self.silent += len(x)
        self.silent[self.fired] = 0
        self.fired.zero_()

    def codes(self, x):
        found = self.sae.encode(x)
        on = torch.zeros(len(x), len(self.silent), dtype=torch.bool).scatter_(1, found.top_indices, found.top_acts > 0)
        return on, self.sae.decode(found.top_acts, found.top_indices)

    def infer(self, x):
        found = self.sae.encode(x)
        self.sae.decode(found.top_acts, found.top_indices)

    def decoder(self):
        return self.sae.W_dec.data


class Overcomplete:
    """Its own loop over one batch at a time. It has no decoder bias, so it is given centred rows, which it does not ask for."""

    def __init__(self, c):
        import sys
        from unittest.mock import MagicMock

        for name in ("timm", "timm.data", "torchvision", "torchvision.transforms"):  # for its vision models only
            sys.modules.setdefault(name, MagicMock())
        from overcomplete.sae import BatchTopKSAE, TopKSAE, train_sae

        self.version = version("overcomplete")
        kind, k = {"topk": (TopKSAE, c.k), "batch_topk": (BatchTopKSAE, c.k * c.batch)}[c.variant]  # it counts over the batch
        self.sae, self.train = kind(c.d_in, nb_concepts=c.d_sae, top_k=k, device="cpu"), train_sae
        self.adam = torch.optim.Adam(self.sae.parameters(), lr=c.lr)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda i: min(1.0, (i + 1) / max(1, c.n_warmup)))

    def start(self, x):
        self.mean = x.mean(0)

    def step(self, x):
        self.train(self.sae, [x - self.mean], _mean_square, self.adam, scheduler=self.schedule, nb_epochs=1, monitoring=0)

    def codes(self, x):
        self.sae.eval()
        _, z, x_hat = self.sae(x - self.mean)
        return z > 0, x_hat + self.mean

    def infer(self, x):
        self.sae.eval()
        self.sae(x - self.mean)

    def decoder(self):
        return self.sae.get_dictionary().detach()


def _mean_square(x, x_hat, pre_codes, codes, dictionary):
    return (x - x_hat).square().mean()


RIGS = {
    "armillary": lambda c: Armillary(c, defaults=False),
    "armillary, its defaults": lambda c: Armillary(c, defaults=True),
    "sae-lens": SAELens,
    "dictionary-learning": DictionaryLearning,
    "sparsify": Sparsify,
    "overcomplete": Overcomplete,
}


class Session:
    """A rig with its data: rows.npy [N, D], held_out.npy and parts.npy in one folder."""

    def __init__(self, name, data, **shape):
        torch.manual_seed(0)
        self.c = SimpleNamespace(**shape)
        self.rig = RIGS[name](self.c)
        self.version = self.rig.version
        self.x = torch.from_numpy(np.load(f"{data}/rows.npy"))
        self.held_out, self.parts = (torch.from_numpy(np.load(f"{data}/{part}.npy")) for part in ("held_out", "parts"))
        self.at = 0
        with torch.no_grad():
            self.rig.start(self.x[: self.c.batch])

    def train(self, n):
        """n steps over consecutive batches, round and round."""
        for _ in range(n):
            self.rig.step(self.x[self.at : self.at + self.c.batch])
            self.at = (self.at + self.c.batch) % (len(self.x) - self.c.batch + 1)

    def infer(self, n):
        """Encode and decode n batches of held-out rows."""
        with torch.no_grad():
            for _ in range(n):
                self.rig.infer(self.held_out[: self.c.batch])

    def quality(self):
        """Held-out FVU, L0, share of latents that never fire there, and how many planted directions were found."""
        with torch.no_grad():
            parts = [self.rig.codes(x) for x in self.held_out.split(1024)]
            on, x_hat = torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])
            x = self.held_out
            cosine = self.parts @ torch.nn.functional.normalize(self.rig.decoder(), dim=1).T
            best = cosine.max(1).values
            fvu = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
        dead = 1 - on.any(0).double().mean()
        found = {"fvu": fvu, "l0": on.double().sum(1).mean(), "dead": dead, "mmcs": best.mean(), "recovered": (best > 0.9).double().mean()}
        return {key: float(value) for key, value in found.items()}


def build(name, **settings):
    return Session(name, **settings)
