from torch import distributed

from detmix.readers import Reader, this_process


def test_a_process_is_alone_until_a_group_is_set_up(tmp_path):
    assert this_process() == Reader(0, 1)
    assert this_process(Reader(2, 5)) == Reader(2, 5)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert this_process(Reader(2, 5)) == Reader(0, 1)
    finally:
        distributed.destroy_process_group()
