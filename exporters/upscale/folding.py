"""Exact rewrites of the networks that let ONNX Runtime run them faster; the numbers stay the same to rounding.

ONNX Runtime keeps feature maps in its blocked layout (NCHWc) between convolutions, additions and concatenations.
An operator that it cannot run there (a multiplication by a constant, a PReLU) costs two conversions of the whole
map and holds two more copies in memory. Measured on two AVX-512 cores: x4plus-anime 12 % faster, animevideov3-x4
25 % faster, and x3 twice as fast.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from exporters.upscale.architectures import (
    FEATURES,
    RESIDUAL_SCALE,
    SLOPE,
    ResidualDenseBlock,
    ResidualInResidual,
    RRDBNet,
    SRVGGNetCompact,
)


def fold(network: nn.Module, *, slopes: bool) -> nn.Module:
    """A copy of an RRDBNet or SRVGGNetCompact that computes the same; `network` stays as it is.

    :param slopes: also turn PReLU layers into depthwise convolutions: faster on a CPU, slower on a GPU.
    """
    network = copy.deepcopy(network)
    if isinstance(network, RRDBNet):
        network.body = FoldedBody(network.body)
        return network
    assert isinstance(network, SRVGGNetCompact)
    return FoldedCompact(network, slopes=slopes)


class FoldedDenseBlock(nn.Module):
    """conv5(...) * scale + x * identity + residual, with both factors inside the weights of conv5."""

    def __init__(self, block: ResidualDenseBlock, *, scale: float, identity: float) -> None:
        super().__init__()
        self.growing = nn.ModuleList([block.conv1, block.conv2, block.conv3, block.conv4])
        self.last = block.conv5
        with torch.no_grad():
            self.last.weight.mul_(scale)
            assert self.last.bias is not None
            self.last.bias.mul_(scale)
            # The block's input is the first part of conv5's input: the centre tap passes it on.
            self.last.weight[:, :FEATURES, 1, 1] += identity * torch.eye(FEATURES)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        seen = [x]
        for conv in self.growing:
            seen.append(F.leaky_relu(conv(torch.cat(seen, 1)), SLOPE))
        folded: Tensor = self.last(torch.cat(seen, 1))
        return folded + residual


class FoldedBody(nn.Module):
    """The residual-in-residual blocks of an RRDBNet with nothing but convolutions, concatenations and additions.

    With s = 0.2 the third dense block and the outer connection are s * (s * conv5 + x) + outer
    = (s^2 * conv5 + s * x) + outer.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for block in body.children():
            assert isinstance(block, ResidualInResidual)
            inner = [FoldedDenseBlock(b, scale=RESIDUAL_SCALE, identity=0.0) for b in (block.rdb1, block.rdb2)]
            outer = FoldedDenseBlock(block.rdb3, scale=RESIDUAL_SCALE**2, identity=RESIDUAL_SCALE)
            self.blocks.append(nn.ModuleList([*inner, outer]))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            first, second, third = block
            y = first(x, x)
            y = second(y, y)
            x = third(y, x)
        return x


class TwoSlopes(nn.Module):
    """sign * PReLU(x) as two depthwise 1x1 convolutions, where sign (per channel) has to be undone by the next layer.

    For slopes a <= 1: PReLU(x) = relu((1 - a) x) + a x. For a > 1 the function is concave, so its negative is
    written in the same form: -PReLU(x) = relu((a - 1) x) - a x.
    """

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        channels = len(slopes)
        self.sign = torch.where(slopes <= 1, 1.0, -1.0)
        self.bend = nn.Conv2d(channels, channels, kernel_size=1, groups=channels, bias=False)
        self.line = nn.Conv2d(channels, channels, kernel_size=1, groups=channels, bias=False)
        with torch.no_grad():
            self.bend.weight.copy_((1 - slopes).abs().reshape(-1, 1, 1, 1))
            self.line.weight.copy_((self.sign * slopes).reshape(-1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        bent: Tensor = F.relu(self.bend(x))
        straight: Tensor = self.line(x)
        return bent + straight


class FoldedCompact(nn.Module):
    """SRVGGNetCompact with the enlarged input added before the pixel shuffle, where it is a sum of two convolutions."""

    def __init__(self, network: SRVGGNetCompact, *, slopes: bool) -> None:
        super().__init__()
        self.upscale = network.upscale
        self.body = _without_prelu(network.body) if slopes else network.body
        # Pixel shuffle takes output pixel (i, j) of colour c from channel c * 16 + i * 4 + j.
        self.enlarge = nn.Conv2d(3, 3 * self.upscale**2, kernel_size=1, bias=False)
        with torch.no_grad():
            colours = torch.eye(3).repeat_interleave(self.upscale**2, dim=0)
            self.enlarge.weight.copy_(colours[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.body(x) + self.enlarge(x), self.upscale)


def _without_prelu(body: nn.Sequential) -> nn.Sequential:
    layers = list(body)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.PReLU):
            following = layers[index + 1]
            assert isinstance(following, nn.Conv2d)
            layers[index] = two = TwoSlopes(layer.weight.detach())
            with torch.no_grad():
                following.weight.mul_(two.sign[None, :, None, None])
    return nn.Sequential(*layers)


class StridedReduction(nn.Module):
    """`BicubicReduction` as a strided convolution: a fixed factor means a fixed kernel. [N, 3, 4H, 4W] -> x scale/4.

    ONNX Runtime's cubic Resize takes longer for the last step than all convolutions of the network before it.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        # x2: every 2 pixels give 1, from a window of 4. x3: every 4 pixels give 3, from a window of 6.
        self.stride, self.phases = (2, 1) if scale == 2 else (4, 3)
        self.kernel: Tensor
        rows = torch.tensor([self._taps(phase) for phase in range(self.phases)])
        kernel = torch.einsum("ia,jb->ijab", rows, rows).reshape(self.phases**2, 1, *[rows.shape[1]] * 2)
        self.register_buffer("kernel", kernel)

    def _taps(self, phase: int) -> list[float]:
        """Weights of one output pixel over a window that starts one pixel before its stride."""
        centre = (phase + 0.5) * self.stride / self.phases - 0.5
        return [_cubic(position - centre) for position in range(-1, self.stride + 1)]

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        x = F.conv2d(x.flatten(0, 1).unsqueeze(1), self.kernel, stride=self.stride)
        if self.phases > 1:
            x = F.pixel_shuffle(x, self.phases)
        return x.reshape(batch, 3, x.shape[2], x.shape[3])


def _cubic(distance: float, a: float = -0.75) -> float:
    """Keys' cubic convolution kernel (1981, eq. 4 with free a); a = -0.75 is what ncnn and torch use."""
    d = math.fabs(distance)
    if d <= 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0
