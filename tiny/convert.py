"""Writes a Llama-architecture model folder as one GGUF file, which llama.cpp and its relatives serve.

    python -m tiny.convert tiny/model out/tiny-base.gguf
    python -m tiny.convert out/tiny/merged out/tiny/tuned.gguf

Takes models whose tokenizer is a byte-level BPE with Llama 3's split (Llama 3 itself, and the embedded model). For other
architectures use `convert_hf_to_gguf.py` of llama.cpp.
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import safe_open

from datagen.files import UserError, entry

TENSORS = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def gguf_name(name: str) -> str:
    if name in TENSORS:
        return TENSORS[name]
    _, _, layer, rest = name.split(".", 3)  # model.layers.<n>.<rest>
    return f"blk.{layer}.{TENSORS[rest]}"


def rotary(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of q and k from transformers' rotary layout (two halves) into llama.cpp's (interleaved pairs)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def convert(folder: Path, out: Path) -> None:
    """Raises UserError when the folder is no model of a kind that can be written."""
    try:
        config = json.loads((folder / "config.json").read_text())
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        settings = json.loads((folder / "tokenizer_config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: there is no such file; {folder} is not a model folder") from None
    if config["architectures"] != ["LlamaForCausalLM"] or tokenizer["model"]["type"] != "BPE":
        raise UserError(f"{folder}: {config['architectures']} with a {tokenizer['model']['type']} tokenizer is not covered; use llama.cpp's convert_hf_to_gguf.py")
    template = folder / "chat_template.jinja"
    heads = config["num_attention_heads"]
    key_heads = config["num_key_value_heads"]
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(float((config.get("rope_parameters") or config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    vocabulary = tokenizer["model"]["vocab"]
    special = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    tokens = [text for text, _ in sorted((vocabulary | special).items(), key=lambda pair: pair[1])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if text in special else gguf.TokenType.NORMAL for text in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id((vocabulary | special)[settings["bos_token"]])
    writer.add_eos_token_id((vocabulary | special)[settings["eos_token"]])
    if settings.get("pad_token"):  # Llama 3's tokenizer names none
        writer.add_pad_token_id((vocabulary | special)[settings["pad_token"]])
    writer.add_add_bos_token(True)
    writer.add_chat_template(template.read_text() if template.exists() else settings["chat_template"])

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                weight = tensors.get_tensor(name).float()
                if name.endswith("q_proj.weight"):
                    weight = rotary(weight, heads)
                elif name.endswith("k_proj.weight"):
                    weight = rotary(weight, key_heads)
                writer.add_tensor(gguf_name(name), np.ascontiguousarray(weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB from {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    convert(args.folder, args.out)


if __name__ == "__main__":
    entry(main)
