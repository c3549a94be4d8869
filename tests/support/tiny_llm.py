"""Small causal language models in Hugging Face layout, made on the spot: real ones, but for their sense."""

import json
from itertools import pairwise
from pathlib import Path

import torch

import psa_core.encoders

TEMPLATES = Path(psa_core.encoders.__file__).parent / "templates"
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


def make_tiny_llm(folder: Path, seed: int = 0, reply: str | None = None, context: int = 4096, **config) -> Path:
    """Write a Qwen2 with random weights (hidden size 64, two layers) and a tokenizer trained on our templates.

    Args:
        reply: what the model answers to everything; `None` leaves it babbling.
        config: other settings of `Qwen2Config`.
    """
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = _tokenizer()
    settings = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            num_key_value_heads=2,
            max_position_embeddings=context,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            **{**settings, **config},
        )
    )
    if reply is not None:
        _teach(model, tokenizer, reply)
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = Path(folder, "generation_config.json")  # sampling is on, as in the real model's folder
    path.write_text(json.dumps(json.loads(path.read_text()) | _SAMPLING))
    return Path(folder)


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([path.read_text(encoding="utf-8") for path in sorted(TEMPLATES.iterdir())], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=_CHAT_TEMPLATE,
    )


@torch.no_grad()
def _teach(model, tokenizer, reply: str) -> None:
    """Make each token of `reply` follow the one before it, the first one the generation prompt."""
    for layer in model.model.layers:  # with nothing added to it, a token's last hidden state is its own embedding
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    embedding = model.model.embed_tokens.weight.normal_()
    ids = [tokenizer("assistant\n")["input_ids"][-1], *tokenizer(reply)["input_ids"], tokenizer.eos_token_id]
    if len(set(ids)) < len(ids):
        raise ValueError("A reply in which a token comes twice cannot be taught this way.")
    model.lm_head.weight.zero_()
    for before, after in pairwise(ids):
        model.lm_head.weight[after] = embedding[before]
