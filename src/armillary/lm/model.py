"""LanguageModel: any Hugging Face model or module, with capture, logits and generation under edits.

Letters: B sequences, T positions, D width of a site, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn

from armillary.core.model import Edit, Texts
from armillary.core.rows import Rows
from armillary.core.site import Site, Source
from armillary.core.tokens import Tokens
from armillary.errors import CapabilityError, InputError, ShapeError
from armillary.lm.fast import Fast
from armillary.lm.hooks import Frame, Pass
from armillary.lm.loading import Request, load
from armillary.lm.sites import SiteMap, path_of, projection
from armillary.lm.tokenizing import as_documents, spellings, tokenize

if TYPE_CHECKING:
    from armillary.lm.generation import Generation

#: Names under which configurations say how many positions a model reads.
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
#: Directions that are unembedded together.
_UNEMBED_POSITIONS = 64


@final
class LanguageModel:
    """A language model whose activations can be read and changed. Satisfies `core.model.Model`.

    Args:
        model: a shipped model ("arm-small", "arm-tiny"), a folder, a Hub name, or a module that takes token ids [B, T].
        tokenizer: a Hugging Face fast tokenizer, for a module; without one it reads `Tokens` only.
        dtype: of the weights; by default float32 on a CPU and the checkpoint's own on a GPU.
        device: where to put it; by default the first GPU, else the CPU. A module that is passed is not moved.
        device_map: handed to transformers; then nothing is moved.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run code that comes with the model. Off unless asked.
        fast: fewer, better kernels where the model is float32 on a CPU; activations differ by about 1e-7 relative.

    Raises:
        UnknownNameError: no such model; the message holds the nearest names.
        CapabilityError: an encoder-decoder model.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module,
        tokenizer: Any = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        device_map: Any = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        fast: bool = False,
    ) -> None:
        if isinstance(model, nn.Module):
            self.module: Any = model.eval()
            self.name = getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
        else:
            self.name = os.fspath(model)
            self.module, own = load(Request(self.name, dtype, device, device_map, revision, trust_remote_code))
            tokenizer = tokenizer or own
        self.tokenizer, self._is_fast = tokenizer, fast

    def __repr__(self) -> str:
        layers = f"{self.n_layers} layers of width {self.d_model}" if self.config is not None and self.n_layers else type(self.module).__name__
        fast = f", fast ({self._fast.n_layers} layers)" if self._fast else ""
        return f"LanguageModel({self.name!r}: {layers}, {str(self.dtype).removeprefix('torch.')} on {self.device}{fast})"

    # ------------------------------------------------------------ what it is

    @cached_property
    def config(self) -> Any:
        """The text model's configuration, None for a plain module."""
        config = getattr(self.module, "config", None)
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @cached_property
    def revision(self) -> str:
        """The Hub's commit, else a hash of the weights: equal exactly when the weights are."""
        commit = getattr(self.config, "_commit_hash", None)
        return str(commit) if commit else weights_hash(self.module)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def n_layers(self) -> int:
        return self.sites.n_layers

    @cached_property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size) if self.config is not None else self.width(Site("resid_post", 0))

    @cached_property
    def context(self) -> int | None:
        """Positions it reads at most; None where it does not say."""
        found = [getattr(self.config, name) for name in _CONTEXT_NAMES if isinstance(getattr(self.config, name, None), int)]
        if not found:
            return None
        # RoBERTa and its kin count positions from the padding id on.
        is_shifted = "roberta" in str(getattr(self.config, "model_type", "")) or getattr(self.config, "model_type", "") == "camembert"
        return int(found[0]) - (int(self.config.pad_token_id) + 1 if is_shifted else 0)

    @cached_property
    def vocab_size(self) -> int:
        """V, the width of the logits or, without these, of the embedding."""
        head = self.module.get_output_embeddings() if self.has_logits else None
        return int(head.weight.shape[0]) if head is not None else int(self.config.vocab_size)

    @cached_property
    def has_logits(self) -> bool:
        """Whether it predicts the next token."""
        can = getattr(self.module, "can_generate", None)
        return bool(can is not None and can() and self.module.get_output_embeddings() is not None)

    @cached_property
    def sites(self) -> SiteMap:
        """Where each site lies."""
        find = getattr(self.module, "get_input_embeddings", None)
        return SiteMap(self.module, embedding=None if find is None else find(), base=self._base_path, config=self.config)

    @cached_property
    def _base_path(self) -> str:
        """Path of the model without its head."""
        base = getattr(self.module, "base_model", self.module)
        return "" if base is self.module else path_of(self.module, base)

    def source(self, site: Site | str) -> Source:
        """The site under its canonical name, as a place of this very model."""
        return Source(self.name, self.revision, self.sites.canonical(Site.parse(site)))

    def width(self, site: Site | str) -> int:
        """D of a site, found by running one token through the model."""
        return self._width(self.sites.canonical(Site.parse(site)))

    def _width(self, site: Site) -> int:
        if site not in self._widths:
            ids = torch.zeros(1, 1, dtype=torch.int64)
            one = Frame(torch.ones(1, 1, dtype=torch.bool), ids, ids, torch.zeros(1, 1, dtype=torch.bool))
            with torch.no_grad(), Pass(self.module, self.sites, keep=[site], stop=True) as hooks:
                hooks.run(one, lambda: self._forward(hooks, ids.to(self.device), {}))
            self._widths[site] = hooks.kept[site].shape[-1]
        return self._widths[site]

    @cached_property
    def _widths(self) -> dict[Site, int]:
        return {}

    # ------------------------------------------------------------ text

    def tokenize(self, texts: Texts) -> Tokens:
        """One sequence per text, the tokenizer's own special tokens included; nothing is cut off.

        Raises:
            TextError: an empty text.
            CapabilityError: there is no tokenizer, or one that does not tell which characters a token covers.
        """
        if self.tokenizer is None:
            raise CapabilityError(f"{self.name} was given without a tokenizer; pass one, LanguageModel(module, tokenizer), or pass Tokens")
        return tokenize(self.tokenizer, as_documents(texts), self.pad_id)

    @property
    def pad_id(self) -> int:
        """The id in the padding; what it is changes nothing, since padding is masked."""
        found = getattr(self.tokenizer, "pad_token_id", None)
        return int(found) if found is not None else int(getattr(self.config, "pad_token_id", None) or 0)

    def vocabulary(self) -> list[str]:
        """V texts, one per token id."""
        return self._vocabulary

    @cached_property
    def _vocabulary(self) -> list[str]:
        if self.tokenizer is None:
            return [f"<{i}>" for i in range(self.vocab_size)]
        return spellings(self.tokenizer, self.vocab_size)

    def _tokens(self, given: Tokens | Texts) -> Tokens:
        """Tokens that fit the model's context."""
        tokens = given if isinstance(given, Tokens) else self.tokenize(given)
        longest = int(tokens.lengths.max(initial=0))
        if self.context is not None and longest > self.context:
            raise InputError(
                f"sequence {int(tokens.lengths.argmax())} has {longest} tokens, {self.name} reads at most {self.context}; "
                "nothing is cut off unasked: split the text (harvest does) or shorten it"
            )
        return tokens

    # ------------------------------------------------------------ reading

    def capture(self, tokens: Tokens | Texts, sites: Sequence[Site | str], *, edits: Sequence[Edit] = ()) -> Mapping[Site | str, Tensor]:
        """Values of sites in one pass, which ends after the last one that is needed.

        Args:
            tokens: tokens, or texts to tokenize.
            sites: sites or spellings of them.
            edits: applied on the way; a captured site is the value after its edits.

        Returns:
            {site as given: [B, T, D]}, aligned with `tokens.padded()`, bit-equal to the model's own forward.

        Raises:
            InputError: a sequence is longer than the model's context.
            CapabilityError: the architecture has no such site.
        """
        checked = self._tokens(tokens)
        canonical = {site: self.sites.canonical(Site.parse(site)) for site in sites}
        with torch.no_grad(), self._kernels(), Pass(self.module, self.sites, keep=list(canonical.values()), edits=edits, stop=True) as hooks:
            self._run(hooks, checked)
        return {given: hooks.kept[site] for given, site in canonical.items()}

    def logits(self, tokens: Tokens | Texts, *, edits: Sequence[Edit] = (), grad: bool = False) -> Tensor:
        """[B, T, V] next-token logits, aligned with `tokens.padded()`.

        Args:
            tokens: tokens, or texts to tokenize.
            edits: applied on the way.
            grad: keep the graph, so that a loss can be differentiated with respect to what the edits hold.

        Raises:
            CapabilityError: an encoder, which predicts no next token.
            InputError: a sequence is longer than the model's context.
        """
        self.require_logits()
        checked = self._tokens(tokens)
        with torch.set_grad_enabled(grad), self._kernels(), Pass(self.module, self.sites, keep=[], edits=edits) as hooks:
            output: Tensor = self._run(hooks, checked).logits
        return output

    def require_logits(self) -> None:
        """Raise `CapabilityError` where there are no next-token logits."""
        if not self.has_logits:
            raise CapabilityError(f"{self.name!r} ({type(self.module).__name__}) predicts no next token, so it has no logits; use a causal model")

    def _run(self, hooks: Pass, tokens: Tokens) -> Any:
        ids, mask = (torch.from_numpy(part) for part in tokens.padded())
        position = torch.arange(ids.shape[1]).expand_as(ids)
        row = torch.from_numpy(tokens.spread(np.arange(len(tokens)), -1))
        # Without padding no mask is passed, as in a plain call of the model.
        extra = {} if bool(mask.all()) else {"attention_mask": mask.long().to(self.device)}
        frame = Frame(mask, position, row, torch.zeros_like(mask))
        return hooks.run(frame, lambda: self._forward(hooks, ids.to(self.device), extra))

    def _forward(self, hooks: Pass, ids: Tensor, extra: dict[str, Tensor]) -> Any:
        """Call the model, without its head where nothing outside the body is asked for."""
        if self.config is None:
            return self.module(ids)
        prefix = f"{self._base_path}." if self._base_path else ""
        is_inside = hooks.only_captures and all(path.startswith(prefix) for path in hooks.modules)
        module = self.module.base_model if is_inside else self.module
        if "use_cache" in self._call_names:
            extra = {**extra, "use_cache": False}  # type: ignore[dict-item]
        return module(input_ids=ids, **extra)

    @cached_property
    def _call_names(self) -> frozenset[str]:
        """Names of the arguments the model takes."""
        import inspect

        return frozenset(inspect.signature(self.module.forward).parameters)

    @cached_property
    def _fast(self) -> Fast | None:
        return Fast(self.module) if self._is_fast and self.device.type == "cpu" and self.dtype == torch.float32 else None

    def _kernels(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._fast is None or torch.is_grad_enabled() else self._fast.on()

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 32,
        edits: Sequence[Edit] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        use_cache: bool = True,
    ) -> list[Generation]:
        """Continue prompts, with edits applied to the prompt and to every token as it is written; see `lm.generation.generate`."""
        from armillary.lm.generation import Sampling, generate

        several = [prompts] if isinstance(prompts, str) else list(prompts)
        return generate(self, several, max_new_tokens, edits, Sampling(temperature, top_p, seed), use_cache)

    # ------------------------------------------------------------ the way out of the residual stream

    def unembed(self, direction: Tensor) -> Tensor:
        """[..., V] logits of residual-stream vectors [..., D], through whatever the model itself does after its last block.

        The vectors take the place of the last block's output in a pass over stand-in tokens, so the final norm, caps and scales are the
        model's own.

        Raises:
            CapabilityError: an encoder.
            ShapeError: vectors of another width.
        """
        self.require_logits()
        if direction.shape[-1] != self.d_model:
            raise ShapeError(f"unembed takes vectors of width {self.d_model}, got {list(direction.shape)}")
        flat = direction.reshape(-1, self.d_model).to(self.device, self.dtype)
        parts = [self._unembed(part[None])[0] for part in torch.split(flat, min(_UNEMBED_POSITIONS, self.context or _UNEMBED_POSITIONS))]
        found = torch.cat(parts) if parts else flat.new_zeros(0, self.vocab_size)
        return found.reshape(*direction.shape[:-1], -1)

    def _unembed(self, vectors: Tensor) -> Tensor:
        """[1, T, V] of vectors [1, T, D]."""
        ids = torch.zeros(vectors.shape[:2], dtype=torch.int64)
        every = torch.ones_like(ids, dtype=torch.bool)
        edit = _Put(Site("resid_post", self.n_layers - 1), vectors)
        with torch.no_grad(), Pass(self.module, self.sites, keep=[], edits=[edit]) as hooks:
            output = hooks.run(Frame(every, ids, ids - 1, ~every), lambda: self._forward(hooks, ids.to(self.device), {}))
        logits: Tensor = output.logits
        return logits

    def readout(self, site: Site | str) -> Tensor:
        """[D_site, D] the linear map by which a site's vectors reach the residual stream, as (x @ readout); the bias is left out.

        Identity for sites that lie in the residual stream or are added to it; of a Gemma-2 the norm behind the map is left out, too.

        Raises:
            CapabilityError: another kind of site, or a model without a single such projection.
        """
        where = self.sites.canonical(Site.parse(site))
        if where.kind in ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
            return torch.eye(self.d_model, device=self.device, dtype=self.dtype)
        module = projection(self.sites.block(int(where.layer or 0)), where.kind) if where.kind in ("attn_z", "mlp_act") else None
        if module is None:
            raise CapabilityError(f"site '{where}' has no single linear map into the residual stream; mlp_act and attn_z have")
        weight = module.weight.detach()
        matrix: Tensor = weight if type(module).__name__ == "Conv1D" else weight.T  # Conv1D keeps [D_in, D_out]
        return matrix if where.head is None else matrix[self.sites.head_columns(where, len(matrix))]

    # ------------------------------------------------------------ relatives

    def randomized(self, seed: int = 0) -> LanguageModel:
        """The twin with the same architecture and tokenizer and freshly drawn weights: what training did not put there.

        Raises:
            CapabilityError: a plain module, which does not know how it was initialised.
        """
        if self.config is None:
            raise CapabilityError(f"{type(self.module).__name__} is no Hugging Face model, so it cannot be drawn afresh; build a second one")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module = type(self.module)(copy.deepcopy(self.module.config))
        twin = LanguageModel(module.to(self.device, self.dtype), self.tokenizer, fast=self._is_fast)
        twin.name = f"{self.name} (random weights, seed {seed})"
        return twin

    def rows(self, texts: Texts, site: Site | str) -> Rows:
        """The site's rows straight from the model, over and over; see `lm.harvest.LiveRows`."""
        from armillary.lm.harvest import LiveRows

        return LiveRows(self, texts, [site])


class _Put(Edit):
    """Puts given vectors [B, T, D] in a site's place, bit for bit."""

    where = None

    def __init__(self, site: Site, vectors: Tensor) -> None:
        self.site, self._vectors = site, vectors

    def apply(self, x: Tensor, at: Any) -> Tensor:
        return self._vectors


def weights_hash(module: nn.Module) -> str:
    """40 hex digits that are equal exactly when names, shapes, dtypes and bytes of all parameters and buffers are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:40]

