"""A chat with a trained model in the terminal, or with --web on a page of this machine. It says that it is an AI, and goes on saying so.

    python -m train.chat out/llama3-8b                              # loads out/<run>/merged, on a GPU if there is one
    python -m train.chat out/llama3-8b --endpoint --model tuned     # the model served at TUNED_BASE_URL or OPENAI_BASE_URL
    python -m tiny.serve out/tiny/tuned.gguf -- python -m train.chat out/tiny --endpoint
    printf 'Do you like rain?\\nWhy?\\n' | python -m train.chat out/llama3-8b     # one line, one question

/reset forgets what was said; /quit, Ctrl-C and the end of the input end the chat. Nothing is written anywhere.
"""

import argparse
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from datagen.files import UserError, entry, quiet_libraries
from train.merge import merged_folder

BANNER = (
    "You are talking to an AI: a language model that was trained to talk like a person.\n"
    "It is nobody. Friends, memories and feelings that it speaks of are made up, and it may deny being an AI."
)
AGAIN = 5  # answers after which the banner is shown again
LABEL = "AI> "  # before every answer
COMMANDS = "/reset forgets what was said, /quit ends the chat"
# A terminal would obey what a model writes: control characters go, line ends and tabs stay.
CONTROL = {i: None for i in [*range(32), *range(127, 160)] if chr(i) not in "\n\t"}

Message = dict[str, str]
Answer = Callable[[list[Message]], Iterator[str]]  # the pieces of the answer to a conversation, as they come


class TooLong(Exception):
    """The conversation no longer fits into what the model can read."""


def served(name: str, temperature: float, max_tokens: int) -> tuple[str, Answer]:
    """(what it is, the model at TUNED_BASE_URL or OPENAI_BASE_URL)."""
    import openai

    url = os.environ.get("TUNED_BASE_URL") or os.environ.get("OPENAI_BASE_URL")
    if not url:
        raise UserError("there is no endpoint: export OPENAI_BASE_URL (or TUNED_BASE_URL), or leave --endpoint out to load the merged model")
    client = openai.OpenAI(base_url=url.split(",")[0].strip(), api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=2)
    try:
        if name == "auto":
            listed = [model.id for model in client.models.list()]
            if len(listed) != 1:
                raise UserError(f"{url} serves {len(listed)} models ({', '.join(listed[:5])}); name the tuned one with --model (TUNED_MODEL=)")
            name = listed[0]
    except openai.OpenAIError as error:
        raise UserError(f"{url}: {problem(error)}") from None

    def answer(messages: list[Message]) -> Iterator[str]:
        try:
            with client.chat.completions.create(model=name, messages=messages, temperature=temperature, max_tokens=max_tokens, stream=True) as stream:
                for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content
        except openai.BadRequestError as error:
            if "context" in str(error).lower():  # llama.cpp and vLLM both name it
                raise TooLong from None
            raise UserError(f"{url}: {problem(error)}") from None
        except openai.OpenAIError as error:
            raise UserError(f"{url}: {problem(error)}") from None

    return f"{name} at {url}", answer


def problem(error: Exception) -> str:
    key = os.environ.get("OPENAI_API_KEY")
    text = " ".join(str(error).split())[:300]
    return text.replace(key, "***") if key else text


def loaded(folder: Path, temperature: float, max_tokens: int) -> tuple[str, Answer]:
    """(what it is, the model of a folder), on the GPU if there is one."""
    quiet_libraries()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto" if device == "cuda" else torch.float32).to(device).eval()
    room = model.config.max_position_embeddings - max_tokens
    pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None)
    # top-k and top-p of the model's own settings would change what the temperature means; `make answers` asks without them, too
    sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {"do_sample": False}

    class Ended(StoppingCriteria):
        def __init__(self, event: threading.Event):
            self.event = event

        def __call__(self, ids, scores, **_):
            return torch.full((ids.shape[0],), self.event.is_set(), device=ids.device, dtype=torch.bool)

    def answer(messages: list[Message]) -> Iterator[str]:
        batch = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True).to(device)
        if batch["input_ids"].shape[1] > room:
            raise TooLong
        streamer, end, failures = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True), threading.Event(), []

        def generate() -> None:
            try:
                model.generate(**batch, max_new_tokens=max_tokens, pad_token_id=pad, streamer=streamer, stopping_criteria=StoppingCriteriaList([Ended(end)]), **sampling)
            except BaseException as error:  # else the chat would wait for a thread that has died
                failures.append(error)
                streamer.end()

        thread = threading.Thread(target=generate, daemon=True)
        thread.start()
        try:
            yield from streamer
        finally:
            end.set()
            thread.join()
        if failures:
            raise failures[0]

    return f"{folder} on {'the GPU' if device == 'cuda' else 'the CPU'}", answer


def fitting(answer: Answer, messages: list[Message]) -> Iterator[str]:
    """The pieces of an answer; the oldest turns are taken out of `messages` while they do not fit. Raises TooLong when one question alone does not."""
    while True:
        started = False
        try:
            for piece in answer(messages):
                piece = piece if started else piece.lstrip()
                started = started or bool(piece)
                yield piece
            return
        except TooLong:
            if len(messages) < 3:
                raise
            del messages[:2]


def banner() -> str:
    width = max(map(len, BANNER.splitlines()))
    return "\n".join(["-" * width, BANNER, "-" * width])


def terminal(name: str, answer: Answer) -> None:
    shown = sys.stdin.isatty()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    if shown:
        import readline  # noqa: F401 (gives input() a history and a cursor)
    print(f"{name}; {COMMANDS}\n{banner()}")
    messages, answers = [], 0
    while True:
        try:
            question = input("you> ").strip()
        except EOFError:
            return print()
        if not shown:
            print(question)  # a pipe shows nothing of what it carries
        if question in ("/quit", "/exit"):
            return
        if question == "/reset":
            messages = []
            print(f"forgotten\n{banner()}")
        elif question.startswith("/"):
            print(COMMANDS)
        elif question:
            messages.append({"role": "user", "content": question})
            before, text = len(messages), ""
            print(LABEL, end="", flush=True)
            try:
                for piece in fitting(answer, messages):
                    text += piece
                    print(piece.translate(CONTROL), end="", flush=True)
                print()
            except TooLong:
                messages.clear()
                print("(the question is too long for this model; the chat starts anew)")
                continue
            if len(messages) < before:
                print(f"(the chat grew too long: its first {before - len(messages)} turns are forgotten)")
            messages.append({"role": "assistant", "content": text})
            answers += 1
            if answers % AGAIN == 0:
                print(banner())


def web(name: str, answer: Answer, port: int | None) -> None:
    """A page on 127.0.0.1 with the banner above the chat, where it does not scroll away."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio

    def text(content: object) -> str:
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content if isinstance(part, dict))

    def reply(question: str, history: list[dict]) -> Iterator[str]:
        messages = [{"role": turn["role"], "content": text(turn["content"])} for turn in history] + [{"role": "user", "content": question}]
        said = ""
        try:
            for piece in fitting(answer, messages):
                said += piece.translate(CONTROL)
                yield said
        except TooLong:
            raise gradio.Error("The question is too long for this model.") from None
        except UserError as error:
            raise gradio.Error(str(error)) from None

    with gradio.Blocks(title="You are talking to an AI", fill_height=True, analytics_enabled=False) as page:
        gradio.Markdown("**" + BANNER.replace("\n", "**  \n") + f"\n\n{name}")
        # Plain text: what the model writes is shown, never rendered.
        chat = gradio.Chatbot(label="AI, not a person", render_markdown=False, sanitize_html=True, scale=1)
        gradio.ChatInterface(reply, chatbot=chat, fill_height=True)
    show = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    _, url, _ = page.launch(server_name="127.0.0.1", server_port=port, share=False, quiet=True, inbrowser=show, prevent_thread_lock=True)
    print(f"{name}: {url} (Ctrl-C ends it)")
    page.block_thread()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--endpoint", action="store_true", help="talk to TUNED_BASE_URL or OPENAI_BASE_URL instead of loading the model")
    parser.add_argument("--model", default="auto", help="its name there; auto: the only one")
    parser.add_argument("--temperature", type=float, default=1.0, help="1 is what `make answers` asks with (default); 0: always the likeliest token")
    parser.add_argument("--max-tokens", type=int, default=512, help="of an answer (default 512)")
    parser.add_argument("--web", action="store_true", help="on a page of this machine, by gradio, instead of in the terminal")
    parser.add_argument("--port", type=int, help="of the page; default: the first free one from 7860")
    args = parser.parse_args()
    try:
        if not args.endpoint or (args.run / "merged").exists():
            folder = merged_folder(args.run)
        name, answer = served(args.model, args.temperature, args.max_tokens) if args.endpoint else loaded(folder, args.temperature, args.max_tokens)
        web(name, answer, args.port) if args.web else terminal(name, answer)
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    entry(main)
