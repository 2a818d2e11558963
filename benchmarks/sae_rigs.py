"""How each implementation is asked for a training step of each variant, and for codes and reconstructions.

Every rig goes through the package's own training objects wherever those accept plain tensors. All train with Adam at one learning rate
after a linear warm-up, in float32, with no logging, and with windows so long that no latent counts as dead.
"""

import os
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import torch

FOREVER = 10**9


class Armillary:
    """The consumer that `TopKSAE.fit` drives, given batches by hand."""

    def __init__(self, c, defaults):
        import armillary as arm
        from armillary.core.rows import TensorRows

        kind, sparsity = {
            "topk": (arm.TopKSAE, {"k": c.k}),
            "batch_topk": (arm.BatchTopKSAE, {"k": c.k}),
            "matryoshka": (arm.MatryoshkaSAE, {"k": c.k}),
            "jumprelu": (arm.JumpReLUSAE, {"l0": c.k}),
            "gated": (arm.GatedSAE, {"l0": c.k}),
            "relu": (arm.ReLUSAE, {"l0": c.k}),
        }[c.variant]
        same = {"lr": c.lr, "warmup": c.n_warmup / c.n_steps, "decay": 0.0, "dead_after_tokens": FOREVER}
        self.version = version("armillary")
        method = kind(n_features=c.d_sae, n_steps=c.n_steps, batch_size=c.batch, **sparsity, **({} if defaults else same))
        self.fit, self.n_dead = None, round(c.dead * c.d_sae)
        self.fitting = method.consumer(TensorRows(torch.zeros(c.batch * c.n_steps, c.d_in)), seed=c.seed, start=None)

    def start(self, x):
        pass  # takes the mean of the first batch by itself

    def step(self, x):
        from armillary.core.rows import Batch

        self.fit = None
        if self.n_dead and self.fitting.n_steps:
            self.fitting._run.trainer.silent[: self.n_dead] = 2 * FOREVER
        self.fitting.update(Batch(x, np.zeros(0, np.int64)))

    def codes(self, x):
        fit = self.fitting.finish()
        codes = fit.encode(x)
        return codes.dense() > 0, fit.decode(codes)

    def infer(self, x):
        self.fit = self.fit or self.fitting.finish()
        self.fit.reconstruct(x)

    def decoder(self):
        return self.fitting.finish().dictionary.atoms


class SAELens:
    def __init__(self, c):
        import sae_lens
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        self.version = version("sae-lens")
        size = {"d_in": c.d_in, "d_sae": c.d_sae}
        name, sparsity = {
            "topk": ("TopKTrainingSAE", {"k": c.k}),
            "batch_topk": ("BatchTopKTrainingSAE", {"k": c.k}),
            "matryoshka": ("MatryoshkaBatchTopKTrainingSAE", {"k": c.k, "matryoshka_widths": widths(c.d_sae)}),
            # The penalty that is steered to a number of codes; its weight is the one thing left to choose.
            "jumprelu": (
                "JumpReLUTrainingSAE",
                {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": c.k, "l0_coefficient": c.penalty},
            ),
            "gated": ("GatedTrainingSAE", {"l1_coefficient": c.penalty}),
            "relu": ("StandardTrainingSAE", {"l1_coefficient": c.penalty}),
        }[c.variant]
        size |= sparsity
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
        self.n_dead = round(c.dead * c.d_sae)

    def start(self, x):
        self.sae.b_dec.data.copy_(x.mean(0))

    def step(self, x):
        self.trainer.n_forward_passes_since_fired[: self.n_dead] = 2 * FOREVER
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
        from dictionary_learning.trainers.gdm import GatedSAETrainer
        from dictionary_learning.trainers.jumprelu import JumpReluTrainer
        from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
        from dictionary_learning.trainers.standard import StandardTrainer
        from dictionary_learning.trainers.top_k import TopKTrainer

        self.version = version("dictionary-learning")
        size = {"activation_dim": c.d_in, "dict_size": c.d_sae}
        counted = {"k": c.k, "threshold_start_step": max(0, c.n_steps - 100)}
        penalised = {"sparsity_warmup_steps": c.n_warmup}
        kind, sparsity = {
            "topk": (TopKTrainer, counted),
            "batch_topk": (BatchTopKTrainer, counted),
            "matryoshka": (MatryoshkaBatchTopKTrainer, {**counted, "group_fractions": [1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32]}),
            "jumprelu": (JumpReluTrainer, {**penalised, "target_l0": c.k, "sparsity_penalty": c.penalty}),
            "gated": (GatedSAETrainer, {**penalised, "l1_penalty": c.penalty}),
            "relu": (StandardTrainer, {**penalised, "l1_penalty": c.penalty}),
        }[c.variant]
        self.trainer = kind(
            steps=FOREVER, layer=0, lm_name="", lr=c.lr, warmup_steps=c.n_warmup, device="cpu", seed=c.seed, **size, **sparsity
        )
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
        ae = self.trainer.ae
        return ae.W_dec.data if hasattr(ae, "W_dec") else ae.decoder.weight.data.T


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
        self.dead = torch.arange(c.d_sae) < round(c.dead * c.d_sae)

    def start(self, x):
        self.sae.b_dec.data = x.mean(0)

    def step(self, x):
        self.sae.set_decoder_norm_to_unit_norm()
        out = self.sae(x=x, y=x, dead_mask=self.dead if self.dead.any() else None)
        self.fired[out.latent_indices.flatten()] = True
        (out.fvu + out.auxk_loss / 32 + out.multi_topk_fvu / 8).backward()
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
        from overcomplete.sae import BatchTopKSAE, JumpSAE, TopKSAE, train_sae

        self.version = version("overcomplete")
        kind, sparsity = {
            "topk": (TopKSAE, {"top_k": c.k}),
            "batch_topk": (BatchTopKSAE, {"top_k": c.k * c.batch}),  # it counts over the batch
            "jumprelu": (JumpSAE, {}),
        }[c.variant]
        self.sae, self.train, self.penalty = kind(c.d_in, nb_concepts=c.d_sae, device="cpu", **sparsity), train_sae, c.penalty
        self.loss = self.penalised if c.variant == "jumprelu" else _mean_square
        self.adam = torch.optim.Adam(self.sae.parameters(), lr=c.lr)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda i: min(1.0, (i + 1) / max(1, c.n_warmup)))

    def start(self, x):
        self.mean = x.mean(0)

    def step(self, x):
        self.train(self.sae, [x - self.mean], self.loss, self.adam, scheduler=self.schedule, nb_epochs=1, monitoring=0)

    def penalised(self, x, x_hat, pre_codes, codes, dictionary):
        return (x - x_hat).square().mean() + self.penalty * codes.abs().sum(1).mean()  # it leaves the penalty to its user

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


def widths(d_sae):
    """Latents of each Matryoshka prefix."""
    return [round(share * d_sae) for share in (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1)]


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
        self.name, self.shape = name, shape
        self.restart(data)

    def restart(self, data, **changes):
        """Begin anew, with other data and settings."""
        name, shape = self.name, {**self.shape, **changes}
        self.c = SimpleNamespace(**{"seed": 0, "penalty": 1.0, "dead": 0.0, **shape})
        torch.manual_seed(self.c.seed)
        self.rig = RIGS[name](self.c)
        self.version = self.rig.version
        self.x = torch.from_numpy(np.load(f"{data}/rows.npy"))
        self.held_out, self.parts = (torch.from_numpy(np.load(f"{data}/{part}.npy")) for part in ("held_out", "parts"))
        truth = f"{data}/held_out_on.npy"
        self.truth = torch.from_numpy(np.load(truth)) if os.path.exists(truth) else None
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
        """Held-out FVU, L0, share of latents that never fire there, and how many planted directions were found.

        Where it is known which parts each row holds, also the cosine of each part with its partner in the best one-to-one matching, and
        the F1 score of that partner's firing.
        """
        with torch.no_grad():
            parts = [self.rig.codes(x) for x in self.held_out.split(1024)]
            on, x_hat = torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])
            x = self.held_out
            cosine = self.parts @ torch.nn.functional.normalize(self.rig.decoder(), dim=1).T
            best = cosine.max(1).values
            fvu = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
        dead = 1 - on.any(0).double().mean()
        found = {"fvu": fvu, "l0": on.double().sum(1).mean(), "dead": dead, "mmcs": best.mean(), "recovered": (best > 0.9).double().mean()}
        if self.truth is not None:
            found |= self._matched(cosine, on)
        return {key: float(value) for key, value in found.items()}

    def _matched(self, cosine, on):
        from scipy.optimize import linear_sum_assignment

        part, latent = linear_sum_assignment(-cosine.numpy())
        fires, is_there = on[:, latent], self.truth[:, part]
        both = (fires & is_there).sum(0).double()
        f1 = 2 * both / (fires.sum(0) + is_there.sum(0)).clamp_min(1)
        return {"matched": cosine[part, latent].mean(), "f1": f1.mean()}


def build(name, **settings):
    return Session(name, **settings)
