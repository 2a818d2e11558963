"""Tiny models and a tiny tokenizer, built in code with random weights, for tests of anything that needs a language model.

model = tiny_model("llama", seed=0)          # a transformers model in eval mode: 3 layers, width 32, vocabulary of `VOCAB` ids
tokenizer = tiny_tokenizer()                 # byte-level BPE, so any text is encodable
lm = LanguageModel(model, tokenizer)
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import nn

LAYERS, WIDTH, HEADS, HIDDEN, VOCAB, CONTEXT = 3, 32, 4, 64, 300, 64
TEXTS = ("The cat sat on the mat.", "Naïve café: 数 and 🙂!", "a", "Lisbon is in Portugal, and Paris is in France.")

_LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
_GPT2: dict[str, Any] = {
    "vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
_BERT = {**_LLAMA, "type_vocab_size": 2}
_GEMMA = {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}

#: Architecture -> (config class, model class, settings). The first eight are those every release is checked on.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _GPT2),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _LLAMA),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**_LLAMA, "sliding_window": 8}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _LLAMA),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _GEMMA),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _LLAMA),
    "opt": ("OPTConfig", "OPTForCausalLM", {**_LLAMA, "ffn_dim": HIDDEN, "word_embed_proj_dim": WIDTH}),
    "bert": ("BertConfig", "BertModel", _BERT),
    "opt_post_norm": ("OPTConfig", "OPTForCausalLM", {
        **_LLAMA, "ffn_dim": HIDDEN, "word_embed_proj_dim": 16, "do_layer_norm_before": False,
    }),
    "gpt_neox_serial": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**_LLAMA, "use_parallel_residual": False}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**_LLAMA, "head_dim": 8}),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**_LLAMA, "head_dim": 8}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _GEMMA),
    "phi": ("PhiConfig", "PhiForCausalLM", _LLAMA),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _LLAMA),
    "roberta": ("RobertaConfig", "RobertaModel", {**_BERT, "max_position_embeddings": CONTEXT + 2, "pad_token_id": 1}),
    "distilbert": ("DistilBertConfig", "DistilBertModel", {
        "vocab_size": VOCAB, "dim": WIDTH, "hidden_dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "max_position_embeddings": CONTEXT,
    }),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", {**_GPT2, "rotary_dim": 4}),
    "gpt_neo": ("GPTNeoConfig", "GPTNeoForCausalLM", {
        "vocab_size": VOCAB, "hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "max_position_embeddings": CONTEXT,
        "attention_types": [[["global", "local", "global"], 1]], "window_size": 8, "bos_token_id": 1, "eos_token_id": 1,
    }),
    "falcon": ("FalconConfig", "FalconForCausalLM", {**_LLAMA, "multi_query": True}),
    "bloom": ("BloomConfig", "BloomForCausalLM", {
        "vocab_size": VOCAB, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "bos_token_id": 1, "eos_token_id": 1,
    }),
    "mpt": ("MptConfig", "MptForCausalLM", {
        "vocab_size": VOCAB, "d_model": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": CONTEXT,
    }),
}  # fmt: skip
NAMED = tuple(ARCHITECTURES)[:8]


def tiny_model(arch: str = "gpt2", seed: int = 0, **settings: Any) -> Any:
    """A random model of one of `ARCHITECTURES` in eval mode, float32; `settings` override its config.

    Every parameter is drawn afresh from N(0, 0.2) around its initial value, so that norms, biases and position embeddings matter.
    """
    import transformers

    config_name, class_name, defaults = ARCHITECTURES[arch]
    config = getattr(transformers, config_name)(**{**defaults, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, class_name)(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


@cache
def tiny_tokenizer(special: bool = True) -> Any:
    """A byte-level BPE of `VOCAB` ids: "<pad>" 0, "<s>" 1 and 42 merges, as a fast tokenizer.

    Args:
        special: whether every text is given a leading "<s>".
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<pad>", "<s>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, "the cat and the mat on the sat is in and Portugal France Lisbon Paris"] * 3, trainer)
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<s>")


def tiny_lm(arch: str = "gpt2", seed: int = 0, **settings: Any) -> Any:
    """A `LanguageModel` around `tiny_model` and `tiny_tokenizer`."""
    from armillary.lm.model import LanguageModel

    return LanguageModel(tiny_model(arch, seed, **settings), tiny_tokenizer())


def ending_lm(arch: str = "gpt2", seed: int = 0) -> Any:
    """`tiny_lm` with a tokenizer that puts "<pad>" at the end of every text."""
    from tokenizers import processors

    from armillary.lm.model import LanguageModel

    lm = LanguageModel(tiny_model(arch, seed), deepcopy(tiny_tokenizer()))
    template = processors.TemplateProcessing(single="<s> $A <pad>", special_tokens=[("<s>", 1), ("<pad>", 0)])
    lm.tokenizer.backend_tokenizer.post_processor = template
    return lm


def raw_outputs(model: nn.Module, path: str, run: Callable[[], Any]) -> tuple[Any, Any]:
    """(first input, output) of the module at `path` while `run` is called, through a plain forward hook."""
    seen: list[tuple[Any, Any]] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"], output[0] if isinstance(output, tuple) else output))

    handle = model.get_submodule(path).register_forward_hook(keep, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return seen[-1]
