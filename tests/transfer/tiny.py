"""Tiny random models with a whitespace tokenizer, and toy tasks: no hub, no downloads."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from prompttransfer.tasks.task import Example, Task, to_dataset

WORDS = [f"w{index}" for index in range(40)]
VOCABULARY = ["<pad>", "<unk>", "</s>", "Answer:", "no", "yes", "maybe", "no-one", *WORDS]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Reads any text, digits and all: a token for every byte."""
    special = ["<pad>", "<unk>", "</s>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


def tiny_llama(vocabulary: int = len(VOCABULARY)) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def tiny_t5(vocabulary: int = len(VOCABULARY)) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        initializer_factor=1.0,
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
    )
    return T5ForConditionalGeneration(config)


def toy_task(name: str, word: int, rows: int = 60) -> Task:
    """Is word number `word` in the text? Answers no / yes."""
    generator = torch.Generator().manual_seed(word)
    texts, labels = [], []
    for index in range(rows):
        count = int(torch.randint(3, 9, (1,), generator=generator))
        picks = torch.randint(10, len(WORDS), (count,), generator=generator).tolist()
        if index % 2:
            picks[index % count] = word
        texts.append(" ".join(WORDS[pick] for pick in picks))
        labels.append(index % 2)
    examples = [Example(text, text, label) for text, label in zip(texts, labels, strict=True)]
    train, test = to_dataset(examples[: rows // 2]), to_dataset(examples[rows // 2 :])
    return Task(name, train, test, test, ("no", "yes"))


def bpe_tokenizer(
    front: tuple[str, ...] = (), behind: tuple[str, ...] = (), *, space_before_texts: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer of words with their spaces, as in GPT-2 and Llama: "Label: yes" is "Label", ":", " yes".

    Args:
        front, behind: special tokens to put before and after every text, such as <s>.
        space_before_texts: put a space before every text, as in Llama 2.
    """
    tokenizer = Tokenizer(models.BPE())
    if space_before_texts:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Punctuation()]
        )
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    special = [
        "<pad>",
        "<s>",
        "</s>",
        *dict.fromkeys(token for token in (*front, *behind) if token not in ("<s>", "</s>")),
    ]
    text = "Label : yes no true false good bad\nReview: yes no true false good bad film the a was very\n"
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=[] if space_before_texts else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.replace(" ", "").replace("\n", " "), text] * 20, trainer)
    if front or behind:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join([*front, "$A", *behind]),
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*front, *behind}],
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
