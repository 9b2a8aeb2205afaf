"""What methods cost: the record that is written, and what a plan makes of it. Never how long anything took."""

import json
from pathlib import Path

import pytest

from schemas.bench import BenchRecord, EndToEndTiming, MethodCost
from schemas.run import RunSpec

SMALL = ["--model", "test_vit", "--classes", "10", "--device", "cpu", "--threads", "1"]
METHODS = ("attention", "reciprocam:kernel=box", "legrad")


def test_the_record_says_what_was_measured(vitatlas, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    given = [*SMALL, "--methods", ",".join(METHODS), "--batch", 2, "--repeats", 3]
    code, text, _ = vitatlas("bench", *given, "--out", out, "--json")
    assert code == 0
    record = BenchRecord.read(out.read_bytes(), "bench.json")
    assert BenchRecord.read(json.loads(text), "stdout") == record
    assert (record.model, record.classes, record.grid, record.input_size) == ("test_vit", 10, (10, 10), (160, 160))
    assert (record.device, record.threads, record.batch_size, record.precision) == ("cpu", 1, 2, "full")
    assert tuple(record.per_method) == METHODS
    for method, cost in record.per_method.items():
        assert set(cost.stages) == {"forward", method}
    assert set(record.all_methods.stages) == {"forward", *METHODS}
    assert record.all_methods.forwards > 1
    for cost in [*record.per_method.values(), record.all_methods]:
        assert sum(cost.stages.values()) == pytest.approx(1)
        assert min(cost.stages.values()) > 0
        assert cost.images_per_s == pytest.approx(2 / (cost.forwards * record.forward_seconds))
        assert cost.peak_bytes is None  # a CPU does not say
    assert record.end_to_end is not None
    assert set(record.end_to_end.seconds) == {
        "forward", "attention", "reciprocam_box", "legrad", "norms", "collect", "write",
    }  # fmt: skip
    assert (record.end_to_end.images, record.end_to_end.objects) == (4, 11)


def test_a_bench_reads_the_pictures_that_it_is_given(vitatlas, spec: RunSpec, tmp_path: Path) -> None:
    given = [*SMALL, "--methods", "attention", "--batch", 3, "--repeats", 1, "--json"]
    code, text, _ = vitatlas("bench", *given, "--shard", tmp_path / "shards" / "part-1.tar")
    assert (code, json.loads(text)["end_to_end"]["source"], json.loads(text)["end_to_end"]["images"]) == (
        0,
        "part-1",
        6,
    )
    code, _, err = vitatlas("bench", *given, "--shard", tmp_path / "nowhere.tar")
    assert (code, "nowhere.tar: no such shard" in err) == (2, True)


def test_the_table_has_every_method_the_whole_and_its_stages(vitatlas) -> None:
    code, text, _ = vitatlas("bench", *SMALL, "--methods", "attention,center", "--batch", 2, "--repeats", 1)
    assert code == 0
    for row in ("plain forward", "attention", "center", "all together", "forward"):
        assert f"│ {row} " in text


def test_no_methods_means_those_of_a_run_that_names_none(vitatlas) -> None:
    record = BenchRecord.read(
        json.loads(vitatlas("bench", *SMALL, "--batch", 1, "--repeats", 1, "--json")[1]), "stdout"
    )
    assert {"attention", "legrad", "reciprocam", "center"} <= set(record.per_method)
    assert "smoothgrad" not in record.per_method


def test_half_precision_is_measured_in_half_precision(vitatlas) -> None:
    given = [*SMALL, "--methods", ",".join(METHODS), "--batch", 1, "--repeats", 1, "--precision", "bfloat16", "--json"]
    assert BenchRecord.read(json.loads(vitatlas("bench", *given)[1]), "stdout").precision == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing option '--model'"),
        (["--model", "vit_tinny"], "timm has no model 'vit_tinny'; did you mean"),
        (["--model", "resnet18", "--methods", "legrad"], "legrad is not defined for ResNet"),
        ([*SMALL, "--methods", "lograd"], "there is no method 'lograd'; there are"),
        ([*SMALL, "--methods", "legrad,legrad"], "method legrad is named twice"),
        ([*SMALL, "--methods", "reciprocam:block=-99"], "reciprocam_block-99 is not defined for VisionTransformer"),
        ([*SMALL, "--batch", "0"], "0 is not in the range 1<=x<=4096"),
        ([*SMALL, "--repeats", "0"], "0 is not in the range x>=1"),
        ([*SMALL, "--precision", "int8"], "'int8' is not one of"),
        ([*SMALL, "--out", "nowhere/bench.json"], "nowhere/bench.json: the folder nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_two(vitatlas, arguments: list[str], says: str) -> None:
    code, out, err = vitatlas("bench", *arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


COST = MethodCost(forwards=2.5, images_per_s=0.01, peak_bytes=None, stages={"forward": 0.4, "legrad": 0.6})
BENCH = BenchRecord(
    model="test_vit",
    parameters=1,
    classes=10,
    grid=(10, 10),
    input_size=(160, 160),
    device="NVIDIA H200",
    threads=1,
    precision="full",
    batch_size=4,
    repeats=1,
    versions={},
    forward_seconds=1,
    forward_peak_bytes=None,
    per_method={"legrad": COST, "attention": COST},
    all_methods=COST,
    end_to_end=EndToEndTiming(
        device="NVIDIA H200",
        source="drawn",
        images=4,
        targets=1,
        seconds={"forward": 100, "legrad": 300, "write": 200},
        decode_seconds=3200,
        objects=8,
        bytes=4000,
        commit_bytes=100,
    ),
)


@pytest.fixture
def plan(vitatlas, spec: RunSpec, tmp_path: Path):
    """Plan 16 images with a bench: (exit code, stdout, stderr)."""

    def call(bench: BenchRecord, *arguments: object) -> tuple[int, str, str]:
        (tmp_path / "bench.json").write_bytes(bench.to_bytes())
        given = [
            *spec.shards,
            "--out",
            tmp_path / "atlas",
            "--model",
            "test_vit",
            "--checkpoint",
            spec.model.checkpoint,
        ]
        given += ["--methods", "attention,legrad", "--batch-size", 4, "--bench", tmp_path / "bench.json"]
        return vitatlas("plan", *given, *arguments)

    return call


def test_a_plan_says_hours_limit_and_cost(plan) -> None:
    code, text, _ = plan(BENCH, "--targets", "label", "--gpus", 2, "--price", 3)
    assert code == 0
    # 16 images of 800 s to decode in four processes are 3200 s, and three times 200 s to write: two rounds of 1267 s.
    assert "time     0.70 h on 2 × NVIDIA H200, without the start of the actors" in text
    assert "limit    decoding, with 4 decoding processes a GPU; 8 processes a GPU are enough" in text
    assert "cost     4.22 at 3.00 per GPU hour" in text
    assert "maps     32, at most 6.7 kB" in text
    for stage in ("decode", "forward", "legrad", "write"):
        assert f"│ {stage} " in text


def test_a_second_target_costs_up_to_as_much_again(plan) -> None:
    code, text, _ = plan(
        BENCH.model_copy(update={"end_to_end": BENCH.end_to_end.model_copy(update={"decode_seconds": 1})})
    )
    assert code == 0
    assert "time     0.61 h to 1.06 h on 1 × NVIDIA H200" in text
    assert "limit    the GPU, with 4 decoding processes a GPU\n" in text
    assert "computed only where the prediction differs from the label" in text
    assert "\ncost" not in text


def test_where_the_gpu_decodes_a_plan_counts_it_to_the_gpu(plan) -> None:
    seconds = {"read": 40, "decode": 160} | BENCH.end_to_end.seconds
    pilot = BENCH.end_to_end.model_copy(update={"decode": "gpu", "decode_seconds": 0, "seconds": seconds})
    bench = BENCH.model_copy(update={"end_to_end": pilot})
    code, text, _ = plan(bench, "--targets", "label", "--decode", "gpu")
    assert code == 0
    # 16 images of 150 s, and three times 200 s to write.
    assert "time     0.83 h on 1 × NVIDIA H200" in text
    assert "limit    the GPU, which decodes, too\n" in text
    assert "decode is of one core" not in text


def test_a_bench_of_decoding_on_the_device_is_what_a_refusal_asks_for(plan, vitatlas, tmp_path: Path) -> None:
    err = plan(BENCH, "--decode", "gpu")[2]
    assert "decode is 'processes', not 'gpu'" in err
    command = err.strip().partition("vitatlas bench ")[2].split()
    code, text, _ = vitatlas("bench", *command, "--device", "cpu", "--threads", 1, "--repeats", 1)
    assert (code, "decode, a core" in text, "│ decode " in text) == (0, False, True)
    measured = BenchRecord.read((tmp_path / "bench.json").read_bytes(), "bench.json")
    assert (measured.end_to_end.decode, measured.end_to_end.decode_seconds) == ("gpu", 0)
    code, text, _ = plan(measured, "--decode", "gpu")
    assert (code, "limit    the network, which decodes, too" in text) == (0, True)


@pytest.mark.parametrize(
    ("factor", "time"), [(1, "0.70 h"), (1 / 60, "0.70 min"), (1 / 600, "4.2 s"), (1e-5, "0.025 s"), (100, "70.37 h")]
)
def test_a_time_is_said_in_a_unit_that_fits_it(plan, factor: float, time: str) -> None:
    pilot = BENCH.end_to_end.model_copy(
        update={
            "seconds": {stage: factor * took for stage, took in BENCH.end_to_end.seconds.items()},
            "decode_seconds": factor * BENCH.end_to_end.decode_seconds,
        }
    )
    text = plan(BENCH.model_copy(update={"end_to_end": pilot}), "--targets", "label", "--gpus", 2)[1]
    assert f"time     {time} on 2" in text


def test_a_deadline_says_how_many_gpus_it_needs(plan) -> None:
    code, text, _ = plan(BENCH, "--targets", "label", "--deadline", "45m", "--price", 3)
    assert code == 0
    assert "needed   2 × NVIDIA H200 to finish within 0.75 h" in text
    assert "time     0.70 h on 2 × NVIDIA H200" in text


@pytest.mark.parametrize(
    ("deadline", "says"),
    [
        ("20m", "--deadline is 0.33 h, and one shard takes 0.35 h; a shard cannot be divided"),
        ("soon", "'soon' is not a time; write it as 30s, 90m, 6h or 2d"),
        ("0h", "'0h' is not a time"),
    ],
)
def test_a_deadline_that_cannot_be_kept_is_said(plan, deadline: str, says: str) -> None:
    code, _, err = plan(BENCH, "--targets", "label", "--deadline", deadline)
    assert (code, says in err, "Traceback" in err) == (2, True, False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "deit_tiny"}, "model is 'deit_tiny', not 'test_vit'"),
        ({"grid": (14, 14)}, "grid is (14, 14), not (10, 10)"),
        ({"per_method": {"legrad": COST}}, "methods is ['legrad'], not ['attention', 'legrad']"),
        ({"classes": 1000}, "classes is 1000, not 10"),
        ({"end_to_end": None}, "reading and writing were not measured"),
        ({"end_to_end": BENCH.end_to_end.model_copy(update={"decode": "gpu"})}, "decode is 'gpu', not 'processes'"),
        ({"batch_size": 256, "precision": "bfloat16"}, "batch_size is 256, not 4; precision is 'bfloat16', not 'full'"),
    ],
)
def test_a_bench_of_something_else_is_refused_before_anything_is_written(plan, tmp_path: Path, change, says) -> None:
    code, out, err = plan(BENCH.model_copy(update=change))
    assert (code, out) == (2, "")
    assert f"was measured for another run: {says}; measure this one with: " in err
    again = (
        "vitatlas bench --model test_vit --classes 10 --methods attention,legrad --batch-size 4 --precision full --out"
    )
    assert f"{again} {tmp_path}/bench.json" in err
    assert not (tmp_path / "atlas").exists()


@pytest.mark.parametrize("name", ["--batch-size", "--batch"])
def test_plan_and_bench_name_the_batch_alike(plan, vitatlas, name: str) -> None:
    assert "batch_size is 4, not 5" in plan(BENCH, name, 5)[2]
    assert "4097 is not in the range" in vitatlas("bench", *SMALL, name, 4097)[2]


def test_the_command_that_a_refusal_names_makes_the_bench_fit(plan, vitatlas, tmp_path: Path) -> None:
    err = plan(BENCH.model_copy(update={"classes": 1000}))[2]
    command = err.strip().partition("vitatlas bench ")[2].split()
    assert vitatlas("bench", *command, "--device", "cpu", "--threads", 1, "--repeats", 1)[0] == 0
    measured = BenchRecord.read((tmp_path / "bench.json").read_bytes(), "bench.json")
    assert plan(measured)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--bench", "nowhere.json"], "nowhere.json: No such file"),
        (["--bench", "{checkpoint}"], "Invalid JSON"),
        (["--price", "2"], "--gpus, --deadline and --price need the output of vitatlas bench"),
    ],
)
def test_mistakes_around_the_bench_of_a_plan(vitatlas, spec: RunSpec, tmp_path: Path, arguments, says: str) -> None:
    given = [*spec.shards, "--out", tmp_path / "atlas", "--model", "test_vit", "--checkpoint", spec.model.checkpoint]
    code, _, err = vitatlas("plan", *given, *(part.format(checkpoint=spec.model.checkpoint) for part in arguments))
    assert (code, says in err, "Traceback" in err) == (2, True, False)
    assert not (tmp_path / "atlas").exists()


def test_more_threads_than_cores_are_refused(vitatlas) -> None:
    code, _, error = vitatlas("bench", "--model", "test_vit", "--threads", 1000)
    assert (code, "--threads 1000: is more than the CPU cores of this machine; name at most 1" in error) == (2, True)
