"""LanguageModel: any Hugging Face model or module, with capture, logits and generation under edits.

Letters: B sequences, T positions, D width of a site, V vocabulary.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn

from armillary.core.memory import keep_freed_buffers
from armillary.core.model import Edit, Key, Texts
from armillary.core.rows import Rows
from armillary.core.site import Site, Source
from armillary.core.tokens import Tokens
from armillary.errors import CapabilityError, ShapeError
from armillary.lm.fast import Fast
from armillary.lm.hooks import Frame, Pass
from armillary.lm.loading import Request, load, refuse_encoder_decoder
from armillary.lm.readout import IN_STREAM, readout
from armillary.lm.sites import SiteMap, path_of
from armillary.lm.tail import Tail
from armillary.lm.tokenizing import as_documents, refuse_unreadable, spellings, tokenize
from armillary.lm.weights import frozen, weights_hash

if TYPE_CHECKING:
    from armillary.core.model import Generation

#: Names under which configurations say how many positions a model reads.
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")

#: Model types that, like RoBERTa and its kin, count positions from the padding id on.
_SHIFTED = {"camembert", "mpnet", "longformer", "data2vec-text", "ibert"}


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
            self._commit = None  # a module may have been changed since it was loaded
        else:
            self.name = os.fspath(model)
            self.module, tokenizer = load(Request(self.name, tokenizer, dtype, device, device_map, revision, trust_remote_code))
            self._commit = getattr(self.module.config, "_commit_hash", None)
        refuse_encoder_decoder(self.module, self.name)
        self.tokenizer, self._is_fast = tokenizer, fast
        keep_freed_buffers()
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        is_known = self.config is not None and self.n_layers > 0
        layers = f"{self.n_layers} layers of width {self.d_model}" if is_known else type(self.module).__name__
        fast = f", fast ({self._fast.n_layers} layers)" if self._fast else ""
        return f"LanguageModel({self.name!r}: {layers}, {str(self.dtype).removeprefix('torch.')} on {self.device}{fast})"

    # ------------------------------------------------------------ what it is

    @cached_property
    def config(self) -> Any:
        """The text model's configuration, None for a plain module."""
        config: Any = getattr(self.module, "config", None)
        text = getattr(config, "get_text_config", None)
        return None if text is None else text()  # a module may keep settings of its own under that name

    @cached_property
    def revision(self) -> str:
        """The Hub's commit, else a hash of the weights: equal exactly when the weights are."""
        return str(self._commit) if self._commit else weights_hash(self.module)

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        found: torch.device = next(self.module.parameters()).device
        return found

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = next(self.module.parameters()).dtype
        return found

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
        found = [n for name in _CONTEXT_NAMES if isinstance(n := getattr(self.config, name, None), int) and n > 0]
        if not found:
            return None
        kind = str(getattr(self.config, "model_type", ""))
        is_shifted = "roberta" in kind or kind in _SHIFTED
        return int(found[0]) - (int(self.config.pad_token_id) + 1 if is_shifted else 0)

    @cached_property
    def vocab_size(self) -> int:
        """V, the width of the logits or, without these, the ids it can read."""
        table = self.module.get_output_embeddings() if self.has_logits else self._embedding
        if table is None:
            raise CapabilityError(f"{self.name!r} has no token embedding, so the size of its vocabulary is not known")
        return int(table.weight.shape[0])

    @cached_property
    def has_logits(self) -> bool:
        """Whether it predicts the next token."""
        can = getattr(self.module, "can_generate", None)
        return bool(can is not None and can() and self.module.get_output_embeddings() is not None)

    @cached_property
    def sites(self) -> SiteMap:
        """Where each site lies."""
        return SiteMap(self.module, embedding=self._embedding, base=self._base_path, config=self.config)

    @cached_property
    def _embedding(self) -> Any:
        """The token embedding: what the model says it is, else its first table; None without either."""
        find = getattr(self.module, "get_input_embeddings", None)
        tables = (module for module in self.module.modules() if isinstance(module, nn.Embedding))
        return next(tables, None) if find is None else find()

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
            with self.hooked(keep=[site], stop=True) as hooks:
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
        """An id the model can read, for the padding; which it is changes nothing, since padding is masked."""
        known = [getattr(self.tokenizer, "pad_token_id", None), getattr(self.config, "pad_token_id", None), 0]
        n = self._embedding.weight.shape[0] if self._embedding is not None else float("inf")
        return next(int(found) for found in known if found is not None and 0 <= found < n)

    def vocabulary(self) -> list[str]:
        """V texts, one per token id."""
        return self._vocabulary

    @cached_property
    def _vocabulary(self) -> list[str]:
        if self.tokenizer is None:
            return [f"<{i}>" for i in range(self.vocab_size)]
        return spellings(self.tokenizer, self.vocab_size)

    def _tokens(self, given: Tokens | Texts) -> Tokens:
        """Tokens that the model can read."""
        tokens = given if isinstance(given, Tokens) else self.tokenize(given)
        refuse_unreadable(tokens, self.name, self.context, None if self._embedding is None else len(self._embedding.weight))
        return tokens

    # ------------------------------------------------------------ reading

    def capture(self, tokens: Tokens | Texts, sites: Sequence[Key], *, edits: Sequence[Edit] = ()) -> dict[Key, Tensor]:
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
        with self.hooked(keep=list(canonical.values()), edits=edits, stop=True) as hooks:
            self._run(hooks, checked)
        return {given: hooks.kept[site] for given, site in canonical.items()}

    def logits(self, tokens: Tokens | Texts, *, edits: Sequence[Edit] = (), grad: bool = False) -> Tensor:
        """[B, T, V] next-token logits, aligned with `tokens.padded()`.

        Args:
            tokens: tokens, or texts to tokenize.
            edits: applied on the way.
            grad: keep the graph, so that a loss can be differentiated with respect to what the edits hold (not the model's weights).

        Raises:
            CapabilityError: an encoder, which predicts no next token.
            InputError: a sequence is longer than the model's context.
        """
        self.require_logits()
        checked = self._tokens(tokens)
        with self.hooked(edits=edits, grad=grad) as hooks:
            output: Tensor = self._run(hooks, checked).logits
        return output

    def read(self, tokens: Tokens | Texts, sites: Sequence[Key]) -> tuple[dict[Key, Tensor], Tensor]:
        """Values of sites, as `capture` gives them, and next-token logits, from one pass.

        Args:
            tokens: tokens, or texts to tokenize.
            sites: sites or spellings of them; () for the logits alone.

        Raises:
            CapabilityError: an encoder, or an architecture without such a site.
            InputError: a sequence is longer than the model's context.
        """
        self.require_logits()
        checked = self._tokens(tokens)
        canonical = {site: self.sites.canonical(Site.parse(site)) for site in sites}
        with self.hooked(keep=list(canonical.values())) as hooks:
            logits: Tensor = self._run(hooks, checked).logits
        return {given: hooks.kept[site] for given, site in canonical.items()}, logits

    def require_logits(self) -> None:
        """Raise `CapabilityError` where there are no next-token logits."""
        if not self.has_logits:
            kind = type(self.module).__name__
            raise CapabilityError(f"{self.name!r} ({kind}) predicts no next token, so it has no logits; use a causal model")

    @contextlib.contextmanager
    def hooked(self, keep: Sequence[Site] = (), edits: Sequence[Edit] = (), *, stop: bool = False, grad: bool = False) -> Iterator[Pass]:
        """Hooks in place, for one thread at a time: they sit on the modules, so threads would see each other's. See `Pass`."""
        weights = frozen(self.module) if grad else contextlib.nullcontext()
        hooks = Pass(self.module, self.sites, keep=keep, edits=edits, stop=stop)
        with self._lock, torch.set_grad_enabled(grad), weights, self._kernels(), hooks:
            yield hooks

    def _run(self, hooks: Pass, tokens: Tokens) -> Any:
        ids, mask = (torch.from_numpy(part) for part in tokens.padded())
        ids = ids.masked_fill(~mask, self.pad_id)
        position = torch.arange(ids.shape[1]).expand_as(ids)
        row = torch.from_numpy(tokens.spread(np.arange(len(tokens)), -1))
        # Without padding no mask is passed, as in a plain call of the model.
        extra = {} if bool(mask.all()) else {"attention_mask": mask.long().to(self.device)}
        frame = Frame(mask, position, row, torch.zeros_like(mask))
        return hooks.run(frame, lambda: self._forward(hooks, ids.to(self.device), extra))

    def _forward(self, hooks: Pass, ids: Tensor, extra: dict[str, Tensor]) -> Any:
        """Call the model, without its head where nothing outside the body is asked for."""
        prefix = f"{self._base_path}." if self._base_path else ""
        is_inside = hooks.only_captures and all(path.startswith(prefix) for path in hooks.modules)
        return self._call(self.module.base_model if prefix and is_inside else self.module, ids, extra)

    def _call(self, module: Any, ids: Tensor, extra: dict[str, Tensor]) -> Any:
        if self.config is None:
            return module(ids)
        without_cache = {"use_cache": False} if "use_cache" in self.call_names else {}
        return module(input_ids=ids, **extra, **without_cache)

    @cached_property
    def call_names(self) -> frozenset[str]:
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
        prompts: Tokens | str | Sequence[str],
        *,
        max_new_tokens: int = 32,
        edits: Sequence[Edit] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        use_cache: bool = True,
    ) -> list[Generation]:
        """Continue each prompt, with edits applied to it and to every token as it is written.

        Args:
            prompts: a text, texts, or tokens.
            max_new_tokens: at most so many; a continuation also ends before the model's end-of-text token.
            edits: applied on the way.
            temperature: 0 takes the most likely token, else logits are divided by it before drawing.
            top_p: draw from the smallest set of tokens that holds this probability.
            seed: of the draws; or one per prompt, so that what is written after it does not depend on which others are beside it.
            use_cache: keep keys and values; without it every step runs the whole text again, to the same end.

        Raises:
            CapabilityError: a model without logits, or texts without a tokenizer.
            InputError: prompt and continuation do not fit the context; nothing is cut off.
        """
        from armillary.lm.generation import Sampling, generate

        self.require_logits()
        tokens = prompts if isinstance(prompts, Tokens) else self.tokenize(prompts)
        if tokens.n_sequences == 0:
            return []
        tokens = self._tokens(tokens)
        sampling = Sampling(temperature, top_p, seed if isinstance(seed, int) else tuple(seed))
        return generate(self, tokens, max_new_tokens=max_new_tokens, edits=edits, sampling=sampling, use_cache=use_cache)

    # ------------------------------------------------------------ the way out of the residual stream

    def unembed(self, direction: Tensor) -> Tensor:
        """[..., V] logits of residual-stream vectors [..., D], through whatever the model itself does after its last block.

        Raises:
            CapabilityError: an encoder.
            ShapeError: vectors of another width.
        """
        self.require_logits()
        if direction.shape[-1] != self.d_model:
            raise ShapeError(f"unembed takes vectors of width {self.d_model}, got {list(direction.shape)}")
        flat = direction.reshape(-1, self.d_model).to(self.device, self.dtype)
        with self._lock, torch.no_grad(), self._kernels():
            found = self._tail.logits(flat)
        return found.reshape(*direction.shape[:-1], found.shape[-1])

    @cached_property
    def _tail(self) -> Tail:
        blocks = [self.sites.block(layer) for layer in range(self.n_layers)]
        return Tail(blocks, lambda ids: self._call(self.module, ids.to(self.device), {}))

    def readout(self, site: Site | str) -> Tensor:
        """[D_site, D] the linear map by which a site's vectors reach the residual stream, as (x @ readout); the bias is left out.

        Identity for sites that lie in the residual stream or are added to it. Of a norm behind the map (Gemma-2, OLMo-2) the gain is part
        of the map; it also divides each token by its own size, so there directions are exact and lengths are not.

        Raises:
            CapabilityError: another kind of site, or a model without a single such projection.
        """
        where = self.sites.canonical(Site.parse(site))
        if where.kind in IN_STREAM:
            return torch.eye(self.d_model, device=self.device, dtype=self.dtype)
        return readout(self.sites, where)

    # ------------------------------------------------------------ relatives

    def randomized(self, seed: int = 0) -> LanguageModel:
        """The twin with the same architecture and tokenizer and freshly drawn weights: what training did not put there.

        Raises:
            CapabilityError: a plain module, which does not know how it was initialised.
        """
        if self.config is None:
            kind = type(self.module).__name__
            raise CapabilityError(f"{kind} is no Hugging Face model, so it cannot be drawn afresh; build a second one")
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
