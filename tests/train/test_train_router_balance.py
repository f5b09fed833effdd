"""The selection bias of experts evens out their loads, over lanes and processes alike."""

import torch
from train_small import PatternRows, small_trainer, weights_of

from langwright.model import build_model, model_config
from langwright.train.router_balance import balance_routers, forget_loads

EXPERTS = {"count": 8, "chosen": 2, "selection_bias": True}


def _model(**changes):
    table = {
        "width": 16,
        "layers": 2,
        "heads": 2,
        "context_length": 16,
        "feedforward": "swiglu",
        "experts": {**EXPERTS, **changes},
    }
    return build_model(model_config(table, vocab_size=13)).train()


def _biases(model):
    return torch.stack([block.feedforward.router.bias for block in model.blocks]).detach()


def test_one_shift_is_the_papers():
    model = _model()
    loads = torch.tensor([[9, 1, 4, 4, 4, 4, 5, 1], [4, 4, 4, 4, 4, 4, 4, 4]])
    for block, load in zip(model.blocks, loads):
        block.feedforward.load = load
    balance_routers([model], 0.01)
    shift = 0.01 * torch.tensor([-1.0, 1, 0, 0, 0, 0, -1, 1])
    torch.testing.assert_close(_biases(model), torch.stack([shift, torch.zeros(8)]))
    assert all(block.feedforward.load is None for block in model.blocks)


def test_nothing_moves_where_it_must_not():
    model, plain = _model(), _model(selection_bias=False)
    for rate, skip in ((0.0, None), (0.1, torch.tensor(1.0))):
        model.blocks[0].feedforward.load = torch.arange(8)
        balance_routers([model], rate, skip=skip)
        assert not _biases(model).any() and model.blocks[0].feedforward.load is None
    balance_routers([plain], 0.1)
    model.blocks[0].feedforward.load = torch.arange(8)
    forget_loads(model)
    assert model.blocks[0].feedforward.load is None


def test_loads_of_all_processes_count():
    one, two, both = _model(), _model(), _model()
    first, second = torch.tensor([8, 0, 0, 0, 0, 0, 0, 0]), torch.tensor([0, 4, 4, 4, 4, 4, 4, 4])
    own = torch.stack([first, first]).float()
    for model, load in ((one, first), (two, second), (both, first + second)):
        for block in model.blocks:
            block.feedforward.load = load
    balance_routers([one], 0.1, all_sum=lambda loads: loads + torch.stack([second, second]))
    balance_routers([two], 0.1, all_sum=lambda loads: loads + own)
    balance_routers([both], 0.1)
    assert torch.equal(_biases(one), _biases(both)) and torch.equal(_biases(two), _biases(both))
    assert _biases(both).any()


def _uneven(model, rows):
    """Largest share of an expert over the mean share; 1 is even."""
    forget_loads(model)
    batch = rows.batch(0, 32)
    with torch.no_grad():
        model.train().loss(batch.inputs, batch.targets)
    loads = torch.stack([block.feedforward.load for block in model.blocks]).float()
    forget_loads(model)
    return (loads.max(dim=1).values / loads.mean(dim=1)).max().item()


def test_training_evens_out_the_experts(tmp_path):
    rows = PatternRows(holes=False)
    uneven, biases = {}, {}
    for rate in (0.0, 0.003):
        model = _model()
        small_trainer(tmp_path / str(rate), model, rows, steps=120, router_bias_rate=rate).run()
        uneven[rate], biases[rate] = _uneven(model, rows), _biases(model)
    assert not biases[0.0].any() and biases[0.003].any()
    assert uneven[0.003] < 1.35 < 1.5 < uneven[0.0]


def test_lanes_count_as_one_model(tmp_path):
    ends = []
    for lanes in (1, 2):
        model = _model()
        small_trainer(
            tmp_path / str(lanes), model, steps=3, lanes=lanes, router_bias_rate=0.01
        ).run()
        ends.append(weights_of(model))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, atol=1e-5, rtol=1e-4)
