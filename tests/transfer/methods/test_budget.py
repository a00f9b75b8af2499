"""Updates of stages, counted by hand."""

import pytest

from prompttransfer import RunConfig
from prompttransfer.methods.bmtpt import svgd_rows
from prompttransfer.methods.budget import joint_updates, source_updates, target_budget, warmup_updates


@pytest.mark.parametrize(
    ("settings", "rows", "updates"),
    [
        ({}, 2000, 120),
        ({"source_updates": 7}, 2000, 7),
        ({"source_epochs": 5, "source_batch_size": 32}, 67_000, 10_469),  # 335,000 / 32 = 10,468.75
        ({"source_epochs": 0.5, "source_batch_size": 10}, 100, 5),
        ({"source_epochs": 1, "source_batch_size": 100}, 3, 1),
        ({"source_epochs": 5, "max_updates": 8}, 67_000, 8),
        ({"max_updates": 64}, 2000, 64),
        ({"source_updates": 7, "max_updates": 64}, 2000, 7),
    ],
)
def test_one_source(settings: dict, rows: int, updates: int) -> None:
    assert source_updates(RunConfig(**settings), rows) == updates


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({}, 120),
        ({"mpt": {"source_updates": 9}}, 9),
        ({"source_epochs": 2}, 200),  # 2 * 1,000 rows / 10
        ({"source_epochs": 2, "source_batch_size": 30}, 66),  # floor(1,000 / 30) batches of an epoch, as in MPT
        ({"source_epochs": 0.001}, 1),
        ({"source_epochs": 2, "mpt": {"source_updates": 9}}, 9),
        ({"source_epochs": 2, "mpt": {"source_updates": 9, "source_epochs": 3}}, 300),
        ({"mpt": {"source_epochs": 3}, "max_updates": 11}, 11),
    ],
)
def test_all_sources_together(settings: dict, updates: int) -> None:
    config = RunConfig(methods=["MPT"], **settings)
    assert joint_updates(config, config.mpt, 1000) == updates


def test_svgd_counts_the_rows_of_its_own_updates() -> None:
    config = RunConfig(batch_size=32, bmtpt={"source_epochs": 1})
    assert svgd_rows(config) == 16
    assert joint_updates(config, config.bmtpt, 1000, svgd_rows(config)) == 62  # of 62.5
    assert svgd_rows(RunConfig(bmtpt={"rows": 5})) == 5


# MPT's rule: 20 epochs, 10 with more than 10,000 rows; batch 32.
@pytest.mark.parametrize(("rows", "updates"), [(250, 157), (10_000, 6250), (10_001, 3126), (363_000, 113_438)])
def test_epochs_by_size(rows: int, updates: int) -> None:
    config = RunConfig(target_epochs={0: 20, 10_001: 10}, batch_size=32)
    assert target_budget(config, rows)[:2] == (0, updates)


def test_sizes_without_epochs_are_named() -> None:
    with pytest.raises(ValueError, match="no epochs for 50 training rows, only from 100 rows on"):
        target_budget(RunConfig(target_epochs={100: 2}), 50)


@pytest.mark.parametrize(
    ("settings", "budget"),
    [
        ({}, (0, 16)),
        ({"dtvg": {"own_updates": 5}}, (5, 16)),
        ({"dtvg": {"own_epochs": 2}, "batch_size": 8}, (25, 16)),  # 2 * 100 / 8
        ({"dtvg": {"own_epochs": 2}, "batch_size": 8, "max_updates": 20}, (20, 16)),
        ({"dtvg": {"own_epochs": 2, "own_batch_size": 32}, "batch_size": 16}, (7, 16)),  # 2 * 100 / 32 = 6.25
        ({"dtvg": {"own_updates": 5, "own_batch_size": 32}}, (5, 16)),
        ({"target_epochs": 3, "batch_size": 8}, (0, 38)),  # 37.5
    ],
)
def test_what_dtvg_spends_before_its_transfer_is_on_top(settings: dict, budget: tuple[int, int]) -> None:
    computed = target_budget(RunConfig(transfer_from="all", **settings), 100)
    assert computed[:2] == budget and computed.total == sum(budget)


def test_warmup_in_updates_goes_before_the_share() -> None:
    assert warmup_updates(RunConfig(warmup=0.06), 40) == 3
    assert warmup_updates(RunConfig(warmup_updates=500), 40) == 500
    assert warmup_updates(RunConfig(warmup_updates=0), 40) == 0


def test_exceptions_of_a_task() -> None:
    config = RunConfig(
        target_epochs=20,
        batch_size=32,
        target_learning_rate=0.3,
        per_task={
            "mrqa/*": {"target_epochs": 5},
            "mrqa/nq": {"batch_size": 16, "target_learning_rate": 0.1},
            "cb": {"target_updates": 3, "max_length": 99},
        },
    )
    facts = [
        (own.target_epochs, own.batch_size, own.target_rate, own.max_length)
        for own in map(config.for_task, ("glue/rte", "mrqa/newsqa", "mrqa/nq", "cb"))
    ]
    assert facts == [(20, 32, 0.3, 64), (5, 32, 0.3, 64), (5, 16, 0.1, 64), (None, 32, 0.3, 99)]
    assert target_budget(config.for_task("cb"), 1000).total == 3
    assert config.for_task("glue/rte") is config


def test_exceptions_of_a_method() -> None:
    config = RunConfig(
        target_learning_rate=0.3,
        per_method={"MPT": {"target_learning_rate": 0.01}, "DTVG": {}},
        per_task={"cb": {"target_learning_rate": 0.1}},
    )
    pairs = [("rte", "PT"), ("rte", "MPT"), ("rte", "DTVG"), ("cb", "MPT")]
    assert [config.for_task(*pair).target_rate for pair in pairs] == [0.3, 0.01, 0.3, 0.1]
    assert config.for_task("rte", "PT") is config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_method": {"MTP": {"target_learning_rate": 0.1}}}, "did you mean 'MPT'"),
        ({"per_method": {"MPT": {"target_updates": 9}}}, "target_updates"),
        ({"per_task": {"a": {"target_epochs": 1, "target_updates": 2}}}, "want one"),
        ({"target_updates": 1, "methods": ["SPoT"]}, "target_updates=1 with spot.own_fraction=0.5"),
        ({"max_updates": 1, "methods": ["DTVG"], "transfer_from": "all"}, "max_updates=1 with dtvg.own_fraction=0.5"),
        ({"dtvg": {"own_batch_size": 4}}, "own_batch_size applies to own_updates or own_epochs"),
    ],
)
def test_budgets_that_cannot_be_spent(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**settings)


def test_own_updates_of_dtvg_need_no_share() -> None:
    assert (
        RunConfig(max_updates=1, methods=["DTVG"], transfer_from="all", dtvg={"own_updates": 3}).dtvg.own_updates == 3
    )
