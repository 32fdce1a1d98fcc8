"""The checklist before machines that are not this one."""

from pathlib import Path

import pytest
import torch

from segmamba import doctor, doctor_checks, machine_state
from segmamba.config import PRESETS, preset
from segmamba.doctor_checks import GIB, Check
from segmamba.machine_state import Driver
from segmamba.training.memory import estimate_training_memory

H100 = ("NVIDIA H100 80GB HBM3",)
LISTED = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\nGPU 1: NVIDIA A100-SXM4 (UUID: GPU-2)\n"


@pytest.mark.parametrize(
    ("torch_cuda", "sees_gpu", "driver", "state", "words"),
    [
        ("13.0", True, Driver("580.1", "13.0", H100), "ok", "driver 580.1"),
        ("12.6", True, None, "ok", "CUDA 12.6"),
        (None, False, None, "note", "no NVIDIA GPU here"),
        (None, False, Driver("580.1", "13.0", H100), "note", "/whl/cu130"),
        (None, False, Driver("535.2", "12.2", H100), "note", "/whl/cu126"),
        ("13.0", False, Driver("535.2", "12.2", H100), "note", "/whl/cu126"),
        (None, False, Driver("610.0", "14.1", H100), "note", "/whl/cu130"),
        (None, False, Driver("470.1", "11.4", H100), "note", "update the NVIDIA driver"),
        ("12.6", False, Driver("580.1", "13.0", H100), "note", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_torch_driver_and_cuda_are_matched_and_the_fitting_wheel_named(
    torch_cuda, sees_gpu, driver, state, words
):
    check = doctor_checks.check_torch("2.13.0", torch_cuda, driver, sees_gpu=sees_gpu)
    assert check.state == state and words in f"{check.found} {check.mend}"


@pytest.mark.parametrize("label", ["CUDA Version", "CUDA UMD Version"])
def test_the_driver_is_read_from_nvidia_smi_old_and_new(label):
    banner = f"| NVIDIA-SMI 580.1   Driver Version: 580.159.04   {label}: 13.0 |"
    assert machine_state.parse_driver(banner, LISTED) == Driver(
        "580.159.04", "13.0", ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4")
    )


def test_an_nvidia_smi_that_shows_no_gpu_is_no_driver():
    assert (
        machine_state.parse_driver(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            "No devices found.",
        )
        is None
    )


def test_a_gpu_that_torch_has_no_kernels_for_stops_a_run():
    assert doctor_checks.check_kernels(None).state == "ok"
    broken = doctor_checks.check_kernels(
        "CUDA error: no kernel image is available for execution on the device"
    )
    assert broken.state == "problem" and "no kernel image" in broken.found and broken.mend


def test_a_scan_without_mamba_ssm_on_a_gpu_is_noted_with_the_command_that_adds_it():
    assert doctor_checks.check_scan("mamba_ssm", "the fastest", on_gpu=True) == Check(
        "scan", "ok", "mamba_ssm: the fastest"
    )
    assert doctor_checks.check_scan("native", "the fastest", on_gpu=False).mend == ""
    assert "gcc" in doctor_checks.check_scan("portable", "no cc", on_gpu=False).mend
    for slower in ("triton", "portable"):
        assert doctor_checks.check_scan(slower, "why", on_gpu=True).mend == "make setup-gpu"


def test_the_convolutions_say_whose_they_are_and_what_mends_them():
    assert "our own" in doctor_checks.check_convolutions(None).found
    assert (
        doctor_checks.check_convolutions("cuda-bindings is not installed").mend
        == "pip install cuda-bindings"
    )
    assert (
        doctor_checks.check_convolutions(
            "needs a GPU of compute capability 9.0 (Hopper), not 8.6"
        ).mend
        == ""
    )


@pytest.mark.parametrize(
    ("dtype", "words"),
    [(torch.bfloat16, "bfloat16"), (torch.float16, "loss scaling"), (None, "fp32")],
)
def test_the_precision_says_why(dtype, words):
    assert words in doctor_checks.check_precision(dtype).found


@pytest.mark.parametrize(
    ("check", "states"),
    [
        (
            lambda gib: doctor_checks.check_memory(gib * GIB, on_gpu=False),
            {1: "problem", 4: "note", 12: "note", 16: "ok"},
        ),
        (
            lambda gib: doctor_checks.check_memory(gib * GIB, on_gpu=True),
            {1: "problem", 4: "note", 9: "ok"},
        ),
        (lambda gib: doctor_checks.check_gpu_memory(gib * GIB, 80 * GIB), {1: "note", 40: "ok"}),
        (
            lambda gib: doctor_checks.check_shared_memory(gib * GIB),
            {1 / 16: "note", 1: "note", 8: "ok"},
        ),  # 64 MiB is Docker's default
        (
            lambda gib: doctor_checks.check_disk(Path("Results"), gib * GIB, writable=True),
            {1: "problem", 20: "note", 200: "ok"},
        ),
    ],
    ids=["memory", "memory beside a GPU", "GPU memory", "shared memory", "disk"],
)
def test_what_runs_short_is_noted_and_what_stops_a_run_is_a_problem(check, states):
    for gib, state in states.items():
        line = check(gib)
        assert line.state == state
        assert bool(line.mend) == (state != "ok")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (
            doctor_checks.check_memory(1 * GIB, on_gpu=False),
            "too small for demo, quick, paper and strong",
        ),
        (
            doctor_checks.check_memory(8 * GIB, on_gpu=False),
            "enough for demo; too small for quick, paper and strong (13.5 GiB)",
        ),
        (
            doctor_checks.check_memory(8 * GIB, on_gpu=True),
            "enough for demo, quick, paper and strong",
        ),
        (doctor_checks.check_gpu_memory(2 * GIB, 8 * GIB), "enough for demo; too small for quick"),
        (
            doctor_checks.check_disk(Path("Results"), 51 * GIB, writable=True),
            "enough for demo; too small for quick, paper and strong",
        ),
        (
            doctor_checks.check_disk(Path("Results"), 200 * GIB, writable=True),
            "enough for demo, quick, paper and strong",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_memory_and_disk_say_which_presets_they_are_enough_for(check, words):
    assert words in check.found


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_the_presets_need_is_what_describe_estimates(device):
    table = doctor_checks.TRAINING_GIB[device]
    assert set(table) == set(PRESETS)
    dtype = torch.bfloat16 if device == "cuda" else None
    for name, gib in table.items():
        if name != "quick":  # the network, the patch and the batch of paper
            estimate = estimate_training_memory(preset(name), device_type=device, dtype=dtype)
            assert 0.8 * gib <= estimate.total / GIB <= gib
    paper, quick = preset("paper"), preset("quick")
    assert quick.model == paper.model and quick.data.patch_size == paper.data.patch_size
    assert quick.train.batch_size == paper.train.batch_size


def test_results_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    free, writable = machine_state.disk_state(tmp_path / "file" / "Results")
    check = doctor_checks.check_disk("Results", free, writable=writable)
    assert check.state == "problem" and "--output" in check.mend
    assert machine_state.disk_state(tmp_path / "not" / "yet" / "there")[1]


def test_a_container_limit_counts_where_it_is_nearer_than_the_machine():
    meminfo = "MemTotal: 9 kB\nMemAvailable:    2048 kB\n"
    assert machine_state.parse_free_memory(meminfo, "max\n", "0") == 2048 * 1024
    assert machine_state.parse_free_memory(meminfo, "1000000\n", "400000\n") == 600000
    assert machine_state.parse_free_memory(meminfo, "1000\n", "4000\n") == 0


def test_a_package_may_be_there_absent_or_broken(tmp_path, monkeypatch):
    assert machine_state.import_state("surely-not-installed") == (None, None)
    (tmp_path / "brokenpkg.py").write_text("raise OSError('libthing.so: cannot open')")
    (tmp_path / "brokenpkg-1.2.dist-info").mkdir()
    (tmp_path / "brokenpkg-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: brokenpkg\nVersion: 1.2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert machine_state.import_state("brokenpkg") == ("1.2", "OSError: libthing.so: cannot open")
    assert doctor_checks.check_package("ray", None, None).mend == "pip install -e '.[studies]'"
    assert doctor_checks.check_package("ray", "2.60", "OSError: x").state == "problem"
    assert doctor_checks.check_package("ray", "2.60", None) == Check("ray", "ok", "2.60")


def test_only_a_problem_fails_and_every_mend_is_printed_within_100_columns(capsys):
    from rich.console import Console

    fine, note = Check("torch", "ok", "fine"), Check("scan", "note", "slow", "make setup-gpu")
    broken = Check(
        "disk", "problem", "1 GiB free " + "in a folder of a long name " * 9, "delete something"
    )
    assert doctor.exit_code([fine, note]) == 0 and doctor.exit_code([fine, note, broken]) == 1
    assert doctor.as_rows([note]) == [
        {"name": "scan", "state": "note", "found": "slow", "mend": "make setup-gpu"}
    ]
    doctor.render(
        [fine, note, broken], {"python": "3.11", "ray": "not installed"}, Console(width=100)
    )
    shown = capsys.readouterr().out
    assert (
        "-> make setup-gpu" in shown
        and "PROBLEM" in shown
        and "python 3.11" in shown
        and "ray" not in shown
    )
    assert max(map(len, shown.splitlines())) <= 100
