"""Train a reference model: `python -m armillary.lm.reference.train NAME --out DIR`.

The folder holds one checkpoint (weights, AdamW moments and the step, in a single safetensors file replaced atomically), so
a run that is killed continues to the same bits by the same command. `--steps` may change between runs: the learning rate is
constant until the last fifth, so a run can be made longer or brought to its end at any time.
The finished model lies in DIR/model, as a Hugging Face folder.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from armillary.errors import MismatchError
from armillary.lm.reference.data import SOURCES, Rows, mixture, recipe_tokenizer
from armillary.lm.reference.recipes import RECIPES, Recipe
from armillary.lm.reference.tokenizer import BOS, EOS, PAD, save_tokenizer

CHECKPOINT = "checkpoint.safetensors"
LOSS_CHUNK = 2048  # positions whose logits exist at one time: [2048, V] instead of [B * T, V]
FREE = {"steps", "decay", "shares"}  # what may change between the parts of a run
Loss = Callable[[Tensor], Tensor]


def build(recipe: Recipe) -> PreTrainedModel:
    """The untrained model of a recipe, from its seed."""
    torch.manual_seed(recipe.seed)
    shared: dict[str, Any] = {
        "vocab_size": recipe.vocabulary, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "tie_word_embeddings": True,
    }  # fmt: skip
    if recipe.architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(
            hidden_size=recipe.width, intermediate_size=recipe.mlp_width, num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads, max_position_embeddings=recipe.context, **shared,
        ))  # fmt: skip
    return GPT2LMHeadModel(GPT2Config(
        n_embd=recipe.width, n_inner=recipe.mlp_width, n_layer=recipe.layers, n_head=recipe.heads,
        n_positions=recipe.context, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **shared,
    ))  # fmt: skip


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; only matrices decay, norms and biases do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Warm-up, constant, linear to zero: the constant part does not depend on the number of steps."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    left = (recipe.steps - step) / max(1.0, recipe.decay * recipe.steps)
    return recipe.learning_rate * min(warm, left, 1.0)


def make_loss(model: PreTrainedModel) -> Loss:
    """`loss(rows [B, T + 1]) -> [B]`: mean cross-entropy of each row, in nats per token."""

    def loss(rows: Tensor) -> Tensor:
        hidden = model.base_model(rows[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)  # [B * T, D]
        targets = rows[:, 1:].flatten()  # [B * T]
        head = model.get_output_embeddings()
        parts = [
            F.cross_entropy(head(h).float(), t, reduction="none")
            for h, t in zip(torch.split(hidden, LOSS_CHUNK), torch.split(targets, LOSS_CHUNK), strict=True)
        ]
        return torch.cat(parts).view(len(rows), -1).mean(1)

    return loss


class Run:
    """One training run in a folder: model, optimizer and step; `steps()` goes on from wherever the folder stands."""

    def __init__(self, recipe: Recipe, folder: Path, *, compile: bool = False) -> None:
        self.recipe, self.folder = recipe, folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer = _tokenizer(recipe, folder)
        self.rows = Rows(recipe, self.tokenizer)
        self.model = build(recipe).to(self.device).train()
        self.optimizer = make_optimizer(self.model, recipe)
        loss = make_loss(self.model)
        self.loss: Loss = torch.compile(loss) if compile else loss
        self.step, self.seconds = 0, 0.0
        if (folder / CHECKPOINT).exists():
            self._resume()

    def advance(self) -> dict[str, float]:
        """One step; the mean loss of each source of rows."""
        rows = torch.from_numpy(self.rows.batch(self.step).astype("int64")).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        with torch.autocast(self.device.type, torch.bfloat16):
            losses = self.loss(rows)  # [B]
        torch.autograd.backward(losses.mean())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        counts = mixture(self.recipe)
        self.step += 1
        parts = torch.split(losses.detach(), list(counts))
        return {name: part.mean().item() for name, part in zip(SOURCES, parts, strict=True) if len(part)}

    def save(self) -> None:
        """Replace the checkpoint by the present state, atomically."""
        tensors = {f"model.{k}": p.detach() for k, p in self.model.named_parameters()}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter]
            tensors |= {f"{key}.{name}": state[key] for key in ("exp_avg", "exp_avg_sq") if key in state}
        note = {"step": self.step, "seconds": self.seconds, "recipe": dataclasses.asdict(self.recipe)}
        part = self.folder / f"{CHECKPOINT}.part"
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata={"state": json.dumps(note)})
        os.replace(part, self.folder / CHECKPOINT)

    def _resume(self) -> None:
        with safe_open(self.folder / CHECKPOINT, "pt", device=str(self.device)) as file:
            note = json.loads(file.metadata()["state"])
            _refuse_another(self.recipe, note["recipe"], self.folder)
            self.step, self.seconds = note["step"], note["seconds"]
            for name, parameter in self.model.named_parameters():
                parameter.data.copy_(file.get_tensor(f"model.{name}"))
                if not self.step:
                    continue  # AdamW has no moments before its first step
                moments = {key: file.get_tensor(f"{key}.{name}") for key in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": torch.tensor(float(self.step)), **moments}

    def export(self, folder: Path) -> None:
        """Write the model in bf16 with its tokenizer, as a Hugging Face folder."""
        copy = build(self.recipe)
        copy.load_state_dict(self.model.state_dict())
        copy.generation_config.eos_token_id = [EOS, BOS]  # a document ends where the next begins
        copy.to(torch.bfloat16).save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)
        save_tokenizer(self.tokenizer, folder, context=self.recipe.context)


def _refuse_another(recipe: Recipe, other: dict[str, Any], folder: Path) -> None:
    """Everything but the length of the run has to be as it was."""
    ours = json.loads(json.dumps(dataclasses.asdict(recipe)))
    differing = [f"{k} {other.get(k)!r}, not {v!r}" for k, v in ours.items() if k not in FREE and other.get(k) != v]
    if differing:
        raise MismatchError(f"the run in {folder} has {'; '.join(differing)}: give the same options, or another --out")


def _tokenizer(recipe: Recipe, folder: Path) -> Tokenizer:
    """The folder's tokenizer; trained and kept there the first time."""
    path = folder / "tokenizer.json"
    if not path.exists():
        recipe_tokenizer(recipe).save(str(path))
    return Tokenizer.from_file(str(path))


def train(run: Run, *, minutes: float | None = None, save_every: int = 250) -> bool:
    """Run to the recipe's last step, or for so many minutes; whether the end was reached."""
    started, before, first = time.monotonic(), run.seconds, run.step
    mean: dict[str, float] = {}
    while run.step < run.recipe.steps:
        for name, value in run.advance().items():
            mean[name] = 0.98 * mean.get(name, value) + 0.02 * value
        elapsed = time.monotonic() - started
        run.seconds = before + elapsed
        is_late = minutes is not None and elapsed > 60 * minutes
        if run.step % 50 == 0:
            _report(run, mean, elapsed / (run.step - first))
        if run.step % save_every == 0 or is_late or run.step == run.recipe.steps:
            run.save()
        if is_late:
            break
    return run.step >= run.recipe.steps


def _report(run: Run, losses: dict[str, float], seconds_per_step: float) -> None:
    """One line: step, smoothed loss of each source, rate, time left."""
    rate = run.recipe.rows * run.recipe.context / seconds_per_step
    left = (run.recipe.steps - run.step) * seconds_per_step / 60
    told = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
    print(f"{run.step:6d}/{run.recipe.steps}  {told}  {rate:,.0f} tokens/s  {left:.1f} min left", flush=True)


def _keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: giving them back costs a page fault per 4 kB, 30 % of a step here."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m armillary.lm.reference.train", description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; continued if it exists")
    parser.add_argument("--minutes", type=float, help="pause after so long; the same command continues")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss (needs a C++ compiler)")
    for field in dataclasses.fields(Recipe):
        if field.type in ("int", "float"):
            kind = int if field.type == "int" else float
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help="instead of the recipe's")
    parser.add_argument("--shares", type=float, nargs=3, metavar=("REAL", "WORLD", "READING"), help="of the rows in a batch")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = vars(_parser().parse_args(arguments))
    names = {field.name for field in dataclasses.fields(Recipe)} - {"name"}
    changes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items() if k in names and v is not None}
    recipe = dataclasses.replace(RECIPES[options["name"]], **changes)
    _keep_freed_memory()
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    run = Run(recipe, options["out"], compile=options["compile"])
    if train(run, minutes=options["minutes"]):
        run.export(options["out"] / "model")


if __name__ == "__main__":
    main()
