"""What a run depends on beside its configuration, written into its folder when it begins and where that changes."""

import json

from segmamba.data.digest import data_digest
from segmamba.environment import all_packages, describe_environment, git_diff
from segmamba.files import write_json


def record_environment(folder, data, device, epoch):
    """Write environment.json of a RunFolder, or add to it what has changed where the run goes on after `epoch` epochs; returns what is so now."""
    import torch

    now = describe_environment() | {"device": str(device), "threads": str(torch.get_num_threads())}
    if folder.environment.exists():
        told = json.loads(folder.environment.read_text())
        before = told["resumed"][-1]["environment"] if told["resumed"] else told["environment"]
        if now != before:
            told["resumed"].append({"after_epoch": epoch, "environment": now, "git_diff": git_diff()})
            write_json(folder.environment, told)
        return told
    told = {
        "environment": now, "git_diff": git_diff(), "packages": all_packages(), "data_sha256": data_digest(data),
        "split": {name: [case.id for case in getattr(data, name)] for name in ("train", "minival", "judge", "unlabelled")},
        "judge_is_minival": data.judge_is_minival, "resumed": [],
    }  # fmt: skip
    write_json(folder.environment, told)
    return told
