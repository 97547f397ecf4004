"""Training runs: what they learn, resume after being killed, two processes, and what goes wrong."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY, tiny_config
from torch import Tensor, nn

import ghnfast
from ghnfast.errors import TrainingError
from ghnfast.training import ImageData, Trainer, load_data, train
from ghnfast.training import trainer as trainer_module
from ghnfast.training.data import Batches
from ghnfast.training.networks import MetaBatch, MetaBatches, ahead, run_network
from ghnfast.training.trainer import CHECKPOINT, CONFIG, LOG, make_batches, make_dataset, make_ghn


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def command(folder: Path, **changes: Any) -> list[str]:
    values = {**TINY, **changes}
    return ["train", "--out", str(folder), *(f"{name}={value}" for name, value in values.items())]


def start(arguments: list[str], launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    line = [sys.executable, *launcher, "-m", "ghnfast", *arguments]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    process = start(command(folder))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return folder


def test_a_run_leaves_a_ghn_a_log_and_its_configuration(whole_run: Path) -> None:
    ghn = ghnfast.load(whole_run / "ghn.safetensors")
    assert ghn.config["max_shape"] == (8, 8, 3, 3)
    assert ghn.num_classes == 10
    lines = log_of(whole_run)
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert all(0 < line["ghn_share"] < 1 and line["networks_per_second"] > 0 for line in lines)
    assert ghnfast.training.make_config(ghnfast.training.read_config(whole_run / CONFIG)) == tiny_config()


def test_killed_and_resumed_is_as_if_nothing_had_happened(whole_run: Path, tmp_path: Path) -> None:
    process = start(command(tmp_path))
    deadline = time.monotonic() + 300
    while not (tmp_path / CHECKPOINT).exists() or len(log_of(tmp_path)) < 3:  # past a checkpoint, before the next
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "ghn.safetensors").exists()
    again = start(["train", "--out", str(tmp_path)])
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    keys = ("step", "loss", "top1", "lr")
    assert [[line[key] for key in keys] for line in log_of(tmp_path)] == [
        [line[key] for key in keys] for line in log_of(whole_run)
    ]
    ours, theirs = (ghnfast.load(folder / "ghn.safetensors").state_dict() for folder in (tmp_path, whole_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_two_processes_do_what_one_does(whole_run: Path, tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(command(tmp_path), launcher)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    losses = [line["loss"] for line in log_of(tmp_path)]
    assert losses == pytest.approx([line["loss"] for line in log_of(whole_run)], rel=1e-4)
    ours, theirs = (ghnfast.load(folder / "ghn.safetensors").state_dict() for folder in (tmp_path, whole_run))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-6)


# Single steps ---------------------------------------------------------------------------------------------------------


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
    assert torch.isfinite(run_network(network, predicted, torch.randn(2, 3, 32, 32))).all()


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

    def run(network: nn.Module, parameters: Any, images: Tensor) -> Tensor:
        logits = run_network(network, parameters, images)
        if state["what"] == "nan":
            return logits * float("nan")
        if state["what"] == "gradient":
            logits.register_hook(lambda grad: grad * float("inf"))
        if isinstance(state["what"], Exception):
            raise state["what"]
        return logits

    monkeypatch.setattr(trainer_module, "run_network", run)
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


def test_other_errors_are_not_hidden(few_images: ImageData, broken: dict[str, Any]) -> None:
    trainer, images, labels, batch = make_trainer(few_images)
    broken["what"] = RuntimeError("something else")
    with pytest.raises(RuntimeError, match="something else"):
        trainer.train_step(images, labels, batch)


def test_penalty_on_predicted_tensors(few_images: ImageData) -> None:
    """Its gradient is that of decay * (sum of norms)."""
    grads = []
    for decay in (0.0, 0.5):
        trainer, images, labels, batch = make_trainer(few_images, predicted_decay=decay)
        trainer.backward(images, labels, batch, trainer_module.StepResult([], networks=batch.total))
        grads.append([torch.zeros_like(w) if w.grad is None else w.grad for w in trainer.weights])
    (predicted, weights) = trainer.ghn(batch.graphs), trainer.weights
    penalty = 0.5 * sum(value.norm() for parameters in predicted for value in parameters.values())
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
        trainer_module_clip(leaves, limit)
        assert all(torch.isfinite(grad).all() for grad in grads)
        seen.append(norm_of(grads) / limit)

    def norm_of(grads: list[Tensor]) -> float:
        return float(torch.stack([grad.norm() for grad in grads]).norm())

    trainer_module_clip = trainer_module.clip
    monkeypatch.setattr(trainer_module, "clip", clipped)
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


def test_meta_batches_stay_within_their_nodes(few_images: ImageData) -> None:
    dataset = make_dataset(tiny_config(), few_images)
    whole = MetaBatches(dataset, 8, 100_000, 0)[5]
    assert whole.total == 8
    some = MetaBatches(dataset, 8, 700, 0)[5]
    assert sum(map(len, some.graphs)) <= 700
    assert [len(graph) for graph in some.graphs] == [len(graph) for graph in whole.graphs[: some.total]]
    one = MetaBatches(dataset, 8, 1, 0)[5]
    assert one.total == 1
    halves = [MetaBatches(dataset, 8, 100_000, 0, rank, 2)[5] for rank in range(2)]
    assert sorted(place for half in halves for place in half.places) == list(range(8))


def test_errors_in_what_is_made_ahead_are_raised() -> None:
    class Source:
        def __getitem__(self, step: int) -> int:
            if step == 3:
                raise KeyError("three")
            return step * step

    stream = ahead(Source(), 0, 10)
    assert [next(stream) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(KeyError, match="three"):
        next(stream)


# Bad input ------------------------------------------------------------------------------------------------------------


def test_another_configuration_does_not_go_on(whole_run: Path) -> None:
    with pytest.raises(TrainingError, match=r"has lr = 0.0001, and 0.5 was given; the same, or another folder"):
        train(tiny_config(lr=0.5), whole_run)


def test_broken_checkpoints_are_named_and_never_run(whole_run: Path, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes((whole_run / CHECKPOINT).read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read"):
        train(tiny_config(), tmp_path)
    torch.save({"state": Trap()}, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt cannot be read"):
        train(tiny_config(), tmp_path)
    assert not Trap.sprung
    torch.save({"weights": torch.zeros(2)}, tmp_path / CHECKPOINT)
    with pytest.raises(TrainingError, match="is not the checkpoint of a training run"):
        train(tiny_config(), tmp_path)


class Trap:
    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return spring, ()


def spring() -> None:
    Trap.sprung = True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "cifar10", "root": "/nowhere"}, "cifar10 cannot be read from /nowhere"),
        ({"data": "svhn"}, "the data set is 'svhn'; cifar10, cifar100, imagenet, mnist5k, folder are accepted"),
        ({"batch_size": 5000}, "batch_size is 5000; at most 3600"),
        ({"hid": 9}, "hid is 9; a positive multiple of 4"),
        ({"num_ch": (7, 9)}, r"num_ch is \(7, 9\)"),
        ({"device": "cuda:99"}, "the device cuda:99 cannot be used"),
    ],
)
def test_nothing_starts_with_bad_input(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train(tiny_config(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / LOG).exists()


def test_starting_from_a_ghn(whole_run: Path, few_images: ImageData) -> None:
    path = str(whole_run / "ghn.safetensors")
    ghn = make_ghn(tiny_config(init=path), few_images)
    expected = ghnfast.load(path).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ghn.state_dict().items())
    with pytest.raises(TrainingError, match=r"ve is True; the configuration says False"):
        make_ghn(tiny_config(init=path, ve=False), few_images)


@pytest.mark.parametrize("augment", [True, False])
def test_images_with_and_without_augmentation(augment: bool) -> None:
    data = load_data("mnist5k")
    images, labels = make_batches(tiny_config(augment=augment, balanced=True, batch_size=20), data)[0]
    assert labels.bincount().tolist() == [2] * 10
    plain = data.calibration.batch(range(len(data.calibration)), 0)[0].flatten(1)
    found = [bool((plain == image.flatten()).all(1).any()) for image in images]
    assert all(found) if not augment else not all(found)


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


def test_data_of_the_run_is_the_paper_split() -> None:
    data = load_data("mnist5k")
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (3600, 400, 1000)
