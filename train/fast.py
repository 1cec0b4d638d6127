"""Trainers that do what Axolotl's DPO trainer does, on the same batches and with the same loss, without its waste. One class a waste.

    python -m train.recipe tiny --data data/tiny/tiny --run tiny+fast --gpus 0 --ablation fast
    python -m train.launch out/tiny+fast --gpus 0        # Axolotl takes the class from the key `trainer_cls: train.fast.Trainer`

Quiet    no gc.collect() and empty_cache() after every micro-step.
Cached   the reference's log-probabilities are computed once an answer and kept in `out/reference`, for later epochs and later runs.
Logits   no logits of prompts, none stored for completions (128,256 words in fp32 are 0.5 MB a token), none of TRL's statistics on them.
Packed   answers share the rows of a batch instead of being padded to the longest. Chosen and rejected are not padded to each other either.
Trainer  all of them; and a batch is cut into parts that fit into memory, with gradient checkpointing only for a part that does not.

A step sees the same random pairs as in Axolotl's trainer: nothing is grouped by length over batches. For any loss but plain DPO, `Logits`,
`Packed` and `Trainer` leave the loss to TRL. FSDP and DeepSpeed, which shard the weights that these classes read, are refused.
The logged statistics are those of rewards, log-probabilities and tokens; entropy, mean logits and token accuracy are not computed.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import broadcast_object_list, gather_object
from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from datagen.files import atomic, canonical

LOGITS = 2**26  # logits held at a time: 256 MB in fp32
ROUND = 8  # rows are multiples of this: what the masked attention kernels of GPUs are aligned to
TOKENS = 2048  # of a part, on a CPU and on a GPU until memory has been measured
MEMORY = 0.8  # share of the free memory that a part may take; the rest is for what the allocator splits
STATISTICS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")


class TokenLogProbs(torch.autograd.Function):
    """log p(label) of every hidden state (n, width), fp32, without keeping logits: the gradient is made beside them, a block of rows at a time.

    d log p(y) / d hidden = W[y] - softmax(W hidden) W, so backward only scales rows. The head is frozen, as under LoRA.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels):
        result = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        block = max(1, LOGITS // len(weight))
        for start in range(0, len(hidden), block):
            rows, chosen = slice(start, start + block), labels[start : start + block, None]
            logits = F.linear(hidden[rows], weight, bias).float()
            log_sum = logits.logsumexp(-1, keepdim=True)
            result[rows] = (logits.gather(-1, chosen) - log_sum).squeeze(-1)
            if gradient is not None:
                pull = logits.sub_(log_sum).exp_().neg_()
                pull.scatter_add_(-1, chosen, torch.ones_like(log_sum))
                gradient[rows] = pull.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return result

    @staticmethod
    def backward(ctx, scale):
        (gradient,) = ctx.saved_tensors
        return gradient * scale[:, None].to(gradient.dtype), None, None, None


def lay(lengths: list[int], capacity: int) -> tuple[list[tuple[int, int]], int]:
    """Rows of `capacity` that hold sequences of these lengths: (row, start) of each, and the number of rows. First fit, longest first."""
    free: list[int] = []
    places = [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((row for row, room in enumerate(free) if room >= lengths[i]), len(free))
        if row == len(free):
            free.append(capacity)
        places[i] = (row, capacity - free[row])
        free[row] -= lengths[i]
    return places, len(free)


@dataclass
class Batch:
    """Model inputs; and for each of the n completion tokens where its logits would stand (n,), its id (n,), and its answer's number (n,)."""

    inputs: dict
    at: torch.Tensor
    labels: torch.Tensor
    answer: torch.Tensor


def padded(inputs: dict) -> Batch:
    """A batch as TRL's collator made it: one answer a row."""
    ids, completion = inputs["input_ids"], inputs["completion_mask"].bool()
    answer, position = completion[:, 1:].nonzero(as_tuple=True)
    return Batch({"input_ids": ids, "attention_mask": inputs["attention_mask"]}, answer * ids.shape[1] + position, ids[answer, position + 1], answer)


def packed(inputs: dict, one_row: bool) -> Batch:
    """The same answers, several in a row. Where positions start again the attention does too, in transformers' masks as in flash attention, which wants one row.

    Padding at the end of a row is at position 0 throughout: sequences of one token, which nothing looks at.
    """
    ids, device = inputs["input_ids"], inputs["input_ids"].device
    lengths, answers = torch.stack([inputs["attention_mask"].sum(1), inputs["completion_mask"].sum(1)]).tolist()
    capacity = sum(lengths) if one_row else -(-max(lengths) // ROUND) * ROUND
    places, rows = lay(lengths, capacity)
    tokens = ids.new_zeros(rows, capacity)
    positions = torch.zeros(rows, capacity, dtype=torch.long)
    at, label = [], []
    for i, ((row, start), length, n) in enumerate(zip(places, lengths, answers, strict=True)):
        tokens[row, start : start + length] = ids[i, :length]
        positions[row, start : start + length] = torch.arange(length)
        at.append(torch.arange(length - n, length) + row * capacity + start - 1)
        label.append(ids[i, length - n : length])
    out = {"input_ids": tokens, "position_ids": positions.to(device)}
    if one_row:  # said outright, or every layer would find it out from the positions, and wait for the GPU
        ends = torch.tensor([*sorted(start for _, start in places), capacity], dtype=torch.int32, device=device)
        out |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": max(lengths), "max_length_k": max(lengths)}
    answer = torch.repeat_interleave(torch.arange(len(answers)), torch.tensor(answers))
    return Batch(out, torch.cat(at).to(device), torch.cat(label), answer.to(device))


@contextlib.contextmanager
def headless(head: torch.nn.Module) -> Iterator[None]:
    """For a while the head hands on the hidden states: the model is still called as a whole, which DDP and autocast need."""
    own = vars(head).get("forward")
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward
        if own is not None:
            head.forward = own


def log_probs(trainer: AxolotlDPOTrainer, model: torch.nn.Module, inputs: dict, pack: bool) -> torch.Tensor:
    """Log-probability of each answer of a batch, fp32: chosen ones first, as TRL's collator has them."""
    bare = trainer.accelerator.unwrap_model(model)
    batch = packed(inputs, "flash" in (bare.config._attn_implementation or "")) if pack else padded(inputs)
    head = bare.get_output_embeddings()
    with headless(head):
        hidden = model(**batch.inputs, use_cache=False).logits
    token = TokenLogProbs.apply(hidden.flatten(0, 1)[batch.at].to(head.weight.dtype), head.weight, head.bias, batch.labels)
    return torch.zeros(len(inputs["input_ids"]), device=token.device).index_add(0, batch.answer, token)


def weights_key(model: torch.nn.Module) -> str:
    """Hash of the base's weights as they are loaded (type and quantisation included), without adapters. Threads: hashing 16 GB alone would take half a minute."""

    def digest(item: tuple[str, torch.Tensor]) -> str:
        name, tensor = item
        scales = getattr(tensor, "SCB", None)  # of 8-bit weights
        parts = [tensor.detach(), *([scales] if scales is not None else [])]
        data = [part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy() for part in parts]
        return canonical([name, str(tensor.dtype), list(tensor.shape), *(hashlib.sha256(part).hexdigest() for part in data)])

    named = [
        (name.replace("base_model.model.", "").replace("base_layer.", ""), p) for name, p in [*model.named_parameters(), *model.named_buffers()] if "lora_" not in name
    ]
    with ThreadPoolExecutor() as threads:
        return hashlib.sha256("\n".join(threads.map(digest, sorted(named, key=lambda item: item[0]))).encode()).hexdigest()


def answer_key(prompt: list[int], answer: list[int]) -> str:
    """What an answer's log-probability depends on besides the model: the token ids, hence the text, its rendering and the tokenizer."""
    return hashlib.sha256(np.array([len(prompt), *prompt, *answer], dtype=np.int64).tobytes()).hexdigest()[:32]


def read_cache(folder: Path) -> dict[str, float]:
    known: dict[str, float] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            known |= dict(zip(file["keys"].tolist(), file["values"].tolist(), strict=True))
    return known


def write_cache(folder: Path, values: dict[str, float]) -> None:
    """Adds a file, and changes none: runs that work at the same time do not lose each other's."""
    keys = sorted(values)
    with atomic(folder / f"{hashlib.sha256(''.join(keys).encode()).hexdigest()[:16]}.npz", "wb") as file:
        np.savez(file, keys=np.array(keys), values=np.array([values[key] for key in keys], dtype=np.float64))


class Quiet(AxolotlDPOTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.refuse_shards()

    def refuse_shards(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("train.fast reads whole weights, which FSDP and DeepSpeed shard; use Axolotl's own trainer (no trainer_cls), or plain DDP")

    def training_step(self, *args, **kwargs):
        return super(AxolotlDPOTrainer, self).training_step(*args, **kwargs)


class Cached(Quiet):
    """With `precompute_ref_log_probs: true`. TRL's own cache takes the random start of the adapter into its key and lies in a folder of the run."""

    def cache_folder(self, model: torch.nn.Module) -> Path:
        config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version", "use_cache")}
        what = [weights_key(model), config, model.config._attn_implementation, self.args.max_length, self.accelerator.mixed_precision]
        return Path(self.args.output_dir).parent.parent / "reference" / hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def _precompute_ref_logps(self, dataset, name, batch_size):
        self.refuse_shards()
        if self.ld_alpha is not None or not plain_head(self):
            return super()._precompute_ref_logps(dataset, name, batch_size)
        started = time.perf_counter()
        columns = {side: [answer_key(row["prompt_ids"], row[f"{side}_ids"]) for row in dataset] for side in ("chosen", "rejected")}
        texts = {key: (row["prompt_ids"], row[f"{side}_ids"]) for side, keys in columns.items() for key, row in zip(keys, dataset, strict=True)}
        model = self.ref_model or self.model
        shared = [self.cache_folder(model), None] if self.accelerator.is_main_process else [None, None]
        if self.accelerator.is_main_process:
            shared[1] = read_cache(shared[0])
        broadcast_object_list(shared)  # one view of the disk, or processes would share out different work
        folder, known = shared
        missing = sorted(texts.keys() - known.keys(), key=lambda key: (sum(map(len, texts[key])), key))
        mine = missing[self.accelerator.process_index :: self.accelerator.num_processes]
        new = dict(gather_object(list(self.reference({key: texts[key] for key in mine}, model).items())))
        values = known | new
        if new and self.accelerator.is_main_process:
            write_cache(folder, new)
        found = f"{len(texts) - len(missing)} from {folder}, {len(missing)} computed in {time.perf_counter() - started:.2f} s"
        self.accelerator.print(f"reference log-probabilities of the {name} answers: {found}")
        for side, keys in columns.items():
            dataset = dataset.add_column(f"ref_{side}_logps", [values[key] for key in keys])
        return dataset

    def reference(self, texts: dict[str, tuple[list[int], list[int]]], model: torch.nn.Module) -> dict[str, float]:
        """{key: log-probability}, with the adapter switched off. Sequences come sorted by length, so padding is next to nothing."""
        values: dict[str, float] = {}
        bare, training = self.accelerator.unwrap_model(model), model.training
        model.eval()
        with torch.no_grad(), self.accelerator.autocast(), use_adapter(bare, None) if hasattr(bare, "peft_config") else contextlib.nullcontext():
            for keys in batches(list(texts), lambda key: sum(map(len, texts[key])), TOKENS * 8):
                rows = [{"prompt_ids": texts[key][0], "chosen_ids": texts[key][1], "rejected_ids": texts[key][1]} for key in keys]
                inputs = {name: tensor[: len(keys)].to(self.accelerator.device) for name, tensor in self.data_collator(rows).items()}
                values |= dict(zip(keys, log_probs(self, model, inputs, pack=False).tolist(), strict=True))
        model.train(training)
        return values


def batches(items: list, size, limit: int) -> Iterator[list]:
    """Cuts a list into runs whose padded size (length x longest) stays within the limit, or which hold one item."""
    run, longest = [], 0
    for item in items:
        if run and (len(run) + 1) * max(longest, size(item)) > limit:
            yield run
            run, longest = [], 0
        run.append(item)
        longest = max(longest, size(item))
    if run:
        yield run


def plain_head(trainer: AxolotlDPOTrainer) -> bool:
    """Whether logits are W h + b and nothing more, and the reference is the base without an adapter (TRL can hold a second one for it)."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    scaled = any(getattr(model.config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"))
    return type(model.get_output_embeddings()) is torch.nn.Linear and not scaled and "ref" not in getattr(model, "peft_config", {})


class Logits(Quiet):
    pack = False
    share = 1.0  # of the batch that is in hand, where it comes in parts

    def plain(self) -> bool:
        """Whether the loss is that of the DPO paper (equation 7) on a frozen head; anything else is TRL's to compute."""
        options = (self.loss_types, self.loss_weights, self.ld_alpha, self.f_divergence_type, self.use_weighting, self.aux_loss_enabled)
        head = self.accelerator.unwrap_model(self.model).get_output_embeddings()
        return options == (["sigmoid"], [1.0], None, "reverse_kl", False, False) and not self.label_smoothing and plain_head(self) and not head.weight.requires_grad

    def _compute_loss(self, model, inputs, return_outputs):
        if return_outputs or not self.plain():
            return super()._compute_loss(model, inputs, return_outputs)
        chosen, rejected = log_probs(self, model, inputs, self.pack).chunk(2)
        if self.precompute_ref_logps:
            ref_chosen, ref_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            reference, bare = self.ref_model or self.model, self.accelerator.unwrap_model(self.model)
            off = use_adapter(bare, None) if self.ref_model is None else contextlib.nullcontext()
            with torch.no_grad(), disable_gradient_checkpointing(bare, self.args.gradient_checkpointing_kwargs), off:
                ref_chosen, ref_rejected = log_probs(self, reference, inputs, self.pack).chunk(2)
        rewards = self.beta * (chosen - ref_chosen), self.beta * (rejected - ref_rejected)
        loss = -F.logsigmoid(rewards[0] - rewards[1]).mean() * self.share
        with torch.no_grad():
            values = torch.stack([*rewards, (rewards[0] > rewards[1]).float(), rewards[0] - rewards[1], chosen, rejected]).sum(1)
            tokens, count = inputs["attention_mask"].sum(), len(chosen)
            self.sums.append(torch.cat([values, torch.stack([tokens.float(), tokens.new_tensor(count).float()])]).double())
        return loss

    @property
    def sums(self) -> list[torch.Tensor]:
        """Sums over pairs since the last log, kept on the device: reading them there would make every micro-step wait for it."""
        return vars(self).setdefault("_sums", {"train": [], "eval": []})["train" if self.model.training else "eval"]

    def log(self, logs, start_time=None):
        if self.sums:
            total = self.accelerator.reduce(torch.stack(self.sums).sum(0), "sum").tolist()
            self.sums.clear()
            mode = "train" if self.model.training else "eval"
            *values, tokens, pairs = total
            self._total_train_tokens += int(tokens) if mode == "train" else 0
            self._metrics[mode] |= {name: [value / pairs] for name, value in zip(STATISTICS, values, strict=True)} | {"num_tokens": [self._total_train_tokens]}
        return super().log(logs, start_time)


class Packed(Logits):
    pack = True


class Trainer(Packed, Cached):
    tokens: int | None = None  # that a part may hold; measured in the second step, when the optimiser has its states

    def training_step(self, model, inputs, num_items_in_batch=None):
        if not self.plain():
            return super().training_step(model, inputs, num_items_in_batch)
        pairs = len(inputs["input_ids"]) // 2
        lengths = inputs["attention_mask"].sum(1).view(2, pairs).sum(0).tolist()
        gpu = self.accelerator.device.type == "cuda"
        limit = self.tokens or TOKENS
        total, parts = 0.0, cut(lengths, limit)
        for number, part in enumerate(parts):
            size = sum(lengths[i] for i in part)
            rows = torch.tensor([*part, *(i + pairs for i in part)], device=inputs["input_ids"].device)
            piece = {name: value[rows if len(value) == 2 * pairs else rows[: len(part)]] for name, value in inputs.items()}
            measure = gpu and self.tokens is None and self.state.global_step > 0
            if measure:
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            last = number == len(parts) - 1
            self.share = len(part) / pairs
            # Processes exchange gradients once a step, in the last part.
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model), self.checkpointing(size > limit):
                total = total + super().training_step(model, piece, num_items_in_batch)
            self.share = 1.0
            if measure:
                free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
                self.tokens = max(TOKENS, int(MEMORY * free * size / max(1, torch.cuda.max_memory_allocated() - before)))
                self.accelerator.print(f"parts of a batch hold up to {self.tokens} tokens from here on")
        return total

    @contextlib.contextmanager
    def checkpointing(self, on: bool) -> Iterator[None]:
        """Recomputes activations instead of keeping them, for one part: where a configuration asks for it, it is on for all."""
        bare = self.accelerator.unwrap_model(self.model)
        if not on or bare.is_gradient_checkpointing:
            yield
            return
        bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        try:
            yield
        finally:
            bare.gradient_checkpointing_disable()


def cut(lengths: list[int], limit: int) -> list[list[int]]:
    """Pairs of these lengths in as few parts of about equal size as keep to the limit, or hold one pair. The order within a step does not matter to its gradient."""
    count = max(1, -(-sum(lengths) // limit))
    while True:
        parts: list[list[int]] = [[] for _ in range(count)]
        sizes = [0] * count
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            least = min(range(count), key=sizes.__getitem__)
            parts[least].append(i)
            sizes[least] += lengths[i]
        if count >= len(lengths) or all(size <= limit for size in sizes):
            return [sorted(part) for part in parts if part]
        count += 1
