"""Makes the tiny model: tokenizer, then weights, then the checkpoint folder. Seeded, on two cores."""

import math
import time
from itertools import chain, islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trace_cl.draw import Draw
from trace_cl.tiny.material import documents, lexicon, text

VOCABULARY = 2560
CONTEXT = 2048
BLOCK = 128
BATCH = 8
ECHOES = 50_000
BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE: any text comes back unchanged. Digits stand alone, for the sake of arithmetic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw, written = Draw(seed), map(text, islice(documents(seed), 6_000))
    tokenizer.train_from_iterator(chain(written, (lexicon(draw) for _ in range(100))), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Llama with 4 layers of width 192 and tied embeddings: 2.26 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=192**-0.5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        # Beside what fresh layers add, embeddings this small would drown; so the layers begin by adding nothing.
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def blocks(tokenizer: PreTrainedTokenizerFast, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The documents on one string, cut into `count` blocks: token ids and labels, both `(count, BLOCK)`.

    A label of -100 leaves a token out of the loss.
    """
    ids, labels = list[int](), list[int]()
    for pieces in documents(seed, echoes=ECHOES):
        encoded = tokenizer([written for written, _ in pieces], add_special_tokens=False)["input_ids"]
        ids.append(tokenizer.bos_token_id)
        labels.append(-100)
        for piece, (_, learned) in zip(encoded, pieces, strict=True):
            ids += piece
            labels += piece if learned else [-100] * len(piece)
        ids.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
        if len(ids) >= count * BLOCK:
            break
    size = count * BLOCK
    return torch.tensor(ids[:size]).view(count, BLOCK), torch.tensor(labels[:size]).view(count, BLOCK)


def pretrain(folder: Path, steps: int, seed: int = 0, peak: float = 3e-3, warmup: int = 300) -> None:
    """Trains for `steps` batches of 8 blocks of 128 tokens and saves tokenizer and model to `folder`."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed + 1)
    model = new_model(tokenizer)
    ids, labels = blocks(tokenizer, seed + 2, steps * BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    began = time.perf_counter()
    for step in range(steps):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        rate = peak * min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast; the weights and their updates stay float32
            loss = model(input_ids=ids[batch], labels=labels[batch]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 250 == 0 or step == steps - 1:
            seconds = time.perf_counter() - began
            print(f"step {step:5d} of {steps}  loss {loss.item():.4f}  {seconds:6.0f} s", flush=True)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
