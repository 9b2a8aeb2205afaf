"""What a run will take: the arithmetic in closed form, and against a run."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import DEMO_MODEL, soak_after

from pipeline.demo.synthetic_dataset import SyntheticDataset
from pipeline.explain.load import load_model
from pipeline.run import INLINE, run
from pipeline.run.bench_end_to_end import bench_end_to_end
from pipeline.run.estimate import DECODE_PROCESSES, actors_for_deadline, estimate
from pipeline.run.plan import plan
from schemas.bench import EndToEndTiming
from schemas.errors import UsageError
from schemas.run import Decode, RunSpec
from schemas.run_record import RunRecord

GPU = EndToEndTiming(
    device="NVIDIA H200",
    source="drawn",
    images=10,
    targets=1,
    seconds={"forward": 1.0, "legrad": 2.0, "collect": 0.5, "write": 2.5, "norms": 0.5, "drift": 1.0},
    decode_seconds=4.0,
    objects=5,
    bytes=1000,
    commit_bytes=70,
)
"""A tenth of a second of the network an image, two of the method, 0.05 beside; four seconds a shard; 0.4 to decode."""


@pytest.fixture
def planned(spec: RunSpec, tmp_path: Path) -> RunRecord:
    """16 images in three shards, of two targets."""
    return plan(spec, str(tmp_path / "atlas"))


def test_beside_a_gpu_an_actor_takes_the_longer_of_decoding_and_network(planned: RunRecord) -> None:
    expected = estimate(planned, GPU, actors=2)
    assert expected.seconds == pytest.approx(
        {"decode": 6.4, "forward": 1.6, "legrad": 3.2, "collect": 0.8, "write": 7.5, "norms": 1.5, "drift": 3.0}
    )
    assert (expected.bottleneck, expected.sufficient_processes) == ("network", 2)
    assert expected.shard_seconds == pytest.approx((1.6 + 3.2 + 0.8 + 9 + 3) / 3)
    assert expected.hours == pytest.approx(2 * expected.shard_seconds / 3600)  # three shards on two are two rounds
    assert expected.actor_hours == pytest.approx(17.6 / 3600)


def test_slow_decoding_limits_and_says_how_many_processes_would_do(planned: RunRecord) -> None:
    slow = GPU.model_copy(update={"decode_seconds": 40.0})
    expected = estimate(planned, slow)
    assert expected.bottleneck == "decoding"
    assert expected.actor_hours == pytest.approx((64 / DECODE_PROCESSES + 12) / 3600)
    assert expected.sufficient_processes == 12  # 64 / 5.6


def test_where_the_gpu_decodes_it_is_work_of_the_gpu(planned: RunRecord) -> None:
    decodes = GPU.model_copy(
        update={"decode": "gpu", "decode_seconds": 0.0, "seconds": {"read": 0.5, "decode": 1.5} | GPU.seconds}
    )
    expected = estimate(planned, decodes, other_class_share=1.0)
    assert expected.seconds == pytest.approx(
        {
            "read": 0.8,
            "decode": 2.4,
            "forward": 3.2,
            "legrad": 6.4,
            "collect": 0.8,
            "write": 7.5,
            "norms": 1.5,
            "drift": 3.0,
        }
    )
    assert expected.actor_hours == pytest.approx(sum(expected.seconds.values()) / 3600)
    assert (expected.bottleneck, expected.decode_processes) == ("network", 0)


def test_on_a_core_decoding_and_network_take_turns(planned: RunRecord) -> None:
    expected = estimate(planned, GPU.model_copy(update={"device": "cpu"}))
    assert expected.actor_hours == pytest.approx((6.4 + 5.6 + 12) / 3600)
    assert (expected.bottleneck, expected.decode_processes) == ("decoding", 0)


def test_another_target_repeats_the_network_for_its_share_of_the_images(planned: RunRecord) -> None:
    expected = estimate(planned, GPU, other_class_share=0.5)
    assert (expected.seconds["forward"], expected.seconds["legrad"]) == pytest.approx((2.4, 4.8))
    assert expected.seconds["collect"] == pytest.approx(0.8)
    both = GPU.model_copy(update={"targets": 2})
    assert estimate(planned, both, other_class_share=0.5) == estimate(planned, both)


@pytest.mark.parametrize("hours", [0.002, 0.003, 0.0035, 1.0])
def test_the_fewest_actors_that_keep_a_deadline(planned: RunRecord, hours: float) -> None:
    needed = actors_for_deadline(estimate(planned, GPU), 3600 * hours)
    assert needed is not None
    assert estimate(planned, GPU, needed).hours <= hours
    assert needed == 1 or estimate(planned, GPU, needed - 1).hours > hours


def test_no_number_of_actors_is_quicker_than_a_tar(planned: RunRecord) -> None:
    assert actors_for_deadline(estimate(planned, GPU), 5.8) is None


@pytest.mark.parametrize("decode", soak_after(1, ["processes", "gpu"]))
def test_a_run_takes_what_was_expected_of_it(
    world: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decode: Decode
) -> None:
    """In seconds of this process within 25 %, objects to the last one.

    A neighbour on the machine slows a process down even in its own seconds, so each is the least of three rounds.
    """
    methods = ("attention", "legrad", "cp_lrp")
    spec = RunSpec(shards=(world.shards,), model=DEMO_MODEL, methods=methods, batch_size=8, decode=decode)
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    expected, took = [], []
    for turn in range(3):
        out = str(tmp_path / f"atlas-{turn}")
        record = plan(spec, out)
        expected.append(
            estimate(record, bench_end_to_end(record.spec, load_model(DEMO_MODEL), "cpu", record.shards[0].url))
        )
        atlas = run(out, replace(INLINE, device="cpu"))
        took.append(sum(commit.seconds["total"] for commit in atlas.commits.values()))
    sizes = [size for _, size in atlas.objects.list_all()]
    assert min(took) / min(3600 * each.actor_hours for each in expected) == pytest.approx(1, abs=0.25)
    assert sum(sizes) / expected[0].bytes == pytest.approx(1, abs=0.25)
    assert len(sizes) == expected[0].objects


def test_a_pilot_needs_pictures(spec: RunSpec, tmp_path: Path) -> None:
    (tmp_path / "empty.tar").touch()
    loaded = load_model(spec.model)
    for name, says in (
        ("empty.tar", "empty.tar: it is empty; name a shard that is whole"),
        ("no.tar", "no such shard"),
    ):
        with pytest.raises(UsageError, match=says):
            bench_end_to_end(spec, loaded, "cpu", str(tmp_path / name))
