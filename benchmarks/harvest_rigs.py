"""Ways to get the residual stream of one block from token ids: ours, the model's library alone, nnsight, and SAELens's store."""

import tempfile
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


class Harvest(Armillary):
    """From text to a finished store on the disk: tokenizer, forward passes, rows in bf16, checksums."""

    def __init__(self, model, fast):
        super().__init__(model, fast)
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(models.WordLevel({str(i): i for i in range(model.config.vocab_size)}, unk_token="0"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.lm.tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)

    def harvest(self, ids, n):
        import armillary as arm

        texts = [" ".join(map(str, row)) for row in ids.tolist()] * n
        with tempfile.TemporaryDirectory() as folder:
            assert arm.harvest(self.lm, texts, self.site, out=folder, batch_tokens=ids.numel()).n_rows == ids.numel() * n


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


class SAELensStore:
    """The activation store that feeds SAELens's trainer, over a TransformerLens model with the same weights; it does not shuffle here."""

    def __init__(self, model):
        from transformer_lens import HookedTransformer, HookedTransformerConfig
        from transformer_lens.pretrained.weight_conversions.gpt2 import convert_gpt2_weights

        self.version, c = version("sae-lens"), model.config
        sizes = {"n_layers": c.n_layer, "d_model": c.n_embd, "n_ctx": c.n_positions, "n_heads": c.n_head, "d_vocab": c.vocab_size}
        config = HookedTransformerConfig(**sizes, d_head=c.n_embd // c.n_head, act_fn="gelu_new", normalization_type="LN", device="cpu")
        self.model, self.store = HookedTransformer(config), None
        weights = convert_gpt2_weights(model, config)
        self.model.load_and_process_state_dict(weights, fold_ln=False, center_writing_weights=False, center_unembed=False)

    def rows(self, ids):
        self.store = self.store or self._open(ids)
        return self.store.get_raw_llm_batch()[0].view(*ids.shape, -1)

    def _open(self, ids):
        from datasets import Dataset
        from sae_lens.training.activations_store import ActivationsStore

        n, length = ids.shape
        return ActivationsStore(
            self.model,
            Dataset.from_dict({"tokens": ids}),
            streaming=False,
            hook_name=f"blocks.{BLOCK}.hook_resid_post",
            hook_head_index=None,
            context_size=length,
            d_in=self.model.cfg.d_model,
            n_batches_in_buffer=8,
            total_training_tokens=1,
            store_batch_size_prompts=n,
            train_batch_size_tokens=n * length,
            prepend_bos=False,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
        )


RIGS = {
    "armillary": lambda model: Armillary(model, fast=False),
    "armillary, fast": lambda model: Armillary(model, fast=True),
    "armillary, into a store": lambda model: Harvest(model, fast=False),
    "armillary, fast, into a store": lambda model: Harvest(model, fast=True),
    "transformers, whole model": FullModel,
    "transformers, stopped by hand": Stopped,
    "nnsight, stopped": NNsight,
    "SAELens's store": SAELensStore,
}


class Session:
    def __init__(self, name, d, n_layers, n, length):
        self.rig = RIGS[name](gpt2(d, n_layers))
        self.version = self.rig.version
        self.ids = torch.randint(50257, (n, length), generator=torch.Generator().manual_seed(1))

    def run(self, n):
        if hasattr(self.rig, "harvest"):
            self.rig.harvest(self.ids, n)
            return
        with torch.no_grad():
            for _ in range(n):
                self.rig.rows(self.ids)

    def checksum(self):
        """A few numbers by which equal outputs are recognised."""
        with torch.no_grad():
            return self.rig.rows(self.ids)[0, :3, :3].flatten().tolist()


def build(name, **settings):
    return Session(name, **settings)
