"""Answers of a run's base and tuned model through transformers, without a server: the engine of `python -m eval.answers … --engine transformers`.

The base is loaded once, in bf16 on a GPU and fp32 on a CPU, unquantised; the adapter lies on it and is switched off for the base's answers. A run
without an adapter has its whole model loaded after the base. Prompts are rendered with the base's own chat template.

Sampling is ours, because one generator for a whole batch would make an answer depend on its neighbours: each conversation has random numbers of its
own, one a token, drawn from the seed that `datagen.store.Request` sends to a server (equal for base and tuned). Token t is the first whose cumulative
probability exceeds number t, after temperature and nucleus (Holtzman et al. 2020, top-p); nothing else is applied, whatever `generation_config.json`
recommends. Batches change an answer only where rounding in the last bits of a logit does.
"""

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from datagen.files import UserError, quiet_libraries
from datagen.meter import EVERY, duration
from datagen.store import Reply, Request, Store
from eval.serve import Models, models_of

BATCH = {"cpu": 8, "cuda": 16}  # conversations at a time


def randoms(request: Request, count: int) -> np.ndarray:
    """[count] numbers in [0, 1) for the tokens of one reply. Without a seed in the settings (`seed: null`, for servers that refuse one) as with seed 0."""
    seed = (request if request.seed is not None else replace(request, seed=0)).body()["seed"]
    return np.random.default_rng(seed).random(count)


def drawn(logits, numbers, temperature: float, top_p: float):
    """[rows] token ids out of [rows, vocabulary] logits, one number in [0, 1) for each row; temperature 0: the likeliest."""
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    # Double precision: among 100,000 tokens, the sum of fp32 probabilities is off by more than many of them are worth.
    probabilities = (logits.double() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        outside[..., 0] = False  # the likeliest token always stays
        ordered[outside] = 0
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    cumulative = probabilities.cumsum(-1)
    ids = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)
    return ids[:, 0].clamp_(max=logits.shape[-1] - 1)


class Local:
    """Base and tuned model of a run. Replies are kept in `store` the moment they end; what it holds is not asked again, and when it holds
    everything, no model is loaded.

    Raises UserError for a run without a model, a base that is not the one trained on, and a batch that does not fit into the GPU's memory.
    """

    def __init__(self, run: Path, store: Path, batch: int | None = None):
        self.models: Models = models_of(run)
        quiet_libraries()
        import torch

        self.store, self.batch = Store(store), batch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.loaded: str | None = None  # "base", "tuned", or "both" for a base with its adapter

    @property
    def size(self) -> int:
        return self.batch or BATCH[self.device]

    @property
    def revision(self) -> str:
        """For the store: replies computed here are not those of a server."""
        return f"transformers {str(self.dtype).removeprefix('torch.')}"

    def name(self, who: str) -> str:
        return self.models.base_name if who == "base" else self.models.tuned_name

    def facts(self) -> dict:
        import peft
        import torch
        import transformers

        device = torch.cuda.get_device_name() if self.device == "cuda" else "CPU"
        versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
        return {"dtype": str(self.dtype).removeprefix("torch."), "device": device, "batch": self.size, "versions": versions, "weights_sha256": self.models.hashes}

    def close(self) -> None:
        self.store.close()

    @cached_property
    def tokenizer(self):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.models.base, padding_side="left")

    def load(self, who: str) -> None:
        """Makes `self.model` answer as `who` ("base" or "tuned")."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, GenerationConfig

        wanted = "both" if self.models.adapter else who
        if self.loaded != wanted:
            self.model = None  # the memory of the one before it, first
            folder = self.models.tuned if wanted == "tuned" else self.models.base
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype).to(self.device).eval()
            own = model.generation_config
            ends = own.eos_token_id if own.eos_token_id is not None else self.tokenizer.eos_token_id
            self.ends = set(ends if isinstance(ends, list) else [ends])
            pad = next(i for i in (self.tokenizer.pad_token_id, *self.ends) if i is not None)
            plain = GenerationConfig(do_sample=False, eos_token_id=sorted(self.ends), pad_token_id=pad)
            model.generation_config = plain  # what it does not set would be filled up from the model's own
            if self.models.adapter:
                model = PeftModel.from_pretrained(model, self.models.tuned).eval()
                model.generation_config = plain
            self.model, self.plain, self.loaded = model, plain, wanted
        if self.models.adapter:
            self.model.base_model.disable_adapter_layers() if who == "base" else self.model.base_model.enable_adapter_layers()

    def replies(self, who: str, requests: list[Request]) -> list[Reply]:
        """The replies of "base" or "tuned", in the order of `requests`, whose `model` and `revision` are `name(who)` and `revision`."""
        wanted = {request.key: request for request in requests}
        found = {key: reply for key, request in wanted.items() if (reply := self.store.get(request))}
        missing, kept = [request for key, request in wanted.items() if key not in found], len(found)
        started = shown = time.monotonic()

        def finished(request: Request, reply: Reply) -> None:
            nonlocal shown
            if reply.finish_reason != "failed":
                self.store.add(request, reply, self.name(who))
            found[request.key] = reply
            new, now = len(found) - kept, time.monotonic()
            if now - shown >= EVERY:
                shown = now
                left = duration((now - started) / new * (len(wanted) - len(found)))
                line = f"  {who}: {len(found):,} of {len(wanted):,} answers, {kept:,} from the store; {left} left"
                print(f"\r\033[K{line}" if sys.stderr.isatty() else line, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)

        if missing:
            self.load(who)
        for start in range(0, len(missing), self.size):
            self.generate(missing[start : start + self.size], finished)
        if missing and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        print(f"{self.name(who)}: {len(found)} answers, {len(missing)} new and {kept} from {self.store.folder}")
        return [found[request.key].spoken() for request in requests]

    def generate(self, requests: list[Request], finished: Callable[[Request, Reply], None]) -> None:
        """One batch; calls `finished` for each reply as soon as it has ended."""
        import torch
        from transformers import LogitsProcessor, StoppingCriteria

        def tokens(request: Request) -> list[int]:
            chat = [{"role": role, "content": content} for role, content in request.messages]
            return self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)

        assert len({(request.temperature, request.top_p) for request in requests}) == 1, "a batch has one temperature and one top-p"
        context = self.model.config.max_position_embeddings
        prompts = [(request, tokens(request)) for request in requests]
        for request, prompt in prompts:
            if len(prompt) >= context:
                finished(request, Reply("", "failed", {}, f"the prompt has {len(prompt)} tokens, and the model reads {context}"))
        rows = [(request, prompt, min(request.max_tokens, context - len(prompt))) for request, prompt in prompts if len(prompt) < context]
        if not rows:
            return
        width, longest = max(len(prompt) for _, prompt, _ in rows), max(limit for *_, limit in rows)
        ids = torch.tensor([[self.plain.pad_token_id] * (width - len(prompt)) + prompt for _, prompt, _ in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for _, prompt, _ in rows], device=self.device)
        numbers = torch.tensor(np.stack([randoms(request, longest) for request, *_ in rows]), device=self.device)
        temperature, top_p, ends, open_rows = requests[0].temperature, requests[0].top_p, self.ends, set(range(len(rows)))

        settings = copy.copy(self.plain)
        settings.max_new_tokens = longest

        class Draw(LogitsProcessor):
            """Leaves one token possible in each row."""

            def __call__(self, input_ids, scores):
                chosen = drawn(scores, numbers[:, input_ids.shape[1] - width], temperature, top_p)
                return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)

        class Ended(StoppingCriteria):
            """Hands out each reply at its end, and says which rows have ended."""

            def __call__(self, input_ids, scores, **_):
                count = input_ids.shape[1] - width
                for i, token in enumerate(input_ids[:, -1].tolist()):
                    request, prompt, limit = rows[i]
                    if i in open_rows and (token in ends or count >= limit):
                        open_rows.discard(i)
                        usage = {"prompt_tokens": len(prompt), "completion_tokens": count}
                        text = decode(input_ids[i, width:])
                        finished(request, Reply(text, "stop" if token in ends else "length", usage))
                return torch.tensor([i not in open_rows for i in range(len(rows))], device=input_ids.device)

        def decode(reply) -> str:
            return self.tokenizer.decode(reply, skip_special_tokens=True)

        try:
            with torch.inference_mode():
                self.model.generate(
                    input_ids=ids, attention_mask=mask, generation_config=settings,
                    logits_processor=[Draw()], stopping_criteria=[Ended()],
                )  # fmt: skip
        except torch.OutOfMemoryError:
            raise UserError(
                f"{self.size} conversations at a time do not fit into the GPU's memory; try --batch {max(1, self.size // 2)} (what is finished is kept)"
            ) from None
