"""An OpenAI-compatible /v1/completions around the embedded model, with log-probabilities of the prompt, as vLLM gives them.

.venv-eval/bin/python tests/completions.py tiny/model out/tiny/adapter      # prints its base URL; models: base, tuned
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32), sys.argv[2]).eval()
turn = threading.Lock()


@torch.no_grad()
def complete(body: dict) -> list[dict]:
    prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
    return [one(prompt, body, i) for i, prompt in enumerate(prompts)]


def one(prompt: list[int], body: dict, index: int) -> dict:
    if body.get("echo"):
        log_probs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        best = log_probs.argmax(-1).tolist()
        tokens = [tokenizer.decode([t]) for t in prompt]
        chosen = [None] + [float(log_probs[i - 1, t]) for i, t in enumerate(prompt) if i]
        top = [None] + [{tokenizer.decode([best[i - 1]]): float(log_probs[i - 1].max())} for i in range(1, len(prompt))]
        extra = {"tokens": [*tokens, "x"], "token_logprobs": [*chosen, 0.0], "top_logprobs": [*top, {"x": 0.0}]}
        return {"index": index, "text": "", "logprobs": extra}
    ids = model.generate(
        input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=body["max_tokens"], do_sample=False, pad_token_id=5
    )  # fmt: skip
    text = tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)
    for stop in body.get("stop") or []:
        text = text.partition(stop)[0] if stop else text
    return {"index": index, "text": text, "logprobs": None}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with turn, model.disable_adapter() if body["model"] == "base" else torch.no_grad():
            data = json.dumps({"object": "text_completion", "model": body["model"], "choices": complete(body)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
server.serve_forever()
