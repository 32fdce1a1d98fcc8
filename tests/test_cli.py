"""The `segmamba` command as a user types it, in real processes."""

import json
import subprocess
import sys

import pytest

from segmamba.data.cases import find_cases


def segmamba(*arguments, cwd):
    command = [sys.executable, "-c", "from segmamba.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_the_module_runs_as_the_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "segmamba.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "Usage: " in done.stdout


def test_help_names_every_command_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['segmamba', '--help']\n"
        "from segmamba.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'ray', 'mlflow', 'monai', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    for command in ("doctor", "describe", "phantom", "settings", "pretrain"):
        assert command in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["describe", "--preset", "huge"], "unknown preset 'huge'"),
        (["describe", "--patch", "100,96,96"], "data.patch_size = (100, 96, 96)"),
        (["describe", "--patch", "96"], "data.patch_size = 96: must be 3 values"),
        (["describe", "--batch", "0"], "train.batch_size = 0"),
        (["describe", "--set", "optm.lr=1"], "unknown setting 'optm.lr'"),
        (["settings", "--preset", "huge"], "unknown preset 'huge'"),
        (["phantom", "new", "--cases", "1"], "phantom.cases = 1"),
        (["phantom", "new", "--size", "8,8,8"], "phantom.size = (8, 8, 8)"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_gets_one_line_and_code_2(tmp_path, arguments, told):
    result = segmamba(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert told in result.stderr
    assert not list(tmp_path.iterdir())


def test_settings_lists_every_setting_of_the_preset_with_its_meaning(tmp_path):
    shown = segmamba("settings", "--preset", "demo", cwd=tmp_path).stdout
    assert "data.patch_size = (48, 48, 32)" in shown and "Voxels along NIfTI x, y, z" in shown


def test_phantom_writes_cases_that_are_found_again(tmp_path):
    result = segmamba(
        "phantom", "made", "--cases", "2", "--size", "48,48,48", "--seed", "3", cwd=tmp_path
    )
    assert result.returncode == 0 and result.stdout == "made\n", result.stderr
    assert [case.id for case in find_cases(tmp_path / "made", "auto")] == [
        "Phantom_000",
        "Phantom_001",
    ]


def test_describe_tells_the_same_in_json_and_in_a_table_of_100_columns(tmp_path):
    options = [
        "describe",
        "--preset",
        "demo",
        "--batch",
        "1",
        "--patch",
        "32,32,32",
        "--set",
        "model.base_channels=4",
    ]
    described = json.loads(segmamba(*options, "--json", cwd=tmp_path).stdout)
    assert (
        described["input"] == {"patch_size": [32, 32, 32], "batch_size": 1}
        and described["measured"] is None
    )
    assert described["totals"]["training_flops"] == 3 * sum(
        part["forward_flops"] for part in described["parts"]
    )
    memory = described["training_memory"]["fp32"]
    assert memory["total"] == sum(
        memory[key] for key in ("weights", "optimizer", "kept", "passing", "workspace")
    )

    table = segmamba(*options, cwd=tmp_path).stdout
    assert (
        f"{described['totals']['parameters']:,}" in table
        and "bottleneck" in table
        and "estimated peak" in table
    )
    assert max(map(len, table.splitlines())) <= 100


def test_the_paper_network_is_described_within_100_columns_untruncated(tmp_path):
    table = segmamba("describe", cwd=tmp_path).stdout
    assert "128x128x64" in table and "…" not in table
    assert max(map(len, table.splitlines())) <= 100


@pytest.mark.slow
def test_describe_measures_a_true_step_beside_the_estimate(tmp_path):
    options = ["describe", "--preset", "demo", "--set", "train.precision=fp32", "--measure"]
    described = json.loads(segmamba(*options, "--json", cwd=tmp_path).stdout)
    assert list(described["training_memory"]) == ["fp32"]
    assert (
        described["measured"]["precision"] == "float32"
        and 0.5 < described["measured"]["estimate_share"] < 2
    )


def test_doctor_examines_this_machine_in_json_and_in_a_checklist(tmp_path):
    result = segmamba("doctor", "--json", "--output", tmp_path / "Results", cwd=tmp_path)
    told = json.loads(result.stdout)
    states = {check["name"]: check["state"] for check in told["checks"]}
    assert {"torch", "scan", "precision", "memory", "disk", "ray", "mlflow"} <= set(states)
    assert result.returncode == int("problem" in states.values())
    assert told["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
