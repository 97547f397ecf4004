"""One step: what it learns, what it leaves alone, and steps that have no update."""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import FAST, tiny_config
from torch import Tensor, nn

from ghnfast.errors import TrainingError
from ghnfast.graph import ArchGraph
from ghnfast.training import ImageData, Trainer, optimizers, train
from ghnfast.training import step as step_module
from ghnfast.training.data import Batches
from ghnfast.training.folder import read_checkpoint
from ghnfast.training.networks import MetaBatch, MetaBatches, call, run_network
from ghnfast.training.run import make_batches, make_dataset, make_ghn


def make_trainer(few_images: ImageData, **changes: Any) -> tuple[Trainer, Tensor, Tensor, MetaBatch]:
    config = tiny_config(**changes)
    trainer = Trainer(make_ghn(config, few_images), config, steps=10)
    networks = MetaBatches(make_dataset(config, few_images), config.meta_batch, config.max_nodes, config.seed)
    return trainer, *Batches(few_images.train, 4, 0)[0], networks[0]


def weights_of(trainer: Trainer) -> list[Tensor]:
    return [weight.detach().clone() for weight in trainer.weights]


def test_repeated_steps_fit_the_images(few_images: ImageData) -> None:
    trainer, images, labels, batch = make_trainer(few_images, schedule="constant", lr=3e-3)
    losses = [trainer.train_step(images, labels, batch).loss for _ in range(40)]
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("changes", [{"hypernet": "mlp"}, {"ve": False, "layernorm": False, "weight_norm": False}])
def test_other_ghns(few_images: ImageData, changes: dict[str, Any]) -> None:
    trainer, images, labels, batch = make_trainer(few_images, **changes)
    before = weights_of(trainer)
    result = trainer.train_step(images, labels, batch)
    assert not result.skipped
    assert any(not torch.equal(a, b) for a, b in zip(before, weights_of(trainer), strict=True))


def test_networks_are_left_as_they_were(few_images: ImageData) -> None:
    trainer, images, labels, batch = make_trainer(few_images)
    trainer.train_step(images, labels, batch)
    assert all(parameter.is_meta for network in batch.networks for parameter in network.parameters())


def test_what_has_no_path_is_not_predicted(few_images: ImageData) -> None:
    dataset = make_dataset(tiny_config(), few_images)
    ghn = make_ghn(tiny_config(), few_images)
    items = [item for item in (dataset[index] for index in range(200)) if item.graph.skipped]
    (predicted,) = ghn(items[0].graph)
    assert not set(predicted) & set(items[0].graph.skipped)
    network = items[0].build(light=True)
    assert set(predicted) | set(items[0].graph.skipped) == {name for name, _ in network.named_parameters()}
    assert torch.isfinite(run_network(network, items[0].graph, predicted, torch.randn(2, 3, 32, 32))).all()


def test_predicted_tensors_are_what_predict_writes(few_images: ImageData) -> None:
    ghn = make_ghn(tiny_config(), few_images)
    item = make_dataset(tiny_config(), few_images)[3]
    model = ghn.predict(item.build(), graph=item.graph)
    (predicted,) = ghn(item.graph)
    for name, parameter in model.named_parameters():
        if name in predicted:
            torch.testing.assert_close(predicted[name], parameter, rtol=1e-4, atol=1e-6)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What happens where a network runs, once `what` says so."""
    state: dict[str, Any] = {"what": None}

    def run(network: nn.Module, graph: ArchGraph, parameters: Any, images: Tensor) -> Tensor:
        logits = run_network(network, graph, parameters, images)
        if state["what"] == "nan":
            return logits * float("nan")
        if state["what"] == "gradient":
            logits.register_hook(lambda grad: grad * float("inf"))
        if isinstance(state["what"], Exception):
            raise state["what"]
        return logits

    monkeypatch.setattr(step_module, "run_network", run)
    return state


def test_a_loss_that_is_not_finite_skips_the_step(few_images: ImageData, broken: dict[str, Any]) -> None:
    trainer, images, labels, batch = make_trainer(few_images, max_skipped=2)
    broken["what"] = "nan"
    before = weights_of(trainer)
    result = trainer.train_step(images, labels, batch)
    assert result.skipped == "a loss is not finite"
    assert all(map(torch.equal, before, weights_of(trainer)))
    assert (trainer.step, trainer.skipped, trainer.all_skipped) == (1, 1, 1)
    broken["what"] = None
    assert not trainer.train_step(images, labels, batch).skipped
    assert (trainer.skipped, trainer.all_skipped) == (0, 1)
    broken["what"] = "nan"
    trainer.train_step(images, labels, batch)
    with pytest.raises(TrainingError, match=r"2 steps in a row had no update \(a loss is not finite\)"):
        trainer.train_step(images, labels, batch)


def test_a_gradient_that_is_not_finite_skips_the_step(few_images: ImageData, broken: dict[str, Any]) -> None:
    trainer, images, labels, batch = make_trainer(few_images)
    broken["what"] = "gradient"
    before = weights_of(trainer)
    result = trainer.train_step(images, labels, batch)
    assert result.skipped == "a gradient is not finite"
    assert all(map(torch.equal, before, weights_of(trainer)))
    broken["what"] = None
    assert not trainer.train_step(images, labels, batch).skipped
    assert all(torch.isfinite(weight).all() for weight in trainer.weights)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_skips_the_step(few_images: ImageData, broken: dict[str, Any], error: Exception) -> None:
    trainer, images, labels, batch = make_trainer(few_images)
    before = weights_of(trainer)
    broken["what"] = error
    assert trainer.train_step(images, labels, batch).skipped == "out of memory"
    assert all(map(torch.equal, before, weights_of(trainer)))
    broken["what"] = None
    assert not trainer.train_step(images, labels, batch).skipped


def interrupted_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[Any, Any], Any], at: int
) -> None:
    """A run in which the update with this number is made by `interrupt`, given it and its optimizer."""
    made, own = [0], optimizers.Adam.step

    def step(self: Any, *_: Any, **__: Any) -> Any:
        made[0] += 1
        return interrupt(own, self) if made[0] == at else own(self)

    with monkeypatch.context() as patch:
        patch.setattr(optimizers.Adam, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(**FAST | {"steps": 6}), folder, progress=False)


def before_update(own: Any, optimizer: Any) -> None:
    signal.raise_signal(signal.SIGINT)
    own(optimizer)


def after_update(own: Any, optimizer: Any) -> None:
    own(optimizer)
    signal.raise_signal(signal.SIGINT)


def twice(own: Any, optimizer: Any) -> None:
    after_update(own, optimizer)
    signal.raise_signal(signal.SIGINT)


def raised(own: Any, optimizer: Any) -> None:
    own(optimizer)
    raise KeyboardInterrupt


# The step from which each goes on: its own, or the last one that was saved.
INTERRUPTIONS = {before_update: 0, after_update: 0, twice: -1, raised: -1}


@pytest.fixture(scope="module")
def whole(few_images: ImageData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ghnfast.training.run.load_data", lambda *_, **__: few_images)
        train(tiny_config(**FAST | {"steps": 6}), folder, progress=False)
    state = read_checkpoint(folder)
    assert state is not None
    return state


@pytest.mark.parametrize("at", [2, 4])
@pytest.mark.parametrize("interrupt", INTERRUPTIONS)
@pytest.mark.usefixtures("quick")
def test_an_interruption_makes_no_update_twice(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: dict[str, Any],
    interrupt: Callable[[Any, Any], Any],
    at: int,
) -> None:
    """Nor does it lose one: what is saved is between two updates."""
    handler = signal.getsignal(signal.SIGINT)
    interrupted_run(tmp_path / "parts", monkeypatch, interrupt, at)
    assert signal.getsignal(signal.SIGINT) is handler
    state = read_checkpoint(tmp_path / "parts")
    step = at if INTERRUPTIONS[interrupt] == 0 else at - 2
    assert (0 if state is None else state["step"]) == step
    train(tiny_config(**FAST | {"steps": 6}), tmp_path / "parts", progress=False)
    ours = read_checkpoint(tmp_path / "parts")
    assert ours is not None
    assert all(torch.equal(value, ours["ghn"][name]) for name, value in whole["ghn"].items())


def test_steps_of_other_threads_are_not_guarded(few_images: ImageData) -> None:
    """Python has interruptions in its main thread alone."""
    trainer, images, labels, batch = make_trainer(few_images)
    with ThreadPoolExecutor(1) as pool:
        assert not pool.submit(trainer.train_step, images, labels, batch).result().skipped
    assert trainer.is_whole


def test_other_errors_are_not_hidden(few_images: ImageData, broken: dict[str, Any]) -> None:
    trainer, images, labels, batch = make_trainer(few_images)
    broken["what"] = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        trainer.train_step(images, labels, batch)


def test_penalty_on_predicted_tensors(few_images: ImageData) -> None:
    """Its gradient is that of decay * (sum of norms), a mean over networks."""
    grads = []
    for decay in (0.0, 0.5):
        trainer, images, labels, batch = make_trainer(few_images, predicted_decay=decay)
        trainer.backward(images, labels, batch, step_module.StepResult([], networks=batch.total))
        grads.append([torch.zeros_like(w) if w.grad is None else w.grad for w in trainer.weights])
    (predicted, weights) = trainer.ghn(batch.graphs), trainer.weights
    norms = sum(value.norm() for parameters in predicted for value in parameters.values())
    penalty = 0.5 * norms / batch.total
    wanted = torch.autograd.grad(penalty, weights, allow_unused=True, materialize_grads=True)
    for plain, decayed, expected in zip(*grads, wanted, strict=True):
        torch.testing.assert_close(decayed - plain, expected, rtol=1e-3, atol=1e-4 * float(1 + expected.abs().max()))


@pytest.mark.parametrize("factor", [1e-3, 1e3, float("inf")])
def test_no_network_outweighs_the_others(few_images: ImageData, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose gradients are so many times larger than the limit; the others' are ten times larger."""
    trainer, images, labels, batch = make_trainer(few_images, network_clip=0.01)
    seen: list[float] = []

    def clipped(leaves: Any, limit: float) -> None:
        grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
        before = norm_of(grads)
        assert before > 0
        for grad in grads:
            grad *= (10.0 if seen else factor) * limit / before
        own_clip(leaves, limit)
        assert all(torch.isfinite(grad).all() for grad in grads)
        seen.append(norm_of(grads) / limit)

    def norm_of(grads: list[Tensor]) -> float:
        return float(torch.stack([grad.norm() for grad in grads]).norm())

    own_clip = step_module.clip
    monkeypatch.setattr(step_module, "clip", clipped)
    trainer.train_step(images, labels, batch)
    assert seen[1:] == pytest.approx([1.0] * (batch.total - 1), rel=1e-3)
    assert seen[0] == pytest.approx(0.0 if factor == float("inf") else min(factor, 1.0), rel=1e-3)


def test_mixed_precision_trains(few_images: ImageData) -> None:
    results = []
    for amp in ("none", "bfloat16"):
        trainer, images, labels, batch = make_trainer(few_images, amp=amp)
        results.append(trainer.train_step(images, labels, batch).loss)
        assert all(weight.dtype == torch.float32 for weight in trainer.weights)
    assert results[0] != results[1]
    assert results[1] == pytest.approx(results[0], rel=0.05)


def test_the_scale_of_the_loss_grows_and_has_a_floor(few_images: ImageData) -> None:
    settings: dict[str, Any] = {"amp": "float16", "device": "cuda", "scale_growth": 3, "least_scale": 1024.0}
    trainer, *_ = make_trainer(few_images, **settings)  # the GHN is on the CPU, where scaling works, too
    trainer.scaler.scale(torch.ones(()))  # makes the scale
    trainer.scaler.update(4096.0)
    scales = []
    for value in (1.0, 1.0, 1.0, *[float("inf")] * 5):
        for weight in trainer.weights:
            weight.grad = torch.full_like(weight, value)
        assert trainer.update()
        scales.append(trainer.scaler.get_scale())
    assert scales == [4096, 4096, 8192, 4096, 2048, 1024, 1024, 1024]
    assert all(bool(torch.isfinite(weight).all()) for weight in trainer.weights)


@pytest.mark.parametrize("table", ["primitive_embedding.weight", "embed.weight"])
def test_state_holds_everything(few_images: ImageData, table: str) -> None:
    """Also one of a run of an earlier version, which had the table of primitives under its published name."""
    trainer, images, labels, batch = make_trainer(few_images)
    trainer.train_step(images, labels, batch)
    state = copy.deepcopy(trainer.state())
    state["ghn"] = {name.replace("primitive_embedding.weight", table): value for name, value in state["ghn"].items()}
    other, *_ = make_trainer(few_images)
    other.restore(state)
    ours, theirs = (each.train_step(images, labels, batch) for each in (other, trainer))
    assert ours.losses == theirs.losses
    assert all(map(torch.equal, weights_of(other), weights_of(trainer)))


def test_own_images(few_images: ImageData) -> None:
    """Each network of a step sees images of its own: those of its place in the meta-batch."""
    trainer, _, _, batch = make_trainer(few_images, own_images=True, meta_batch=3)
    assert batch.total == 3
    with pytest.raises(TrainingError, match="meta_batch 3, with own_images 15 images a step; at most 12"):
        make_batches(tiny_config(own_images=True, batch_size=5), few_images)
    images, labels = make_batches(trainer.config, few_images)[0]
    assert len(images) == 12
    alone = []
    for place in range(3):
        own, *_ = make_trainer(few_images, own_images=True, meta_batch=3)
        one = MetaBatch([batch.networks[place]], [batch.graphs[place]], [place], 1)
        alone += own.train_step(images, labels, one).losses
    together = trainer.train_step(images, labels, batch).losses
    assert together == pytest.approx(alone, rel=1e-5)
    shared, *_ = make_trainer(few_images, meta_batch=3)
    assert shared.train_step(images[:4], labels[:4], batch).losses != pytest.approx(together, rel=1e-5)
    # What another network sees does not matter.
    other, *_ = make_trainer(few_images, own_images=True, meta_batch=3)
    changed = torch.cat([images[:8], torch.zeros_like(images[8:])])
    losses = other.train_step(changed, labels, batch).losses
    assert losses[:2] == together[:2]
    assert losses[2] != together[2]


def test_what_is_not_predicted_keeps_its_value() -> None:
    """Scales of layers, for instance: with zeros, a ConvNeXt would be its stem."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(4, 3), nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x) * self.scale
            return out

    network, x = Scaled(), torch.randn(2, 4)
    parameters = {"layer.weight": torch.randn(3, 4), "layer.bias": torch.randn(3)}
    expected = torch.nn.functional.linear(x, *parameters.values()) * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(call(network, parameters, x), expected)
    assert torch.equal(call(network.to("meta"), parameters, x), torch.zeros(2, 3))
