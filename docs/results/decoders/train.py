"""Trains a small Llama and its byte-level BPE tokenizer on a folder of Wikipedia articles; resumes where it stopped.

    python docs/results/decoders/train.py ARTICLES OUT --steps 4000

ARTICLES holds wiki.train.txt and wiki.valid.txt: a title line, a paragraph a line, a blank line after each article.
OUT gets tokenizer and model (a folder that transformers loads) and training.json: the perplexity on the held-out
articles by step. The learning rate is constant until it decays to zero over the last part of the steps, so that --steps
may be changed as long as the decay has not begun. A checkpoint in OUT with other options is refused.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def read_articles(path: Path, megabytes: float | None = None) -> list[str]:
    """Returns the articles of a file, or of its first million characters times `megabytes`; a title comes first."""
    text = path.read_text(encoding="utf-8")
    if megabytes is not None:
        text = text[: int(megabytes * 1e6)].rpartition("\n\n")[0]
    return [article.strip() for article in text.split("\n\n") if article.strip()]


def train_tokenizer(articles: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer whose only special token marks the end of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(articles, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT)


def pack(tokenizer: PreTrainedTokenizerFast, articles: list[str], length: int) -> np.ndarray:
    """Returns the articles' tokens as blocks `(n, length)`, with end-of-text after each; the rest is dropped."""
    end = tokenizer.eos_token_id
    ids = [part for text in articles for part in (*tokenizer(text, verbose=False)["input_ids"], end)]
    whole = len(ids) // length * length
    return np.array(ids[:whole], dtype=np.uint16).reshape(-1, length)


def build_model(args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Returns a Llama with random weights: grouped queries, tied output embedding."""
    torch.manual_seed(args.seed)
    end = tokenizer.eos_token_id
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=args.hidden,
            intermediate_size=round(args.hidden * 2.75),
            num_hidden_layers=args.layers,
            num_attention_heads=args.hidden // 64,
            num_key_value_heads=max(1, args.hidden // 128),
            max_position_embeddings=args.length,
            tie_word_embeddings=True,
            bos_token_id=end,
            eos_token_id=end,
        )
    )


def summed_loss(model: LlamaForCausalLM, blocks: np.ndarray) -> torch.Tensor:
    """Returns the sum of the cross entropies of each block's tokens but the first."""
    ids = torch.from_numpy(blocks.astype(np.int64))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids).logits
    return functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")


@torch.no_grad()
def held_out_perplexity(model: LlamaForCausalLM, blocks: np.ndarray) -> float:
    """Returns the perplexity per token of separate blocks, without overlap."""
    model.eval()
    total = sum(float(summed_loss(model, blocks[at : at + 8])) for at in range(0, len(blocks), 8))
    model.train()
    return math.exp(total / (len(blocks) * (blocks.shape[1] - 1)))


def rate(step: int, args: argparse.Namespace) -> float:
    """Returns the learning rate of a step: warm-up, constant, then linear to zero over the last 40 % of the steps."""
    left = (args.steps - step) / (0.4 * args.steps)
    return args.learning_rate * min(1.0, (step + 1) / args.warmup, left)


def write_json(path: Path, content: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def prepare(args: argparse.Namespace) -> tuple[PreTrainedTokenizerFast, np.ndarray, np.ndarray]:
    """Returns the tokenizer and the blocks of both files; makes them once and keeps them in OUT."""
    kept = args.out / "blocks.npz"
    model_dir = args.out / "model"
    if not kept.exists():
        train = read_articles(args.articles / "wiki.train.txt", args.megabytes)
        tokenizer = train_tokenizer(train[: len(train) // 2], args.vocabulary)
        tokenizer.save_pretrained(model_dir)
        valid = read_articles(args.articles / "wiki.valid.txt")
        temporary = args.out / "blocks.tmp.npz"
        np.savez(temporary, train=pack(tokenizer, train, args.length), valid=pack(tokenizer, valid, args.length))
        temporary.replace(kept)
    blocks = np.load(kept)
    return PreTrainedTokenizerFast.from_pretrained(model_dir), blocks["train"], blocks["valid"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("articles", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=8, help="sequences a step")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--megabytes", type=float, help="size of the part of wiki.train.txt that is read; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate-every", type=int, default=500)
    parser.add_argument("--held-out-blocks", type=int, help="of wiki.valid.txt that are measured; default all")
    parser.add_argument("--save-seconds", type=float, default=180)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    changeable = ("articles", "out", "steps", "save_seconds", "evaluate_every", "held_out_blocks")
    options = {name: value for name, value in vars(args).items() if name not in changeable}

    tokenizer, train, valid = prepare(args)
    valid = valid[: args.held_out_blocks]
    model = build_model(args, tokenizer)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=args.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    step, cpu_seconds, curve = 0, 0.0, []
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["options"] != options:
            raise SystemExit(f"{checkpoint} was written with {state['options']}, not {options}: choose another OUT.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, cpu_seconds, curve = state["step"], state["cpu_seconds"], state["curve"]

    def save() -> None:
        temporary = checkpoint.with_suffix(".tmp")
        state = {"options": options, "step": step, "cpu_seconds": spent(), "curve": curve}
        torch.save({**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, temporary)
        temporary.replace(checkpoint)

    started = time.process_time()

    def spent() -> float:
        return cpu_seconds + time.process_time() - started

    per_epoch = len(train) // args.batch
    saved = time.monotonic()
    model.train()
    while step < args.steps:
        # Each epoch visits all blocks once, in an order that follows from the seed and the epoch alone.
        epoch, batch = divmod(step, per_epoch)
        order = np.random.default_rng([args.seed, epoch]).permutation(len(train))
        blocks = train[order[batch * args.batch : (batch + 1) * args.batch]]
        for group in optimizer.param_groups:
            group["lr"] = rate(step, args)
        loss = summed_loss(model, blocks) / (args.batch * (args.length - 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0:
            sys.stderr.write(f"step {step} loss {loss.item():.3f} cpu {spent():.0f} s\n")
        if step % args.evaluate_every == 0 or step == args.steps:
            curve.append({"step": step, "held_out_perplexity": held_out_perplexity(model, valid)})
            sys.stderr.write(f"{curve[-1]}\n")
        if time.monotonic() - saved > args.save_seconds:
            save()
            saved = time.monotonic()
    save()
    model.save_pretrained(args.out / "model")
    report = {
        "options": options | {"steps": args.steps},
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_tokens_seen": args.steps * args.batch * args.length,
        "train_tokens": int(train.size),
        "held_out_tokens": int(valid.size),
        "cpu_seconds": round(spent()),
        "curve": curve,
    }
    write_json(args.out / "training.json", report)


if __name__ == "__main__":
    main()
