"""Tokenizers of the demo world for HiDream's encoders. Each word of the grammar is one token."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5Tokenizer

from training import dataset
from training.tokens import WORDS, byte_characters, train_merges

LENGTH = 24
"""Tokens that each encoder reads: the longest sentence of the world is 18 words, and CLIP adds a begin and an end. The
transformer sees three times as many, which at the 128 of upstream would be most of its work. T5's and Llama's
tokenizers say so (`model_max_length`), which diffusers and the exporter obey; CLIP gives one vector however long."""
_LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
_SPACE = "Ġ"
"""What stands for a space in byte-level BPE."""
_BOS, _EOS = "<|begin_of_text|>", "<|eot_id|>"


def make_t5_tokenizer() -> T5Tokenizer:
    """SentencePiece's unigrams: words, and small letters for what is no word of the world; T5 tells capitals apart."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*special, ("▁", -2.0), *((f"▁{word}", -3.0) for word in WORDS), *((c, -9.0) for c in _LETTERS)]
    return T5Tokenizer(vocab=list(dict(vocabulary).items()), extra_ids=0, model_max_length=LENGTH)


def make_llama_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE behind a begin of text, as Llama 3's, but that capitals are read as small letters."""
    words = tuple(f"{_SPACE}{word}" for word in WORDS)
    merges = train_merges((*WORDS, *words), end="")
    tokens = [*byte_characters(), *(a + b for a, b in merges), _BOS, _EOS]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, vocabulary[_BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=_BOS, eos_token=_EOS, pad_token=_EOS, model_max_length=LENGTH
    )


class Words:
    """All tokenizers of a checkpoint; both CLIPs share one."""

    def __init__(self) -> None:
        self.clip: CLIPTokenizer = dataset.make_tokenizer()
        self.t5 = make_t5_tokenizer()
        self.llama = make_llama_tokenizer()

    def tokenize(self, sentences: list[str]) -> Tensor:
        """(N, 3 x LENGTH) int64: the tokens of CLIP, T5 and Llama beside each other, padded as diffusers pads."""
        return torch.cat(
            [dataset.tokenize(tokenizer, sentences, LENGTH) for tokenizer in (self.clip, self.t5, self.llama)], dim=1
        )

    def mentions(self, tokens: Tensor, words: tuple[str, ...]) -> Tensor:
        """(N, 3 x LENGTH) tokens -> (N,) bool: whether a sentence has one of these words of the world."""
        return dataset.mentions(self.clip, tokens[:, :LENGTH], words)
