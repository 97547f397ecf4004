"""Fine-tunes a network on 100 images, from predicted parameters and from He's initialization.

    python examples/finetune_few.py --steps 200 --seeds 3

Both starts have the same images, steps and learning rates to choose from; so few seeds tell large differences only.
Needs `ghnfast[training]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from torch import nn

from ghnfast.training import finetune, load_data


def make_model(width: int = 32) -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for after, stride in ((width, 2), (width, 1), (2 * width, 2), (2 * width, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=10, help="images of each of ten classes")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", default="0.02,0.1", help="the best on held-out images is taken")
    parser.add_argument("--test-images", type=int, default=1000)
    given = parser.parse_args(arguments)
    data = load_data("mnist5k", validation=False)
    means = {}
    for start in ("default", "he"):
        results = finetune(
            make_model,
            data,
            start,
            shots=given.shots,
            steps=given.steps,
            seeds=tuple(range(given.seeds)),
            rates=tuple(map(float, given.rates.split(","))),
            batch_size=50,
            test_images=given.test_images,
            postprocess=start == "default",
        )
        means[start] = results["mean"]
        print(f"{start:8} {results['mean']:.1f} % of test images, rate {results['rate']}, seeds {given.seeds}")
    return means


if __name__ == "__main__":
    main()
