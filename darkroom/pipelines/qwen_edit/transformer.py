"""The transformer in torch: its weights, and one prediction for rows of different sizes, prompts and numbers of images.

Architecture and weights are diffusers' `QwenImageTransformer2DModel` (diffusers 0.42,
models/transformers/transformer_qwenimage.py). Its own forward pass gives all rows the positions of the first one and
hides only padded text; the one here has positions and a mask for each row, and else does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from darkroom.diffusion.attention import CHOSEN_BY_TORCH, Attention
from darkroom.diffusion.int8 import use_int8
from darkroom.diffusion.torch_weights import assign_weights

if TYPE_CHECKING:
    from diffusers import QwenImageTransformer2DModel

_TRAINED_STEPS = 1000
Grid = tuple[int, int]
"""Height and width of an image in tokens."""


class RowAttention:
    """Attention over text and images together, with rotary embeddings of each row: a processor for diffusers' blocks.

    As `QwenDoubleStreamAttnProcessor2_0`, whose rotary embeddings are one for all rows.

    :param attention: what computes it.
    """

    def __init__(self, attention: Attention = CHOSEN_BY_TORCH) -> None:
        self._attention = attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, S, D) image and (B, T, D) text tokens -> the same.

        :param encoder_hidden_states_mask: (B, 1, 1, T + S), True for what is no padding.
        :param image_rotary_emb: (B, T + S, head / 2) complex.
        """
        from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

        texts, head = encoder_hidden_states.shape[1], attn.inner_dim // attn.heads

        def heads(text: Tensor, image: Tensor, text_norm: Any, image_norm: Any) -> Tensor:
            split = [states.reshape(*states.shape[:2], -1, head) for states in (text, image)]
            return torch.cat([text_norm(split[0]), image_norm(split[1])], dim=1).transpose(1, 2)

        def same(states: Tensor) -> Tensor:
            return states

        text, image = encoder_hidden_states, hidden_states
        query = heads(attn.add_q_proj(text), attn.to_q(image), attn.norm_added_q, attn.norm_q)
        key = heads(attn.add_k_proj(text), attn.to_k(image), attn.norm_added_k, attn.norm_k)
        value = heads(attn.add_v_proj(text), attn.to_v(image), same, same)
        query = apply_rotary_emb_qwen(query, image_rotary_emb, use_real=False)
        key = apply_rotary_emb_qwen(key, image_rotary_emb, use_real=False)
        seen = self._attention(query, key, value, encoder_hidden_states_mask)
        states = seen.transpose(1, 2).flatten(2, 3).to(query.dtype)
        return attn.to_out[0](states[:, texts:]), attn.to_add_out(states[:, :texts])


def load_transformer(
    folder: Path, *, device: torch.device, dtype: torch.dtype, int8: bool = False
) -> QwenImageTransformer2DModel:
    """The model of a folder in the diffusers layout, ready for `predict`.

    :param folder: has config.json and the weights as one or several safetensors.
    :param int8: whether the weights of its blocks take a byte each, modulation included, which is a third of them.
    :raises OSError: config.json or the weights are not there.
    :raises RuntimeError: the weights are those of another model.
    """
    from diffusers import QwenImageTransformer2DModel

    with torch.device("meta"):  # no memory, and no random numbers for weights that are replaced at once
        model = QwenImageTransformer2DModel.from_config(QwenImageTransformer2DModel.load_config(folder))
    if int8:
        use_int8(model, ["transformer_blocks"])
    assign_weights(model, folder, device=device, dtype=dtype)
    return for_rows(model)


def for_rows(model: QwenImageTransformer2DModel) -> QwenImageTransformer2DModel:
    """Make a model ready for `predict`: attention by rows, and positions, which are no weights."""
    from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

    model.pos_embed = QwenEmbedRope(theta=10000, axes_dim=list(model.config.axes_dims_rope), scale_rope=True)
    model.set_attn_processor(RowAttention())
    return model


@torch.inference_mode()
def predict(model: QwenImageTransformer2DModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the model predicts for B rows: other images, prompts and timesteps in each.

    What no row needs of the padding is cut off before anything is computed.

    :param inputs: tensors on any device, batch first:
        hidden_states (B, S, C) float, tokens of the noisy image, of the references, and padding;
        grids (B, G, 2) int, the height and the width of each image in tokens, the noisy one first; 0 for none;
        timestep (B, 1) float, 0..1000;
        encoder_hidden_states (B, T, D) float, of the prompts, and padding;
        text_tokens (B, 1) int, how many of them are no padding.
    :returns: (B, S, C) float32 on the model's device, the velocity of the noisy tokens; zeros for the others.
    :raises ValueError: a row has more tokens than its tensors.
    """
    weight = next(model.parameters())
    kind, device = weight.dtype, weight.device
    grids = [_grids(row) for row in inputs["grids"].tolist()]
    texts = [int(count) for count in inputs["text_tokens"].flatten().tolist()]
    tokens = [sum(height * width for height, width in row) for row in grids]
    _check(inputs, tokens, texts)
    noisy = [height * width for height, width in (row[0] for row in grids)]
    image = model.img_in(inputs["hidden_states"][:, : max(tokens)].to(device, kind))
    text = model.txt_in(model.txt_norm(inputs["encoder_hidden_states"][:, : max(texts)].to(device, kind)))
    given = inputs["timestep"].to(device).flatten() / _TRAINED_STEPS
    clean = [given * 0] if model.zero_cond_t else []  # references count as images without noise
    times = model.time_text_embed(torch.cat([given, *clean]), image)
    references = _from(noisy, max(tokens), device).int() if model.zero_cond_t else None
    rotary = torch.stack([_rotary(model, *row, max(texts), max(tokens)) for row in zip(grids, texts, strict=True)])
    rotary = rotary.to(device)
    mask = _mask(tokens, texts, device)
    for block in model.transformer_blocks:
        text, image = block(
            hidden_states=image,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=mask,
            temb=times,
            image_rotary_emb=rotary,
            modulate_index=references,
        )
    made = model.proj_out(model.norm_out(image[:, : max(noisy)], times[: len(grids)])).float()
    made = made.masked_fill(_from(noisy, max(noisy), device)[..., None], 0.0)
    return pad(made, (0, 0, 0, inputs["hidden_states"].shape[1] - max(noisy)))


def _grids(row: Sequence[Sequence[int]]) -> list[Grid]:
    return [(height, width) for height, width in row if height * width > 0]


def _check(inputs: Mapping[str, Tensor], tokens: Sequence[int], texts: Sequence[int]) -> None:
    for name, counts in (("hidden_states", tokens), ("encoder_hidden_states", texts)):
        most = inputs[name].shape[1]
        if not 1 <= min(counts) <= max(counts) <= most:
            raise ValueError(f"{name} has {most} tokens in each row; its rows say {list(counts)}")


def _from(first: Sequence[int], length: int, device: torch.device) -> Tensor:
    """(B, length) bool: True from the position `first` of each row on."""
    return torch.arange(length, device=device)[None] >= torch.tensor(first, device=device)[:, None]


def _mask(tokens: Sequence[int], texts: Sequence[int], device: torch.device) -> Tensor | None:
    """(B, 1, 1, T + S) bool, True for what is no padding; None where there is none, which is faster."""
    if min(tokens) == max(tokens) and min(texts) == max(texts):
        return None
    padding = [_from(texts, max(texts), device), _from(tokens, max(tokens), device)]
    return ~torch.cat(padding, dim=1)[:, None, None]


def _rotary(model: QwenImageTransformer2DModel, grids: Sequence[Grid], texts: int, length: int, tokens: int) -> Tensor:
    """The rotary embeddings of one row, (length + tokens, head / 2) complex: text, then images; padding has zeros.

    :param length, tokens: of the text and of the images, with padding.
    """
    shapes = [[(1, height, width) for height, width in grids]]
    image, text = model.pos_embed(shapes, max_txt_seq_len=texts, device=torch.device("cpu"))
    return torch.cat([pad(text, (0, 0, 0, length - len(text))), pad(image, (0, 0, 0, tokens - len(image)))])
