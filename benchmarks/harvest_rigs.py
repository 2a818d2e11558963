"""Ways to get the residual stream of one block from token ids: ours, the model's library alone, and nnsight."""

from importlib.metadata import version

import numpy as np
import torch

BLOCK = 2


def gpt2(d, n_layers):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=d, n_layer=n_layers, n_head=8, n_positions=128, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


class Armillary:
    def __init__(self, model, fast):
        import armillary as arm

        self.version = version("armillary")
        self.lm, self.site = arm.LanguageModel(model, fast=fast), arm.Site("resid_post", BLOCK)

    def rows(self, ids):
        from armillary.core.tokens import Tokens

        n, length = ids.shape
        flat, nothing = ids.reshape(-1).numpy(), np.zeros(n * length, bool)
        starts, place = np.arange(0, n * length + 1, length), np.tile(np.arange(length), n)
        span = np.zeros((n * length, 2), np.int64)
        tokens = Tokens(flat, starts, np.full_like(flat, -1), place, span, nothing, ~nothing)
        return self.lm.capture(tokens, [self.site])[self.site]


class FullModel:
    """A forward hook on the block, and the whole language model behind it."""

    def __init__(self, model):
        self.version, self.model = version("transformers"), model
        model.transformer.h[BLOCK].register_forward_hook(self._keep)

    def _keep(self, module, args, output):
        self.kept = output[0] if isinstance(output, tuple) else output

    def rows(self, ids):
        self.model(ids)
        return self.kept


class Stopped(FullModel):
    """The same, left by an exception once the block is done."""

    class Done(Exception):
        pass

    def _keep(self, module, args, output):
        super()._keep(module, args, output)
        raise self.Done

    def rows(self, ids):
        try:
            self.model.transformer(ids)
        except self.Done:
            return self.kept


class NNsight:
    def __init__(self, model):
        from nnsight import NNsight as Wrapped

        self.version, self.model = version("nnsight"), Wrapped(model)

    def rows(self, ids):
        with self.model.trace(ids) as tracer:
            out = self.model.transformer.h[BLOCK].output.save()
            tracer.stop()
        return out[0] if isinstance(out, tuple) else out


RIGS = {
    "armillary": lambda model: Armillary(model, fast=False),
    "armillary, fast": lambda model: Armillary(model, fast=True),
    "transformers, whole model": FullModel,
    "transformers, stopped by hand": Stopped,
    "nnsight, stopped": NNsight,
}


class Session:
    def __init__(self, name, d, n_layers, n, length):
        self.rig = RIGS[name](gpt2(d, n_layers))
        self.version = self.rig.version
        self.ids = torch.randint(50257, (n, length), generator=torch.Generator().manual_seed(1))

    def run(self, n):
        with torch.no_grad():
            for _ in range(n):
                self.rig.rows(self.ids)

    def checksum(self):
        """A few numbers by which equal outputs are recognised."""
        with torch.no_grad():
            return self.rig.rows(self.ids)[0, :3, :3].flatten().tolist()


def build(name, **settings):
    return Session(name, **settings)
