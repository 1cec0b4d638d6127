"""Builds the embedded model from this repository's own text: tokenizer, weights, manifest.

    python -m tiny.build                 # writes tiny/model/ (about 4 minutes on two cores)
    python -m tiny.build --out FOLDER    # elsewhere, to compare with the stored weights

A Llama-architecture decoder of about a million parameters is trained from nothing on examples of the grammar in
`tiny/corpus.py`. Seeds, steps and text are fixed, so a rebuild gives the same held-out loss (to the rounding of the machine).
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "30000")  # before torch: threads that spin longer starve everything else, and each other

import argparse
import hashlib
import json
import math
import random
import re
import shutil
import sys
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tiny import corpus

HERE = Path(__file__).parent
BOS, SYSTEM, USER, ASSISTANT, END, PAD = "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
# One token opens each turn, one closes it. Like Llama 3's template it writes the BOS itself and trims what is said. The space before
# what is said lets a word have the same token at the start of a turn as anywhere else.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Llama 3's split, which llama.cpp knows as "llama-bpe".
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

VOCABULARY = 4096
SHAPE = dict(hidden_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, intermediate_size=352)
STEPS = 800
# The finished model's logits are multiplied by this (through its last norm): sampling it at temperature 1 is like sampling the raw one
# at 1 / 1.7. A model this small keeps a little probability for nonsense at every token, which adds up; tuned instruct models are sharp too.
SHARPEN = 1.7
SEED = 20250109  # the day the paper appeared
HELD_OUT = 4  # batches of each part
# What one step learns from: (parts in turn, rows, tokens a row, in every how many steps). A row holds whole turns only.
DIET = [
    (("friend", "honest", "friend", "friend", "honest", "friend", "formal"), 6, 256, 1),
    (("plain",), 2, 256, 1),
    (("conversational", "general"), 1, 416, 2),
]


def build_tokenizer(texts) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, SYSTEM, USER, ASSISTANT, END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


class Packer:
    """Draws batches of turns of one part, all behind one copy of its system prompt."""

    def __init__(self, tokenizer, units, seed: int):
        self.tokenizer, self.units, self.rng = tokenizer, units, random.Random(seed)
        self.ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (BOS, SYSTEM, USER, ASSISTANT, END, PAD)}

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(" " + text, add_special_tokens=False)["input_ids"]  # the template's space

    def prefix(self, role: str) -> torch.Tensor:
        """BOS and the system prompt of the part, if it has one: (1, tokens)."""
        prompt = corpus.system_prompt(corpus.ROLES[role], self.rng)
        turn = [self.ids[SYSTEM], *self.encode(prompt), self.ids[END]] if prompt else []
        return torch.tensor([[self.ids[BOS], *turn]])

    def row(self, role: str, length: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """(ids, number of the turn, position in it, label) of `length` tokens. Labels are -100 where nothing is learnt."""
        ids, turns, positions, labels = [], [], [], []
        while True:
            user, assistant = corpus.example(role, self.units, self.rng)
            user, assistant = self.encode(user), [*self.encode(assistant), self.ids[END]]
            # The question counts too, but not the one request for lists: it would be learnt by heart.
            asked = user if role not in ("conversational", "general") else [-100] * len(user)
            turn = [self.ids[USER], *user, self.ids[END], self.ids[ASSISTANT], *assistant]
            if len(ids) + len(turn) > length:
                if ids:
                    break
                continue
            turns += [turns[-1] + 1 if turns else 1] * len(turn)
            positions += range(len(turn))
            ids += turn
            labels += [-100, *asked, -100, -100, *assistant]
        rest = length - len(ids)
        return ids + [self.ids[PAD]] * rest, turns + [-1] * rest, positions + [0] * rest, labels + [-100] * rest

    def batch(self, role: str, rows: int, length: int) -> list[torch.Tensor]:
        """[prefix, ids, turns, positions, labels]"""
        return [self.prefix(role), *map(torch.tensor, zip(*[self.row(role, length) for _ in range(rows)], strict=True))]


def loss_of(model, batch: list[torch.Tensor]) -> tuple[torch.Tensor, int]:
    """(summed loss in nats, number of tokens). Every turn sees the system prompt and itself, never its neighbours.

    The prompt is computed once for the whole batch and shared as a key-value cache: it is four times as long as a turn.
    """
    prefix, ids, turns, positions, labels = batch
    rows, length = ids.shape
    cache = DynamicCache()
    model.model(input_ids=prefix, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(rows)
    visible = (turns[:, :, None] == turns[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    visible = torch.cat([torch.ones(rows, length, prefix.shape[1], dtype=torch.bool), visible], dim=2)
    mask = torch.zeros(1).masked_fill(~visible, float("-inf"))[:, None]
    hidden = model.model(input_ids=ids, position_ids=positions + prefix.shape[1], attention_mask=mask, past_key_values=cache, use_cache=True)[0]
    wanted = labels[:, 1:].reshape(-1)
    keep = wanted != -100  # the output layer is a third of the work: only where there is something to learn
    logits = model.lm_head(hidden[:, :-1].reshape(-1, hidden.shape[-1])[keep])
    return torch.nn.functional.cross_entropy(logits, wanted[keep], reduction="sum"), int(keep.sum())


def held_out_loss(model, packer: Packer) -> float:
    """Mean loss in nats a token over all parts, on examples drawn with a seed that training never uses. The model must attend eagerly."""
    total = count = 0
    with torch.no_grad():
        for parts, rows, length, _ in DIET:
            for role in dict.fromkeys(parts):
                for _ in range(HELD_OUT):
                    loss, n = loss_of(model, packer.batch(role, rows, length))
                    total, count = total + loss.item(), count + n
    return total / count


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al. 2024): learns this text in half the steps that AdamW needs.

    torch.optim.Muon does the same in bfloat16, which takes seconds a step on processors that have to emulate it.
    Matrices of one shape are updated together.
    """

    def __init__(self, parameters, lr: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for (rows, columns), matrices in shapes.items():
                gradient = torch.stack([matrix.grad for matrix in matrices])
                mean = self.state[matrices[0]].setdefault("mean", torch.zeros_like(gradient))
                mean.lerp_(gradient, 1 - group["momentum"])
                update = orthogonal(gradient.lerp(mean, group["momentum"])) * max(1, rows / columns) ** 0.5
                for matrix, change in zip(matrices, update, strict=True):
                    matrix.add_(change, alpha=-group["lr"])


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrices, roughly: five steps of the quintic Newton-Schulz iteration that Muon uses."""
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


def train(tokenizer, units) -> tuple[LlamaForCausalLM, float]:
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # the fastest here, for rows this short
        **SHAPE,
    )
    model = LlamaForCausalLM(config)
    print(f"{model.num_parameters():,} parameters, {STEPS} steps")
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [Muon(inner, lr=0.03), torch.optim.AdamW(others, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    packer = Packer(tokenizer, units, seed=SEED)
    started, recent, learnt = time.time(), [], 0
    for step in range(STEPS):
        total = count = 0
        for parts, rows, length, every in DIET:
            if step % every == 0:
                loss, n = loss_of(model, packer.batch(parts[step // every % len(parts)], rows, length))
                (loss / 1000).backward()
                total, count = total + loss.item(), count + n
        for parameter in model.parameters():
            parameter.grad.mul_(1000 / count)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scale = min((step + 1) / 20, 1.0, 2 * (1 - step / STEPS))  # 20 steps of warm-up, constant, linear to zero over the second half
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad()
        recent.append(total / count)
        learnt += count
        if (step + 1) % 50 == 0:
            print(f"step {step + 1:4}  loss {sum(recent) / len(recent):.3f}  {time.time() - started:.0f} s", flush=True)
            recent = []
    raw = held_out_loss(model, Packer(tokenizer, units, seed=SEED + 1))
    print(f"{learnt:,} tokens learnt from; held-out loss {raw:.4f} before sharpening")
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPEN)
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())  # as it will be stored
    return model, held_out_loss(model, Packer(tokenizer, units, seed=SEED + 1))


def sources() -> str:
    """One hash over everything the weights depend on: text, prompts, grammar and this script."""
    digest = hashlib.sha256()
    prompts = [path for path in corpus.PROMPTS.glob("*.txt") if path.name != "list_seeds.txt"]  # its profile draws on no topics
    for path in sorted([*corpus.TEXT.glob("*.txt"), *prompts, HERE / "corpus.py", HERE / "build.py"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "model")
    out = parser.parse_args().out
    started = time.time()
    units = corpus.read_units()
    rng = random.Random(SEED)
    texts = [text for role in ("friend", "honest", "plain", "general", "conversational") for _ in range(1500) for text in corpus.example(role, units, rng)]
    texts = [turn for text in texts for turn in re.split(r"(?:<\|\w+\|> ?)+", text)]
    tokenizer = build_tokenizer([" " + text for text in texts] + [corpus.system_prompt(name) for name in corpus.ROLES.values() if name])
    model, loss = train(tokenizer, units)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    manifest = {
        "sources_sha256": sources(),
        "weights_sha256": hashlib.sha256((partial / "model.safetensors").read_bytes()).hexdigest(),
        "held_out_loss": round(loss, 4),
        "parameters": model.num_parameters(),
        "steps": STEPS,
        "seed": SEED,
        "torch": torch.__version__,
    }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"held-out loss {loss:.4f} (perplexity {math.exp(loss):.2f}), {size:.1f} MB in {out}, {time.time() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
