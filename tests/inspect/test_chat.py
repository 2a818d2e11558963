"""A chat model of this process: its tokenizer's template is used, token for token, and what it answers is read as it is written."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

from armillary.core.model import Generation
from armillary.core.tokens import Tokens
from armillary.errors import InputError
from armillary.inspect.chat import Turn, chat_template
from armillary.inspect.judges import LocalJudge, ReplayJudge
from armillary.lm.model import LanguageModel
from ending import Ending
from support import VOCAB, ending_lm, tiny_lm, tiny_model, tiny_tokenizer

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)  # as Qwen's
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]"
    "{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)  # as Llama's and Mistral's
REASONING = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}<think>\n"  # as R1's
TEMPLATES = {"chatml": CHATML, "inst": INST, "reasoning": REASONING}
PROMPTS = ["Is Lisbon in Portugal? Answer yes or no.\nAnswer:", "a"]


def chat_lm(template: str = CHATML, arch: str = "qwen2") -> LanguageModel:
    """A random model with a tokenizer for chats that, besides, puts a "<s>" in front of every text."""
    tokenizer = deepcopy(tiny_tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = template
    return LanguageModel(tiny_model(arch, vocab_size=VOCAB + 2, max_position_embeddings=512), tokenizer)


def ids_of(lm: LanguageModel, prompt: str, answer: str = "") -> list[int]:
    """What transformers itself gives the model."""
    asked = [{"role": "user", "content": prompt}]
    text = lm.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    return list(lm.tokenizer(text + answer, add_special_tokens=False)["input_ids"])


class Writing:
    """A model that writes what it is told, in `n_ids` tokens, and keeps what it was given."""

    def __init__(self, lm: LanguageModel, *texts: str, n_ids: int = 0) -> None:
        self.lm, self.texts, self.n_ids, self.given = lm, texts, n_ids, list[Tokens]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lm, name)

    def generate(self, prompts: Tokens, **_: Any) -> list[Generation]:
        self.given.append(prompts)
        return [Generation("", text, (1,) * self.n_ids) for text in self.texts[: prompts.n_sequences]]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_a_chat_model_is_given_the_tokens_of_its_own_template(template: str, arch: str) -> None:
    lm = chat_lm(TEMPLATES[template], arch)
    writing = Writing(lm, "red", "blue")
    assert LocalJudge(writing).ask(PROMPTS) == (["red", "blue"] if template != "reasoning" else [None, None])
    tokens = writing.given[0]
    for i, prompt in enumerate(PROMPTS):
        assert tokens.ids[tokens.starts[i] : tokens.starts[i + 1]].tolist() == ids_of(lm, prompt)
        assert tokens.position[tokens.starts[i] : tokens.starts[i + 1]].tolist() == list(range(tokens.lengths[i]))


def test_what_a_chat_model_writes_is_what_transformers_writes() -> None:
    lm = chat_lm()
    ids = torch.tensor([ids_of(lm, PROMPTS[0])])
    with torch.no_grad():
        whole = lm.module.generate(ids, max_new_tokens=12, do_sample=False)
    (expected,) = lm.tokenizer.batch_decode(whole[:, ids.shape[1] :], skip_special_tokens=True)
    one = Ending(lm)
    assert LocalJudge(one, max_new_tokens=12).ask(PROMPTS) == [expected.strip(), *LocalJudge(one, max_new_tokens=12).ask(PROMPTS[1:])]
    assert LocalJudge(one, max_new_tokens=12, template="{prompt}").ask(PROMPTS[:1]) != [expected.strip()]


@pytest.mark.parametrize("template", TEMPLATES)
def test_odds_in_a_chat_are_of_the_answers_in_either_case(template: str) -> None:
    lm = chat_lm(TEMPLATES[template])
    ended = "\n</think>\n\n" if template == "reasoning" else ""
    for prompt, found in zip(PROMPTS, LocalJudge(lm).log_odds(PROMPTS, "yes", "no"), strict=True):
        p = {answer: probability(lm, prompt, ended, ended + answer) for answer in ("yes", "Yes", "no", "No")}
        expected = torch.log(p["yes"] + p["Yes"]) - torch.log(p["no"] + p["No"])
        assert found == pytest.approx(float(expected), abs=2e-4)


def probability(lm: LanguageModel, prompt: str, before: str, answer: str) -> torch.Tensor:
    """Of an answer's tokens behind a chat's prompt, by the module alone."""
    n, ids = len(ids_of(lm, prompt, before)), ids_of(lm, prompt, answer)
    with torch.no_grad():
        log_p = lm.module(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return torch.exp(sum(log_p[t - 1, ids[t]] for t in range(n, len(ids))))  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_change_nothing_in_a_chat(batch_size: int) -> None:
    lm = chat_lm()
    one, other = (LocalJudge(Ending(lm), batch_size=size, max_new_tokens=5) for size in (batch_size, 2))
    assert one.log_odds(PROMPTS, "yes", "no") == pytest.approx(other.log_odds(PROMPTS, "yes", "no"), abs=2e-4)
    assert one.ask(PROMPTS) == other.ask(PROMPTS) and one.tally.failed == 0


def test_reasoning_that_the_template_begins_is_read_and_left_out() -> None:
    judge = LocalJudge(Writing(chat_lm(REASONING), "It may be.\n</think>\n\nyes", "It may"))
    assert judge.ask(PROMPTS) == ["yes", None]
    assert dict(judge.tally.failures) == {"reasoning that did not end within 40 tokens": 1}


def test_a_base_model_does_not_know_when_to_end_and_a_chat_model_does() -> None:
    written = " red\n\nName a beast.\nAnswer: cat"
    assert LocalJudge(Writing(tiny_lm("llama"), written)).ask(["Name a colour.\nAnswer:"]) == ["red"]
    assert LocalJudge(Writing(chat_lm(), written)).ask(["Name a colour.\nAnswer:"]) == [written.strip()]
    assert LocalJudge(Writing(tiny_lm("llama"), "\n \n")).ask(["a"]) == [None]


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        (" Here is the phrase:\n\nnames of cities\nText: x", "names of cities"),
        (" **Phrase:**\n names of cities", "names of cities"),
        (" Phrase: names of cities\nx", "Phrase: names of cities"),
        (" Here is the phrase:", "Here is the phrase:"),  # which is no label
    ],
)
def test_the_introduction_of_a_base_model_is_no_answer_where_one_follows(written: str, answer: str) -> None:
    assert LocalJudge(Writing(tiny_lm("llama"), written)).ask(["a"]) == [answer]


@pytest.mark.parametrize("is_chat", [True, False])
def test_an_answer_that_was_cut_off_is_missing_unless_a_line_of_it_is_whole(is_chat: bool) -> None:
    lm = chat_lm() if is_chat else tiny_lm("llama")
    cut = {"names of cities and of the": None, "cit": None, "Here is the phrase:\nnames of ci": None, "yes": "yes", "": None}
    whole = {"names of cities\n": "names of cities", "names of cities\nLabel: names of ci": "names of cities"}
    for written, answer in {**cut, **whole}.items():
        judge = LocalJudge(Writing(lm, written, n_ids=7), max_new_tokens=7)
        assert judge.ask(["a"]) == [answer], written
        why = "cut off before its end: allow more tokens" if written else "nothing written"
        assert dict(judge.tally.failures) == ({} if answer else {why: 1})
        assert LocalJudge(Writing(lm, written, n_ids=6), max_new_tokens=7).ask(["a"]) != [None] or not written
    reasoned = LocalJudge(Writing(chat_lm(REASONING), "hm\n</think>\nnames of ci", n_ids=7), max_new_tokens=7)
    assert reasoned.ask(["a"]) == [None] and "cut off" in reasoned.tally.describe()
    assert LocalJudge(Writing(lm), max_new_tokens=1).log_odds(["a"], "yes", "no") != [None], "odds need no tokens"


def test_what_a_tokenizer_puts_at_the_end_is_left_out() -> None:
    """Behind an end-of-text token a model begins something else."""
    lm = ending_lm("llama")
    writing = Writing(lm, "red")
    LocalJudge(writing).ask(["The cat"])
    assert writing.given[0].ids.tolist() == lm.tokenize("The cat").ids.tolist()[:-1]
    judge, other = (LocalJudge(Ending(one), max_new_tokens=5) for one in (lm, tiny_lm("llama")))
    assert judge.ask(["The cat"]) == other.ask(["The cat"]) != [None]


def test_a_template_that_is_given_stands_instead_of_the_tokenizers(tmp_path: Any) -> None:
    lm = chat_lm()
    judge = LocalJudge(lm, template="<u>{prompt}<a>", cache=tmp_path / "kept.jsonl")
    plain = LanguageModel(lm.module, deepcopy(lm.tokenizer))
    plain.tokenizer.chat_template = None
    assert judge.log_odds(["The cat"], "yes", "no") == LocalJudge(plain).log_odds(["<u>The cat<a>"], "yes", "no")
    assert "{prompt}" in LocalJudge(lm).settings["template"] and LocalJudge(lm).settings["chat"] is True
    assert ReplayJudge(tmp_path / "kept.jsonl").has_odds


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('only after a system message') }}", "no question", "{{ messages }}{{ messages }}"]
)
def test_a_template_that_cannot_be_filled_in_is_refused(template: str) -> None:
    with pytest.raises(InputError, match=r"chat template of .*; pass template='\.\.\.{prompt}\.\.\.'"):
        LocalJudge(chat_lm(template))


def test_no_date_is_told_but_always_the_same() -> None:
    """Llama's template tells the day: what was answered today is to be found again tomorrow."""
    dated = "{% if not date_string is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}{{ date_string }}: {{ messages[0]['content'] }}"
    lm = chat_lm(dated)
    assert chat_template(lm.tokenizer, "m") == "01 Jan 2025: {prompt}"
    assert chat_template(None, "m") is chat_template(tiny_tokenizer(), "m") is None and Turn.of(tiny_lm()) == Turn()


def test_a_model_whose_numbers_are_none_has_no_odds() -> None:
    lm = chat_lm()
    with torch.no_grad():
        lm.module.lm_head.weight.fill_(float("nan"))
    judge = LocalJudge(lm)
    assert judge.log_odds(PROMPTS, "yes", "no") == [None, None]
    assert dict(judge.tally.failures) == {"the model gives no number": 2}
