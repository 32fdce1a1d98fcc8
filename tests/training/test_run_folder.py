from concurrent.futures import ThreadPoolExecutor

from segmamba.training.run_folder import next_run_folder


def test_numbers_go_up_and_nothing_is_overwritten(tmp_path):
    assert next_run_folder(tmp_path, "A").name == "A_Run01"
    (tmp_path / "A_Run07").mkdir()
    assert next_run_folder(tmp_path, "A").name == "A_Run08"
    assert next_run_folder(tmp_path, "B").name == "B_Run01"


def test_many_starts_at_once_get_a_folder_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: next_run_folder(tmp_path, "A"), range(24)))
    assert len(set(folders)) == 24
