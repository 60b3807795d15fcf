"""Makes networks of the real classes at any width, with the settings that several families share.

The defaults are those of the demo checkpoints; tests and benchmarks give widths of their own.
"""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL
from transformers import (
    CLIPTextConfig,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from training.render import SIDE


def make_vae(
    *,
    widths: tuple[int, ...] = (16, 32, 64, 128),
    layers: int = 1,
    groups: int = 8,
    channels: int = 4,
    side: int = SIDE,
    **settings: Any,
) -> AutoencoderKL:
    """Images of 8 k x 8 m pixels to `channels` x k x m latents and back: 2.7 M weights.

    Most of the weights are at the low resolutions, where they take little time.

    :param side: of the images that it is trained on, in pixels.
    :param settings: of the class, where they are not the usual ones.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=groups,
        latent_channels=channels,
        sample_size=side,
        **settings,
    )


def clip_config(
    tokenizer: CLIPTokenizer,
    *,
    width: int,
    layers: int,
    heads: int,
    inner: int | None = None,
    projection: int | None = None,
    positions: int = 77,
    **settings: Any,
) -> CLIPTextConfig:
    """A text encoder of CLIP.

    :param inner: width of the feed-forward layers; None = four times the width.
    :param projection: of the pooled embedding; None = the width.
    :param settings: of the class, where they are not the usual ones.
    """
    return CLIPTextConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": inner or 4 * width,
            "projection_dim": projection or width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": positions,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **settings,
        }
    )


def make_t5(tokenizer: T5Tokenizer, *, width: int, head: int, layers: int = 2, heads: int = 4) -> T5EncoderModel:
    """Gated layers. No dropout: its random numbers would be others after a resume.

    :param head: width of a head.
    """
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=head,
            d_ff=2 * width,
            num_layers=layers,
            num_heads=heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def make_llama(tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int, tied: bool = True) -> LlamaForCausalLM:
    """Heads share keys in pairs.

    :param tied: whether the head, which is not used, is the embedding.
    """
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
