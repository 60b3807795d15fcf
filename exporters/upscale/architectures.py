"""Real-ESRGAN's two network architectures as torch modules, and the graph that is served.

Parameter names are those of the official checkpoints, so a `state_dict` of theirs loads strictly.
RRDBNet: ESRGAN, arXiv:1809.00219, section 3.1, and Real-ESRGAN, arXiv:2107.10833 (basicsr/archs/rrdbnet_arch.py).
SRVGGNetCompact: realesrgan/archs/srvgg_arch.py. All feature maps are [N, C, H, W]; images are RGB in 0..1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the name that every torch user knows)
from torch import Tensor, nn

FEATURES = 64
GROWTH = 32
RESIDUAL_SCALE = 0.2  # "residual scaling" of ESRGAN
SLOPE = 0.2


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


class ResidualDenseBlock(nn.Module):
    """Five convolutions; each sees the block's input and the outputs of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(FEATURES, GROWTH)
        self.conv2 = _conv(FEATURES + GROWTH, GROWTH)
        self.conv3 = _conv(FEATURES + 2 * GROWTH, GROWTH)
        self.conv4 = _conv(FEATURES + 3 * GROWTH, GROWTH)
        self.conv5 = _conv(FEATURES + 4 * GROWTH, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), SLOPE))
        residual: Tensor = self.conv5(torch.cat(seen, 1))
        return residual * RESIDUAL_SCALE + x


class ResidualInResidual(nn.Module):
    """Three dense blocks inside one more residual connection ("RRDB")."""

    def __init__(self) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock()
        self.rdb2 = ResidualDenseBlock()
        self.rdb3 = ResidualDenseBlock()

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.rdb3(self.rdb2(self.rdb1(x)))
        return residual * RESIDUAL_SCALE + x


class RRDBNet(nn.Module):
    """[N, 3, H, W] -> [N, 3, 4H, 4W].

    :param blocks: residual-in-residual blocks: 23 for x4plus, 6 for x4plus-anime.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv_first = _conv(3, FEATURES)
        self.body: nn.Module = nn.Sequential(*(ResidualInResidual() for _ in range(blocks)))
        self.conv_body = _conv(FEATURES, FEATURES)
        self.conv_up1 = _conv(FEATURES, FEATURES)
        self.conv_up2 = _conv(FEATURES, FEATURES)
        self.conv_hr = _conv(FEATURES, FEATURES)
        self.conv_last = _conv(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first(x)
        x = first + self.conv_body(self.body(first))
        for conv in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2, mode="nearest")), SLOPE)
        result: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(x), SLOPE))
        return result


class SRVGGNetCompact(nn.Module):
    """[N, 3, H, W] -> [N, 3, 4H, 4W]: plain convolutions at the small size, added to the enlarged input.

    :param blocks: convolutions between the first and the last one: 16 for animevideov3.
    """

    upscale = 4

    def __init__(self, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(3, FEATURES), nn.PReLU(FEATURES)]
        for _ in range(blocks):
            layers += [_conv(FEATURES, FEATURES), nn.PReLU(FEATURES)]
        self.body = nn.Sequential(*layers, _conv(FEATURES, 3 * self.upscale**2))

    def forward(self, x: Tensor) -> Tensor:
        residual = F.pixel_shuffle(self.body(x), self.upscale)
        return residual + F.interpolate(x, scale_factor=self.upscale, mode="nearest")


class BicubicReduction(nn.Module):
    """[N, 3, 4H, 4W] -> [N, 3, scale*H, scale*W], as ncnn's Interp layer and torch do it: a = -0.75, pixel centres
    at 0.5, edges repeated, no antialiasing.

    :param scale: 2 or 3.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2] // 4 * self.scale, x.shape[3] // 4 * self.scale)
        return F.interpolate(x, size=size, mode="bicubic", align_corners=False)


class Served(nn.Module):
    """The graph that a client of the model sees: uint8 [N, H, W, 3] -> uint8 [N, scale*H, scale*W, 3].

    Rounds as ncnn does: 0.5 is added and the fraction cut off. The network runs in the precision of its
    parameters, everything around it in float32.

    :param network: [N, 3, H, W] in 0..1 -> [N, 3, 4H, 4W] around 0..1.
    :param reduction: from 4 times the size to a smaller one, or None.
    """

    def __init__(self, network: nn.Module, reduction: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.reduction = reduction

    def forward(self, image: Tensor) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        x = image.permute(0, 3, 1, 2).float() / 255
        y = self.network(x.to(dtype)).float()
        if self.reduction is not None:
            y = self.reduction(y)
        levels: Tensor = (y * 255 + 0.5).clamp(0, 255)
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


def build(architecture: str, blocks: int) -> nn.Module:
    """The untrained network of a row of `darkroom.pipelines.upscale.networks.NETWORKS`."""
    return RRDBNet(blocks) if architecture == "rrdb" else SRVGGNetCompact(blocks)
